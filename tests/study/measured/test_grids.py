"""Grids of settings: the paper's numbers stand beside the cells that redo them, and its budgets keep their share."""

import pytest

from bat_jax.config import BatConfig
from bat_jax.study.measured import grids
from bat_jax.study.paper.published import TABLES

MINI = BatConfig.mini()


def test_the_mini_model_is_the_papers_grid_at_a_ninth():
    scaling = grids.Scaling(MINI)
    assert scaling.factor == pytest.approx(1 / 9)
    assert [scaling.number(count) for count in (0, 1, 120, 600, 1000)] == [0, 1, 13, 67, 111]
    assert scaling.total(3000) == (9, 36, 67, 222)
    assert scaling.picture_px(8192) == 2731


def test_for_the_papers_own_model_nothing_is_scaled():
    scaling = grids.Scaling(BatConfig.uhr_bat_7b("paper"))
    assert scaling.factor == 1
    assert scaling.budgets((120, 320, 600, 2400)) == (120, 320, 600, 2400)
    assert scaling.picture_px(4096) == 4096


@pytest.mark.parametrize(("name", "number", "cells"), [("table5", 5, 4), ("table6", 6, 16), ("table7", 7, 9)])
def test_every_row_of_a_table_is_a_cell_with_its_numbers(name, number, cells):
    grid = grids.GRIDS[name](MINI)
    assert len(grid.cells) == cells == len(TABLES[number].rows)
    for cell, row in zip(grid.cells, TABLES[number].rows.values(), strict=True):
        assert dict(cell.published) == {column: value.value for column, value in row.items()} or name == "table5"
    wanted = {tuple(cell.value for cell in row.values()) for row in TABLES[number].rows.values()}
    assert {tuple(cell.published.values()) for cell in grid.cells} == wanted


def test_a_budget_of_nothing_stays_nothing():
    grid = grids.GRIDS["table6"](MINI)
    assert grid.cells[0].budgets == (0, 36, 67, 267)
    assert TABLES[6].value("672 K=0", "w.Avg") == grid.cells[0].published["w.Avg"]


@pytest.mark.parametrize("name", list(grids.GRIDS))
def test_cells_are_distinct_settings_that_the_config_takes(name):
    grid = grids.GRIDS[name](MINI)
    assert grid.name == name
    assert len({cell.key for cell in grid.cells}) == len(grid.cells)
    for cell in grid.cells:
        MINI.with_settings(**cell.settings)
        assert len(cell.budgets) == 4 and 0 < sum(cell.budgets) <= 14_592


def test_each_difference_is_flipped_away_from_the_checkpoints_own_value():
    grid = grids.GRIDS["differences"](MINI)
    assert not grid.cells[0].settings
    for cell in grid.cells[1:]:
        ((field, value),) = cell.settings.items()
        assert value != getattr(MINI.compressor, field)


def test_a_model_with_other_views_is_refused():
    cfg = MINI.with_settings(scales=MINI.compressor.scales[:2])
    with pytest.raises(ValueError, match="four views"):
        grids.GRIDS["table6"](cfg)


@pytest.mark.parametrize(("cfg", "budgets"), [(MINI, (20, 70, 190, 449)), (BatConfig.uhr_bat_7b("release"), None)])
def test_figure_5_leaves_a_twentieth_for_both(cfg, budgets):
    ours, theirs = grids.GRIDS["figure5"](cfg).cells
    assert ours.budgets == theirs.budgets == (budgets or theirs.budgets)
    assert sum(ours.budgets) == sum(cfg.num_tokens(px) for px in cfg.compressor.sizes_px) // 20
