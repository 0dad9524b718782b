"""A selection is one record: the guide's example is found everywhere, and the built-in ones stand where they stood."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.config import SELECTIONS, BatConfig, CompressorConfig, ScaleSpec
from bat_jax.config.selections import markdown_table, shown_in
from bat_jax.mini.curriculum.group_batches import Mix
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.study.measured import coverage
from bat_jax.study.measured.grids import GRIDS
from tests import selection_example

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "compressors.md"
BUILT_IN = ("uhr_bat", "topk", "topk_global", "fastv", "visionzip", "prumerge", "tome", "background", "pooling")


@pytest.fixture
def example():
    with SELECTIONS.added(selection_example.record()) as rule:
        yield rule


def test_the_built_in_selections_stand_where_results_have_them():
    """What is added stands behind them."""
    cards, followed = ("topk", "background", "pooling", "random"), ("topk", "topk_global", "background", "random")
    for names, expected in (
        (SELECTIONS.names, (*BUILT_IN, "random", "largest_view", "dense")),
        (shown_in("grids"), (*BUILT_IN, "random")),
        (shown_in("cards"), cards),
        (tuple(coverage.ways()), ("uhr_bat", "uhr_bat, guaranteed", *followed)),
    ):
        assert names[: len(expected)] == expected


def test_the_table_of_the_docs_is_written_from_the_records():
    assert f"\n\n{markdown_table()}\n" in DOCS.read_text()


def test_a_name_without_a_record_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"selection='nonsense': must be one of uhr_bat, topk, .*dense"):
        CompressorConfig.release(selection="nonsense")


def test_the_guides_example_keeps_the_first_tokens_under_any_traced_budget(example):
    grids = (TokenGrid(1, 4), TokenGrid(2, 4))
    specs = (ScaleSpec(size_px=4, budget=5), ScaleSpec(size_px=8, budget=9))
    cfg = CompressorConfig.paper(scales=specs, selection=example.name)
    rng = np.random.default_rng(0)
    valid = [rng.random(grid.num_tokens) < 0.7 for grid in grids]
    scales = tuple(
        ScaleTokens(jnp.asarray(rng.normal(size=(mask.size, 3))), jnp.zeros(mask.size, jnp.int32), jnp.asarray(mask))
        for mask in valid
    )
    run = jax.jit(lambda budgets: select(cfg, grids, (1, 1), scales, jnp.ones(16), budgets))
    for budgets in ((5, 9), (1, 3), (0, 2)):
        for chosen, mask, budget in zip(run(jnp.asarray(budgets)), valid, budgets, strict=True):
            assert chosen.keep_index[chosen.mask].tolist() == np.flatnonzero(mask)[:budget].tolist()
    assert run._cache_size() == 1


def test_the_guides_example_is_in_grids_coverage_and_table_and_can_be_trained_with(example):
    cfg = BatConfig.mini()
    cells = [cell for cell in GRIDS["selections"](cfg).cells if cell.name == example.name]
    assert [cfg.with_settings(**cell.settings).compressor.selection for cell in cells] == [example.name]
    assert sum(cell.name == example.name for cell in GRIDS["figure1"](cfg).cells) == 5
    assert coverage.ways()[example.name] == {"selection": example.name}
    assert "| `first` | nobody | nothing | it looks at nothing |" in markdown_table()
    assert Mix(num_pictures=1, num_questions=1, selections=(("uhr_bat", 0.5), (example.name, 0.5)))


@pytest.mark.parametrize(("name", "says"), [("visionzip", "other attention"), ("fastv", "other"), ("x", "one of")])
def test_a_mix_refuses_what_its_training_cannot_select(name, says):
    with pytest.raises(ValueError, match=says):
        Mix(num_pictures=1, num_questions=1, selections=((name, 1.0),))


def test_an_installed_distribution_adds_a_selection(tmp_path, monkeypatch):
    selection_example.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    SELECTIONS.refresh()
    try:
        assert CompressorConfig.paper(selection="first").rule.title == selection_example.TITLE
    finally:
        monkeypatch.undo()
        SELECTIONS.refresh()
    assert "first" not in SELECTIONS


def test_what_select_reads_does_not_hang_on_another_selections_settings():
    layers = [CompressorConfig.paper(selection="fastv", fastv_layer=layer, coverage="off") for layer in (1, 3)]
    assert layers[0].for_select == layers[1].for_select
    kinds = [CompressorConfig.paper(coverage=kind) for kind in ("off", "guaranteed")]
    assert kinds[0].for_select != kinds[1].for_select
