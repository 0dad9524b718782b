"""experiments.evaluate as a user types it: what it prints and writes, kills and restarts, shards, and bad input."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

from tests import selection_example
from tests.command_batch import run_commands, run_killed
from tests.tiny_model import write_tiny_checkpoint

SEEDS = "3000000:3000001"
FILES = ["config.json", "metrics.json", "predictions.jsonl", "run.json", "table.md"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_tiny_checkpoint(folder / "checkpoint")
    (folder / "full").mkdir()
    (folder / "maps").mkdir()
    labels = np.kron([[1, 2], [0, 3]], np.ones((112, 112), np.uint8))
    np.savez(folder / "maps" / "3000000.npz", label_map=labels)
    turns = [{"from": "human", "value": "<image>\nWhich?\nA. x\nB. y"}, {"from": "gpt", "value": "A"}]
    records = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in ("one", "two")]
    for place, images, order in (("away", ["one"], 1), ("back", ["one", "two"], 1), ("turned", ["one", "two"], -1)):
        (folder / place).mkdir()
        (folder / place / "llava.json").write_text(json.dumps(records[::order]))
        for name in images:
            Image.fromarray(labels.astype(np.uint8)).convert("RGB").save(folder / place / f"{name}.png")
    (folder / "full" / "file").write_text("kept")
    return folder


def command(folder, output, **flags):
    given = {
        "checkpoint": folder / "checkpoint",
        "benchmark": "uhr_mini",
        "scene_seeds": SEEDS,
        "output_dir": folder / output,
        "render_px": 224,
        "max_new_tokens": 2,
    } | flags
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def llava(folder, place):
    data = {"benchmark": "llava", "data": folder / place / "llava.json", "scene_seeds": None, "render_px": None}
    return command(folder, "llava", **data)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics_of(folder, output):
    return json.loads((folder / output / "metrics.json").read_text())


@pytest.fixture(scope="module")
def done(folder):
    """Run all command lines that work, in order, after a run was killed: name -> (code, stdout, stderr)."""
    killed = folder / "whole" / "predictions.jsonl"
    code, _, err = run_killed("experiments.evaluate", command(folder, "whole"), killed, 3)
    assert code == -signal.SIGKILL, err
    before = killed.read_bytes()
    killed.write_bytes(before + b'{"id": "torn')
    (folder / "whole" / ".run.json.1.json").write_text("what a killed process had not finished")
    (folder / "before").write_bytes(before)
    cases = {
        "resumed": command(folder, "whole"),
        "again": command(folder, "whole"),
        "other settings": command(folder, "whole", budgets="12,20", prompt="xlrs", weights="int8"),
        "anchor": command(folder, "anchor", views="anchor", fidelity="paper", limit=2),
        "masks": command(folder, "masks", partition="sam", label_maps=folder / "maps", fidelity="paper", limit=2),
        "rule": command(folder, "rule", set="selection=visionzip", limit=1),
        "installed rule": command(folder, "installed", set="selection=first", limit=1),
        "word": command(folder, "word", prompt="word", limit=3, offset=2),
        "replaced": command(folder, "word", limit=2, overwrite=True),
        "kept": command(folder, "kept", limit=6, scene_cache=folder / "scenes"),
        "read": command(folder, "read", limit=6, scene_cache=folder / "scenes"),
        "shard 2": command(folder, "shards", shard="2/2", limit=22),
        "shard 1": command(folder, "shards", shard="1/2", limit=22),
        "merge": [f"--output_dir={folder}/shards", "--merge"],
        "other shards": command(folder, "shards", shard="1/3", limit=22),
        **{place: llava(folder, place) for place in ("away", "back", "turned")},
    }
    selection_example.install(folder / "site")
    results = run_commands("experiments.evaluate", list(cases.values()), path=folder / "site")
    return dict(zip(cases, results, strict=True))


def test_a_killed_run_goes_on_without_loss_or_repetition(done, folder):
    code, out, err = done["resumed"]
    assert code == 0, err
    before = (folder / "before").read_bytes()
    path = folder / "whole" / "predictions.jsonl"
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    lines = lines_of(path)
    assert len({line["id"] for line in lines}) == len(lines) == 23
    assert {line["status"] for line in lines} == {"answered"} and lines[0]["tokens_kept"] == [12, 30]
    num_before = before.count(b"\n")
    assert 3 <= num_before < 23
    assert f"23 questions about 3 pictures, {num_before} of them answered before" in out
    assert sorted(path.name for path in (folder / "whole").iterdir() if path.name[0] != ".") == FILES


def test_the_results_say_what_was_run_and_what_came(done, folder):
    metrics, run = metrics_of(folder, "whole"), json.loads((folder / "whole" / "run.json").read_text())
    assert metrics["status"] == {"answered": 23, "missing": 0, "error": 0} and metrics["overall"]["total"] == 23
    assert metrics["tokens_kept"] == 42 and metrics["question_seconds"] > 0 and metrics["encode_seconds"] > 0
    assert metrics["subtasks"]["overall_land_use"]["chance"] == 0.1
    assert list(metrics["rules"]) == ["official", "release", "strict", "tolerant"]
    assert len(run["starts"]) == 3 and run["settings"]["scene_seeds"] == SEEDS and run["starts"][0]["packages"]["jax"]
    table = (folder / "whole" / "table.md").read_text()
    assert table in done["resumed"][1] and "scenes 3000000 to 3000000, in no split" in table
    assert "| overall_counting | 1 | 0 | 0 |" in table and "| existence/yes_no |" in table


def test_a_finished_run_asks_nothing_and_other_settings_are_refused(done, folder):
    assert done["again"][0] == 0 and "23 of them answered before" in done["again"][1]
    code, _, err = done["other settings"]
    assert code == 1 and len(err.strip().splitlines()) == 1
    assert 'prompt: "release" -> "xlrs"' in err and "compressor.scales" in err and "decoder.weights" in err
    assert "--overwrite" in err
    assert len(lines_of(folder / "whole" / "predictions.jsonl")) == 23
    assert done["other shards"][0] == 1 and "num_shards: 2 -> 3" in done["other shards"][2]


def test_what_failed_is_asked_again_once_the_picture_is_back(done, folder):
    assert done["away"][0] == 0 and "1 answered, 1 failed" in done["away"][1], done["away"][2]
    code, out, err = done["back"]
    assert code == 0, err
    assert "2 questions about 2 pictures, 1 of them answered before, 1 failed before and are asked again" in out
    assert metrics_of(folder, "llava")["status"] == {"answered": 2, "missing": 0, "error": 0}
    assert [line["status"] for line in lines_of(folder / "llava" / "predictions.jsonl")][:2] == ["answered", "error"]
    code, _, err = done["turned"]
    assert code == 1 and "data_sha256.llava.json: " in err


def test_views_and_prompts_and_parts(done, folder):
    assert done["anchor"][0] == 0, done["anchor"][2]
    anchor = lines_of(folder / "anchor" / "predictions.jsonl")
    assert [line["tokens_kept"] for line in anchor] == [[64], [64]]
    assert json.loads((folder / "anchor" / "config.json").read_text())["compressor"]["scales"] == [
        {"budget": 64, "size_px": 112}
    ]
    assert done["word"][0] == 0 and "prompt word" in done["word"][1]
    whole = lines_of(folder / "whole" / "predictions.jsonl")
    assert "3 questions about" in done["word"][1]
    assert done["replaced"][0] == 0, done["replaced"][2]
    replaced = lines_of(folder / "word" / "predictions.jsonl")
    assert {line["id"] for line in replaced} < {line["id"] for line in whole} and len(replaced) == 2
    assert {line["prompt_style"] for line in replaced} == {"release"}
    assert "a sample of 2 of 23 questions, stratified by sub-task, seed 0" in done["replaced"][1]
    assert "a sample of 3 of 21 questions" in done["word"][1]


def test_label_maps_of_pictures_and_other_selections(done, folder):
    assert done["masks"][0] == 0, done["masks"][2]
    assert {line["status"] for line in lines_of(folder / "masks" / "predictions.jsonl")} == {"answered"}
    (start,) = json.loads((folder / "masks" / "run.json").read_text())["starts"]
    assert start["places"]["label_maps"] == str(folder / "maps")
    assert list(json.loads((folder / "masks" / "inputs.json").read_text())) == ["3000000.npz"]
    for case, output in (("rule", "rule"), ("installed rule", "installed")):
        assert done[case][0] == 0, done[case][2]
        assert lines_of(folder / output / "predictions.jsonl")[0]["tokens_kept"] == [12, 30]
    config = json.loads((folder / "installed" / "config.json").read_text())
    assert config["compressor"]["selection"] == selection_example.NAME


def test_pictures_in_a_scene_cache_are_answered_alike_and_not_encoded_again(done, folder):
    for name in ("kept", "read"):
        assert done[name][0] == 0, done[name][2]
    kept, read = (lines_of(folder / name / "predictions.jsonl") for name in ("kept", "read"))
    whole = {line["id"]: line["output"] for line in lines_of(folder / "whole" / "predictions.jsonl")}
    assert [(line["id"], line["output"]) for line in read] == [(line["id"], whole[line["id"]]) for line in kept]
    assert all(line["encode_seconds"] > 0 for line in kept)
    assert all(line["encode_seconds"] is None and line["error"] is None for line in read)
    assert metrics_of(folder, "read")["encode_seconds"] is None
    assert len(list((folder / "scenes").glob("scene-*"))) == len({line["picture"] for line in kept})


def test_shards_share_a_run(done, folder):
    for name in ("shard 1", "shard 2", "merge"):
        assert done[name][0] == 0, done[name][2]
    files = {path.name: lines_of(path) for path in (folder / "shards").glob("predictions*")}
    assert sorted(files) == ["predictions-001-of-002.jsonl", "predictions-002-of-002.jsonl"]
    ids = [line["id"] for lines in files.values() for line in lines]
    whole = {line["id"]: line["output"] for line in lines_of(folder / "whole" / "predictions.jsonl")}
    assert len(ids) == len(set(ids)) == 22 and set(ids) < set(whole)
    assert all(line["output"] == whole[line["id"]] for lines in files.values() for line in lines)
    assert "missing" in done["shard 2"][1] and " 0 missing" not in done["shard 2"][1]
    assert metrics_of(folder, "shards")["status"] == {"answered": 22, "missing": 0, "error": 0}
    assert (folder / "shards" / "table.md").read_text() in done["merge"][1]


BAD = {
    "no checkpoint": ({"checkpoint": None}, "--checkpoint"),
    "checkpoint nowhere": ({"checkpoint": "nowhere"}, "nowhere"),
    "no benchmark": ({"benchmark": None}, "--benchmark"),
    "no output": ({"output_dir": None}, "--output_dir"),
    "no such selection": ({"set": "selection=nonsense"}, "selection='nonsense': must be one of uhr_bat, topk"),
    "both": ({"split": "test"}, "--split, --scene_seeds"),
    "seeds": ({"scene_seeds": "7:3"}, "scene_seeds"),
    "shard": ({"shard": "3/2"}, "--shard=3/2"),
    "shard zero": ({"shard": "0/2"}, "--shard=0/2"),
    "shard and overwrite": ({"shard": "1/2", "overwrite": True}, "--overwrite"),
    "anchor budgets": ({"views": "anchor", "budgets": "3,7"}, "--budgets"),
    "budgets": ({"budgets": "3,700"}, "budgets=700"),
    "id": ({"ids": "3000000-nothing-0"}, "3000000-nothing-0"),
    "offset": ({"offset": 23}, "offset=23"),
    "small": ({"render_px": 100}, "render_px"),
    "label map": ({"label_map": "x.png"}, "--label_map"),
    "sam without maps": ({"partition": "sam", "fidelity": "paper"}, "--label_maps"),
    "maps without sam": ({"label_maps": "FOLDER/maps"}, "--label_maps"),
    "no map": ({"partition": "sam", "label_maps": "FOLDER/full"}, "3000000.npz"),
    "bands": ({"bands": "1,2,3"}, "--bands"),
    "page": ({"page": 2}, "--page"),
    "nodata": ({"nodata": 0}, "--nodata"),
    "not ours": ({"output_dir": "FOLDER/full"}, "no run of this command"),
    "a file": ({"output_dir": "FOLDER/full/file"}, "is a file"),
    "not ours, overwrite": ({"output_dir": "FOLDER/full", "overwrite": True}, "no run of this command"),
    "merge of nothing": ({"output_dir": "FOLDER/full", "merge": True}, "holds no run"),
}


def test_bad_input_gets_one_line_and_writes_nothing(folder):
    lines = []
    for flags, _ in BAD.values():
        flags = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in flags.items()}
        lines.append(command(folder, "bad", **flags))
    for (name, (_, text)), (code, _, err) in zip(BAD.items(), run_commands("experiments.evaluate", lines), strict=True):
        assert code in (1, 2) and len(err.strip().splitlines()) == 1, (name, err)
        assert err.startswith("error: ") and text in err, (name, err)
    assert not (folder / "bad").exists() and [path.name for path in (folder / "full").iterdir()] == ["file"]
