"""UHR-Mini as a benchmark: its pictures, its questions as the scorers see them, its tables."""

import collections
import dataclasses
import types

import numpy as np
import pytest

from bat_jax.benchmarks import answer_readers
from bat_jax.benchmarks.letters import AnswerKey
from bat_jax.benchmarks.records import uhr_mini
from bat_jax.evals import aggregate, results, runner
from bat_jax.evals.prediction_log import PredictionLog, read_predictions
from bat_jax.mini.world.question import SUB_TASKS
from bat_jax.mini.world.render import render
from bat_jax.mini.world.splits import SPLITS, scenes_with_questions
from tests.tiny_model import load_tiny

SEEDS = range(3_000_000, 3_000_020)


@pytest.fixture(scope="module")
def scenes():
    return tuple(scenes_with_questions(SEEDS))


def test_every_question_stands_under_the_picture_that_shows_its_circle(scenes):
    pictures = list(uhr_mini.pictures(SEEDS, 224))
    ids = [task.id for picture in pictures for task in picture.tasks]
    assert sorted(ids) == sorted(question.question_id for _, questions in scenes for question in questions)
    assert len({picture.key for picture in pictures}) == len(pictures) == 3 * len(SEEDS)
    assert [picture.scene for picture in pictures] == [str(seed) for seed in SEEDS for _ in range(3)]
    scene, questions = scenes[0]
    markers = {question.question_id: question.marker for question in questions}
    for picture in pictures[:3]:
        (marker,) = {markers[task.id] for task in picture.tasks}
        np.testing.assert_array_equal(picture.load(), render(scene, 224, marker))
    assert [markers[picture.tasks[0].id] is None for picture in pictures[:3]] == [True, False, False]


def test_columns_are_the_worlds_sub_tasks_and_counts_those_of_its_development_split():
    entry = uhr_mini.BENCHMARK
    assert [item.abbreviation for item in entry.subtasks] == list(SUB_TASKS)
    assert [item.abbreviation for item in entry.in_group("reasoning")] == ["anomaly", "route_planning"]
    assert [item.abbreviation for item in entry.subtasks if item.is_multi_answer] == ["overall_land_use"]
    counts = collections.Counter()
    for _, questions in scenes_with_questions(SPLITS["development"]):
        for question in questions:
            item = entry.subtask(question.category)
            assert item == entry.subtask(question.sub_task)
            counts[item.abbreviation] += 1
    assert entry.count_notes(counts) == ()


class Oracle:
    """Answers the questions of pictures, in their order, with the truth in the form that is asked for."""

    def __init__(self, pictures):
        self.tasks = iter([task for picture in pictures for task in picture.tasks])

    def encode(self, image):
        assert image.shape == (224, 224, 3)
        return types.SimpleNamespace(ask_many=self.ask_many, compile_seconds={}, pixels=image, from_cache=False)

    def ask_many(self, texts, room):
        (text,) = texts
        task = next(self.tasks)
        assert text == task.text
        answer = task.facts["answer_text"] if task.prompt_style == "word" else " ".join(task.question.truth)
        return (types.SimpleNamespace(text=answer, tokens_kept=((5,),), compile_seconds={}),)


@pytest.mark.parametrize("style", ["release", "xlrs", "word"])
def test_the_truth_is_right_under_every_rule(style, tmp_path):
    pictures = tuple(uhr_mini.pictures(SEEDS[:2], 224, style))
    with PredictionLog(tmp_path / "predictions.jsonl") as log:
        runner.run(Oracle(pictures), pictures, log)
    records = read_predictions(tmp_path)
    assert {record["prompt_style"] for record in records.values()} == {style}
    summary = results.summarise(uhr_mini.BENCHMARK, pictures, records)
    assert {report.micro["overall"].accuracy for report in summary.reports.values()} == {1.0}
    assert summary.report.micro["overall"].total == 46 and summary.answer_form == ("letters", "texts")[style == "word"]
    crowded, forms = summary.breakdowns.values()
    assert {cell.name.split(":")[0] for cell in crowded} == set(uhr_mini.CROWDED)
    assert "existence/yes_no" in {cell.name for cell in forms} and sum(cell.total for cell in forms) == 46
    table = results.to_markdown(summary, [])
    assert ("| strict |" in table) == (style != "word") and "| object_colour: " in table


def land_use_task(style="release"):
    for picture in uhr_mini.pictures(SEEDS, 224, style):
        for task in picture.tasks:
            if task.sub_task == "overall_land_use" and len(task.question.truth) == 3:
                return task
    raise AssertionError("no question with three right answers")


def test_several_letters_count_as_a_set():
    task = land_use_task()
    truth = task.question.truth

    def is_right(output):
        return answer_readers.judge(output, task.question)["official"].is_right

    assert is_right(" ".join(truth)) and is_right(", ".join(truth)) and is_right(truth[::-1])
    assert not is_right(truth[0]) and not is_right(truth[:2]) and not is_right("A B C D") and not is_right("")
    assert task.chance == 0.1
    outcomes = aggregate.score([task], {task.id: aggregate.Prediction(output=truth)})
    assert aggregate.aggregate("uhr_mini", outcomes, "official").micro["overall"].chance == 0.1


def test_texts_are_read_exactly_whatever_the_case():
    task = land_use_task("word")
    words = task.facts["answer_text"].split(", ")

    def letters(output, question=task.question):
        (verdict,) = set(answer_readers.judge(output, question).values())
        return verdict.letters

    assert letters(", ".join(words)) == letters(" , ".join(reversed(words)).upper()) == task.question.truth
    assert letters(words[0]) == "ABCD"[task.question.options.index(words[0])]
    for output in ("", words[0] + ",", f"{words[0]}, {words[0]}", " ".join(words), f"{words[0]}, snow", "A"):
        assert letters(output) == ""
    single = AnswerKey(benchmark="uhr_mini", truth="B", options=("top left", "top right"), answer_form="texts")
    assert letters("Top  right", single) == "B" and letters("right", single) == "" and letters("B", single) == ""
    with pytest.raises(ValueError, match="answer_form='word'"):
        AnswerKey(benchmark="uhr_mini", truth="B", options=("a", "b"), answer_form="word")


def test_seeds_are_described_by_their_split():
    assert uhr_mini.describe_seeds(SPLITS["test"]) == "scenes 4000000 to 4000199, all of the test split"
    assert uhr_mini.describe_seeds(range(2_000_000, 2_000_012)).endswith("2000011, in the development split")
    assert uhr_mini.describe_seeds(range(5, 10)) == "scenes 5 to 9, in the train split"
    assert uhr_mini.describe_seeds(range(999_999, 1_000_001)).endswith("partly in the train split")
    assert uhr_mini.describe_seeds(SEEDS).endswith("in no split")


def test_no_picture_after_the_first_compiles_anything(tmp_path):
    model = load_tiny(tmp_path / "checkpoint")
    # One length of text is one program; here it is the pictures that must not need more.
    pictures = [
        dataclasses.replace(picture, tasks=(dataclasses.replace(picture.tasks[0], text=f"How many? {number}"),))
        for number, picture in enumerate(uhr_mini.pictures(SEEDS[:2], 224))
    ]
    counts = []
    with PredictionLog(tmp_path / "predictions.jsonl") as log:
        for picture in pictures:
            runner.run(model, [picture], log, ask_options={"max_new_tokens": 2})
            counts.append(sum(model.stages.num_compiles.values()))
    assert len(counts) == 6 and counts[0] > 0
    assert counts == [counts[0]] * 6
    records = read_predictions(tmp_path).values()
    assert [record["status"] for record in records] == ["answered"] * 6
    assert [record["compile_seconds"] > 0 for record in records] == [True] + [False] * 5
