"""What every command shares: flags in, one line per error out.

    if __name__ == "__main__":
        cli.run(main)

Exit codes: 0; 1 for an error that the user can act on; 2 for a wrong flag; 130 for an interrupt; 143 for a termination.
"""

import gc
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import jax
from absl import app, flags, logging

from bat_jax.engine.stages import is_out_of_memory
from bat_jax.io.shipped import checkpoint_folder

# Compiled programs are kept here unless JAX_COMPILATION_CACHE_DIR says otherwise; the oldest go when they are too many.
PROGRAMS = pathlib.Path.home() / ".cache" / "bat_jax" / "programs"
MOST_BYTES = 2 * 2**30

COMPILE_CACHE = flags.DEFINE_bool("compile_cache", True, f"Keep compiled programs for the next run, in {PROGRAMS}.")


class CheckpointParser(flags.ArgumentParser):
    """Reads a flag that names a checkpoint: a folder, or one that is shipped by its name."""

    def parse(self, argument: str) -> str:
        return str(checkpoint_folder(argument))

    def flag_type(self) -> str:
        return "string"


def as_typed(text: str) -> str:
    """Return a text with commands as they are typed here: bat-jax NAME, or python -m experiments.NAME in a checkout."""
    return text if __package__ == "experiments" else re.sub(r"(python -m )?\bexperiments\.(?=\w)", "bat-jax ", text)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parse absl flags, call `main(argv)` and exit.

    ValueError and OSError (so FileNotFoundError and PermissionError too) become `error: ...` on stderr without a
    traceback; anything else is a defect of ours and keeps its traceback. A termination (SIGTERM) unwinds like an
    interrupt, so that half-written output is removed.
    """
    signal.signal(signal.SIGTERM, _raise_exit)
    # Libraries log every file they write at info level.
    logging.set_verbosity(logging.WARNING)
    script = sys.modules["__main__"]
    script.__doc__ = as_typed(script.__doc__ or "")
    app.run(lambda argv: _call(main, argv), flags_parser=_parse_flags)


def check_questions(questions: Sequence[str]) -> None:
    """Refuse a --question that asks nothing.

    Raises:
      ValueError: names it.
    """
    for question in questions:
        if not question.replace("<image>", "").strip():
            raise ValueError(f"--question={question!r}: is empty; ask something about the image")


def _use_compile_cache() -> None:
    """Keep every compiled program between runs, where the user's cache folder can be written.

    Several processes may share the folder: a bound on its size makes JAX lock it for each read and write. A folder that
    the user names gets no bound, which JAX cannot keep where programs from before have none; there a process that meets
    a half-written program says so and compiles its own.
    """
    if not COMPILE_CACHE.value:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not jax.config.jax_compilation_cache_dir:
        try:
            PROGRAMS.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if not os.access(PROGRAMS, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(PROGRAMS))
        jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # By default JAX keeps what took a second or more; a start has dozens of smaller programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    for argument in argv:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            _fail(f"{shown}: holds bytes that are no UTF-8; write it in UTF-8 (iconv -t utf-8 converts a script)", 2)
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, UnicodeDecodeError) as error:
        _fail("; ".join(str(error).splitlines()), 2)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}; settings are written --name=value", 2)
    return rest


def _call(main: Callable[[list[str]], int | None], argv: list[str]) -> None:
    _use_compile_cache()
    try:
        sys.exit(main(argv))
    except BrokenPipeError:
        # The reader of our output left (as `| head` does). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as error:
        _fail(_describe(error), 1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        _fail(
            f"out of memory ({reason}): smaller --budgets, --scales, --batch_size or --weights=int8, if there, help", 1
        )
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    finally:
        # The interpreter's end looks through all objects for garbage, several times, for a second.
        gc.freeze()


def _describe(error: ValueError | OSError) -> str:
    """Return the message; for an operating-system error `file: reason` instead of `[Errno 2] ...`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _fail(message: str, code: int) -> None:
    print(f"error: {as_typed(message)}", file=sys.stderr)
    sys.exit(code)


def _raise_exit(signum: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + signum)
