"""K-means against Lloyd's algorithm in plain NumPy float64, one compiled program for all cases.

Every claim is asked of rows that are written out, and of rows held as factors, as an accelerator holds them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.ops import segment
from bat_jax.ops.kmeans import ScaledRows, kmeans, kmeans_of_scaled, nearest_centre, random_rows

NUM_ROWS, WIDTH, MAX_CLUSTERS = 40, 3, 8


def kmeans_in_factors(rows, valid, init_index, num_clusters, max_steps):
    """Take the first column for features, twice as large and scaled by a half, and the others for coordinates."""
    factors = ScaledRows(2 * rows[:, :1], jnp.full(rows.shape[0], 0.5), rows[:, 1:])
    return kmeans_of_scaled(factors, valid, rows[init_index], num_clusters, max_steps)


@pytest.fixture(scope="module", params=["written out", "factors", "factors in blocks"])
def run(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "factors in blocks":
            patch.setattr(segment, "LARGEST_BLOCK", 16)  # 40 rows: two whole blocks and a half
            patch.setattr(segment, "SMALLEST_BLOCK", 12)
        program = jax.jit(kmeans if request.param == "written out" else lambda *args: kmeans_in_factors(*args))
        program(*random_case(np.random.default_rng(0)))  # traced while the blocks are small
    return program


def lloyd(rows, valid, init, num_clusters, max_steps):
    """Return labels of the last assignment made, assignments made, and how near a wrong decision was.

    An empty cluster keeps its centre; a tie goes to the lower id; it stops once no centre moves by more than
    1e-8 + 1e-5 of its size.
    """
    rows = rows.astype(np.float64)
    num_clusters = min(num_clusters, int(valid.sum()))
    centres = [rows[i].copy() for i in init[:num_clusters]]
    labels, margin, steps = np.full(len(rows), -1), np.inf, 0
    while steps < max(max_steps, 1):
        steps += 1
        for i in np.flatnonzero(valid):
            distances = [float(np.sum((rows[i] - centre) ** 2)) for centre in centres]
            labels[i] = min(range(num_clusters), key=lambda m: (distances[m], m))
            # Equal centres tie exactly in any arithmetic; what is nearly equal may round either way.
            others = [d for d, c in zip(distances, centres, strict=True) if np.any(c != centres[labels[i]])]
            margin = min([margin] + [d - distances[labels[i]] for d in others])
        is_still = True
        for m in range(num_clusters):
            members = rows[labels == m]
            if len(members):
                moved = members.mean(axis=0)
                is_still &= bool(np.all(np.abs(moved - centres[m]) <= 1e-8 + 1e-5 * np.abs(centres[m])))
                centres[m] = moved
        if is_still:
            break
    return labels, steps, margin


def random_case(rng):
    rows = rng.normal(size=(NUM_ROWS, WIDTH)).astype(np.float32)
    valid = rng.random(NUM_ROWS) < rng.choice([0.1, 0.6, 1])
    if not valid.any():
        valid[3] = True
    order = np.concatenate([rng.permutation(np.flatnonzero(valid)), rng.permutation(np.flatnonzero(~valid))])
    num_clusters, max_steps = int(rng.integers(1, MAX_CLUSTERS + 1)), int(rng.integers(0, 15))
    if num_clusters > 2 and rng.random() < 0.4:
        rows[order[1]] = rows[order[0]]  # two centres on one spot: the second one's cluster is empty
    return rows, valid, order[:MAX_CLUSTERS].astype(np.int32), num_clusters, max_steps


def test_labels_and_steps_equal_lloyds_algorithm(run):
    rng = np.random.default_rng(0)
    num_compared = num_stopped_early = num_empty = 0
    for _ in range(250):
        rows, valid, init, num_clusters, max_steps = random_case(rng)
        labels, steps, margin = lloyd(rows, valid, init, num_clusters, max_steps)
        if margin < 1e-5:
            continue
        result = run(rows, valid, init, num_clusters, max_steps)
        np.testing.assert_array_equal(result.label, labels)
        assert int(result.num_steps) == steps
        num_compared += 1
        num_stopped_early += steps < max_steps
        num_empty += len(np.unique(labels[valid])) < min(num_clusters, valid.sum())
    assert num_compared > 230
    assert num_stopped_early > 50
    assert num_empty > 20


def test_what_stands_behind_the_first_k_of_the_padded_centres_changes_nothing(run):
    rng = np.random.default_rng(1)
    for num_clusters in range(1, MAX_CLUSTERS):
        rows, valid, init, _, _ = random_case(rng)
        other = init.copy()
        other[num_clusters:] = rng.integers(0, NUM_ROWS, MAX_CLUSTERS - num_clusters)
        first, second = run(rows, valid, init, num_clusters, 10), run(rows, valid, other, num_clusters, 10)
        np.testing.assert_array_equal(first.label, second.label)
        assert np.asarray(first.label).max() < num_clusters


def test_a_traced_k_gives_what_a_static_k_gives(run):
    rng = np.random.default_rng(2)
    rows, valid, init, _, _ = random_case(rng)
    for num_clusters in (1, 3, 5):
        static = jax.jit(run.__wrapped__, static_argnums=(3, 4))(rows, valid, init[:num_clusters], num_clusters, 10)
        np.testing.assert_array_equal(run(rows, valid, init, num_clusters, 10).label, static.label)


def test_all_cluster_counts_and_steps_share_one_program(run):
    before = run._cache_size()
    rows, valid, init, _, _ = random_case(np.random.default_rng(3))
    for num_clusters in (1, 4, 8):
        for max_steps in (1, 7):
            run(rows, valid, init, num_clusters, max_steps)
    assert run._cache_size() <= max(before, 1)


def test_rows_that_are_not_valid_get_minus_one_and_pull_no_centre(run):
    rng = np.random.default_rng(4)
    for _ in range(20):
        rows, valid, init, num_clusters, max_steps = random_case(rng)
        result = run(rows, valid, init, num_clusters, max_steps)
        np.testing.assert_array_equal(np.asarray(result.label) >= 0, valid)
        moved = np.where(valid[:, None], rows, 1e4).astype(np.float32)
        # Only valid rows may start as centres here, since the others' values change.
        if num_clusters <= valid.sum():
            np.testing.assert_array_equal(run(moved, valid, init, num_clusters, max_steps).label, result.label)
            moved[~valid] = np.nan
            np.testing.assert_array_equal(run(moved, valid, init, num_clusters, max_steps).label, result.label)


def test_no_valid_row_at_all_is_no_error(run):
    rows, _, init, _, _ = random_case(np.random.default_rng(5))
    result = run(rows, np.zeros(NUM_ROWS, bool), init, 4, 10)
    assert set(np.asarray(result.label).tolist()) == {-1}


def pad(points):
    """Put a few points on a line into the program's fixed shape."""
    rows = np.zeros((NUM_ROWS, WIDTH), np.float32)
    rows[: len(points), 0] = points
    return rows, np.arange(NUM_ROWS) < len(points)


def test_a_tie_goes_to_the_lower_id(run):
    """Point 2 is as far from centre 0 as from centre 4, in numbers that float32 holds exactly."""
    rows, valid = pad([0, 4, 2])
    for centres in ([0, 1], [1, 0]):
        init = np.pad(np.array(centres, np.int32), (0, MAX_CLUSTERS - 2))
        label = np.asarray(run(rows, valid, init, 2, 1).label[:3])
        assert label[2] == 0
        assert label[centres[0]] == 0 and label[centres[1]] == 1


def test_an_empty_cluster_keeps_its_centre_and_may_win_rows_later(run):
    """Centres 0 and 1 both start at 0, so 1 is empty; 0 moves to 2, and now the empty 1 is nearest to the zeros."""
    rows, valid = pad([0, 0, 6])
    init = np.pad(np.array([0, 1], np.int32), (0, MAX_CLUSTERS - 2))
    assert run(rows, valid, init, 2, 1).label[:3].tolist() == [0, 0, 0]
    assert run(rows, valid, init, 2, 2).label[:3].tolist() == [1, 1, 0]


def test_labels_are_those_of_the_last_assignment_and_not_of_the_last_centres(run):
    """4.5 is nearer to 0 than to 10; the first update moves the centres to 0.9 and 8, and 4.5 changes sides."""
    rows, valid = pad([0, 0, 0, 0, 4.5, 10, 6])
    init = np.pad(np.array([0, 5], np.int32), (0, MAX_CLUSTERS - 2))
    one, two, many = (run(rows, valid, init, 2, max_steps) for max_steps in (1, 2, 100))
    assert one.label[:7].tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert two.label[:7].tolist() == [0, 0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(many.label, two.label)
    assert [int(result.num_steps) for result in (one, two, many)] == [1, 2, 3], "the third moves no centre"


def test_more_clusters_than_valid_rows_use_as_many_as_there_are(run):
    rows, valid = pad([5, 1, 3])
    init = np.array([0, 1, 2, 10, 11, 12, 13, 14], np.int32)
    assert run(rows, valid, init, MAX_CLUSTERS, 10).label[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("block", [7, 16, 4096])
def test_the_nearest_centre_is_the_same_in_blocks(block, monkeypatch):
    monkeypatch.setattr(segment, "LARGEST_BLOCK", block)
    monkeypatch.setattr(segment, "SMALLEST_BLOCK", min(block, 5))
    rng = np.random.default_rng(6)
    rows, centres = rng.normal(size=(33, 4)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    is_centre = np.array([True, True, False, True, True, False])
    distance = np.sum((rows[:, None].astype(np.float64) - centres) ** 2, axis=-1)
    expected = np.argmin(np.where(is_centre, distance, np.inf), axis=1)
    np.testing.assert_array_equal(nearest_centre(rows, centres, is_centre), expected)


def test_random_rows_are_distinct_valid_first_and_a_function_of_the_key():
    valid = jnp.asarray(np.random.default_rng(7).random(30) < 0.5)
    num_valid = int(valid.sum())
    draws = [np.asarray(random_rows(jax.random.key(seed), valid, 30)) for seed in (0, 0, 1)]
    for draw in draws:
        assert sorted(draw) == list(range(30))
        assert np.all(np.asarray(valid)[draw[:num_valid]])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_random_rows_draw_every_valid_row_alike():
    """4000 draws of 1 of 8 valid rows: each within 5 standard deviations of 500."""
    valid = jnp.arange(12) < 8
    keys = jax.random.split(jax.random.key(0), 4000)
    first = jax.jit(jax.vmap(lambda key: random_rows(key, valid, 1)[0]))(keys)
    counts = np.bincount(first, minlength=12)
    assert not counts[8:].any()
    assert np.all(np.abs(counts[:8] - 500) < 5 * np.sqrt(4000 * 1 / 8 * 7 / 8))
