"""experiments.evaluate on the benchmarks' files, as a user types it, with one tiny model for all of them."""

import json

import pytest

from tests.benchmarks import benchmark_files as files
from tests.command_batch import run_commands
from tests.tiny_model import write_tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    write_tiny_checkpoint(folder / "checkpoint")
    files.write_xlrs_tree(folder / "xlrs")
    files.write_xlrs_jsonl(folder / "vlm")
    files.write_mme_json(folder / "mme")
    files.write_rshr_json(folder / "rshr")
    files.write_llava(folder / "llava")
    return folder


def command(folder, output, benchmark, data=None, **flags):
    given = {
        "checkpoint": folder / "checkpoint",
        "benchmark": benchmark,
        "data": folder / data if data else None,
        "output_dir": folder / "runs" / output,
        "max_new_tokens": 2,
    } | flags
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


@pytest.fixture(scope="module")
def done(folder):
    """Run all command lines: name -> (code, stdout, stderr)."""
    cases = {
        "xlrs": command(folder, "xlrs", "xlrs", "xlrs", set="images=all"),
        "xlrs again": command(folder, "xlrs", "xlrs", "xlrs", set="images=all"),
        "xlrs part": command(folder, "part", "xlrs", "vlm", shard="1/2", prompt="vlmevalkit"),
        "mme": command(folder, "mme", "mme_realworld", "mme", prompt="official"),
        "rshr": command(folder, "rshr", "rshr", "rshr", leak_hint=True),
        "llava": command(folder, "llava", "llava", "llava"),
        "merge": [f"--output_dir={folder}/runs/part", "--merge"],
        "no data": command(folder, "bad", "xlrs"),
        "scenes of files": command(folder, "bad", "xlrs", "xlrs", split="test"),
        "files of scenes": command(folder, "bad", "uhr_mini", "xlrs", split="test"),
        "prompt": command(folder, "bad", "rshr", "rshr", prompt="official"),
        "conversations": command(folder, "bad", "xlrs", "llava", prompt="official"),
        "hint": command(folder, "bad", "xlrs", "xlrs", leak_hint=True),
        "other data": command(folder, "xlrs", "xlrs", "vlm", set="images=all"),
    }
    return dict(zip(cases, run_commands("experiments.evaluate", list(cases.values())), strict=True))


def lines_of(folder, output):
    return [json.loads(line) for line in (folder / "runs" / output / "predictions.jsonl").read_text().splitlines()]


def metrics_of(folder, output):
    return json.loads((folder / "runs" / output / "metrics.json").read_text())


def test_xlrs_is_asked_picture_by_picture_and_two_images_share_the_budget(done, folder):
    code, out, err = done["xlrs"]
    assert code == 0, err
    lines = {line["id"]: line for line in lines_of(folder, "xlrs")}
    assert {id: (line["sub_task"], line["status"]) for id, line in lines.items()} == {
        "0": ("OCC", "answered"),
        "1": ("OLUC", "answered"),
        "2": ("OMS", "answered"),
        "3": ("RCCD", "answered"),
    }
    assert lines["0"]["picture"] == lines["2"]["picture"] == "dota/P1.png"
    assert lines["1"]["picture"] == "dota/P1.png#2", "the same name, other pixels"
    assert {tuple(line["tokens_kept"]) for line in lines.values()} == {(12, 30)}
    assert lines["3"]["facts"]["num_images"] == 2 and lines["0"]["prompt_style"] == "official"
    metrics = metrics_of(folder, "xlrs")
    assert metrics["overall"]["total"] == 4 and metrics["averaging"] == "paper"
    assert (
        metrics["subtasks"]["OLUC"]["chance"] == pytest.approx(1 / 15) and metrics["subtasks"]["OMS"]["chance"] == 0.5
    )
    table = (folder / "runs" / "xlrs" / "table.md").read_text()
    assert table.startswith("# XLRS-Bench-lite: ") and "| reasoning, micro | 1 |" in table and table in out
    assert "4 of them answered before" in done["xlrs again"][1]


def test_shards_and_ready_made_prompts(done, folder):
    assert done["xlrs part"][0] == 0, done["xlrs part"][2]
    assert done["merge"][0] == 0, done["merge"][2]
    status = metrics_of(folder, "part")["status"]
    assert status["answered"] + status["missing"] == 4 and 0 < status["answered"] < 4 and status["error"] == 0


def test_mme_counts_a_lost_picture_as_wrong_and_goes_on(done, folder):
    assert done["mme"][0] == 0, done["mme"][2]
    metrics = metrics_of(folder, "mme")
    assert metrics["benchmark"] == "mme_realworld" and metrics["status"] == {"answered": 2, "missing": 0, "error": 1}
    lost = metrics["errors"]["perception/remote_sensing/position/4"]
    assert lost.startswith("picture: ImageError: ") and "lost.png: does not exist" in lost
    assert metrics["overall"]["num_errors"] == 1 and metrics["subtasks"]["Position"]["accuracy"] == 0
    assert "3 questions (Lite), 1 rows left out (not remote sensing)" in done["mme"][1]


def test_rshr_counts_dialogues_apart_and_leads_with_the_mean_of_sub_tasks(done, folder):
    assert done["rshr"][0] == 0, done["rshr"][2]
    metrics = metrics_of(folder, "rshr")
    assert metrics["status"]["answered"] == 8 and metrics["overall"]["total"] == 5
    report = metrics["rules"]["official"]
    assert report["dialogues"]["total"] == 1 and report["dialogues"]["chance"] == 1 / 4**3
    assert metrics["headline"] == report["macro"]
    table = (folder / "runs" / "rshr" / "table.md").read_text()
    assert "percent right, mean of sub-tasks" in table.splitlines()[0] and "| MTEM@1 | 1 |" in table
    assert "with the release's hint" in table


def test_llava_conversations_are_choices_or_open(done, folder):
    assert done["llava"][0] == 0, done["llava"][2]
    metrics = metrics_of(folder, "llava")
    totals = {name: cell["total"] for name, cell in metrics["subtasks"].items()}
    assert totals == {"choice": 1, "open": 2} and metrics["overall"]["total"] == 3
    assert sorted(metrics["breakdowns"]["Category"]) == ["change", "colour"]


BAD = {
    "no data": "--data: name the file or folder of xlrs",
    "scenes of files": "--split: is not for --benchmark=xlrs",
    "files of scenes": "--data: is not for --benchmark=uhr_mini",
    "prompt": "--prompt=official: rshr offers release",
    "conversations": "category",
    "hint": "needs prompt=release",
    "other data": "data: ",
}


def test_bad_input_gets_one_line_and_writes_nothing(done, folder):
    for name, message in BAD.items():
        code, _, err = done[name]
        assert code == 1 and len(err.strip().splitlines()) == 1 and message in err, (name, err)
    assert not (folder / "runs" / "bad").exists()
