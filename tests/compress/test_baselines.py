"""The foils keep what their names say, compared with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.compress.alignment import align_importance
from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.compress.groups import each_alone, keep_top
from bat_jax.compress.selections.largest_view import largest_view_groups
from bat_jax.config import CompressorConfig, ScaleSpec
from bat_jax.ops.token_grid import TokenGrid

GRIDS = (TokenGrid(1, 4), TokenGrid(2, 4))
SCALES = (ScaleSpec(size_px=4, budget=5), ScaleSpec(size_px=8, budget=9))


def _scales(rng, valid=None):
    scales = []
    for grid in GRIDS:
        count = grid.num_tokens
        is_valid = np.ones(count, bool) if valid is None else rng.random(count) < valid
        tokens = rng.normal(size=(count, 3)).astype(np.float32)
        scales.append(ScaleTokens(jnp.asarray(tokens), jnp.zeros(count, jnp.int32), jnp.asarray(is_valid)))
    return tuple(scales)


def _select(selection, scales, anchor, budgets=(5, 9)):
    cfg = CompressorConfig.paper(scales=SCALES, selection=selection, num_clusters=4, mask_padding=False)
    return select(cfg, GRIDS, (4, 4), scales, jnp.asarray(anchor), jnp.asarray(budgets, jnp.int32))


@pytest.fixture
def anchor():
    return np.random.default_rng(1).random(16).astype(np.float32)


def test_keep_top_is_the_sorted_top(anchor):
    rng = np.random.default_rng(0)
    tokens, valid = rng.normal(size=(16, 3)).astype(np.float32), rng.random(16) < 0.7
    kept = keep_top(jnp.asarray(tokens), jnp.asarray(anchor), jnp.asarray(valid), 6, 8)
    order = [i for i in np.argsort(-anchor, kind="stable") if valid[i]][:6]
    assert kept.keep_index.tolist() == [*order, -1, -1]
    np.testing.assert_array_equal(kept.tokens[:6], tokens[order])
    assert not np.any(kept.tokens[6:]) and kept.mask.tolist() == [True] * 6 + [False] * 2


def test_global_topk_keeps_the_best_of_all_scales(anchor):
    scales = _scales(np.random.default_rng(0))
    aligned = [np.asarray(align_importance(jnp.asarray(anchor), GRIDS[0], grid)) for grid in GRIDS]
    best = np.sort(np.concatenate(aligned))[::-1][:14]
    kept = _select("topk_global", scales, anchor)
    scores = np.concatenate([np.asarray(item.importance)[np.asarray(item.mask)] for item in kept])
    np.testing.assert_allclose(np.sort(scores)[::-1], best, rtol=1e-6)


def test_random_keeps_distinct_valid_tokens_and_changes_with_the_question(anchor):
    scales = _scales(np.random.default_rng(0), valid=0.6)
    first, again = _select("random", scales, anchor), _select("random", scales, anchor)
    other = _select("random", scales, anchor[::-1].copy())
    for index, (kept, same, scale) in enumerate(zip(first, again, scales, strict=True)):
        chosen = np.asarray(kept.keep_index)[np.asarray(kept.mask)]
        assert chosen.size == np.unique(chosen).size == (5, 9)[index]
        assert np.all(np.asarray(scale.valid)[chosen])
        assert kept.keep_index.tolist() == same.keep_index.tolist()
    assert [kept.keep_index.tolist() for kept in first] != [kept.keep_index.tolist() for kept in other]


def test_pooling_is_the_mean_of_every_cell(anchor):
    scales = _scales(np.random.default_rng(0), valid=0.5)
    kept = _select("pooling", scales, anchor)
    for item, scale, grid, budget in zip(kept, scales, GRIDS, (5, 9), strict=True):
        cells = int(np.sqrt(budget))
        row, col = grid.rows_and_cols().T
        cell = (row * cells // grid.full_side) * cells + col * cells // grid.full_side
        valid, tokens = np.asarray(scale.valid), np.asarray(scale.tokens)
        members = [np.flatnonzero(valid & (cell == c)) for c in range(cells**2) if np.any(valid & (cell == c))]
        means = np.stack([tokens[some].mean(axis=0) for some in members])
        np.testing.assert_allclose(item.tokens[: len(means)], means, rtol=1e-5, atol=1e-6)
        alone = [int(some[0]) if some.size == 1 else -1 for some in members]
        assert int(item.mask.sum()) == len(means) and item.keep_index.tolist() == alone + [-1] * (budget - len(means))


def _groups(valid, budget):
    return [np.asarray(group) for group in largest_view_groups(GRIDS, valid, jnp.int32(budget))]


def test_the_largest_view_that_fits_comes_whole_and_alone():
    rng = np.random.default_rng(3)
    valid = [np.ones(16, bool), rng.random(64) < 0.5]
    fine = int(valid[1].sum())
    for budget in (16, fine - 1):
        first, second = _groups(valid, budget)
        assert first.tolist() == list(range(16)) and np.all(second == -1)
    first, second = _groups(valid, fine)
    assert np.all(first == -1) and np.all(second[~valid[1]] == -1)
    assert second[valid[1]].tolist() == list(range(fine))


def test_an_anchor_that_does_not_fit_is_pooled_into_the_largest_grid_that_does():
    first, second = _groups([np.ones(16, bool), np.ones(64, bool)], 15)
    assert np.all(second == -1)
    row, col = GRIDS[0].rows_and_cols().T
    np.testing.assert_array_equal(first, (row * 3 // 4) * 3 + col * 3 // 4)


def test_largest_view_reaches_the_selection_with_its_tokens_in_order(anchor):
    scales = _scales(np.random.default_rng(0))
    specs = (ScaleSpec(size_px=4, budget=16), ScaleSpec(size_px=8, budget=64))
    cfg = CompressorConfig.paper(scales=specs, selection="largest_view", num_clusters=4, mask_padding=False)
    run = jax.jit(lambda budgets: select(cfg, GRIDS, (4, 4), scales, jnp.asarray(anchor), budgets))
    first, second = run(jnp.array([16, 47]))
    assert first.keep_index[:16].tolist() == list(range(16)) and not second.mask.any()
    np.testing.assert_array_equal(first.tokens[:16], scales[0].tokens)
    first, second = run(jnp.array([16, 48]))
    assert not first.mask.any() and second.keep_index.tolist() == list(range(64))
    np.testing.assert_array_equal(second.tokens, scales[1].tokens)
    assert run._cache_size() == 1


def test_dense_keeps_every_valid_token_in_order():
    valid = np.random.default_rng(2).random(20) < 0.6
    group = np.asarray(each_alone(jnp.asarray(valid), 20))
    assert group[valid].tolist() == list(range(valid.sum())) and np.all(group[~valid] == -1)


def test_every_selection_stays_in_its_budget_for_any_traced_budget(anchor):
    scales = _scales(np.random.default_rng(0))
    for selection in ("uhr_bat", "topk", "topk_global", "random", "pooling", "largest_view", "dense", "fastv"):
        run = jax.jit(lambda budgets, selection=selection: _select(selection, scales, anchor, budgets))
        for budgets in ((5, 9), (1, 3), (2, 1)):
            kept = run(jnp.asarray(budgets))
            counts = [int(item.mask.sum()) for item in kept]
            if selection == "topk_global":
                assert sum(counts) == sum(budgets)
            elif selection == "largest_view":
                assert 0 < sum(counts) <= sum(budgets)
            else:
                assert all(count <= budget for count, budget in zip(counts, budgets, strict=True))
        assert run._cache_size() == 1
