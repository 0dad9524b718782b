"""The compressor as a whole: one program for a grid of settings, padding left out, partitions, alignment."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.compress.alignment import align_importance
from bat_jax.compress.compressor import compress, initial_centres, partition_scale
from bat_jax.compress.partition import ALONE, cluster_rows, grid_regions, label_regions
from bat_jax.config import CompressorConfig, ScaleSpec
from bat_jax.ops.token_grid import TokenGrid

GRIDS = (TokenGrid(1, 6), TokenGrid(2, 6))
WIDTH, FEATURES, MAX_CLUSTERS = 4, 5, 10
SCALES = (ScaleSpec(size_px=84, budget=12), ScaleSpec(size_px=168, budget=40))
CFG = CompressorConfig.paper(scales=SCALES, partition="kmeans")


def scene(seed=0, *, is_padded=False):
    """Return tokens, features, masks and the anchor's scores of both scales; padding is the lower third."""
    rng = np.random.default_rng(seed)
    tokens = tuple(rng.normal(size=(grid.num_tokens, WIDTH)).astype(np.float32) for grid in GRIDS)
    features = tuple(rng.normal(size=(grid.num_tokens, FEATURES)).astype(np.float32) for grid in GRIDS)
    valid = tuple(
        grid.rows_and_cols()[:, 0] < (grid.full_side * 2 // 3 if is_padded else grid.full_side) for grid in GRIDS
    )
    return tokens, features, valid, rng.random(GRIDS[0].num_tokens).astype(np.float32)


def centres(valid, seed=0):
    return tuple(
        initial_centres(jax.random.key(seed), jnp.asarray(mask), spec.size_px, MAX_CLUSTERS)
        for spec, mask in zip(SCALES, valid, strict=True)
    )


def run(cfg, arrays, num_clusters=(6, 10), budgets=(12, 40), max_steps=10, init=None, function=compress):
    tokens, features, valid, importance = arrays
    init = centres(valid) if init is None else init
    counts, rows = jnp.asarray(num_clusters, jnp.int32), jnp.asarray(budgets, jnp.int32)
    return function(cfg, GRIDS, tokens, features, valid, importance, init, counts, rows, jnp.int32(max_steps))


def assert_same(first, second, *, but=()):
    for one, two in zip(first, second, strict=True):
        for name in one._fields:
            if name not in but:
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def test_a_grid_of_budgets_cluster_counts_and_steps_compiles_once():
    once = chex.assert_max_traces(n=1)(compress.__wrapped__)
    function = jax.jit(once, static_argnames=("cfg", "grids"))
    arrays = scene()
    outcomes = set()
    for num_clusters in ((1, 1), (3, 7), (10, 10)):
        for budgets in ((0, 5), (12, 40)):
            for max_steps in (1, 10):
                selections = run(CFG, arrays, num_clusters, budgets, max_steps, function=function)
                assert all(s.mask.sum() <= b for s, b in zip(selections, budgets, strict=True))
                outcomes.add(tuple(np.asarray(selections[1].keep_index).tolist()))
    assert function._cache_size() == 1
    assert len(outcomes) > 8, "the settings do change the outcome"


@pytest.mark.parametrize("num_clusters", [1, 9])
def test_a_traced_cluster_count_gives_what_a_static_one_gives(num_clusters):
    arrays = scene(1)
    padded = centres(arrays[2])
    exact = tuple(init[:num_clusters] for init in padded)
    first = run(CFG, arrays, (num_clusters,) * 2)
    assert_same(first, run(CFG, arrays, (num_clusters,) * 2, init=exact))


def test_a_traced_budget_gives_a_prefix_of_the_larger_one():
    arrays = scene(2)
    largest = run(CFG, arrays)
    for budgets in ((0, 1), (5, 20), (11, 39)):
        for small, large, budget in zip(run(CFG, arrays, budgets=budgets), largest, budgets, strict=True):
            assert small.mask.sum() == min(budget, int(large.num_candidates))
            count = int(small.mask.sum())
            np.testing.assert_array_equal(small.tokens[:count], large.tokens[:count])
            np.testing.assert_array_equal(small.keep_index[:count], large.keep_index[:count])


def test_the_outcome_is_a_function_of_the_key():
    arrays = scene(3)
    assert_same(run(CFG, arrays, init=centres(arrays[2], 5)), run(CFG, arrays, init=centres(arrays[2], 5)))
    first, second = (run(CFG, arrays, init=centres(arrays[2], seed)) for seed in (5, 6))
    assert not np.array_equal(first[1].keep_index, second[1].keep_index)


def test_first_centres_are_valid_tokens_and_differ_between_scales():
    valid = scene(is_padded=True)[2]
    draws = centres(valid)
    for mask, init in zip(valid, draws, strict=True):
        assert mask[init].all()
        assert len(set(np.asarray(init).tolist())) == MAX_CLUSTERS
    same_size = [initial_centres(jax.random.key(0), jnp.ones(50, bool), size, 10) for size in (672, 1344)]
    assert not np.array_equal(*same_size)


@functools.partial(jax.jit, static_argnames=("cfg", "grid"))
def labels_of(cfg, grid, features, valid, init, num_clusters):
    return partition_scale(cfg, grid, features, valid, init, num_clusters, 10)


@pytest.mark.parametrize("partition", ["kmeans", "grid"])
def test_region_ids_are_in_range_and_padding_is_in_no_region(partition):
    cfg = dataclasses.replace(CFG, partition=partition)
    _, features, valid, _ = scene(4, is_padded=True)
    for num_clusters in (1, 5, 10):
        region_id = np.asarray(labels_of(cfg, GRIDS[1], features[1], valid[1], centres(valid)[1], num_clusters))
        assert region_id.dtype == np.int32
        np.testing.assert_array_equal(region_id == ALONE, ~valid[1])
        assert region_id.max() < num_clusters
        assert region_id[valid[1]].min() == 0


def test_clustered_rows_are_unit_features_beside_scaled_coordinates():
    features = np.array([[3, 4], [0, 0], [0, -2]], np.float32)
    coordinates = np.array([[0, 1], [0.5, 0.5], [1, 0]], np.float32)
    rows = cluster_rows(features, coordinates, 2.0, 0.1)
    np.testing.assert_allclose(rows, [[1.2, 1.6, 0, 0.1], [0, 0, 0.05, 0.05], [0, -2, 0.1, 0]], rtol=1e-6)


def test_alignment_is_the_identity_on_the_anchor():
    importance = scene(5)[3]
    np.testing.assert_array_equal(align_importance(importance, GRIDS[0], GRIDS[0]), importance)
    valid = scene(5, is_padded=True)[2][0]
    masked = align_importance(importance, GRIDS[0], GRIDS[0], valid)
    np.testing.assert_array_equal(masked, np.where(valid, importance, 0))


def test_alignment_reads_half_pixel_centres_across_tiles():
    """A 2 x 2 anchor of one tile on a view of 2 x 2 tiles of 2 x 2 tokens, tile by tile; a ramp along x."""
    anchor, view = TokenGrid(1, 2), TokenGrid(2, 2)
    aligned = align_importance(np.array([0, 4, 0, 4], np.float32), anchor, view)
    np.testing.assert_array_equal(aligned, [0, 1, 0, 1, 3, 4, 3, 4] * 2)


def test_masked_alignment_does_not_mix_in_the_paddings_scores():
    anchor, view = TokenGrid(1, 2), TokenGrid(2, 2)
    valid = np.array([True, True, False, False])
    aligned = np.asarray(align_importance(np.array([4, 4, 100, 100], np.float32), anchor, view, valid))
    rows = view.to_grid(aligned)
    np.testing.assert_array_equal(rows[:3], np.full((3, 4), 4))
    np.testing.assert_array_equal(rows[3], np.zeros(4))


def test_a_regular_grid_of_regions_is_cut_as_drawn():
    """4 x 4 tokens: 4 regions are quadrants, which here are the tiles; 5..8 cannot do better; 9 cut at 4/3, 8/3."""
    grid = TokenGrid(2, 2)
    assert np.unique(grid_regions(grid, 1)).tolist() == [0]
    for num_clusters in (4, 5, 8):
        np.testing.assert_array_equal(
            grid.to_grid(np.asarray(grid_regions(grid, num_clusters))),
            [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]],
        )
    np.testing.assert_array_equal(
        grid.to_grid(np.asarray(grid_regions(grid, 9))), [[0, 0, 1, 2], [0, 0, 1, 2], [3, 3, 4, 5], [6, 6, 7, 8]]
    )
    assert sorted(np.asarray(grid_regions(grid, 16)).tolist()) == list(range(16))


def test_a_regular_grid_has_the_largest_square_number_of_regions_that_fits():
    grid = TokenGrid(4, 5)
    sizes = jax.jit(jax.vmap(lambda k: jnp.max(grid_regions(grid, k)) + 1))(jnp.arange(1, 401))
    expected = [int(np.floor(np.sqrt(k))) ** 2 for k in range(1, 401)]
    np.testing.assert_array_equal(sizes, expected)


def test_labels_become_region_ids_with_background_tokens_alone():
    regions = label_regions(np.array([7, 0, 3, 7, 0, 3, 200]), "tokens")
    assert regions.region_id.tolist() == [1, ALONE, 0, 1, ALONE, 0, 2]
    assert regions.region_id.dtype == np.int32
    assert regions.label.tolist() == [3, 7, 200]


def test_background_may_be_a_region_of_its_own():
    regions = label_regions(np.array([7, 0, 3, 7, 0, 3, 200]), "region")
    assert regions.region_id.tolist() == [2, 0, 1, 2, 0, 1, 3]
    assert regions.label.tolist() == [0, 3, 7, 200]


@pytest.mark.parametrize(
    ("num_labels", "capacity"), [(0, 64), (1, 64), (64, 64), (65, 128), (128, 128), (129, 256), (1000, 1024)]
)
def test_region_capacity_is_rounded_up_to_few_values(num_labels, capacity):
    labels = np.concatenate([[0], np.arange(1, num_labels + 1) * 3])
    assert label_regions(labels, "tokens").capacity == capacity
    assert len(label_regions(labels, "tokens").label) == num_labels


@pytest.mark.parametrize("partition", ["kmeans", "grid"])
def test_masked_tokens_are_never_selected_and_what_they_hold_changes_nothing(partition):
    cfg = dataclasses.replace(CFG, partition=partition)
    tokens, features, valid, importance = scene(6, is_padded=True)
    first = run(cfg, (tokens, features, valid, importance), budgets=(12, 40))
    for selection, mask in zip(first, valid, strict=True):
        index = np.asarray(selection.keep_index)[np.asarray(selection.mask)]
        assert mask[index[index >= 0]].all()
        assert not np.asarray(selection.is_kept)[~mask].any()
    other = scene(7)
    changed = (
        tuple(np.where(m[:, None], a, 1e3 * b) for a, b, m in zip(tokens, other[0], valid, strict=True)),
        tuple(np.where(m[:, None], a, 1e3 * b) for a, b, m in zip(features, other[1], valid, strict=True)),
        valid,
        np.where(valid[0], importance, 1e3 * other[3]).astype(np.float32),
    )
    assert_same(first, run(cfg, changed, budgets=(12, 40)))


def test_merged_rows_average_valid_tokens_only():
    """All valid tokens hold 1 and padding holds 1000: every row, merged or not, holds 1."""
    _, features, valid, importance = scene(8, is_padded=True)
    tokens = tuple(np.where(mask[:, None], 1, 1000) * np.ones((1, WIDTH), np.float32) for mask in valid)
    for selection in run(CFG, (tokens, features, valid, importance)):
        rows = np.asarray(selection.tokens)
        assert (np.asarray(selection.keep_index)[np.asarray(selection.mask)] == -1).any(), "some rows are merged"
        np.testing.assert_allclose(rows[np.asarray(selection.mask)], 1, rtol=1e-6)
        assert not rows[~np.asarray(selection.mask)].any()


def test_without_mask_padding_the_paddings_scores_reach_the_alignment():
    """The release's rule; with mask_padding the same change of scores changes nothing (above)."""
    tokens, features, valid, importance = scene(9, is_padded=True)
    cfg = dataclasses.replace(CFG, mask_padding=False)
    noisy = np.where(valid[0], importance, 1e3).astype(np.float32)
    first, second = (run(cfg, (tokens, features, valid, scores)) for scores in (importance, noisy))
    assert not np.array_equal(first[1].importance, second[1].importance)
