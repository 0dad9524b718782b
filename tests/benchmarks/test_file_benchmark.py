"""Benchmark files as tasks: the text that is asked, what is scored, and which questions share a picture."""

import dataclasses
import json

import pytest

from bat_jax.benchmarks.answer_readers import judge
from bat_jax.benchmarks.file_benchmark import BenchmarkData
from bat_jax.benchmarks.letters import AnswerKey, truth_letters
from bat_jax.benchmarks.record import TfdsConfig
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.evals import results
from tests.benchmarks import benchmark_files as files


def tasks_of(name, path, prompt, **options):
    record = BENCHMARKS[name]
    samples = list(BenchmarkData(record, path))
    found = list(record.pictures(samples, prompt, **options))
    tasks = {task.id: task for picture in found for task in picture.tasks}
    assert len(tasks) == len(samples)
    return found, tasks


def test_embedded_pictures_are_the_same_by_content_and_not_by_name(tmp_path):
    found, tasks = tasks_of("xlrs", files.write_xlrs_tree(tmp_path / "tree"), "official")
    assert [(picture.key, [task.id for task in picture.tasks]) for picture in found] == [
        ("dota/P1.png", ["0", "2"]),
        ("dota/P1.png#2", ["1"]),
        ("hrscd/14.png + hrscd/14.png", ["3"]),
    ]
    assert [len(picture.load()) for picture in found[2:]] == [2]
    assert tasks["0"].text.startswith(
        "Question 0? Bounding box: [2559,1895,2610,1928]The choices are listed below:\n(A)"
    )
    assert tasks["1"].question.is_multi_answer and tasks["1"].text.endswith("The answer(s) is(are):")


def test_vlmevalkit_asks_its_ready_text_and_official_asks_the_same_options(tmp_path):
    folder = files.write_xlrs_jsonl(tmp_path / "vlm")
    _, ready = tasks_of("xlrs", folder, "vlmevalkit")
    question = "Question 2? Bounding box: [2559,1895,2610,1928]"
    assert ready["2"].text == question + files.READY.format("(A) Yes\n(B) No")
    _, official = tasks_of("xlrs", folder, "official")
    _, tree = tasks_of("xlrs", files.write_xlrs_tree(tmp_path / "tree"), "official")
    assert {id: task.text for id, task in official.items()} == {id: task.text for id, task in tree.items()}
    with pytest.raises(ValueError, match=r"row 0: options=.*: VLMEvalKit's form"):
        tasks_of("xlrs", tmp_path / "tree", "vlmevalkit")


def test_the_hint_is_told_only_where_it_is_asked_for(tmp_path):
    folder = files.write_rshr_json(tmp_path / "rshr")
    for leak_hint in (False, True):
        _, tasks = tasks_of("rshr", folder, "release", leak_hint=leak_hint)
        assert ("You should choose multiple answers." in tasks["19"].text) == leak_hint
        assert "You should choose" not in tasks["18"].text
    assert tasks["18"].text == (
        "Question 18?\nA. Red\nB. Dark green\nC. Blue\nD. White\n"
        "Select the best answer based on the image. Answer with the option letter only."
    )
    assert tasks["21"].text.startswith("Question 21?\nA. Yes B. No\nSelect")


def test_turns_of_a_category_about_a_picture_are_a_dialogue(tmp_path):
    _, tasks = tasks_of("rshr", files.write_rshr_json(tmp_path / "rshr"), "release")
    assert [tasks[id].dialogue for id in ("30", "30#2", "30#3")] == ["MTFP images/P2.png"] * 3
    assert tasks["17"].dialogue is None
    assert truth_letters(tasks["17"].question.truth, tasks["17"].question.options) == "B"


def turns_file(folder, rows):
    """Write turns about one picture: each row is what it says beside what all have."""
    files.write_rshr_json(folder)
    common = files.RSHR_ROWS[-1]
    (folder / "dataset.json").write_text(json.dumps([common | {"id": n} | row for n, row in enumerate(rows)]))
    return folder


def test_six_turns_about_one_picture_are_two_dialogues_in_their_order(tmp_path):
    other = {"category": "multturn_anomaly_detection"}
    rows = [{}, {}, other, {}, {}, {}, other, {}, other, {}]
    _, tasks = tasks_of("rshr", turns_file(tmp_path / "rshr", rows), "release")
    first, second, third = (f"MTFP images/P2.png{end}" for end in ("", ", dialogue 2", ", dialogue 3"))
    mad = "MAD images/P2.png"
    expected = [first, first, mad, first, second, second, mad, second, mad, third]
    assert [tasks[str(n)].dialogue for n in range(10)] == expected
    assert {task.num_turns for task in tasks.values()} == {3}


@pytest.mark.parametrize("name", ["dialogue_id", "conversation_id"])
def test_a_dialogue_that_the_data_names_is_that_and_as_long_as_it_says(name, tmp_path):
    rows = [{name: number % 2, "num_turns": 4 - number % 2} for number in range(6)]
    _, tasks = tasks_of("rshr", turns_file(tmp_path / "rshr", rows), "release")
    assert [(tasks[str(n)].dialogue, tasks[str(n)].num_turns) for n in range(3)] == [
        ("MTFP 0", 4),
        ("MTFP 1", 3),
        ("MTFP 0", 4),
    ]
    ((_, example), *_) = BENCHMARKS["rshr"].tfds_examples(TfdsConfig(), str(tmp_path / "rshr"))["test"]
    assert (example["dialogue"], example["num_turns"]) == ("0", 4)


def test_a_number_of_turns_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"row 0: num_turns='three': must be a whole number from 1"):
        tasks_of("rshr", turns_file(tmp_path / "rshr", [{"num_turns": "three"}]), "release")


def test_the_table_of_a_limited_run_says_which_dialogues_are_incomplete(tmp_path):
    found, _ = tasks_of("rshr", turns_file(tmp_path / "rshr", [{}] * 6), "release")
    record = BENCHMARKS["rshr"]
    for limit, total, words in (
        (1, 0, "over 0 whole dialogues; 1 incomplete ones count in nothing: MTFP images/P2.png (1 of 3 turns)"),
        (5, 1, "over 1 whole dialogues; 1 incomplete ones count in nothing: MTFP images/P2.png, dialogue 2 (2 of 3"),
        (6, 2, None),
    ):
        asked = [dataclasses.replace(found[0], tasks=found[0].tasks[:limit])]
        summary = results.summarise(record, asked, {})
        assert summary.report.dialogues.total == total
        table = results.to_markdown(summary, [])
        assert words in table if words else "incomplete" not in table


def test_the_description_names_the_variant_and_counts_that_are_not_the_expected_ones(tmp_path):
    settings = {"data": str(files.write_mme_json(tmp_path / "mme")), "image_folder": None, "leak_hint": False}
    _, text = BENCHMARKS["mme_realworld"].open({**settings, "prompt": "official", "max_pixels": 10**6})
    assert text.endswith(
        "mme: 3 questions (Lite), 1 rows left out (not remote sensing), "
        "not the expected numbers: Position 1 of 50, Color 1 of 50, Count 1 of 50"
    )


def test_a_conversation_is_asked_as_the_release_asks_it(tmp_path):
    _, tasks = tasks_of("llava", files.write_llava(tmp_path / "llava"), "release")
    assert tasks["a"].text == "\n" + files.LLAVA_CHOICE.removeprefix("<image>\n")
    assert (tasks["a"].category, tasks["b"].category) == ("multiple choice", "open")
    assert tasks["c"].text == "\nWhat changed?" and tasks["b"].chance == 0
    with pytest.raises(ValueError, match=r"conversations.json: row 0: category='colour': xlrs has no"):
        tasks_of("xlrs", tmp_path / "llava", "release")
    with pytest.raises(ValueError, match=r"conversations.json: row 0: prompt=official: .*; use release"):
        tasks_of("llava", tmp_path / "llava", "official")


@pytest.mark.parametrize(
    ("output", "is_right"), [("A harbour.", True), ("a  HARBOUR", True), ("harbour", False), ("", False), (None, False)]
)
def test_an_open_answer_is_right_only_as_the_whole_text(output, is_right):
    question = AnswerKey(benchmark="llava", truth="A harbour", options=(), answer_form="open")
    assert {verdict.is_right for verdict in judge(output, question).values()} == {is_right}
    with pytest.raises(ValueError, match="one text as its truth and no options"):
        AnswerKey(benchmark="llava", truth="", options=(), answer_form="open")


def test_an_answer_that_is_no_option_names_its_row(tmp_path):
    (tmp_path / "P1.png").write_bytes(files.picture(1, "PNG"))
    (tmp_path / "x.jsonl").write_text(
        '{"id": 1, "images": "P1.png", "category": "color", "question": "?", "options": ["a", "b"], "answer": "C"}\n'
    )
    with pytest.raises(ValueError, match=r"x.jsonl: row 0: truth='C': names none of the options AB"):
        tasks_of("rshr", tmp_path / "x.jsonl", "release")
