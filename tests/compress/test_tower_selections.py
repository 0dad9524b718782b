"""VisionZip, PruMerge, ToMe and background pruning against NumPy twins of their papers' formulas."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.compress.groups import evenly_spaced, merge_groups
from bat_jax.compress.selections.background import background_groups, tile_roots
from bat_jax.compress.selections.prumerge import outlier_threshold, prumerge_groups
from bat_jax.compress.selections.tome import tome_groups
from bat_jax.compress.selections.visionzip import contextual_share, visionzip_groups
from bat_jax.config import CompressorConfig, ScaleSpec
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.ops.token_grid import TokenGrid

GRID = TokenGrid(2, 5)
COUNT, MAX_BUDGET, WIDTH, KEY = GRID.num_tokens, 40, 6, 4
BUDGETS = (0, 1, 2, 7, 33, 40)
RULES = ("visionzip", "prumerge", "tome", "background")


def case(seed, *, share_valid=0.8):
    """Return tokens, importance, attention and validity of one scale."""
    rng = np.random.default_rng(seed)
    attention = TowerAttention(
        class_attention=rng.pareto(2, COUNT).astype(np.float32) + np.float32(1e-3),
        class_value=rng.normal(size=COUNT).astype(np.float32),
        key=rng.normal(size=(COUNT, KEY)).astype(np.float32),
    )
    tokens = rng.normal(size=(COUNT, WIDTH)).astype(np.float32)
    return tokens, rng.random(COUNT).astype(np.float32), attention, rng.random(COUNT) < share_valid


GROUPS = {
    "visionzip": lambda attention, valid, budget: visionzip_groups(attention, valid, budget, MAX_BUDGET),
    "prumerge": lambda attention, valid, budget: prumerge_groups(attention, valid, budget, MAX_BUDGET),
    "tome": lambda attention, valid, budget: tome_groups(attention.key, valid, budget),
    "background": lambda attention, valid, budget: background_groups(GRID, attention, valid, budget),
}


@functools.cache
def compiled(rule):
    """Return a rule's groups as one program; a second trace fails the test."""
    return jax.jit(chex.assert_max_traces(n=1)(GROUPS[rule]))


def groups(rule, attention, valid, budget):
    return np.asarray(compiled(rule)(attention, valid, jnp.int32(budget)))


def partition_of(group):
    """Return the sets of tokens that share a row, without the rows' numbers."""
    return {frozenset(np.flatnonzero(group == row).tolist()) for row in np.unique(group[group >= 0])}


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def spaced(items, count):
    return [items[j * len(items) // count] for j in range(count)]


def by_score(tokens, score):
    return sorted(tokens, key=lambda i: (-score[i], i))


def visionzip_twin(attention, valid, budget):
    num_context = int(np.floor(budget * 5 / 32 + 0.5))
    dominant = sorted(by_score(np.flatnonzero(valid), attention.class_attention)[: budget - num_context])
    rest = [i for i in np.flatnonzero(valid) if i not in dominant]
    targets = spaced(rest, min(num_context, len(rest)))
    keys, rows = unit(attention.key), {i: [i] for i in [*dominant, *targets]}
    for i in rest if targets else ():
        if i not in targets:
            rows[targets[int(np.argmax(keys[targets] @ keys[i]))]].append(i)
    return list(rows.values())


def prumerge_twin(attention, valid, budget):
    score, tokens = attention.class_attention, np.flatnonzero(valid)
    first, third = np.percentile(score[tokens], [25, 75])
    kept = by_score([i for i in tokens if score[i] > third + 1.5 * (third - first)], score)[:budget]
    rest = [i for i in tokens if i not in kept]
    kept = sorted([*kept, *spaced(rest, min(budget - len(kept), len(rest)))])
    rows = {i: [i] for i in kept}
    for i in rest if kept else ():
        if i not in kept:
            keys = attention.key.astype(np.float64)
            rows[kept[int(np.argmax(keys[kept] @ keys[i]))]].append(i)
    return list(rows.values())


def tome_twin(attention, valid, budget):
    """Merge rows as lists of tokens; a row's key is the mean of its tokens' keys, its size their number."""
    rows = [[i] for i in np.flatnonzero(valid)]
    while len(rows) > max(budget, 1):
        keys = unit(np.stack([attention.key[row].astype(np.float64).mean(axis=0) for row in rows]))
        similarity = keys[0::2] @ keys[1::2].T
        order = by_score(range(len(similarity)), similarity.max(axis=1))
        for a in order[: min(len(rows) - budget, len(rows) // 2)]:
            rows[2 * int(similarity[a].argmax()) + 1] += rows[2 * a]
            rows[2 * a] = []
        rows = [row for row in rows if row]
    return rows[:budget]


def roots_twin(key, valid, side):
    keys, pointer = unit(key), list(range(side * side))
    for i in np.flatnonzero(valid):
        row, col = divmod(i, side)
        near = [
            r * side + c
            for r in range(max(row - 1, 0), min(row + 2, side))
            for c in range(max(col - 1, 0), min(col + 2, side))
            if (r, c) != (row, col) and valid[r * side + c]
        ]
        pointer[i] = max(near, key=lambda j: (keys[i] @ keys[j], -j)) if near else i
    roots = []
    for i in range(side * side):
        while pointer[pointer[i]] != i and pointer[i] != i:
            i = pointer[i]
        roots.append(min(i, pointer[i]))
    return roots


def background_twin(attention, valid, budget):
    ranked, size = [], GRID.side**2
    for tile in range(GRID.tiles**2):
        window = slice(tile * size, (tile + 1) * size)
        roots = roots_twin(attention.key[window], valid[window], GRID.side)
        rows = {}
        for place in np.flatnonzero(valid[window]):
            rows.setdefault(roots[place], []).append(tile * size + place)
        scores = {root: attention.class_value[row].mean() for root, row in rows.items()}
        ranked += [
            (place, -scores[root], tile * size + root, rows[root]) for place, root in enumerate(by_score(rows, scores))
        ]
    return [row for *_, row in sorted(ranked)[:budget]]


TWINS = {"visionzip": visionzip_twin, "prumerge": prumerge_twin, "tome": tome_twin, "background": background_twin}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_groups_equal_a_twin_of_the_papers_formulas_for_any_traced_budget(rule, seed):
    _, _, attention, valid = case(seed)
    for budget in BUDGETS:
        expected = {frozenset(map(int, row)) for row in TWINS[rule](attention, valid, budget)}
        assert partition_of(groups(rule, attention, valid, budget)) == expected


@pytest.mark.parametrize("rule", RULES)
def test_padding_goes_into_no_row_whatever_it_holds_and_the_budget_holds(rule):
    _, _, attention, valid = case(5)
    other = case(6)[2]
    mixed = jax.tree.map(lambda a, b: np.where(valid.reshape(-1, *[1] * (a.ndim - 1)), a, 9 * b), attention, other)
    for budget in BUDGETS:
        group = groups(rule, attention, valid, budget)
        assert np.all(group[~valid] == -1) and group.max() < budget
        np.testing.assert_array_equal(groups(rule, mixed, valid, budget), group)


@pytest.mark.parametrize("rule", RULES)
def test_few_or_no_valid_tokens_all_stand_alone(rule):
    _, _, attention, _ = case(1)
    for chosen in ([], [17], [3, 99]):
        valid = np.isin(np.arange(COUNT), chosen)
        assert partition_of(groups(rule, attention, valid, MAX_BUDGET)) == {frozenset([i]) for i in chosen}


def test_visionzip_shares_are_the_papers():
    assert contextual_share(np.array([64, 128, 192, 1, 0])).tolist() == [10, 20, 30, 0, 0]


def test_outlier_threshold_is_the_quartile_rule():
    scores = np.array([1, 2, 3, 4, 100, 7], np.float32)
    valid = np.array([True] * 5 + [False])
    assert float(outlier_threshold(scores, valid)) == 4 + 1.5 * (4 - 2)


def test_prumerge_fills_a_scale_of_equal_attention_evenly():
    _, _, attention, _ = case(2)
    even = attention._replace(class_attention=np.ones(COUNT, np.float32))
    group = groups("prumerge", even, np.ones(COUNT, bool), 4)
    assert group[[0, 25, 50, 75]].tolist() == [0, 1, 2, 3]


def test_equal_tokens_of_a_tile_share_one_root():
    roots = tile_roots(jnp.ones((1, 9, 2)), jnp.ones((1, 9), bool), 3)
    assert np.unique(roots).tolist() == [0]


def test_background_gives_every_tile_its_share():
    _, _, attention, _ = case(3)
    group = groups("background", attention, np.ones(COUNT, bool), 12)
    rows_of_tile = [np.unique(part[part >= 0]).size for part in group.reshape(4, -1)]
    assert rows_of_tile == [3, 3, 3, 3]


def test_evenly_spaced_places_are_exact_where_products_leave_32_bits():
    total, count = 82_944, 60_000
    places = np.asarray(evenly_spaced(jnp.int32(count), jnp.int32(total), count))
    np.testing.assert_array_equal(places, np.arange(count, dtype=np.int64) * total // count)


def test_a_row_is_its_only_token_or_the_weighted_mean_of_its_tokens():
    tokens, importance, attention, _ = case(4)
    group = np.full(COUNT, -1, np.int32)
    group[[7, 3, 50, 51, 99]] = [4, 2, 2, 0, 2]
    weight = attention.class_attention
    for share in (None, weight):
        kept = merge_groups(tokens, importance, group, 6, share)
        some = [3, 50, 99]
        mean = np.average(tokens[some], axis=0, weights=None if share is None else weight[some])
        assert kept.mask.tolist() == [True] * 3 + [False] * 3
        assert kept.keep_index.tolist() == [51, -1, 7, -1, -1, -1] and kept.region.tolist() == [-1, 2, -1, -1, -1, -1]
        np.testing.assert_array_equal(np.asarray(kept.tokens)[[0, 2]], tokens[[51, 7]])
        np.testing.assert_allclose(kept.tokens[1], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(kept.importance[1], importance[some].mean(), rtol=1e-6)
        assert not np.any(kept.tokens[3:]) and np.flatnonzero(kept.is_kept).tolist() == [7, 51]


@pytest.mark.parametrize("rule", RULES)
def test_select_runs_the_rule_on_every_scale_under_its_budget(rule):
    tokens, importance, attention, valid = case(7)
    scale = ScaleTokens(tokens, np.zeros(COUNT, np.int32), valid, attention)
    specs = (ScaleSpec(size_px=70, budget=MAX_BUDGET), ScaleSpec(size_px=140, budget=11))
    cfg = CompressorConfig.paper(scales=specs, selection=rule)
    first, second = jax.jit(functools.partial(select, cfg, (GRID, GRID), (1, 1)))(
        (scale, scale), importance, jnp.array([9, 11])
    )
    assert int(first.mask.sum()) == 9 and int(second.mask.sum()) == 11
    weight = attention.class_attention if rule == "prumerge" else np.ones(COUNT)
    for selection in (first, second):
        group = np.asarray(selection.group)
        np.testing.assert_array_equal(group, groups(rule, attention, valid, int(selection.mask.sum())))
        for row, members in enumerate(group == row for row in range(int(selection.mask.sum()))):
            mean = np.average(tokens[members], axis=0, weights=weight[members])
            np.testing.assert_allclose(selection.tokens[row], mean, rtol=1e-5, atol=1e-6)


def test_a_scale_without_the_towers_attention_is_refused():
    tokens, importance, _, valid = case(0)
    cfg = CompressorConfig.paper(scales=(ScaleSpec(size_px=70, budget=5),), selection="tome")
    with pytest.raises(ValueError, match="tower's attention"):
        select(cfg, (GRID,), (1,), (ScaleTokens(tokens, np.zeros(COUNT, np.int32), valid),), importance, np.array([5]))
