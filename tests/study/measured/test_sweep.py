"""Sweeps: every cell answers as a model with its settings alone, while tower and decoder are run and compiled once."""

import dataclasses
import itertools

import numpy as np
import pytest

from bat_jax.benchmarks.records import uhr_mini
from bat_jax.io.prompts import bucket, build_prompt
from bat_jax.pipeline import BatModel
from bat_jax.report import sweep_tables
from bat_jax.study.measured import rules
from bat_jax.study.measured.grids import Cell, Grid
from bat_jax.study.measured.sweep import Sweep
from tests.tiny_model import load_tiny

RULES = rules.load(2)
GRID = Grid(
    name="test",
    title="All that cells vary",
    cells=(
        Cell(name="first", budgets=(4, 9), published={"w.Avg": 43.0}),
        Cell(name="more", budgets=(12, 30)),
        Cell(name="no anchor", budgets=(0, 5)),
        Cell(name="clusters", settings={"num_clusters": 3}, budgets=(4, 9)),
        Cell(name="seed", budgets=(4, 9), seed=5),
        Cell(name="topk", settings={"selection": "topk"}, budgets=(4, 9)),
        Cell(name="another row", settings={"selection": "fastv", "fastv_layer": 1}, budgets=(4, 9)),
        Cell(name="another anchor", settings={"scale_embedding_extent": "scale"}, budgets=(4, 9)),
    ),
)
# Its first cell has the settings of GRID's first one, in other words.
SAME = Grid(
    name="same",
    title="What another grid asks already",
    cells=(
        Cell(name="spelled out", settings={"selection": "uhr_bat"}, budgets=(4, 9)),
        Cell(name="other rule", settings={"selection": "topk"}, budgets=(4, 9), seed=5),
    ),
)
NUM_RUNS = len(GRID.cells) + 1


def pictures_of(px):
    """Return all pictures of a scene, and another scene with one question."""
    *whole, other = itertools.islice(uhr_mini.pictures(range(3_000_000, 3_000_002), px or 224), 4)
    return (*whole, dataclasses.replace(other, tasks=other.tasks[:1]))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Return (model, sweep) after a run that was cut off behind the first picture, and started again in threads."""
    folder = tmp_path_factory.mktemp("sweep")
    model = load_tiny(folder / "checkpoint", stages_apart=True)
    sweep = Sweep(model, [GRID, SAME], folder / "results")

    class Killed(Exception):
        pass

    calls = []

    def kill(num):
        calls.append(num)
        if sum(calls) == len(pictures_of(None)[0].tasks) * NUM_RUNS:
            raise Killed

    with pytest.raises(Killed):
        sweep.run(pictures_of, max_new_tokens=2, on_answers=kill, at_once=1)
    counted = []
    sweep.run(pictures_of, max_new_tokens=2, on_answers=counted.append, at_once=3)
    assert sum(counted) == 24 * NUM_RUNS == 24 * sweep.num_runs
    return model, sweep


def lines_of(sweep, index):
    return list(sweep.records(GRID.cells[index]).values())


def test_networks_run_once_a_picture_and_compile_once(swept):
    model, _ = swept
    num_pictures = len(pictures_of(None))
    assert model.stages.num_calls["vision_tower"] == num_pictures
    assert model.stages.num_compiles["vision_tower"] == 1
    # Both views of four scenes: other clusters, another seed, another embedding; the rest, whatever selection reads it.
    assert model.stages.num_calls["region_partition"] == num_pictures * 2 * 4
    # One shape a view, whatever the number of clusters and the seed.
    assert model.stages.num_compiles["region_partition"] == 2
    texts = {task.text for picture in pictures_of(None) for task in picture.tasks}
    prompts = [build_prompt(model.tokenizer, text, 1, model.cfg.prompt).pieces for text in texts]
    lengths = {bucket(end.size) for _, end in prompts}
    prefix = prompts[0][0].size
    num_rows = {prefix + length + sum(cell.budgets) for length in lengths for cell in GRID.cells}
    assert model.stages.num_compiles["anchor_importance"] == len(lengths)
    assert model.stages.num_compiles["choose"] == len(lengths) * 3  # the rules
    assert model.stages.num_compiles["prefill"] == len({-(-rows // 64) for rows in num_rows})
    assert model.stages.num_compiles["generate"] == len(lengths)  # caches have a multiple of 64 slots
    assert model.stages.num_compiles["anchor_prefix"] == 1


@pytest.mark.parametrize("index", [0, 2, 3, 4, 5, 6, 7])
def test_a_cell_answers_as_a_model_with_its_settings(swept, index):
    model, sweep = swept
    cell = GRID.cells[index]
    alone = model.configured(model.cfg.with_settings(**cell.settings))
    picture = pictures_of(None)[0]
    scene = alone.encode(picture.load(), seed=cell.seed)
    found = {line["id"]: line for line in lines_of(sweep, index)}
    for task in picture.tasks[:3]:
        answer = scene.ask(task.text, budgets=cell.budgets, max_new_tokens=2)
        assert found[task.id]["tokens_kept"] == list(answer.tokens_kept[0])
        assert found[task.id]["output"] == answer.text


def test_cells_with_the_same_settings_are_answered_once(swept):
    _, sweep = swept
    folders = list((sweep.directory / "answers").iterdir())
    assert len(folders) == NUM_RUNS
    assert sweep.records(SAME.cells[0]) == sweep.records(GRID.cells[0])


def test_every_cell_answers_every_question_once(swept):
    _, sweep = swept
    wanted = sorted(task.id for picture in pictures_of(None) for task in picture.tasks)
    for index in range(len(GRID.cells)):
        lines = lines_of(sweep, index)
        assert sorted(line["id"] for line in lines) == wanted
        assert {line["status"] for line in lines} == {"answered"}


def test_results_count_what_was_written(swept, tmp_path):
    _, sweep = swept
    results = sweep.results(GRID, RULES, lambda cell: "too much" if cell.name == "more" else "")
    for index, result in enumerate(results):
        right = [line["is_right"] for line in lines_of(sweep, index)]
        assert result.accuracy.middle == pytest.approx(100 * np.mean(right))
        assert result.num_questions == 24
    assert results[0].from_first is None
    assert results[1].from_first.verdict == "outside what the weights were trained for (too much)"
    assert results[2].from_first.verdict == "undecided (2 scenes of at least 10)"
    assert results[2].from_first.found.difference.num_clusters == 2
    table = sweep_tables.to_markdown(GRID, results, ["a fact"])
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(GRID.cells)
    assert rows[0].startswith("| setting | budgets | kept | right | to first | scenes | discordant | p | verdict |")
    assert rows[1].startswith("| first | 4/9 | 13 |") and " 43.0 |" in rows[1]
    assert all(len(row.split("|")) == len(rows[0].split("|")) for row in rows)
    assert len(sweep_tables.to_csv(results).splitlines()) == 1 + len(GRID.cells)
    sweep_tables.plot(GRID, results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_one_column_holds_the_papers_numbers_where_cells_name_theirs(swept):
    _, sweep = swept
    results = [
        dataclasses.replace(result, cell=dataclasses.replace(result.cell, column=column, published={column: value}))
        for result, column, value in zip(sweep.results(GRID, RULES), ("4k", "5k"), (43.3, 43.6), strict=False)
    ]
    head, _, *rows = sweep_tables.to_markdown(GRID, results, []).splitlines()[-4:]
    assert " | verdict | paper | " in head
    assert [row.split(" | ")[9] for row in rows] == ["43.3", "43.6"]


def test_clusters_as_many_as_the_budget_are_those_of_a_cells_own_budget(tmp_path, monkeypatch):
    """A neighbour of the same power of two makes more room, which decides shapes alone."""
    make_scene, made = BatModel.make_scene, []
    monkeypatch.setattr(
        BatModel, "make_scene", lambda *args, **options: made.append(make_scene(*args, **options)) or made[-1]
    )
    cells = [Cell(name=str(most), settings={"num_clusters": 0}, budgets=(4, most)) for most in (9, 11)]
    sweep = Sweep(
        load_tiny(tmp_path / "checkpoint", stages_apart=True),
        [Grid(name="test", title="", cells=tuple(cells))],
        tmp_path,
    )
    sweep.run(lambda _: pictures_of(None)[-1:], max_new_tokens=1)
    assert [[centres.size for centres in scene.init_index] for scene in made] == [[4, 9], [4, 11]]
