"""The mean of values that stand in clusters: its interval, and p-values of its being above or below a limit.

Questions about one scene share its picture, so their values lean the same way: scenes are what is independent.

    many clusters   mean +- t * sqrt(G / (G - 1) * sum over G clusters of (sum of its (v_i - mean))^2) / n
    few             signs of whole clusters are flipped: if the mean is d, sums of (v_i - d) are as likely of either
                    sign, and p is the share of flips whose sum is at least as far out as the one that was seen

The first is cluster-robust (Liang and Zeger 1986) with Student's t of G - 1 degrees of freedom; with a value a cluster
it is the paired t-test's. The second is exact where all 2^G flips are made. There, flipping a set of clusters is at
least as far out just where the mean over that set is at most d, so the ends of the interval are quantiles of means over
subsets of clusters ("typical values", Hartigan 1969).
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from bat_jax.study.measured.rules import Rules, SignFlips

# Of a mean's own size: what sums of floats in another order may differ by.
_ROUNDING = 1e-9


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    middle: float
    low: float
    high: float

    def text(self, form: str = "+.1f") -> str:
        """Write it: "+1.2 [-0.3, +2.7]", or "61 [55, 67]" for a share (form=".0f")."""
        middle, low, high = (f"{value:{form}}" for value in self)
        return f"{middle} [{low}, {high}]"


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterMean:
    """sums, counts (G,): of every cluster's values."""

    sums: np.ndarray
    counts: np.ndarray
    rules: Rules

    @property
    def num_clusters(self) -> int:
        return len(self.sums)

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())

    @functools.cached_property
    def _error(self) -> float:
        """The standard error."""
        spread = float(np.sum((self.sums - self.mean * self.counts) ** 2))
        return math.sqrt(spread * self.num_clusters / (self.num_clusters - 1)) / float(self.counts.sum())

    @functools.cached_property
    def _subset_means(self) -> np.ndarray | None:
        """Means over subsets of clusters, ascending; None where t is taken."""
        if self.num_clusters >= self.rules.sign_flips.below_clusters:
            return None
        is_in = _subsets(self.num_clusters, self.rules.sign_flips)
        return np.sort((is_in @ self.sums) / (is_in @ self.counts))

    def p_above(self, limit: float) -> float:
        """Return the p-value against "the mean is at most `limit`", one-sided."""
        if (means := self._subset_means) is not None:
            return float(1 + np.searchsorted(means, limit + _ROUNDING, side="right")) / (1 + len(means))
        return self._p_student(limit - self.mean)

    def p_below(self, limit: float) -> float:
        """Return the p-value against "the mean is at least `limit`", one-sided."""
        if (means := self._subset_means) is not None:
            return float(1 + len(means) - np.searchsorted(means, limit - _ROUNDING)) / (1 + len(means))
        return self._p_student(self.mean - limit)

    def _p_student(self, distance: float) -> float:
        if not self._error:
            return float(distance >= 0)
        return float(stdtr(self.num_clusters - 1, distance / self._error))

    def interval(self) -> Interval:
        """Return the limits that neither test rejects at alpha / 2."""
        level = self.rules.alpha / 2
        if (means := self._subset_means) is None:
            half = float(stdtrit(self.num_clusters - 1, 1 - level)) * self._error
            return Interval(self.mean, self.mean - half, self.mean + half)
        # The flip that changes nothing counts as far out at any limit.
        place = math.floor(level * (1 + len(means)) + _ROUNDING) - 1
        if place < 0:
            return Interval(self.mean, -math.inf, math.inf)
        return Interval(self.mean, float(means[place]), float(means[-1 - place]))


@functools.lru_cache(maxsize=64)
def _subsets(num_clusters: int, flips: SignFlips) -> np.ndarray:
    """Return which clusters are flipped, (N, G) of 0 and 1: all ways but none, or drawn ones."""
    if 2**num_clusters <= flips.num:
        return ((np.arange(1, 2**num_clusters)[:, None] >> np.arange(num_clusters)) & 1).astype(float)
    drawn = np.random.default_rng(flips.seed).integers(0, 2, (flips.num, num_clusters))
    return drawn[drawn.any(axis=1)].astype(float)


def cluster_mean(values: Sequence[float], clusters: Sequence[Hashable], rules: Rules) -> ClusterMean:
    """Return the mean of values, each of which stands in a cluster.

    Raises:
      ValueError: there are no values, or not as many clusters' names.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(f"need values and a cluster for each, got {len(values)} and {len(clusters)}")
    _, place = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
    counts = np.bincount(place).astype(float)
    return ClusterMean(np.bincount(place, weights=np.asarray(values, float)), counts, rules)
