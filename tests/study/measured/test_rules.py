"""Rules: the file is what it was when it was written, and names cells that both plans ask."""

import pytest

from bat_jax.config import BatConfig
from bat_jax.mini.curriculum.group_batches import ANCHOR
from bat_jax.mini.curriculum.recipe import MiniRecipe
from bat_jax.mini.curriculum.selected import selecting_config
from bat_jax.mini.world.splits import SPLITS
from bat_jax.study.measured import plan, rules

MINI = BatConfig.mini()
PLANS = {"reduced": plan.reduced(MINI), "full": plan.full(MINI)}


def test_version_2_is_not_edited():
    """After its study a change is version 3, in a file of its own."""
    assert rules.load(2).digest == "9645207c0c2590afad81e0fcd30ddf5bd70fc470bf0f01b287c7a451c074b18b"
    assert rules.load().text.startswith("rules v2 of 2026-11-28, SHA-256 ")


def test_another_version_is_refused():
    with pytest.raises(ValueError, match="version=9: there are no such rules; the newest are 2"):
        rules.load(9)


def test_every_comparison_is_a_claim_of_its_own():
    claims = rules.load().claims
    assert len({claim.id for claim in claims}) == len({claim.claim for claim in claims}) == len(claims)
    for claim in claims:
        assert bool(claim.part) == bool(claim.grid) == bool(claim.family), claim.id
        assert (claim.kind in ("equal", "no_more")) == (claim.margin > 0), claim.id
        assert claim.why or claim.kind not in ("equal", "no_more", "above", "weights"), claim.id


@pytest.mark.parametrize("name", list(PLANS))
def test_a_plan_asks_every_cell_that_the_rules_compare(name):
    cells = {(part.name, grid.name): grid.cells for part in PLANS[name].parts for grid in part.grids}
    for claim in rules.load().claims:
        if claim.part not in ("", plan.COVERAGE):
            found = {(cell.name, cell.column) for cell in cells[claim.part, claim.grid]}
            if claim.theirs:
                wanted = {(name, column) for name in (claim.ours, *claim.theirs) for column in claim.columns}
                assert wanted <= found, claim.id
            else:
                assert len(found) > 1, claim.id


@pytest.mark.parametrize("name", list(PLANS))
def test_sizes_are_those_of_the_rules_and_enough_for_a_verdict(name):
    found = rules.load()
    assert PLANS[name].scenes == found.sizes[name]
    assert all(found.least_clusters <= num <= len(SPLITS[found.split]) for num in PLANS[name].scenes.values())
    split = SPLITS[found.split]
    assert found.departures(name, PLANS[name].scenes, split) == ()
    few = PLANS[name].with_scenes({"methods": 3})
    assert found.departures(name, few.scenes, range(5, 9)) == (
        f"methods 3 scenes, not {found.sizes[name]['methods']}",
        "scenes from 5, not those of the test split",
    )


def test_what_was_trained_is_what_the_shipped_weights_recipe_mixes():
    """All of the anchor's tokens alone are the anchor's share of that mix, by importance and not in raster order."""
    mix = MiniRecipe().mixed_mix
    assert {name for name, _ in mix.selections} - {ANCHOR} == set(rules.load().trained) - {"topk_global"}
    assert selecting_config(MINI, mix, ANCHOR).compressor.selection == "topk"
    assert list(rules.load().not_trained) == ["anchor view alone"]
