"""Runs many command lines of one experiment script in one process that imports once and forks for each.

    python -m tests.command_batch MODULE < cases.json     # [[argument, ...], ...] -> [[code, stdout, stderr], ...]

A command line is what a user types; importing the libraries anew for every one of dozens would take minutes. Each fork
starts before JAX has made a device, so it is as fresh as a process of its own.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile


@functools.cache
def _compiled_programs() -> tempfile.TemporaryDirectory:
    """Return the folder of what commands compiled: one for all batches of a test process, until it ends."""
    return tempfile.TemporaryDirectory()


def run_commands(module: str, cases: list[list[str]]) -> list[tuple[int, str, str]]:
    """Run `python -m MODULE ARGS...` for every list of arguments: (exit code, stdout, stderr)."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": _compiled_programs().name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.command_batch", module],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | settings,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(result) for result in json.loads(done.stdout)]


def _run_forked(module, arguments: list[str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = [module.__file__, *arguments]
            code = 0
            try:
                module.cli.run(module.main)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        return os.waitstatus_to_exitcode(status), *texts


if __name__ == "__main__":
    script = importlib.import_module(sys.argv[1])
    importlib.import_module("transformers").AutoTokenizer  # noqa: B018  (a lazy import of seconds, once for all forks)
    print(json.dumps([_run_forked(script, arguments) for arguments in json.load(sys.stdin)]))
