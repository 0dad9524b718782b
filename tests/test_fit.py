"""experiments.fit: the answer first, exit codes, the page, and flags that mean nothing."""

import json

import pytest

from tests.command_batch import run_commands


def entry(device, peak_gb, **others):
    stage = {"stage": "prefill", "calls": 1, "arguments_gb": 14.0, "outputs_gb": 0.2, "temporaries_gb": 0.6}
    stage |= {"held_gb": peak_gb - 0.8, "peak_gb": peak_gb, "tflop": 42.5, "moved_gb": 14.4, "least_s": 0.043}
    program = stage | {"stage": "questions" if others.get("questions_at_once", 1) > 1 else "question"}
    fits = peak_gb <= 50
    return {
        "device": device,
        "title": f"The {device}",
        "compiled_for": device,
        "mesh": {"data": 1, "model": 1},
        "fits": fits,
        "answer": f"{device} (data=1,model=1): {'fits' if fits else 'DOES NOT FIT'}: ...",
        "peak_gb": peak_gb,
        "peak_stage": "prefill",
        "device_gb": 51.0,
        "usable_gb": 50.0,
        "spare_gb": 50 - peak_gb,
        "weights_gb": 16.0,
        "weights": "stored",
        "config": "7b",
        "budgets": [80, 320, 600, 2000],
        "kept_tokens": 3000,
        "image_px": 8192,
        "tile_batch": 8,
        "text": {"prefix": 14, "question": 64, "answer": 8},
        "stages": [stage, program],
        "stages_apart": False,
        "layers": None,
        "questions_at_once": 1,
        "most": {},
        "run": {"date": "2026-11-28T12:00:00+00:00", "packages": {"jax": "0.10.2"}},
    } | others


LEAST = {"least": {"first_question_s": 0.4, "further_question_s": 0.1, "token_s": 0.004}}


def limit(*trials, is_all=False):
    """Return a limit of (number, peak, tokens of all views), the first of which is where a search began."""
    keys = ("number", "peak_gb", "num_tokens")
    compiled = [dict(zip(keys, trial, strict=True)) | {"peak_stage": "views", "num_tiles": 228} for trial in trials]
    return {"number": max(number for number, peak, _ in trials if peak <= 50), "is_all": is_all, "compiled": compiled}


MOST = {
    "most": {
        "kept": limit((3000, 19.0, 131_328), (20_000, 49.5, 131_328)),
        "picture": limit((4032, 19.0, 131_328), (9072, 60.0, 468_288), (8064, 49.9, 380_160)),
    }
}
MANY = {"questions_at_once": 16, "most": {"questions": limit((16, 21.0, 131_328), (200, 49.6, 131_328))}}
RECIPE = {"master_weights": True, "batch_size": 16, "accumulation": 16, "sharding": "data"}
CASES = {
    "device": (["--config=7b", "--device=h300"], 1, "--device=h300: is not known; known are b200, h200"),
    "nothing": (["--config=7b"], 1, "--device: name at least one"),
    "model": (["--device=h200"], 1, "--config: give this or --checkpoint"),
    "mesh": (["--config=7b", "--device=h200", "--mesh=4"], 1, "--mesh=4: need axes as data=1,model=4"),
    "heads": (["--config=7b", "--device=h200", "--mesh=model=3"], 1, "--mesh: model=3 neither divides the 4 key-value"),
    "recipe": (
        ["--config=7b", "--device=h200", "--train=epochs=1"],
        1,
        "name release_7b or a recipe's JSON file first",
    ),
    "field": (
        ["--config=7b", "--device=h200", "--train=release_7b", "--train=epoch=1"],
        1,
        "--train=epoch=1: need name",
    ),
    "search": (["--config=7b", "--device=h200", "--search=tile"], 1, "--search=tile: is not known; known are kept"),
    "questions": (["--config=7b", "--device=h200", "--questions_at_once=8,0"], 1, "--questions_at_once=8,0: must be"),
    "apart": (
        ["--config=7b", "--device=h200", "--questions_at_once=8", "--stages_apart"],
        1,
        "--stages_apart: takes one question at a time",
    ),
    "budgets": (["--config=7b", "--device=h200", "--budgets=1,2"], 1, "2 budgets for the 4 scales"),
    "weights": (["--config=7b", "--device=h200", "--weights=int2"], 2, "--weights=int2"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run all command lines: name -> (code, stdout, stderr), and the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("fit")
    files = {
        "fits": entry("a6000", 19.0, **LEAST, **MOST),
        "not": [
            entry("a6000", 19.0, **LEAST, **MOST),
            entry("rtx4090", 60.0, **LEAST, **MOST, weights="int8", weights_gb=8.4),
        ],
        "many": entry("a6000", 21.0, **MANY),
        "train": entry("a6000", 150.0, train=RECIPE),
        "apart": entry("h200", 20.0, **LEAST, **MOST, stages_apart=True),
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    lines = {name: arguments for name, (arguments, _, _) in CASES.items()}
    lines["fits"] = [f"--join={folder}/fits.json", f"--output={folder}/again.json"]
    lines["not"] = [
        f"--join={folder}/not.json,{folder}/train.json,{folder}/apart.json,{folder}/many.json",
        f"--write_docs={folder}/fit.md",
    ]
    return dict(zip(lines, run_commands("experiments.fit", list(lines.values())), strict=True)), folder


@pytest.mark.parametrize("name", CASES)
def test_flags_that_mean_nothing_are_refused_in_one_line(results, name):
    code, _, err = results[0][name]
    assert code == CASES[name][1] and CASES[name][2] in err
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ")


def test_the_answer_is_the_first_line_and_the_exit_code(results):
    (code, out, _), (code_not, out_not, _) = results[0]["fits"], results[0]["not"]
    assert code == 0 and out.splitlines()[0] == "a6000 (data=1,model=1): fits: ..."
    assert code_not == 3 and out_not.splitlines()[1].startswith("rtx4090 (data=1,model=1): DOES NOT FIT")


def test_what_is_joined_is_written_again(results):
    folder = results[1]
    assert json.loads((folder / "again.json").read_text()) == json.loads((folder / "fits.json").read_text())


def test_the_page_has_a_line_a_device_and_training_apart(results):
    page = (results[1] / "fit.md").read_text()
    answering = page.split("## Answering")[1].split("##")[0]
    assert "| The a6000 | 1 | 50.0 | 16.0 | 19.0 | prefill | yes | 31.0 | 20,000 |  | 400 | 100 | 4 |" in answering
    assert "| The rtx4090 | 1 | 50.0 | 8.4 int8 | 60.0 | prefill | **no** | -10.0 |" in answering
    (only_apart,) = [line for line in answering.splitlines() if "The h200" in line]
    assert "| prefill, stages apart | yes |" in only_apart
    stages = page.split("## Stages")[1].split("## Training")[0]
    assert (
        "The h200, 1;" in stages
        and "| prefill | 1 | 14.00 | 0.20 | 0.60 | 19.20 | 20.00 | 42.50 | 14.40 | 43 |" in stages
    )
    training = page.split("## Training")[1]
    assert "| The a6000 | 1 | 16 | 16 | data | float32 master weights | 50.0 | 150.0 | **no** | -100.0 |" in training


def test_the_page_says_how_large_a_picture_and_how_many_questions_fit(results):
    page = (results[1] / "fit.md").read_text()
    pictures = page.split("## The largest picture")[1].split("##")[0]
    assert "- 1 x The a6000, 1: 8,064 x 8,064 pixels in 228 tiles, 380,160 tokens of all views." in pictures
    tried = "131,328: 19.0 GB, 380,160: 49.9 GB, 468,288: 60.0 GB"
    assert f"| The a6000 | 1 | 8,064 x 8,064 | 228 | 380,160 | 49.9 | views | 50.0 | {tried} | 381,032 |" in pictures
    assert "| The h200 | 1, stages apart | 8,064" in pictures
    questions = page.split("## Questions at once")[1].split("##")[0]
    assert "| The a6000 | 1 | 1 | 19.0 | prefill | 50.0 | yes | 31.0 | 0.20 | 0.60 |  |" in questions
    most = "200 (of those compiled (16 21.0 GB, 200 49.6 GB))"
    assert f"| The a6000 | 1 | 16 | 21.0 | prefill | 50.0 | yes | 29.0 | 0.20 | 0.60 | {most} |" in questions
    assert "The rtx4090" not in questions, "one question alone"
