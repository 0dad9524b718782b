"""The wheel, built and installed into an empty folder: one command, the small checkpoint, nothing beside bat_jax."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bat_jax.io.shipped import MINI, checkpoint_folder
from experiments.__main__ import commands

ROOT = pathlib.Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def files(folder, below=""):
    """Return the bytes of every file of a folder by name, without what Python compiled; names get a folder in front."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"{below}{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of what the wheel installs; built from a copy, because setuptools leaves files beside the sources."""
    root = tmp_path_factory.mktemp("wheel")
    for name in ("bat_jax", "experiments", "checkpoints"):
        shutil.copytree(ROOT / name, root / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md"):
        shutil.copy(ROOT / name, root / "source")
    own = ["--no-deps", "--no-index"]
    subprocess.run([*PIP, "wheel", *own, "--no-build-isolation", f"--wheel-dir={root}", root / "source"], check=True)
    (wheel,) = root.glob("*.whl")
    subprocess.run([*PIP, "install", *own, f"--target={root / 'installed'}", wheel], check=True)
    return root / "installed"


@pytest.fixture(scope="module")
def bat_jax_command(installed, tmp_path_factory):
    """Runs the installed command in a folder away from the checkout, which holds a picture."""
    folder = tmp_path_factory.mktemp("elsewhere")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "image.png")
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}

    def run(*arguments):
        command = [installed / "bin" / "bat-jax", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_wheel_installs_one_package_with_scripts_and_the_small_checkpoint_byte_for_byte(installed):
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"bat_jax", "bin"}
    parts = {"": "bat_jax", "commands/": "experiments", f"checkpoints/{MINI}/": f"checkpoints/{MINI}"}
    want = {name: text for below, folder in parts.items() for name, text in files(ROOT / folder, below).items()}
    found = files(installed / "bat_jax")
    assert sorted(found) == sorted(want) and found == want


def test_without_a_name_every_script_is_listed_with_one_line(bat_jax_command):
    code, out, err = bat_jax_command()
    assert code == 0 and not err
    listed = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert listed == commands() and all(listed.values())
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.py") if path.read_text().endswith(".run(main)\n")}
    assert set(listed) == scripts


def test_a_reader_of_the_list_may_leave():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-u", "-m", "experiments"]
    assert subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE).stderr == b""
    os.close(writing)


def test_an_unknown_name_gets_the_nearest_ones_in_one_line(bat_jax_command):
    code, out, err = bat_jax_command("ablatte")
    assert (code, out) == (2, "") and err.startswith("error: 'ablatte' is no command; did you mean ablate")
    assert len(err.splitlines()) == 1


def test_the_installed_command_answers_with_the_checkpoint_by_name(bat_jax_command):
    code, out, err = bat_jax_command(
        "answer", f"--checkpoint={MINI}", "--image=image.png", "--question=Is there a pond?", "--max_new_tokens=1",
        "--scales=224,448", "--budgets=4,8", "--nocompile_cache",
    )  # fmt: skip
    assert code == 0, err
    assert "image.png: 64 x 64 px" in out and "\nA: " in out


def test_help_and_errors_name_the_command_that_is_typed(bat_jax_command):
    code, out, _ = bat_jax_command("answer", "--help")
    assert code in (0, 1) and "\n    bat-jax answer --checkpoint=DIR" in out and "--max_new_tokens" in out
    code, _, err = bat_jax_command("answer", "--image=image.png", "--question=?")
    assert (code, err) == (1, "error: --checkpoint: give a directory written by bat-jax convert\n")


def test_a_folder_of_a_shipped_name_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder(MINI) == ROOT / "checkpoints" / MINI
    pathlib.Path(MINI).mkdir()
    assert checkpoint_folder(MINI) == pathlib.Path(MINI)
    assert checkpoint_folder("other/uhr-bat-mini") == pathlib.Path("other/uhr-bat-mini")
