"""The runner with models that are no models: what is asked, what is written, and what a new start finds."""

import collections
import dataclasses
import json
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.benchmarks.letters import AnswerKey
from bat_jax.benchmarks.record import Picture
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.config import BatConfig, CompressorConfig, ScaleSpec
from bat_jax.evals import results, runner
from bat_jax.evals.prediction_log import PredictionLog, read_predictions
from bat_jax.evals.runner import Pace
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.study.measured.grids import GRIDS
from tests.tiny_model import tiny_config

UHR_MINI = dataclasses.replace(BENCHMARKS["uhr_mini"], breakdowns={"Kind": lambda task: task.facts.get("kind")})
COLOUR, ROUTE = "Object properties/Object color", "Complex reasoning/Route planning"


def make_task(id, truth="A", category=COLOUR, **facts):
    question = AnswerKey(benchmark="uhr_mini", truth=truth, options=("red", "blue", "green", "white"))
    return UHR_MINI.task(
        category, id=id, text=f"ask {id}", question=question, prompt_style="release", chance=0.25, facts=facts
    )


def make_picture(key, num_tasks, load=None):
    pixels = np.zeros((4, 4, 3), np.uint8)
    tasks = tuple(make_task(f"{key}{number}") for number in range(num_tasks))
    return Picture(key=key, load=load or (lambda: pixels), tasks=tasks)


class FakeModel:
    """Answers A; notes what it encodes and is asked, and fails where it is told to."""

    def __init__(self, fail_on=()):
        self.num_encoded, self.asked, self.fail_on = 0, [], fail_on

    def encode(self, image, **options):
        assert image.shape == (4, 4, 3) and options in ({}, {"seed": 3})
        self.num_encoded += 1
        return types.SimpleNamespace(ask_many=self.ask_many, compile_seconds={}, pixels=image, from_cache=False)

    def ask_many(self, texts, room, **options):
        assert len(texts) <= room
        return [self.ask(text, **options) for text in texts]

    def ask(self, text, **options):
        self.asked.append(text.removeprefix("ask "))
        if self.asked[-1] in self.fail_on:
            raise ValueError("too long\nfor the decoder")
        return types.SimpleNamespace(text="A", tokens_kept=((3, 4),), compile_seconds={"prefill": 0.0})


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_all(path, pictures, model=None, **options):
    model = model or FakeModel()
    with PredictionLog(path) as log:
        runner.run(model, pictures, log, **options)
    return model


def test_one_encoded_picture_serves_all_of_its_questions(tmp_path):
    path = tmp_path / "predictions.jsonl"
    pictures = [make_picture("a", 3), make_picture("b", 2)]
    model = run_all(path, pictures, encode_options={"seed": 3}, ask_options={"max_new_tokens": 2})
    assert model.num_encoded == 2 and model.asked == ["a0", "a1", "a2", "b0", "b1"]
    lines = lines_of(path)
    assert [(line["id"], line["picture"], line["scene"]) for line in lines] == [
        (id, id[0], id[0]) for id in model.asked
    ]
    first = lines[0]
    assert (first["status"], first["output"], first["truth"], first["is_right"]) == ("answered", "A", "A", True)
    assert first["verdicts"]["strict"] == {"letters": "A", "is_right": True} and len(first["verdicts"]) == 4
    assert (
        first["picture_px"] == [4]
        and first["tokens_kept"] == [3, 4]
        and first["sub_task"] == "object_colour"
        and first["error"] is None
    )
    assert first["seconds"] > 0 and first["encode_seconds"] > 0 and first["load_seconds"] >= 0


def test_questions_that_share_their_tokens_are_named_to_the_model(tmp_path):
    seen = []

    class Model(FakeModel):
        def ask(self, text, **options):
            seen.append(options)
            return super().ask(text, **options)

    picture = make_picture("a", 2)
    first, second = picture.tasks
    tasks = (dataclasses.replace(first, shared_with=(second.text,)), second)
    run_all(tmp_path / "predictions.jsonl", [dataclasses.replace(picture, tasks=tasks)], model=Model())
    assert seen == [{"shared_with": [(second.text,)]}, {}]


def test_several_questions_are_asked_at_once_and_one_that_fails_costs_the_others_nothing(tmp_path):
    path, groups = tmp_path / "predictions.jsonl", []

    class Model(FakeModel):
        def ask_many(self, texts, room, **options):
            groups.append((len(texts), room))
            return super().ask_many(texts, room, **options)

    model = run_all(path, [make_picture("a", 5), make_picture("b", 3)], Model(fail_on=["b1"]), questions_at_once=4)
    assert groups == [(3, 4), (2, 4), (3, 4), (1, 4), (1, 4), (1, 4)] and model.num_encoded == 2
    lines = lines_of(path)
    assert [line["id"] for line in lines] == ["a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2"]
    assert [line["id"] for line in lines if line["error"]] == ["b1"] and "too long" in lines[6]["error"]
    assert len({line["seconds"] for line in lines[:3]}) == 1


def test_a_new_start_asks_what_is_left_and_loads_no_other_picture(tmp_path):
    path = tmp_path / "predictions.jsonl"
    loaded = []
    pictures = [
        make_picture(key, 3, load=lambda key=key: loaded.append(key) or np.zeros((4, 4, 3), np.uint8)) for key in "abc"
    ]
    run_all(path, pictures)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for num_whole in range(len(lines)):
        torn = lines[num_whole][: len(lines[num_whole]) // 2]
        path.write_bytes(b"".join(lines[:num_whole]) + torn)
        assert len(read_predictions(tmp_path)) == num_whole, "a torn line does not count"
        loaded.clear()
        model = run_all(path, pictures)
        assert model.asked == [json.loads(line)["id"] for line in lines[num_whole:]]
        assert sorted(loaded) == sorted("abc"[num_whole // 3 :])
        assert path.read_bytes().startswith(b"".join(lines[:num_whole]))
        assert [line["id"] for line in lines_of(path)] == [json.loads(line)["id"] for line in lines]


def test_what_fails_is_a_line_with_its_reason_and_the_run_goes_on(tmp_path):
    def broken():
        raise OSError("truncated file")

    pictures = [
        make_picture("a", 2, load=broken),
        make_picture("b", 2),
        make_picture("c", 1, load=lambda: np.zeros((9, 9, 3), np.uint8)),
    ]
    model = run_all(tmp_path / "predictions.jsonl", pictures, FakeModel(fail_on=("b0",)))
    assert model.asked == ["b0", "b1"]
    lines = lines_of(tmp_path / "predictions.jsonl")
    assert [line["status"] for line in lines] == ["error", "error", "error", "answered", "error"]
    assert lines[0]["error"] == lines[1]["error"] == "picture: OSError: truncated file"
    assert lines[2]["error"] == "question: ValueError: too long for the decoder"
    assert lines[4]["error"].startswith("picture: AssertionError")
    assert not lines[0]["is_right"] and lines[0]["output"] is None and lines[0]["tokens_kept"] is None


def test_a_new_start_asks_what_failed_once_more_and_the_last_outcome_counts(tmp_path):
    path, away = tmp_path / "predictions.jsonl", [True]

    def load():
        if away:
            raise FileNotFoundError("no such picture")
        return np.zeros((4, 4, 3), np.uint8)

    pictures = [make_picture("a", 1, load=load), make_picture("b", 2)]
    run_all(path, pictures, FakeModel(fail_on=("b0",)))
    assert run_all(path, pictures, FakeModel(fail_on=("b0",))).asked == ["b0"], "once a start, and no answered one"
    away.clear()
    with PredictionLog(path) as log:
        assert log.failed == {"a0", "b0"} and log.ids == {"b1"}
    assert run_all(path, pictures).asked == ["a0", "b0"]
    lines = read_predictions(tmp_path)
    assert {id: line["status"] for id, line in lines.items()} == dict.fromkeys(("a0", "b0", "b1"), "answered")
    assert len(lines_of(path)) == 7, "every outcome stays"
    summary = results.summarise(UHR_MINI, pictures, lines)
    assert summary.as_dict()["status"] == {"answered": 3, "missing": 0, "error": 0}
    assert run_all(path, pictures).asked == []


def test_pictures_load_ahead_but_not_far(tmp_path):
    lock, started, asked_at = threading.Lock(), [], []

    def load(key):
        with lock:
            started.append(key)
        return np.zeros((4, 4, 3), np.uint8)

    class Watching(FakeModel):
        def ask(self, text, **options):
            with lock:
                asked_at.append(len(started) - len(asked_at))
            return super().ask(text, **options)

    pictures = [make_picture(key, 1, load=lambda key=key: load(key)) for key in "abcdefgh"]
    run_all(tmp_path / "predictions.jsonl", pictures, Watching(), num_workers=2)
    assert max(asked_at) <= 3 and sorted(started) == list("abcdefgh")


def test_a_file_has_one_writer_and_damage_is_named(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionLog(path):
        with pytest.raises(ValueError, match="another process is writing here"):
            PredictionLog(path)
    run_all(path, [make_picture("a", 2)])
    lines = path.read_text().splitlines()
    path.write_text(f"{lines[0]}\nnonsense\n{lines[1]}\n")
    with pytest.raises(ValueError, match="line 2 is no prediction"):
        PredictionLog(path)
    path.write_text(f"{lines[0]}\n{lines[0]}\n")
    with pytest.raises(ValueError, match="id 'a0' occurs twice"):
        read_predictions(tmp_path)


def ids_of(pictures):
    return [task.id for picture in pictures for task in picture.tasks]


def test_offset_and_ids_choose_questions_in_order():
    def pictures():
        yield from (make_picture(key, 3) for key in "abc")
        raise AssertionError("read further than needed")

    assert ids_of(runner.select_tasks(pictures(), ids=["b1", "a0"])) == ["a0", "b1"]
    some = [make_picture(key, 3) for key in "abc"]
    assert ids_of(runner.select_tasks(some, offset=7)) == ["c1", "c2"]
    assert ids_of(runner.select_tasks(some, offset=1, ids=["b1", "a0", "c2"])) == ["b1", "c2"]
    assert [picture.key for picture in runner.select_tasks(some, offset=3)] == ["b", "c"]
    with pytest.raises(ValueError, match="ids: 1 belong to no question asked for, such as 'zz'"):
        runner.select_tasks(some, ids=["a0", "zz"])
    with pytest.raises(ValueError, match="offset=9: no question is left of 9"):
        runner.select_tasks(some, offset=9)


SIZES = {"anomaly": 60, "existence": 30, "location": 9, "motion_state": 1}


def stratified_pictures():
    """Return 20 pictures over which the questions of four sub-tasks are spread, the rare ones last."""
    tasks = [
        dataclasses.replace(make_task(f"{name}-{number}"), sub_task=name)
        for name, size in SIZES.items()
        for number in range(size)
    ]
    pixels = np.zeros((4, 4, 3), np.uint8)
    return [
        Picture(key=str(start), load=lambda: pixels, tasks=tuple(tasks[start : start + 5]))
        for start in range(0, 100, 5)
    ]


def counts_of(pictures):
    return collections.Counter(id.rpartition("-")[0] for id in ids_of(pictures))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(10, [5, 3, 1, 1]), (4, [1, 1, 1, 1]), (50, [30, 15, 4, 1]), (99, [59, 30, 9, 1])],
)
def test_a_limit_is_a_sample_with_every_sub_tasks_share(limit, expected):
    chosen, text = runner.sample_tasks(stratified_pictures(), limit, seed=7)
    assert [counts_of(chosen)[name] for name in SIZES] == expected
    assert text == f"a sample of {limit} of 100 questions, stratified by sub-task, seed 7"
    # A twin: of the n-th sub-task by name, the first places of a permutation that the seed and n draw.
    drawn = {
        f"{name}-{place}"
        for number, (name, count) in enumerate(zip(SIZES, expected, strict=True))
        for place in np.random.default_rng([7, number]).permutation(SIZES[name])[:count]
    }
    order = [task.id for picture in stratified_pictures() for task in picture.tasks]
    assert ids_of(chosen) == [id for id in order if id in drawn], "in the order of the pictures"
    assert all(picture.tasks for picture in chosen)


def test_a_sample_is_the_same_at_every_start_and_another_under_another_seed():
    samples = [ids_of(runner.sample_tasks(stratified_pictures(), 20, seed)[0]) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert samples[0] != ids_of(stratified_pictures())[:20], "not the first rows"
    pictures = stratified_pictures()
    shares = collections.Counter(id for seed in range(400) for id in ids_of(runner.sample_tasks(pictures, 10, seed)[0]))
    # 5 of 60 in 400 draws: 33 of each, give or take 5 standard deviations.
    assert all(5 < shares[f"anomaly-{number}"] < 62 for number in range(60))


def test_a_limit_below_the_number_of_sub_tasks_draws_among_them():
    found = [counts_of(runner.sample_tasks(stratified_pictures(), 2, seed)[0]) for seed in range(30)]
    assert all(sum(counts.values()) == 2 == len(counts) for counts in found)
    assert set().union(*found) == set(SIZES)


@pytest.mark.parametrize("limit", [None, 100, 101])
def test_a_limit_that_all_questions_meet_changes_nothing(limit):
    pictures = stratified_pictures()
    assert runner.sample_tasks(pictures, limit) == (tuple(pictures), "")


def test_shards_are_all_of_the_pictures_in_equal_parts():
    # as in UHR-Mini: one picture of many questions, then two of one each
    pictures = [
        make_picture(f"{scene}-{number}", 18 if not number else 1) for scene in range(30) for number in range(3)
    ]
    for num_shards in (1, 2, 3, 4):
        parts = [runner.shard_of(pictures, index + 1, num_shards) for index in range(num_shards)]
        assert sorted(ids_of([p for part in parts for p in part])) == sorted(ids_of(pictures))
        sizes = [len(ids_of(part)) for part in parts]
        assert max(sizes) - min(sizes) < 30
    with pytest.raises(ValueError, match="shard=3/2"):
        runner.shard_of(pictures, 3, 2)


def test_the_time_left_is_judged_without_the_first_picture():
    now = iter([100.0, 104.0, 106.0])
    pace = Pace(30, clock=lambda: next(now))
    assert pace.seconds_left is None
    pace.add(10)  # ends at 100, however long it took
    assert pace.seconds_left is None
    pace.add(8)
    assert pace.seconds_left == pytest.approx(4 / 8 * 12)
    pace.add(12)
    assert pace.seconds_left == 0


def test_the_anchor_view_keeps_every_token_of_any_checkpoint():
    for cfg, size, num_tokens in ((BatConfig.mini(), 224, 256), (BatConfig.uhr_bat_7b("paper"), 672, 2304)):
        anchor = runner.anchor_view(cfg).compressor
        assert (anchor.sizes_px, anchor.budgets) == ((size,), (num_tokens,))
    assert runner.anchor_view(tiny_config()).compressor.budgets == (64,)


@pytest.mark.parametrize("grid", [TokenGrid(1, 4), TokenGrid(2, 2)])
def test_the_anchor_alone_enters_in_raster_order_whatever_is_asked(grid):
    """As one tile of 4 x 4 patches and as 2 x 2 tiles: `evaluate --views=anchor` and the cell of the grid."""
    [cell] = [cell for cell in GRIDS["selections"](BatConfig.mini()).cells if cell.name == "anchor view alone"]
    settings = {runner.anchor_view(tiny_config()).compressor.selection, cell.settings["selection"]}
    rng = np.random.default_rng(0)
    count = grid.num_tokens
    tokens = jnp.asarray(rng.normal(size=(count, 3)), jnp.float32)
    scale = ScaleTokens(tokens, jnp.zeros(count, jnp.int32), jnp.ones(count, bool))
    for selection in settings:
        cfg = CompressorConfig.paper(scales=(ScaleSpec(size_px=4, budget=count),), selection=selection)
        for importance in (np.arange(count), rng.random(count)):
            anchor = jnp.asarray(importance, jnp.float32)
            [rows] = select(cfg, (grid,), (1,), (scale,), anchor, jnp.asarray([count]))
            assert np.all(rows.mask)
            places = np.flatnonzero(np.ones((4, 4))).reshape(4, 4)
            assert np.asarray(rows.keep_index).tolist() == np.argsort(grid.to_tiles(places)).tolist()
            np.testing.assert_array_equal(rows.tokens, tokens[rows.keep_index])


def test_a_summary_is_counted_by_hand(tmp_path):
    routes = tuple(make_task(f"r{number}", "B", ROUTE, kind="far") for number in range(2))
    colours = (make_task("c0", kind="near"), make_task("c1", kind="far"), make_task("c2"), make_task("c3"))
    pictures = (
        Picture(key="r", load=lambda: np.zeros((4, 4, 3), np.uint8), tasks=routes),
        Picture(key="c", load=lambda: np.zeros((4, 4, 3), np.uint8), tasks=colours),
    )
    model = FakeModel(fail_on=("c1",))
    run_all(tmp_path / "predictions.jsonl", pictures[:1], model)
    run_all(tmp_path / "predictions-002-of-002.jsonl", [dataclasses.replace(pictures[1], tasks=colours[:3])], model)
    summary = results.summarise(UHR_MINI, pictures, read_predictions(tmp_path))
    overall = summary.report.micro["overall"]
    assert (overall.total, overall.num_right, overall.num_missing, overall.num_errors) == (6, 2, 1, 1)
    assert overall.chance == 0.25
    assert summary.report.macro == {"perception": 0.5, "reasoning": 0.0, "overall": 0.25}
    assert summary.status == {"answered": 4, "missing": 1, "error": 1} and summary.num_pictures == 2
    assert [(cell.name, cell.total, cell.num_right) for cell in summary.breakdowns["Kind"]] == [
        ("far", 3, 0),
        ("near", 1, 1),
    ]
    assert summary.tokens_kept == 7 and summary.tokens_per_scale == (3.0, 4.0)
    content = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert content["overall"]["accuracy"] == pytest.approx(1 / 3) and content["overall"]["macro"] == 0.25
    assert content["subtasks"]["route_planning"]["num_right"] == 0
    assert content["errors"] == {"c1": "question: ValueError: too long for the decoder"}
    table = results.to_markdown(summary, ["checkpoint small"])
    assert table.startswith("# UHR-Mini: 33.3 [9.7, 70.0] percent right\n\n- checkpoint small\n")
    assert "| object_colour | 4 | 1 | 1 | 50.0 [15.0, 85.0] |" in table
    assert "| far | 3 | 0.0 [0.0, 56.1] | 25.0 |" in table
    assert "4 answered, 1 failed, 1 missing" in table and "- c1: question: ValueError" in table
    with pytest.raises(ValueError, match="2 ids are of no question"):
        results.summarise(UHR_MINI, pictures[1:], read_predictions(tmp_path))


def test_seconds_leave_out_what_compiled_where_something_did_not(tmp_path):
    run_all(tmp_path / "predictions.jsonl", [make_picture("a", 3)])
    records = read_predictions(tmp_path)
    for id, seconds, compiling in (("a0", 9.0, 8.0), ("a1", 2.0, 0.0), ("a2", 4.0, 0.0)):
        records[id] |= {"seconds": seconds, "compile_seconds": compiling, "encode_seconds": 7.0}
        records[id]["encode_compile_seconds"] = 6.0
    summary = results.summarise(UHR_MINI, [make_picture("a", 3)], records)
    assert (summary.question_seconds, summary.encode_seconds) == (3.0, 1.0)
