"""Runs command lines of experiment scripts as a user types them, without a user's waits.

Importing the libraries takes seconds, and so does tracing a model. One process of a test process has imported them; it
forks for every batch, before JAX has made a device. The command lines of a batch run one after another in such a fork,
so that they trace a program once. One that ends its process is followed by a fresh fork.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

Result = tuple[int, str, str]  # exit code (or minus the signal), stdout, stderr


def run_commands(module: str, cases: list[list[str]], path: os.PathLike | None = None) -> list[Result]:
    """Run `python -m MODULE ARGS...` for every list of arguments, where `path` is what PYTHONPATH adds."""
    return _ask(module=module, cases=cases, path=path and str(path))


def run_together(
    module: str, cases: list[list[str]], kill_first_at: tuple[pathlib.Path, int] | None = None
) -> list[Result]:
    """Run `python -m MODULE ARGS...` for every list of arguments, all at the same time.

    Args:
      kill_first_at: kill the first one when a file has so many lines.
    """
    kill = kill_first_at and [str(kill_first_at[0]), kill_first_at[1], 0.0, signal.SIGKILL]
    return _ask(module=module, cases=cases, together=True, kill=kill)


def run_killed(
    module: str,
    arguments: list[str],
    file: pathlib.Path,
    num_lines: int,
    delay: float = 0.0,
    by: int = signal.SIGKILL,
    path: os.PathLike | None = None,
) -> Result:
    """Run one command line, and kill it some seconds after it has written so many lines to a file."""
    kill = [str(file), num_lines, delay, by]
    return _ask(module=module, cases=[arguments], path=path and str(path), kill=kill)[0]


@functools.cache
def _process() -> subprocess.Popen:
    """Start the process that forks; it ends with this one, and with it the folder of what its forks compiled."""
    compiled = tempfile.TemporaryDirectory()
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": compiled.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "tests.command_batch"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=os.environ | settings, **pipes)

    def end():
        process.communicate()
        compiled.cleanup()

    atexit.register(end)
    return process


def _ask(**request) -> list[Result]:
    process = _process()
    print(json.dumps(request), file=process.stdin, flush=True)
    return [tuple(result) for result in json.loads(process.stdout.readline())]


def _answer(
    module: str,
    cases: list[list[str]],
    path: str | None = None,
    kill: list | None = None,
    together: bool = False,
) -> list[Result]:
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        if together:
            forks = [stack.enter_context(_fork(module, [case], path)) for case in cases]
            kills = [kill, *[None] * (len(forks) - 1)]
            return [result for fork, at in zip(forks, kills, strict=True) for result in _results_of(*fork, at)]
        while len(results) < len(cases):
            results += _results_of(*stack.enter_context(_fork(module, cases[len(results) :], path)), kill)
    return results


@contextlib.contextmanager
def _fork(module: str, cases: list[list[str]], path: str | None) -> Iterator[tuple[int, list[list[pathlib.Path]]]]:
    """Start command lines in one fork, up to the one that ends it; gives its id and each one's files."""
    with tempfile.TemporaryDirectory() as folder:
        files = [[pathlib.Path(folder, f"{i}.{kind}") for kind in ("out", "err", "code")] for i in range(len(cases))]
        child = os.fork()
        if not child:
            if path:
                sys.path.insert(0, path)
            for arguments, (out, err, code) in zip(cases, files, strict=True):
                code.write_text(str(_run(module, arguments, out, err)))
            os._exit(0)
        yield child, files


def _results_of(child: int, files: list[list[pathlib.Path]], kill: list | None = None) -> list[Result]:
    """Wait for a fork, or kill it, and return the results of those that it came to."""
    status = _wait_for(child, *kill) if kill else os.waitpid(child, 0)[1]
    ended = os.waitstatus_to_exitcode(status)
    return [
        (int(code.read_text()) if code.exists() else ended, out.read_text(), err.read_text())
        for out, err, code in files
        if err.exists()
    ]


def _run(module: str, arguments: list[str], out: pathlib.Path, err: pathlib.Path) -> int:
    """Run one command line in this process with its output in two files; the exit code."""
    for number, path in ((1, out), (2, err)):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    code = 0
    try:
        script = importlib.import_module(module)
        importlib.import_module("absl.flags").FLAGS.unparse_flags()
        sys.argv = [script.__file__, *arguments]
        script.cli.run(script.main)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _wait_for(child: int, file: str, num_lines: int, delay: float, by: int) -> int:
    """Kill a process some seconds after a file has so many lines, and return its status."""
    path = pathlib.Path(file)
    while not path.exists() or path.read_bytes().count(b"\n") < num_lines:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child, by)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    for library in (
        "bat_jax.pipeline",
        "matplotlib.figure",
        "optax",
        "rasterio",
        "scipy.ndimage",
        "absl.app",
        "tensorboardX",
    ):
        importlib.import_module(library)
    # A fork's collector need not look through, and so copy, what is imported.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    for line in sys.stdin:
        print(json.dumps(_answer(**json.loads(line))), flush=True)
