"""experiments.ablate as a user types it: a grid's files, started again, and bad input."""

import json
import pathlib

import pytest

from bat_jax.config import BatConfig
from tests.command_batch import run_commands

MINI = pathlib.Path(__file__).parents[1] / "checkpoints" / "uhr-bat-mini"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run all command lines in one process: name -> (code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("kept")
    mini, output = f"--checkpoint={MINI}", f"--output_dir={folder / 'out'}"
    grid = [mini, output, "--ours=layers", "--scene_seeds=3000000:3000001", "--limit=2"]
    cases = {
        "grid": grid,
        "again": grid,
        "other settings": [*grid[:-1], "--limit=3"],
        "no grid": [mini, output],
        "no checkpoint": [output, "--table=7"],
        "no data": [mini, output, "--table=7", "--benchmark=xlrs"],
        "not prepared": [mini, output, "--table=7", "--data=tfds", f"--tfds_dir={folder}"],
        "full folder": [mini, f"--output_dir={folder / 'full'}", "--table=7"],
    }
    return folder, dict(zip(cases, run_commands("experiments.ablate", list(cases.values())), strict=True))


def test_a_grid_leaves_its_answers_and_its_table(done):
    folder, results = done
    code, stdout, _ = results["grid"]
    assert code == 0
    assert "| layer 3 | 20/70/190/449 | 729 |" in stdout
    assert stdout.count("\n| layer ") == BatConfig.mini().decoder.num_layers
    assert (folder / "out" / "layers.md").read_text() in stdout
    assert len((folder / "out" / "layers.csv").read_text().splitlines()) == BatConfig.mini().decoder.num_layers + 1
    assert (folder / "out" / "layers.png").read_bytes().startswith(b"\x89PNG")
    run = json.loads((folder / "out" / "run.json").read_text())
    assert run["settings"]["limit"] == 2 and run["settings"]["config"]["compressor"]["num_clusters"]
    assert len(run["starts"]) == 2 and run["starts"][0]["packages"]["jax"], "the history stays"


def test_started_again_it_asks_nothing_twice(done):
    folder, results = done
    assert results["again"][:2] == results["grid"][:2]
    for path in (folder / "out" / "answers").glob("*/predictions.jsonl"):
        assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("other settings", "limit: 2 -> 3"),
        ("no grid", "--table, --figure, --ours"),
        ("no checkpoint", "--checkpoint"),
        ("no data", "--data"),
        ("not prepared", "uhr_mini/scenes is not prepared in"),
        ("full folder", "is not empty"),
    ],
)
def test_bad_input_is_named_in_one_line(done, case, words):
    folder, results = done
    code, _, stderr = results[case]
    assert code != 0 and words in stderr.strip().splitlines()[-1]
    assert [path.name for path in (folder / "full").iterdir()] == ["file"]
