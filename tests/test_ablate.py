"""experiments.ablate as a user types it: a grid's files, started again, and bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.command_batch import run_commands
from tests.narrow_mini import narrow_config, write_narrow_mini


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run all command lines in one process: name -> (code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "full").mkdir()
    write_pictures(folder / "pictures")
    (folder / "full" / "file").write_text("kept")
    mini, output = f"--checkpoint={write_narrow_mini(folder / 'mini')}", f"--output_dir={folder / 'out'}"
    grid = [mini, output, "--ours=layers", "--scene_seeds=3000000:3000001", "--limit=2"]
    cases = {
        "grid": grid,
        "again": grid,
        "other settings": [*grid[:-1], "--limit=3"],
        "sizes": [
            mini,
            f"--output_dir={folder / 'sizes'}",
            "--table=5",
            "--benchmark=llava",
            f"--data={folder / 'pictures'}",
        ],
        "no grid": [mini, output],
        "no checkpoint": [output, "--table=7"],
        "no data": [mini, output, "--table=7", "--benchmark=xlrs"],
        "not prepared": [mini, output, "--table=7", "--data=tfds", f"--tfds_dir={folder}"],
        "full folder": [mini, f"--output_dir={folder / 'full'}", "--table=7"],
    }
    return folder, dict(zip(cases, run_commands("experiments.ablate", list(cases.values())), strict=True))


def write_pictures(folder):
    """Write two questions: about a picture of 2800 pixels, and about one of 48."""
    folder.mkdir()
    records = []
    for name, side in (("large", 2800), ("small", 48)):
        ramp = np.linspace(0, 255, side).astype(np.uint8)
        Image.fromarray(np.stack([np.broadcast_to(ramp, (side // 2, side))] * 3, axis=-1)).save(folder / f"{name}.png")
        turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a ramp"}]
        records.append({"id": name, "image": f"{name}.png", "conversations": turns})
    (folder / "questions.json").write_text(json.dumps(records))


def answers_in(folder):
    return (folder / "out" / "answers").glob("*/predictions.jsonl")


def test_table_5_shows_files_in_the_sizes_that_its_cells_name(done):
    folder, results = done
    code, stdout, err = results["sizes"]
    assert code == 0, err
    shown = {}
    for path in (folder / "sizes" / "answers").glob("*/predictions.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            shown.setdefault(path.parent.name.rpartition("px-")[2], {})[line["id"]] = line["picture_px"]
    assert shown == {"2731": {"large": [2731], "small": [48]}, "1365": {"large": [1365], "small": [48]}}
    for px in (2731, 1365):
        assert f"at most {px} px a side (bicubic); 1 of 2 are smaller and stay as they are" in stdout


def test_a_grid_leaves_its_answers_and_its_table(done):
    folder, results = done
    code, stdout, _ = results["grid"]
    assert code == 0
    assert "| layer 3 | 20/70/190/449 | 729 |" in stdout
    assert stdout.count("\n| layer ") == narrow_config().decoder.num_layers
    assert (folder / "out" / "layers.md").read_text() in stdout
    assert len((folder / "out" / "layers.csv").read_text().splitlines()) == narrow_config().decoder.num_layers + 1
    assert (folder / "out" / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert "- 2 questions; " in stdout and "; a sample of 2 of 23 questions, stratified by sub-task, seed 0" in stdout
    asked = {tuple(json.loads(line)["id"] for line in path.read_text().splitlines()) for path in answers_in(folder)}
    assert len(asked) == 1, "every cell is asked the same"
    run = json.loads((folder / "out" / "run.json").read_text())
    assert run["settings"]["limit"] == 2 and run["settings"]["config"]["compressor"]["num_clusters"]
    assert len(run["starts"]) == 2 and run["starts"][0]["packages"]["jax"], "the history stays"


def test_started_again_it_asks_nothing_twice(done):
    folder, results = done
    assert results["again"][:2] == results["grid"][:2]
    for path in answers_in(folder):
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
