"""The compressor alone against the release's `select_tokens_with_masks` on its recorded small inputs."""

import functools

import jax
import numpy as np
import pytest

from bat_jax.compress.partition import cluster_rows, label_regions, scaled_rows
from bat_jax.compress.preserve_merge import preserve_merge
from bat_jax.ops.kmeans import kmeans, kmeans_of_scaled
from tests.golden.golden_vectors import ARRAYS, META, selected_positions

TILES, SIDE = 3, 4
NUM_TOKENS = TILES * SIDE * SIDE
KMEANS_CASES = [name for name in META["kmeans"]["unit"] if f"unit.{name}.labels" in ARRAYS]
SAM_CASES = [name for name in META["sam"]["unit"] if f"unit.{name}.pre_mlp" in ARRAYS]

MAX_BUDGET = 100
# One program serves all cases: cluster counts, steps and budgets are traced.
run_kmeans, run_kmeans_of_scaled = jax.jit(kmeans), jax.jit(kmeans_of_scaled)
run_preserve_merge = jax.jit(
    functools.partial(preserve_merge, max_budget=MAX_BUDGET, preserve_equal=False), static_argnames="num_regions"
)


def inputs(name):
    embeds = ARRAYS["unit.embeds_dup" if name.endswith("dup") else "unit.embeds"].reshape(NUM_TOKENS, -1)
    attention = ARRAYS["unit.attn"].reshape(-1)
    return embeds, np.full(NUM_TOKENS, 1 / 64, np.float32) if "const_attn" in name else attention


def tile_coordinates():
    row, col = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    return np.tile(np.stack([col.ravel(), row.ravel()], 1) / (SIDE - 1), (TILES, 1)).astype(np.float32)


def check_selection(name, selection):
    prefix = f"unit.{name}.s672"
    merged = ARRAYS[f"{prefix}.sel_aggregated"]
    count = merged.size
    assert int(selection.mask.sum()) == count
    np.testing.assert_array_equal(selection.keep_index[:count], selected_positions(prefix, merged))
    np.testing.assert_allclose(selection.importance[:count], ARRAYS[f"{prefix}.sel_score"], rtol=1e-5)
    np.testing.assert_allclose(selection.tokens[:count], ARRAYS[f"unit.{name}.pre_mlp"], atol=1e-5)
    assert not np.any(selection.tokens[count:])


@pytest.mark.parametrize("name", KMEANS_CASES)
def test_kmeans_labels_and_selected_rows_equal_the_release(name):
    settings = META["kmeans"]["unit"][name]
    embeds, attention = inputs(name)
    init = ARRAYS.get(f"unit.{name}.init_idx", np.zeros(1, np.int32)).astype(np.int32)
    scales = settings.get("kmeans_feat_scale", 1.0), settings.get("kmeans_coord_scale", 0.05)
    factors = embeds, tile_coordinates(), *scales
    rows, valid = cluster_rows(*factors), np.ones(NUM_TOKENS, bool)
    padded_init = np.pad(init, (0, NUM_TOKENS - init.size))
    limits = init.size, settings["kmeans_max_iters"]
    result = run_kmeans(rows, valid, padded_init, *limits)
    on_accelerator = run_kmeans_of_scaled(scaled_rows(*factors), valid, rows[padded_init], *limits)
    for found in (result, on_accelerator):
        np.testing.assert_array_equal(found.label, ARRAYS[f"unit.{name}.labels"])
        if init.size > 1:
            assert int(found.num_steps) == int(ARRAYS[f"unit.{name}.n_iters"])
    selection = run_preserve_merge(embeds, attention, result.label, valid, settings["topk"], num_regions=NUM_TOKENS)
    check_selection(name, selection)
    cluster = ARRAYS.get(f"unit.{name}.s672.sel_cluster")
    if cluster is not None:
        merged = cluster >= 0
        np.testing.assert_array_equal(selection.region[: cluster.size][merged], cluster[merged])


@pytest.mark.parametrize("name", SAM_CASES)
def test_label_map_selection_equals_the_release(name):
    budget = META["sam"]["unit"][name]["topk"]
    embeds, attention = inputs(name)
    labels = ARRAYS["unit.sam_mask"].reshape(-1)
    if "allfg" in name:
        labels = np.where(labels == 0, 9, labels)
    if "nomask" in name:  # without a mask the release keeps the best tokens: every token is a region of its own
        labels = np.zeros_like(labels)
    regions = label_regions(labels, "tokens")
    selection = run_preserve_merge(
        embeds, attention, regions.region_id, np.ones(NUM_TOKENS, bool), budget, num_regions=regions.capacity
    )
    check_selection(name, selection)
