"""Preserve and merge against an exact twin of Algorithm 1, and the properties the paper claims of it.

The worked example, importance in sixteenths, region -1 = a region of its own:

    token        0   1   2   3   4   5   6   7
    region       0   0   0   1   1   2   2  -1
    importance   8   2   5  12   4   1   1   8

    region   mean   kept (>=)   merged      order: mean descending, token 7 before region 1 (both 8)
       -1      8    7
        1      8    3           {4}         7 | 3 {4} | 0 2 {1} | 5 6
        0      5    0 2         {1}
        2      1    5 6

With > (the release) token 2 equals its mean and merges, and so does all of region 2: 7 | 3 {4} | 0 {1 2} | {5 6}.
A budget of 6 ends before region 2; guaranteed coverage gives it token 5 and lets {1} go: 7 | 3 {4} | 0 2 | 5.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.compress.preserve_merge import UnsortedRows, order_by_keys, order_by_ranks, preserve_merge, region_mean
from tests.compress import preserve_merge_twin as twin

NUM_TOKENS, NUM_REGIONS, MAX_BUDGET, WIDTH = 24, 6, 30, 3
CHUNK = 300  # cases in one call of a compiled program
UNIT = 1024  # importance is a multiple of 2^-10: float32 sums of it are exact, means are rounded once
RULES = [(True, "off"), (False, "off"), (True, "guaranteed"), (False, "guaranteed")]

EXAMPLE = {
    "importance": np.array([8, 2, 5, 12, 4, 1, 1, 8]),
    "region_id": np.array([0, 0, 0, 1, 1, 2, 2, -1]),
}


@functools.cache
def program(preserve_equal=True, coverage="off"):
    """One compiled program a rule; it takes a batch of cases."""
    settings = {"preserve_equal": preserve_equal, "coverage": coverage}
    function = functools.partial(preserve_merge, num_regions=NUM_REGIONS, max_budget=MAX_BUDGET, **settings)
    return jax.jit(jax.vmap(function))


def random_cases(seed, count, *, levels=(1, 2, 4, 1024)):
    """Return integer importance, regions, masks, budgets and integer-valued tokens; few levels make many ties."""
    rng = np.random.default_rng(seed)
    shape = (count, NUM_TOKENS)
    level = rng.choice(levels, size=(count, 1))
    importance = (rng.random(shape) * level).astype(np.int32) * (UNIT // level) + rng.integers(0, 2, (count, 1))
    num_regions = rng.integers(0, NUM_REGIONS + 1, (count, 1))
    region_id = (rng.random(shape) * num_regions).astype(np.int32)
    is_alone = rng.random(shape) < rng.choice([0, 0.1, 0.5], (count, 1))
    region_id = np.where(is_alone | (num_regions == 0), -1, region_id).astype(np.int32)
    valid = rng.random(shape) < rng.choice([0, 0.3, 0.8, 1], (count, 1), p=[0.02, 0.28, 0.3, 0.4])
    budget = rng.integers(0, MAX_BUDGET + 1, count).astype(np.int32)
    tokens = rng.integers(-50, 51, (*shape, WIDTH)).astype(np.float32)
    return tokens, importance, region_id, valid, budget


def run(cases, **rule):
    """Run any number of cases, CHUNK at a time, and return NumPy arrays."""
    tokens, importance, region_id, valid, budget = cases
    arrays = (tokens, (importance / UNIT).astype(np.float32), region_id, valid, budget)
    parts = []
    for start in range(0, len(budget), CHUNK):
        part = [array[start : start + CHUNK] for array in arrays]
        short = CHUNK - len(part[-1])
        padded = [np.pad(array, ((0, short),) + ((0, 0),) * (array.ndim - 1)) for array in part]
        parts.append(jax.tree.map(lambda array, keep=CHUNK - short: np.asarray(array)[:keep], program(**rule)(*padded)))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def one(selection, index):
    return jax.tree.map(lambda array: array[index], selection)


def run_example(budget, **rule):
    """Run the worked example, padded to the program's number of tokens; column 0 names tokens by powers of two."""
    count = len(EXAMPLE["importance"])
    short = NUM_TOKENS - count
    tokens = np.stack([2.0 ** np.arange(count), np.arange(count), np.ones(count)], axis=1).astype(np.float32)
    case = (
        np.pad(tokens, ((0, short), (0, 0))),
        np.pad(EXAMPLE["importance"], (0, short)) * UNIT / 16,
        np.pad(EXAMPLE["region_id"], (0, short)).astype(np.int32),
        np.arange(NUM_TOKENS) < count,
        np.int32(budget),
    )
    return one(run([np.asarray(array)[None] for array in case], **rule), 0)


@pytest.mark.parametrize(("preserve_equal", "coverage"), RULES)
def test_every_row_equals_algorithm_1_in_exact_arithmetic(preserve_equal, coverage):
    cases = random_cases(seed=1, count=1500)
    selections = run(cases, preserve_equal=preserve_equal, coverage=coverage)
    tokens, importance, region_id, valid, budget = cases
    for case in range(len(budget)):
        regions = twin.serialised_regions(importance[case], region_id[case], valid[case], preserve_equal=preserve_equal)
        rows = twin.select_rows(regions, budget[case], coverage)
        got, count = one(selections, case), len(rows)
        assert got.mask.tolist() == [True] * count + [False] * (MAX_BUDGET - count), case
        assert int(got.num_candidates) == sum(len(region.rows) for region in regions), case
        assert set(np.flatnonzero(got.is_kept)) == {token for region in regions for token in region.kept}, case
        expected_index = [-1 if row.is_merged else row.members[0] for row in rows]
        assert got.keep_index.tolist() == expected_index + [-1] * (MAX_BUDGET - count), case
        assert got.region.tolist() == [row.region for row in rows] + [-1] * (MAX_BUDGET - count), case
        expected = twin.embeddings(rows, tokens[case])
        is_token = got.keep_index[:count] >= 0
        np.testing.assert_array_equal(got.tokens[:count][is_token], expected[is_token])
        # The compiler may turn sum / size into sum * (1 / size): two roundings of 2^-24 here, one in the twin.
        np.testing.assert_allclose(got.tokens[:count], expected, rtol=1.5 * 2**-23)
        assert not got.tokens[count:].any() and not got.importance[count:].any(), case
        score = twin.embeddings(rows, importance[case][:, None] / np.float32(UNIT))[:, 0]
        np.testing.assert_allclose(got.importance[:count], score, rtol=1.5 * 2**-23)


def test_the_random_cases_hold_ties_merges_and_dropped_regions():
    """Guards the test above: without such cases it would claim more than it checks."""
    _, importance, region_id, valid, budget = random_cases(seed=1, count=1500)
    tied_means = tied_alone = merged = dropped = 0
    for case in range(len(budget)):
        regions = twin.serialised_regions(importance[case], region_id[case], valid[case], preserve_equal=True)
        means = [(region.mean, region.region >= 0) for region in regions]
        shared = [mean for mean, is_shared in means if is_shared]
        tied_means += len(set(shared)) < len(shared)
        tied_alone += bool(set(shared) & {mean for mean, is_shared in means if not is_shared})
        rows = twin.select_rows(regions, budget[case], "off")
        merged += any(row.is_merged for row in rows)
        dropped += budget[case] >= len(regions) and len({r.region for r in rows}) < len({r.region for r in regions})
    assert min(tied_means, tied_alone, merged) > 150
    assert dropped > 15


def test_the_worked_example_keeps_merges_and_orders_as_drawn():
    selection = run_example(MAX_BUDGET)
    assert selection.keep_index[:8].tolist() == [7, 3, -1, 0, 2, -1, 5, 6]
    assert selection.region[:8].tolist() == [-1, 1, 1, 0, 0, 0, 2, 2]
    assert selection.tokens[:8, 0].tolist() == [128, 8, 16, 1, 4, 2, 32, 64]
    assert (selection.importance[:8] * 16).tolist() == [8, 12, 4, 8, 5, 2, 1, 1]
    assert int(selection.num_candidates) == 8
    assert selection.mask.sum() == 8


def test_the_release_merges_tokens_equal_to_the_mean():
    selection = run_example(MAX_BUDGET, preserve_equal=False)
    assert selection.keep_index[:6].tolist() == [7, 3, -1, 0, -1, -1]
    assert selection.tokens[:6, 0].tolist() == [128, 8, 16, 1, 3, 48]
    assert (selection.importance[:6] * 16).tolist() == [8, 12, 4, 8, 3.5, 1]
    assert selection.mask.sum() == int(selection.num_candidates) == 6


def test_algorithm_1_drops_a_region_though_the_budget_exceeds_their_number():
    """4 regions, budget 6: the paper promises each of them a row, its algorithm leaves region 2 without."""
    selection = run_example(6)
    assert selection.keep_index[:6].tolist() == [7, 3, -1, 0, 2, -1]
    assert 2 not in selection.region


def test_guaranteed_coverage_keeps_that_region_and_the_serialised_order():
    selection = run_example(6, coverage="guaranteed")
    assert selection.keep_index[:6].tolist() == [7, 3, -1, 0, 2, 5]
    assert selection.tokens[:6, 0].tolist() == [128, 8, 16, 1, 4, 32]


@pytest.mark.parametrize("preserve_equal", [True, False])
def test_guaranteed_coverage_gives_every_region_a_row_whenever_the_budget_allows(preserve_equal):
    cases = random_cases(seed=2, count=1500)
    free = run((*cases[:4], np.full_like(cases[4], MAX_BUDGET)), preserve_equal=preserve_equal)
    covered = run(cases, preserve_equal=preserve_equal, coverage="guaranteed")
    num_checked = 0
    for case, budget in enumerate(cases[4]):
        everything, got = one(free, case), one(covered, case)
        # The budget is filled as far as there are candidates, whatever the coverage.
        assert got.mask.sum() == min(budget, int(got.num_candidates))
        # (region, index) names a row: a token that is alone is (-1, i), a merged row (m, -1).
        names = list(zip(everything.region, everything.keep_index, strict=True))[: int(everything.num_candidates)]
        chosen = list(zip(got.region, got.keep_index, strict=True))[: got.mask.sum()]
        positions = [names.index(name) for name in chosen]
        assert positions == sorted(set(positions)), "the serialised order is kept"
        groups = {(region, index if region < 0 else None) for region, index in names}
        if budget >= len(groups):
            num_checked += 1
            assert {(region, index if region < 0 else None) for region, index in chosen} == groups
    assert num_checked > 500


def test_the_budget_is_never_exceeded_and_the_mask_is_a_prefix():
    cases = random_cases(seed=3, count=600)
    for preserve_equal, coverage in RULES:
        selection = run(cases, preserve_equal=preserve_equal, coverage=coverage)
        count = selection.mask.sum(axis=1)
        np.testing.assert_array_equal(count, np.minimum(cases[4], selection.num_candidates))
        np.testing.assert_array_equal(selection.mask, np.arange(MAX_BUDGET) < count[:, None])


MOST = 200
CONSTANTS = np.array([0.1, 1 / 3, 0.7, 1e-7, 3.3e-5, 0.9999999], np.float32)
keep_counts = jax.jit(
    jax.vmap(
        functools.partial(preserve_merge, num_regions=2, max_budget=1),
        in_axes=(None, 0, None, 0, None),
    )
)
keep_counts_release = jax.jit(
    jax.vmap(
        functools.partial(preserve_merge, num_regions=2, max_budget=1, preserve_equal=False),
        in_axes=(None, 0, None, 0, None),
    )
)


def constant_regions():
    """Return importance and masks of regions of 1..200 tokens that all score alike, for every constant."""
    size = np.tile(np.arange(1, MOST + 1), CONSTANTS.size)
    valid = np.arange(MOST) < size[:, None]
    importance = np.repeat(CONSTANTS, MOST)[:, None] * np.ones((1, MOST), np.float32)
    return importance, valid, size


def test_a_plain_float_mean_would_break_lemma_1_on_these_constants():
    """Guards the next two tests: the unclipped float32 mean of equal scores does exceed them for many sizes."""
    importance, valid, _ = constant_regions()
    plain = jax.jit(jax.vmap(lambda a, v: jnp.zeros(1).at[jnp.where(v, 0, 1)].add(a)[0] / v.sum()))(importance, valid)
    assert np.sum(np.asarray(plain) > importance[:, 0]) > 100
    clipped = jax.jit(jax.vmap(lambda a, v: region_mean(a, jnp.zeros(MOST, jnp.int32), v, 1)[0]))(importance, valid)
    np.testing.assert_array_equal(clipped, importance[:, 0])


def test_lemma_1_equal_scores_keep_the_whole_region_in_paper_fidelity():
    importance, valid, size = constant_regions()
    selection = keep_counts(np.zeros((MOST, 1), np.float32), importance, np.zeros(MOST, np.int32), valid, 1)
    np.testing.assert_array_equal(selection.is_kept, valid)
    np.testing.assert_array_equal(selection.num_candidates, size)


def test_equal_scores_merge_the_whole_region_in_release_fidelity():
    importance, valid, _ = constant_regions()
    tokens = np.arange(MOST, dtype=np.float32)[:, None]
    selection = keep_counts_release(tokens, importance, np.zeros(MOST, np.int32), valid, 1)
    assert not np.asarray(selection.is_kept).any()
    assert np.all(np.asarray(selection.num_candidates) == 1)
    assert np.all(np.asarray(selection.keep_index) == -1)
    np.testing.assert_array_equal(selection.tokens[:, 0, 0], (valid.sum(axis=1) - 1) / 2)


def test_lemma_1_every_region_keeps_a_token_when_scores_differ_by_single_roundings():
    rng = np.random.default_rng(4)
    steps = rng.integers(0, 3, (2000, MOST)).astype(np.float32)
    importance = np.float32(0.1) * (1 + steps * np.float32(2**-23))
    valid = np.arange(MOST) < rng.integers(1, MOST + 1, (2000, 1))
    region_id = rng.integers(0, 2, MOST).astype(np.int32)
    selection = keep_counts(np.zeros((MOST, 1), np.float32), importance, region_id, valid, 1)
    for region in (0, 1):
        is_member = (region_id == region) & valid
        is_kept = np.asarray(selection.is_kept) & is_member
        np.testing.assert_array_equal(is_kept.any(axis=1), is_member.any(axis=1))
        highest = np.where(is_member, importance, 0).max(axis=1, keepdims=True)
        assert np.all(is_kept[is_member & (importance == highest)]), "the region's maximum is kept"


def float_cases(seed, count):
    """Return cases with continuous scores and tokens."""
    rng = np.random.default_rng(seed)
    _, _, region_id, valid, _ = random_cases(seed, count)
    importance = rng.random((count, NUM_TOKENS)).astype(np.float32)
    tokens = rng.normal(size=(count, NUM_TOKENS, WIDTH)).astype(np.float32)
    return tokens, importance * UNIT, region_id, valid, np.full(count, MAX_BUDGET, np.int32)


def test_lemma_2_and_eq_17_hold_for_every_merged_row():
    cases = float_cases(seed=5, count=300)
    tokens, _, region_id, valid, _ = cases
    selection, num_merged = run(cases), 0
    for case in range(len(tokens)):
        got = one(selection, case)
        for row in np.flatnonzero(got.mask & (got.keep_index < 0)):
            is_redundant = valid[case] & ~got.is_kept & (region_id[case] == got.region[row])
            redundant = tokens[case][is_redundant].astype(np.float64)
            merged = got.tokens[row].astype(np.float64)
            # Lemma 2: |R_m| * merged = sum of the redundant tokens.
            np.testing.assert_allclose(len(redundant) * merged, redundant.sum(0), atol=1e-5)
            # Eq. 17: the squared error of merging is |R_m| Var(R_m) = sum |h|^2 - |R_m| |merged|^2.
            error = np.sum((redundant - merged) ** 2)
            np.testing.assert_allclose(error, len(redundant) * redundant.var(axis=0).sum(), rtol=1e-5, atol=1e-9)
            identity = np.sum(redundant**2) - len(redundant) * np.sum(merged**2)
            np.testing.assert_allclose(error, identity, rtol=1e-4, atol=1e-5)
            num_merged += 1
    assert num_merged > 500


def test_permuting_the_tokens_permutes_the_outcome():
    tokens, importance, region_id, valid, budget = float_cases(seed=6, count=300)
    budget = np.random.default_rng(6).integers(0, MAX_BUDGET + 1, budget.shape).astype(np.int32)
    order = np.random.default_rng(7).permuted(np.tile(np.arange(NUM_TOKENS), (300, 1)), axis=1)
    first = run((tokens, importance, region_id, valid, budget))
    permuted = [np.take_along_axis(array, order, axis=1) for array in (importance, region_id, valid)]
    second = run((np.take_along_axis(tokens, order[..., None], axis=1), *permuted, budget))
    back = np.where(second.keep_index >= 0, np.take_along_axis(order, np.maximum(second.keep_index, 0), axis=1), -1)
    np.testing.assert_array_equal(first.keep_index, back)
    np.testing.assert_array_equal(first.region, second.region)
    np.testing.assert_array_equal(first.mask, second.mask)
    # Sums of a region run in another order: float32 rounding only.
    np.testing.assert_allclose(first.tokens, second.tokens, atol=2e-6)


def test_renaming_the_regions_changes_names_only():
    tokens, importance, region_id, valid, budget = float_cases(seed=8, count=300)
    rename = np.array([3, 0, 5, 1, 4, 2], np.int32)
    renamed = np.where(region_id >= 0, rename[region_id], -1).astype(np.int32)
    first = run((tokens, importance, region_id, valid, budget))
    second = run((tokens, importance, renamed, valid, budget))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.keep_index, second.keep_index)
    np.testing.assert_array_equal(np.where(first.region >= 0, rename[first.region], -1), second.region)


def test_what_invalid_tokens_hold_changes_nothing():
    tokens, importance, region_id, valid, budget = random_cases(seed=9, count=600)
    rng = np.random.default_rng(10)
    first = run((tokens, importance, region_id, valid, budget))
    other = (
        np.where(valid[..., None], tokens, rng.normal(size=tokens.shape) * 1e6).astype(np.float32),
        np.where(valid, importance, rng.integers(0, 10**6, importance.shape)),
        np.where(valid, region_id, rng.integers(-1, NUM_REGIONS, region_id.shape)).astype(np.int32),
        valid,
        budget,
    )
    for before, after in zip(first, run(other), strict=True):
        np.testing.assert_array_equal(before, after)


def test_adding_invalid_tokens_changes_nothing():
    """The same tokens in a longer array, invalid ones put between them, give the same rows."""
    tokens, importance, region_id, valid, budget = random_cases(seed=11, count=300)
    count, longer = len(budget), NUM_TOKENS + 9
    rng = np.random.default_rng(12)
    place = np.sort(rng.permuted(np.tile(np.arange(longer), (count, 1)), axis=1)[:, :NUM_TOKENS], axis=1)
    padded = [
        rng.normal(size=(count, longer, WIDTH)).astype(np.float32),
        rng.integers(0, UNIT, (count, longer)).astype(np.int32),
        rng.integers(-1, NUM_REGIONS, (count, longer)).astype(np.int32),
        np.zeros((count, longer), bool),
    ]
    case = np.arange(count)[:, None]
    for target, source in zip(padded, (tokens, importance, region_id, valid), strict=True):
        target[case, place] = source
    first, second = run((tokens, importance, region_id, valid, budget)), run((*padded, budget))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.num_candidates, second.num_candidates)
    np.testing.assert_array_equal(first.region, second.region)
    moved = np.where(first.keep_index >= 0, np.take_along_axis(place, np.maximum(first.keep_index, 0), axis=1), -1)
    np.testing.assert_array_equal(moved, second.keep_index)


def test_ranks_put_candidates_in_the_order_of_the_keys():
    """Scores and means of few values, 0 and -0 among them: ties inside regions, between them, and with tokens alone."""
    by_keys, by_ranks = jax.jit(order_by_keys), jax.jit(order_by_ranks)
    rng, num_tokens, num_regions = np.random.default_rng(21), 60, 9
    for alone in (0, 0.2, 1) * 20:
        levels = rng.choice([1, 3, 50])
        importance, mean = (np.floor(rng.random(n) * levels) / levels for n in (num_tokens, num_regions))
        mean = np.where(rng.random(num_regions) < 0.5, rng.choice(importance, num_regions), mean) * rng.choice([-1, 1])
        mean = np.maximum(mean, -0.0).astype(np.float32)
        region = np.where(rng.random(num_tokens) < alone, -1, rng.integers(0, num_regions, num_tokens))
        group = np.where(region < 0, np.arange(num_tokens), num_tokens + region)
        group = np.concatenate([group, num_tokens + np.arange(num_regions)]).astype(np.int32)
        is_candidate = rng.random(group.size) < 0.8
        rows = UnsortedRows(importance.astype(np.float32), region.astype(np.int32), mean, group, is_candidate)
        expected, found = by_keys(rows), np.asarray(by_ranks(rows))
        np.testing.assert_array_equal(found[: is_candidate.sum()], expected[: is_candidate.sum()])
        assert sorted(found) == list(range(group.size))


@pytest.mark.parametrize(("num_tokens", "num_arrays"), [(2**16 - 7, {1}), (2**16 - 6, {4})])
def test_a_cpu_sorts_whole_numbers_with_nothing_beside_them_as_long_as_rank_and_place_fit_32_bits(
    num_tokens, num_arrays
):
    """Else three keys and a place; 2^16 candidates are the first too many."""
    rows = [jax.ShapeDtypeStruct((num_tokens, *more), kind) for kind, *more in ((float, 3), (float,), (int,), (bool,))]
    function = functools.partial(preserve_merge, num_regions=6, max_budget=MAX_BUDGET)
    sorts = re.findall(r'"stablehlo.sort"\((.*?)\)', jax.jit(function).lower(*rows, 20).as_text())
    assert {len(arrays.split(",")) for arrays in sorts} == num_arrays


def test_more_rows_than_candidates_leave_masked_zero_rows():
    """Fewer candidates than J, even fewer than M + R: the rows behind them are zeros outside the mask."""
    function = jax.jit(functools.partial(preserve_merge, num_regions=1, max_budget=9))
    ones = np.ones((3, 2), np.float32)
    selection = function(ones, np.ones(3, np.float32), np.zeros(3, np.int32), np.ones(3, bool), 9)
    assert selection.tokens.shape == (9, 2)
    assert selection.mask.tolist() == [True] * 3 + [False] * 6
    assert selection.keep_index.tolist() == [0, 1, 2] + [-1] * 6
    assert selection.region.tolist() == [0, 0, 0] + [-1] * 6
    assert not np.asarray(selection.tokens[3:]).any()


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, 0))
def outcome_gradient(tokens, importance, region_id, valid, budget, weight):
    def loss(tokens, importance):
        selection = preserve_merge(
            tokens, importance, region_id, valid, budget, num_regions=NUM_REGIONS, max_budget=MAX_BUDGET
        )
        return jnp.sum(weight * selection.tokens) + jnp.sum(selection.importance)

    return jax.grad(loss, argnums=(0, 1))(tokens, importance)


def test_gradients_flow_through_the_gather_and_the_means_and_not_through_scores():
    """d row / d token is 1 for a kept row and 1/|R_m| for a merged one; cases without a valid token included."""
    tokens, importance, region_id, valid, budget = random_cases(seed=13, count=300)
    weight = np.random.default_rng(14).normal(size=(300, MAX_BUDGET, WIDTH)).astype(np.float32)
    scores = (importance / UNIT).astype(np.float32)
    by_tokens, by_importance = outcome_gradient(tokens, scores, region_id, valid, budget, weight)
    assert not np.asarray(by_importance).any()
    assert not valid.any(axis=1).all()
    for case in range(len(budget)):
        regions = twin.serialised_regions(importance[case], region_id[case], valid[case], preserve_equal=True)
        rows = twin.select_rows(regions, budget[case], "off")
        expected = twin.row_matrix(rows, MAX_BUDGET, NUM_TOKENS).T @ weight[case]
        np.testing.assert_allclose(by_tokens[case], expected, atol=1e-6)


def test_embeddings_keep_their_dtype_and_scores_are_compared_in_float32():
    """bfloat16 holds 8 bits: 1 + 2^-10 would tie with 1 there, and the mean would keep both tokens."""
    tokens = jnp.asarray([[1.0], [2.0], [4.0], [5.0]], jnp.bfloat16)
    importance = np.asarray([1, 1 + 2**-10, 1, 1], np.float32)
    function = jax.jit(functools.partial(preserve_merge, num_regions=1, max_budget=4))
    selection = function(tokens, importance, np.zeros(4, np.int32), np.ones(4, bool), 4)
    assert selection.tokens.dtype == jnp.bfloat16
    assert selection.keep_index.tolist() == [1, -1, -1, -1]
    assert selection.mask.tolist() == [True, True, False, False]
    # The mean of 1, 4 and 5 is taken in float32 and rounded once.
    assert selection.tokens[1, 0] == jnp.bfloat16(10 / 3)
