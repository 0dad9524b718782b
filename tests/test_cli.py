"""What every command does before and after its own work."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A process that has imported the library and forks for every case, before JAX has made a device.
RUN = """
import json, os, sys
import experiments.answer
from experiments import cli
heavy = {"torch", "transformers", "scipy", "statsmodels", "tensorflow", "tensorflow_datasets", "pandas", "rasterio"}
print(json.dumps(sorted(heavy & set(sys.modules))), flush=True)
import jax
def main(argv):
    jax.jit(lambda x: x + 1)(jax.numpy.arange(3.0)).block_until_ready()
for folder, home, arguments in json.loads(sys.argv[1]):
    if not os.fork():
        cli.PROGRAMS = cli.pathlib.Path(home)
        if folder:
            jax.config.update("jax_compilation_cache_dir", folder)
        sys.argv = ["a_command", *arguments]
        cli.run(main)
    os.wait()
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """What a start imports, and the folders: of programs by default, without, and the user's own beside an unused."""
    root = tmp_path_factory.mktemp("programs")
    names = [str(root / name) for name in ("default", "off", "mine", "unused")]
    cases = [("", names[0], []), ("", names[1], ["--nocompile_cache"]), (names[2], names[3], [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout), [pathlib.Path(name) for name in names]


def test_answering_starts_without_libraries_that_it_does_not_need(started):
    assert started[0] == []


def test_every_program_is_kept_however_short_and_the_folder_is_bounded(started):
    """JAX writes a file of times beside each program where it bounds the folder, and a file that it locks."""
    default, off, mine, unused = started[1]
    assert len(list(default.glob("*-cache"))) == len(list(default.glob("*-atime"))) > 0
    assert (default / ".lockfile").exists()
    assert len(list(mine.glob("*-cache"))) > 0 and not list(mine.glob("*-atime"))
    assert not off.exists() and not unused.exists()
