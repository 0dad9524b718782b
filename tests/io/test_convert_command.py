"""The command that converts: what it prints, errors in one line, and a kill that leaves nothing."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.command_batch import run_commands

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "dev" / "checkpoint"
BAD = [
    (["--source=/absent", "--output=x"], 1, "error: --source=/absent: no such folder"),
    (["--source=x", "--output=y", "--dtype=int8"], 2, "error: flag --dtype=int8: "),
]


def test_the_command_prints_parts_and_the_check_and_its_errors_are_one_line(tmp_path):
    good = [f"--source={GOLDEN}", f"--output={tmp_path / 'out'}"]
    (code, printed, errors), *failed = run_commands("experiments.convert", [good, *(flags for flags, *_ in BAD)])
    assert code == 0, errors
    assert "decoder" in printed and "176,960" in printed
    assert "104 tensors read back, bit for bit" in printed
    for (flags, wanted, message), (code, printed, errors) in zip(BAD, failed, strict=True):
        assert (code, printed) == (wanted, ""), flags
        assert errors.startswith(message) and errors.count("\n") == 1


def test_an_output_has_to_be_named():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.convert", "--source=x"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: flag --output=None: Flag --output must have a value other than None.\n"


_SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background inherits "ignored"
from bat_jax.io import convert
from experiments import cli
def main(argv):
    def progress(purpose, done, total):
        print(purpose, flush=True)
        time.sleep(60)
    convert.convert(argv[0] and {source!r}, {output!r}, progress=progress)
cli.run(main)
"""


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_kill_in_the_middle_leaves_no_output(tmp_path, kill):
    code = _SLOW.format(source=str(GOLDEN), output=str(tmp_path / "out"))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        assert p.stdout.readline() == b"writing\n"
        time.sleep(0.1)
        os.kill(p.pid, kill)
        p.wait()
    assert p.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9, signal.SIGINT: 130}[kill]
    assert not (tmp_path / "out").exists()
    if kill != signal.SIGKILL:  # nothing can clean up after that one
        assert list(tmp_path.iterdir()) == []
