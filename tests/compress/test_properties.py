"""Properties that hold for any input, searched by hypothesis; shapes are fixed, so one program serves all examples."""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bat_jax.compress.preserve_merge import preserve_merge
from bat_jax.ops.kmeans import kmeans

NUM_TOKENS, NUM_REGIONS, MAX_BUDGET, NUM_CENTRES = 20, 5, 26, 6
MANY = settings(max_examples=300, deadline=None, derandomize=True)
TOKENS = np.random.default_rng(0).normal(size=(NUM_TOKENS, 4)).astype(np.float32)

scores = hnp.arrays(np.float32, NUM_TOKENS, elements=st.floats(0, 1, width=32))
# Few values make ties; these have no exact float32, so means of equal scores round.
tied_scores = hnp.arrays(np.float32, NUM_TOKENS, elements=st.sampled_from([np.float32(0.1), np.float32(1 / 3)]))
region_ids = hnp.arrays(np.int32, NUM_TOKENS, elements=st.integers(-1, NUM_REGIONS - 1))
masks = hnp.arrays(bool, NUM_TOKENS)
budgets = st.integers(0, MAX_BUDGET)


@functools.cache
def program(preserve_equal, coverage):
    rules = {"preserve_equal": preserve_equal, "coverage": coverage}
    return jax.jit(functools.partial(preserve_merge, num_regions=NUM_REGIONS, max_budget=MAX_BUDGET, **rules))


def num_groups(region_id, valid):
    """Regions that hold a valid token; a token alone is a region."""
    used = region_id[valid]
    return np.unique(used[used >= 0]).size + int(np.sum(used < 0))


def groups_with_a_row(selection):
    region, index = np.asarray(selection.region), np.asarray(selection.keep_index)
    mask = np.asarray(selection.mask)
    return np.unique(region[mask & (region >= 0)]).size + int(np.sum(mask & (region < 0) & (index >= 0)))


@MANY
@given(scores | tied_scores, region_ids, masks, budgets, st.booleans(), st.sampled_from(["off", "guaranteed"]))
def test_the_budget_is_never_exceeded_and_is_filled_while_candidates_last(
    importance, region_id, valid, budget, preserve_equal, coverage
):
    selection = program(preserve_equal, coverage)(TOKENS, importance, region_id, valid, budget)
    assert int(selection.mask.sum()) == min(budget, int(selection.num_candidates))
    index = np.asarray(selection.keep_index)[np.asarray(selection.keep_index) >= 0]
    assert np.unique(index).size == index.size
    assert np.all(valid[index])


@MANY
@given(scores | tied_scores, region_ids, masks)
def test_every_region_keeps_a_token_in_paper_fidelity(importance, region_id, valid):
    selection = program(True, "off")(TOKENS, importance, region_id, valid, MAX_BUDGET)
    kept = np.asarray(selection.is_kept)
    for region in np.unique(region_id[valid & (region_id >= 0)]):
        assert np.any(kept & (region_id == region))


@MANY
@given(scores | tied_scores, region_ids, masks, budgets, st.booleans())
def test_guaranteed_coverage_gives_every_region_a_row_whenever_the_budget_allows(
    importance, region_id, valid, budget, preserve_equal
):
    selection = program(preserve_equal, "guaranteed")(TOKENS, importance, region_id, valid, budget)
    assert groups_with_a_row(selection) == min(budget, num_groups(region_id, valid))


@MANY
@given(scores, region_ids, masks, hnp.arrays(np.float32, NUM_TOKENS, elements=st.floats(0, 9, width=32)))
def test_scores_of_invalid_tokens_change_nothing(importance, region_id, valid, other):
    first = program(True, "off")(TOKENS, importance, region_id, valid, MAX_BUDGET)
    second = program(True, "off")(TOKENS, np.where(valid, importance, other), region_id, valid, MAX_BUDGET)
    np.testing.assert_array_equal(first.keep_index, second.keep_index)
    np.testing.assert_array_equal(first.tokens, second.tokens)


@MANY
@given(scores, region_ids, masks)
def test_merged_rows_times_their_count_are_the_sum_of_what_they_merge(importance, region_id, valid):
    selection = program(True, "off")(TOKENS, importance, region_id, valid, MAX_BUDGET)
    kept = np.asarray(selection.is_kept)
    for row in np.flatnonzero(np.asarray(selection.mask) & (np.asarray(selection.keep_index) < 0)):
        members = valid & ~kept & (region_id == int(selection.region[row]))
        np.testing.assert_allclose(
            members.sum() * np.asarray(selection.tokens[row]), TOKENS[members].sum(axis=0), rtol=1e-5, atol=1e-5
        )


@MANY
@given(
    hnp.arrays(np.float32, (NUM_TOKENS, 3), elements=st.floats(-10, 10, width=32)),
    masks,
    st.permutations(range(NUM_TOKENS)),
    st.integers(1, NUM_CENTRES),
    st.integers(1, 8),
)
def test_cluster_labels_are_in_range_for_valid_tokens_and_minus_one_elsewhere(rows, valid, order, num_clusters, steps):
    init = np.array(sorted(order, key=lambda i: not valid[i])[:NUM_CENTRES], np.int32)
    label = np.asarray(jax.jit(kmeans)(rows, valid, init, num_clusters, steps).label)
    assert np.all(label[~valid] == -1)
    assert np.all((label[valid] >= 0) & (label[valid] < num_clusters))
