"""Every command's help begins with two examples, whose flags parse; those that are cheap run."""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.__main__ import commands
from tests.command_batch import run_commands
from tests.tiny_model import write_tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(commands())


def doc_of(name):
    return ast.get_docstring(ast.parse((ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")), clean=False)


def examples_of(name):
    """Return the arguments of the examples in a command's help, without what a comment says of them."""
    lines = [line.strip() for line in doc_of(name).split("\n\n")[1].splitlines()]
    return [shlex.split(line.removeprefix(f"python -m experiments.{name}"), comments=True) for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_help_begins_with_what_the_command_does_and_two_examples(name):
    first, examples = doc_of(name).split("\n\n")[:2]
    assert len(first.splitlines()) == 1 and first.endswith(".")
    lines = examples.splitlines()
    assert len(lines) >= 2 and all(re.match(rf"    python -m experiments\.{name}( |$)", line) for line in lines)
    assert "[" not in examples and "..." not in examples, "an example can be typed as it stands"


@pytest.mark.parametrize("name", NAMES)
def test_the_flags_of_every_example_parse(name):
    cases = [[*arguments, "--only_check_args"] for arguments in examples_of(name)]
    for arguments, result in zip(cases, run_commands(f"experiments.{name}", cases), strict=True):
        assert result == (0, "", ""), arguments


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("help")
    write_tiny_checkpoint(folder / "checkpoint")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder


# command -> which examples run, and what stands in the place of what the user has.
CHEAP = {
    "answer": ([0], {"DIR": "FILES/checkpoint", "FILE": "FILES/picture.png"}),
    "audit_paper": ([0, 1], {"docs/paper_audit.md": "OUT/audit.md"}),
    "convert": ([0, 2], {"RL-MIND/UHR-BAT": "GOLDEN", "checkpoints/uhr_bat_7b": "OUT/ours", "DIR": "OUT/theirs"}),
    "cost": ([0, 1], {"docs/cost.md": "OUT/cost.md"}),
    "export_uhr_mini": ([1], {"DIR": "OUT/scenes"}),
}


@pytest.mark.parametrize("name", CHEAP)
def test_cheap_examples_run(files, tmp_path, name):
    which, places = CHEAP[name]
    cases = []
    for number in which:
        flags = []
        for argument in examples_of(name)[number]:
            flag, equals, value = argument.partition("=")
            for mine, real in places.items():
                value = re.sub(rf"^{re.escape(mine)}\b", real, value)
            for word, real in (("FILES", files), ("OUT", tmp_path), ("GOLDEN", ROOT / "tests/golden/dev/checkpoint")):
                value = re.sub(rf"^{word}\b", str(real), value)
            flags.append(flag + equals + value)
        cases.append(flags)
    for arguments, (code, out, err) in zip(cases, run_commands(f"experiments.{name}", cases), strict=True):
        assert code == 0 and out, (arguments, err)


def test_help_shows_the_examples_before_any_flag():
    command = [sys.executable, "-m", "experiments.cost", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    text = done.stdout
    places = [text.index(part) for part in ("Print what UHR-BAT-7B costs", "python -m experiments.cost\n", "--answer")]
    assert places == sorted(places) and text.count("python -m experiments.cost") == 2
    assert text.index("python -m experiments.cost --question_tokens=64") < text.index("flags:")
