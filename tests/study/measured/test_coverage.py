"""Token coverage: fates as the plain-Python twin of Algorithm 1 has them, and a scene's line from the shipped model."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.compress.alignment import align_importance
from bat_jax.compress.compressor import ScaleTokens
from bat_jax.config import CompressorConfig, ScaleSpec
from bat_jax.evals.prediction_log import PredictionLog
from bat_jax.mini.world.layout import generate_scene
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.pipeline import BatModel
from bat_jax.study.measured import coverage
from tests.compress.preserve_merge_twin import select_rows, serialised_regions

GRIDS = (TokenGrid(1, 4), TokenGrid(2, 4))
BUDGETS = ((2, 5), (6, 20), (12, 30))
MINI = pathlib.Path(__file__).parents[3] / "checkpoints" / "uhr-bat-mini"


def rules(**settings):
    scales = tuple(ScaleSpec(size_px=px, budget=most) for px, most in zip((56, 112), BUDGETS[-1], strict=True))
    return CompressorConfig.paper(scales=scales, **settings)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    # Multiples of 16: halving the grid's step leaves whole numbers, so that the twin's fractions are exact.
    anchor = jnp.asarray(16 * rng.integers(0, 40, 16), jnp.float32)
    scales = tuple(
        ScaleTokens(
            jnp.asarray(rng.normal(size=(grid.num_tokens, 3)), jnp.float32),
            jnp.asarray(rng.integers(0, 5, grid.num_tokens), jnp.int32),
            jnp.ones(grid.num_tokens, bool),
        )
        for grid in GRIDS
    )
    tokens = np.stack([np.arange(16), 4 * np.arange(16)], axis=1).astype(np.int32)
    return anchor, scales, tokens


def fates(inputs, cfg):
    anchor, scales, tokens = inputs
    budgets = jnp.asarray(BUDGETS, jnp.int32)
    return np.asarray(coverage.fates_of(cfg, GRIDS, (5, 5), scales, anchor, budgets, tokens))


def by_twin(inputs, rule):
    """Return the fates where a scale's rows are `rule(importance, regions, budget)`."""
    anchor, scales, tokens = inputs
    found = np.zeros((len(BUDGETS), len(tokens)), int)
    for number, budgets in enumerate(BUDGETS):
        for scale, (grid, budget) in enumerate(zip(GRIDS, budgets, strict=True)):
            importance = np.asarray(align_importance(anchor, GRIDS[0], grid)).astype(int)
            rows = rule(importance, np.asarray(scales[scale].region_id), budget)
            for target, token in enumerate(tokens[:, scale]):
                row = next((row for row in rows if token in row.members), None)
                fate = 0 if row is None else 1 if row.is_merged else 2
                found[number, target] = max(found[number, target], fate)
    return found


@pytest.mark.parametrize("kind", ["off", "guaranteed"])
def test_a_target_is_kept_merged_or_cut_as_algorithm_1_has_it(inputs, kind):
    def rule(importance, region, budget):
        regions = serialised_regions(importance, region, np.ones(importance.size, bool), preserve_equal=True)
        return select_rows(regions, budget, kind)

    found = fates(inputs, rules(coverage=kind))
    np.testing.assert_array_equal(found, by_twin(inputs, rule))
    assert set(np.unique(found)) == {0, 1, 2}


def test_top_k_keeps_or_cuts_and_never_merges(inputs):
    def rule(importance, region, budget):
        alone = np.full(importance.size, -1)
        return select_rows(serialised_regions(importance, alone, alone < 0, preserve_equal=True), budget, "off")

    np.testing.assert_array_equal(fates(inputs, rules(selection="topk")), by_twin(inputs, rule))


def test_a_pooled_target_is_merged_unless_its_cell_is_its_own(inputs):
    found = fates(inputs, rules(selection="pooling"))
    # 1 and 4 cells of 16 tokens, 4 and 16 cells of 64; with 9 cells of 16 some hold one token alone.
    assert (found[:2] == coverage.FATES.index("m")).all()
    assert set(found[2]) == {coverage.FATES.index("m"), coverage.FATES.index("k")}


def test_an_oracle_scores_tokens_by_the_share_that_the_site_covers():
    scene = generate_scene(3_000_000)
    grid = TokenGrid(2, 8)
    side = 6720
    picture = np.zeros((side, side))
    for site in scene.sites[:2]:
        left, top, right, bottom = (round(value / 2) for value in site.box)
        picture[top:bottom, left:right] += 1
    shares = picture.reshape(16, side // 16, 16, side // 16).sum(axis=(1, 3))
    found = grid.to_grid(coverage.site_importance(scene.sites[:2], grid))
    np.testing.assert_allclose(found, shares / shares.sum(), atol=2e-4)


def test_a_scene_gives_one_line_once(tmp_path, monkeypatch):
    ways = {name: coverage.ways()[name] for name in ("uhr_bat", "topk")}
    monkeypatch.setattr(coverage, "ways", lambda: ways)
    model = BatModel.load(MINI, stages_apart=True)
    seeds, counted = [3_000_001], []
    for _ in range(2):
        with PredictionLog(tmp_path / "predictions.jsonl") as log:
            coverage.measure(model, seeds, log, lambda: counted.append(1))
    (text,) = (tmp_path / "predictions.jsonl").read_text().splitlines()
    line = json.loads(text)
    assert len(counted) == 2 and line["id"] == "3000001"
    assert {target["is_scattered"] for target in line["targets"]} == {False, True}
    for target in line["targets"]:
        for of_way in target["fates"].values():
            assert set(of_way) == set(ways)
            kept = of_way[coverage.TOP_K]
            assert len(kept) == len(coverage.BUDGETS) and "m" not in kept
            assert "kc" not in kept, "a larger budget lost what a smaller one kept"
    facts = line["facts"]
    assert facts["num_empty"] == 0 and 0 < facts["num_covered"] <= facts["num_regions"]
    assert facts["purity"] > facts["grid_purity"]
    assert all(0 <= value <= 1 for value in facts["mass"] + facts["area"])
