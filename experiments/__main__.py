"""UHR-BAT in JAX, by commands.

bat-jax COMMAND --flag=value ...     # as python -m experiments.COMMAND in a checkout
bat-jax COMMAND --help               # the flags of one
"""

import ast
import difflib
import pathlib
import runpy
import signal
import sys


def commands() -> dict[str, str]:
    """Return every command's name and the first line of what it says of itself."""
    files = {path.stem: path.read_text(encoding="utf-8") for path in sorted(pathlib.Path(__file__).parent.glob("*.py"))}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in files.items()
        if "\nif __name__ ==" in text and name != "__main__"
    }


def main() -> int:
    """Run the command that the first argument names, in this process; without one, list them."""
    name, known = (sys.argv[1:] or ["--help"])[0], commands()
    if name in ("--help", "-h", "help"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that leaves, as `| head` does, ends it quietly
        width = max(map(len, known))
        print("\n".join([__doc__, *(f"  {command:<{width}}  {line}" for command, line in known.items())]))
        return 0
    if name not in known:
        near = difflib.get_close_matches(name.replace("-", "_"), known, n=3)
        meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        print(f"error: {name!r} is no command; {meant}", file=sys.stderr)
        return 2
    del sys.argv[1]
    runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
