"""The demo as a user types it, on a small rendering and random weights; the rule that chooses its questions."""

import json

import numpy as np
import pytest
from PIL import Image

from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.question import SHOWN_SUB_TASKS, first_of_each
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.splits import SPLITS
from bat_jax.report.answer_page import Truth
from experiments import demo
from tests.command_batch import run_commands
from tests.narrow_mini import write_narrow_mini

SEED = SPLITS["development"][0]


@pytest.fixture(scope="module")
def questions():
    return generate_questions(generate_scene(SEED))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with random weights and a picture of noise."""
    folder = tmp_path_factory.mktemp("demo")
    write_narrow_mini(folder / "checkpoint")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "own.png")
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Run the demo's command lines: name -> (code, stdout, stderr)."""
    base = [f"--checkpoint={folder}/checkpoint", f"--demo_dir={folder}/demo", "--render_px=448", "--max_new_tokens=2"]
    cases = {
        "scene": base,
        "own": [*base, f"--image={folder}/own.png", "--question=How many ships are there?"],
        "no question": [*base, f"--image={folder}/own.png"],
        "seed of no test scene": [*base, "--scene_seed=5"],
        "full output": [*base, f"--output_dir={folder}"],
    }
    return dict(zip(cases, run_commands("experiments.demo", list(cases.values())), strict=True))


def test_demo_asks_a_scene_and_counts_right_answers_by_the_truth(runs, folder, questions):
    code, out, err = runs["scene"]
    assert code == 0, err
    chosen = first_of_each(questions)
    record = json.loads((folder / "demo/report/answer.json").read_text())
    answers = record["answers"]
    assert [item["question_id"] for item in answers] == [question.question_id for question in chosen]
    num_right = 0
    for item, question in zip(answers, chosen, strict=True):
        assert item["question"] == question.prompt() and item["truth"] == question.answer
        assert item["is_right"] == Truth.of(question, item["answer"]).is_right
        num_right += item["is_right"]
        assert f"{question.text}   [" in out and f"truth {question.answer} ({question.answer_word}): " in out
    assert f"{num_right} of {len(chosen)} answers are right; guessing would get " in out
    assert out.count(": right\n") == num_right and out.count(": WRONG\n") == len(chosen) - num_right
    assert "729 of 14,592 tokens kept" in out


def test_demo_writes_a_page_and_every_picture(runs, folder, questions):
    assert runs["scene"][0] == 0
    report = folder / "demo/report"
    numbers = range(1, len(first_of_each(questions)) + 1)
    pictures = {f"{kind}_q{number}.png" for kind in ("importance", "tokens", "zoom") for number in numbers}
    pictures |= {"image.png", "regions.png"}
    sizes = [
        scale["size_px"] for scale in json.loads((report / "answer.json").read_text())["config"]["compressor"]["scales"]
    ]
    rasters = {f"{name}_{size}.tif" for name in ("importance", "regions") for size in sizes}
    others = {"answer.json", "report.html", "tokens.geojson", "tokens.gpkg"} | rasters
    assert {path.name for path in report.iterdir()} == pictures | others
    for name in pictures:
        with Image.open(report / name) as picture:
            assert min(picture.size) > 300
    page = (report / "report.html").read_text()
    assert len(page) < 12e6
    assert page.count("<section") == len(numbers)
    assert page.count("data:image/jpeg") == 5 + 8 * len(numbers)
    with Image.open(folder / f"demo/scene-{SEED}-448.png") as scene:
        assert scene.size == (448, 448)


def test_demo_takes_a_picture_of_the_user(runs, folder):
    code, out, err = runs["own"]
    assert code == 0, err
    assert "Q: How many ships are there?\nA: " in out
    page = (folder / "demo/report-own/report.html").read_text()
    assert "the right answers are not known" in page and "The evidence" not in page
    assert demo.OWN_PICTURE not in out and 'class="notice"' not in page, "the model is not the shipped one"


@pytest.mark.parametrize(
    ("name", "message"),
    [("no question", "--question"), ("seed of no test scene", "scene_seed"), ("full output", "--overwrite")],
)
def test_bad_demo_input_gets_one_line(runs, name, message):
    code, _, err = runs[name]
    assert code in (1, 2)
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ") and message in err


def test_questions_are_the_first_of_each_sub_task_without_a_circle(questions):
    chosen = first_of_each(questions)
    assert len(chosen) >= 6
    assert [question.sub_task for question in chosen] == [
        name for name in SHOWN_SUB_TASKS if any(q.sub_task == name and q.marker is None for q in questions)
    ]
    for question in chosen:
        before = questions[: questions.index(question)]
        assert not any(q.sub_task == question.sub_task and q.marker is None for q in before)


def test_an_answer_counts_only_in_the_form_that_was_asked_for(questions):
    chosen = {question.sub_task: question for question in first_of_each(questions)}
    one, several = chosen["object_colour"], chosen["overall_land_use"]
    assert Truth.of(one, one.answer).is_right
    assert Truth.of(several, " ".join(several.answer)).is_right
    assert not Truth.of(several, several.answer[0]).is_right
    for output in ("", one.answer_word, f"{one.answer} {one.answer}", "E"):
        truth = Truth.of(one, output)
        assert not truth.is_right and truth.chosen == ""
        assert truth.answer_text(output) == (output or "(nothing)")
    assert Truth.of(one, one.answer).answer_text(one.answer) == f"{one.answer} ({one.answer_word})"
