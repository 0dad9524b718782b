"""Budgets of views: shares of a total in proportion, within what there is."""

import hypothesis
import pytest
from hypothesis import strategies as st

from bat_jax.compress.budgets import pruned_budgets, share_out


def test_budgets_of_the_mini_model_at_three_shares_of_pruning():
    limits, weights = (256, 1024, 4096, 9216), (20, 70, 190, 449)
    found = [pruned_budgets(prune, weights, limits) for prune in (0.85, 0.95, 0.975)]
    assert [sum(budgets) for budgets in found] == [2188, 729, 364]
    assert found[1] == weights
    assert found[2] == (10, 35, 95, 224)


@hypothesis.given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 60)), min_size=1, max_size=5), st.data())
def test_shares_sum_to_the_total_within_limits_and_in_proportion(parts, data):
    weights, limits = zip(*parts, strict=True)
    total = data.draw(st.integers(0, sum(limits)))
    shares = share_out(total, weights, limits)
    assert sum(shares) == total
    assert all(0 <= share <= limit for share, limit in zip(shares, limits, strict=True))
    free = [i for i in range(len(parts)) if shares[i] < limits[i]]
    ratios = [(shares[i] - 1) / weights[i] for i in free], [(shares[i] + 1) / weights[i] for i in free]
    assert not free or max(ratios[0]) <= min(ratios[1]) + 1e-9
    with pytest.raises(ValueError, match="total="):
        share_out(sum(limits) + 1, weights, limits)
