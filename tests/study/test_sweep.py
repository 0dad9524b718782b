"""Sweeps: every cell answers as a model with its settings alone, while tower and decoder are run and compiled once."""

import dataclasses
import json

import numpy as np
import pytest

from bat_jax.evals import uhr_mini
from bat_jax.evals.runner import select_tasks
from bat_jax.io.prompts import build_prompt
from bat_jax.pipeline import SHORTEST_TEXT
from bat_jax.report import sweep_tables
from bat_jax.study.grids import Cell, Grid
from bat_jax.study.sweep import Sweep, paired_difference
from tests.tiny_model import load_tiny

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
    ),
)


def pictures_of(px):
    return select_tasks(uhr_mini.pictures(range(3_000_000, 3_000_002), px or 224), limit=24)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Return (model, sweep) after a run that was cut off and started again."""
    folder = tmp_path_factory.mktemp("sweep")
    model = load_tiny(folder / "checkpoint")
    sweep = Sweep(model, GRID, folder / "results")

    class Killed(Exception):
        pass

    def kill(_):
        raise Killed

    with pytest.raises(Killed):
        sweep.run(pictures_of, max_new_tokens=2, on_picture=kill)
    counted = []
    sweep.run(pictures_of, max_new_tokens=2, on_picture=counted.append)
    assert sum(counted) == 24 * len(GRID.cells)
    return model, sweep


def lines_of(sweep, index):
    path = sorted(sweep.directory.iterdir())[index] / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_networks_run_once_a_picture_and_compile_once(swept):
    model, _ = swept
    num_pictures = len(pictures_of(None))
    batches_a_view = [1, 2]  # 4 and 16 tiles, 8 at once
    assert model.stages.num_calls["vision_tower"] == num_pictures * sum(batches_a_view)
    assert model.stages.num_compiles["vision_tower"] == 1
    # One shape a view, whatever the number of clusters and the seed.
    assert model.stages.num_compiles["region_partition"] == 2
    # The two rules that cells have.
    assert model.stages.num_compiles["preserve_merge"] == 2
    texts = {task.text for picture in pictures_of(None) for task in picture.tasks}
    ends = (build_prompt(model.tokenizer, text, 1, model.cfg.prompt).pieces[-1] for text in texts)
    lengths = {end.size <= SHORTEST_TEXT for end in ends}
    for name in ("anchor_importance", "splice", "prefill", "generate"):
        assert model.stages.num_compiles[name] == len(lengths), name
    for name in ("anchor_prefix", "token_mlp"):
        assert model.stages.num_compiles[name] == 1, name


@pytest.mark.parametrize("index", [0, 2, 3, 4, 5])
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


def test_every_cell_answers_every_question_once(swept):
    _, sweep = swept
    wanted = sorted(task.id for picture in pictures_of(None) for task in picture.tasks)
    for index in range(len(GRID.cells)):
        lines = lines_of(sweep, index)
        assert sorted(line["id"] for line in lines) == wanted
        assert {line["status"] for line in lines} == {"answered"}


def test_results_count_what_was_written(swept, tmp_path):
    _, sweep = swept
    results = sweep.results()
    for index, result in enumerate(results):
        right = [line["is_right"] for line in lines_of(sweep, index)]
        assert result.accuracy == pytest.approx(100 * np.mean(right))
        assert result.num_questions == 24
    assert results[0].difference is None and results[1].difference is not None
    table = sweep_tables.to_markdown(GRID, results, ["a fact"])
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(GRID.cells)
    assert rows[1].startswith("| first | 4/9 | 13 |") and " 43.0 |" in rows[1]
    assert len(sweep_tables.to_csv(results).splitlines()) == 1 + len(GRID.cells)
    sweep_tables.plot(GRID, results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_one_column_holds_the_papers_numbers_where_cells_name_theirs(swept):
    _, sweep = swept
    results = [
        dataclasses.replace(result, cell=dataclasses.replace(result.cell, column=column, published={column: value}))
        for result, column, value in zip(sweep.results(), ("4k", "5k"), (43.3, 43.6), strict=False)
    ]
    head, _, *rows = sweep_tables.to_markdown(GRID, results, []).splitlines()[-4:]
    assert head.startswith("| setting | budgets | kept | right | to first | paper |")
    assert [row.split(" | ")[5] for row in rows] == ["43.3", "43.6"]


def test_differences_are_paired():
    ours = [True] * 6 + [False] * 4
    theirs = [True] * 3 + [False] * 6 + [True]
    middle, low, high = paired_difference(ours, theirs)
    # 3 gained, 1 lost of 10: 0.2 +- 1.96 * sqrt(4 - 4 / 10) / 10.
    assert middle == pytest.approx(20)
    assert high - middle == pytest.approx(100 * 1.959964 * np.sqrt(3.6) / 10, rel=1e-6)
    assert middle - low == pytest.approx(high - middle)
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([True], [])
