"""Dividing a number in whole parts: kept tokens among the views, a view's among images, questions among sub-tasks."""

import math
from collections.abc import Sequence

from bat_jax.config import BatConfig


def image_shares(cfg: BatConfig, budgets: Sequence[int], num_images: int) -> tuple[tuple[int, ...], ...]:
    """Divide every B_s among images shown together, the remainder to the first ones; as the release does.

    Returns:
      Every image's budgets, in order. Under the prompt setting images="first" the first image's alone are used.

    Raises:
      ValueError: the selection cannot run with these budgets or so many images.
    """
    if cfg.compressor.rule.check:
        cfg.compressor.rule.check(cfg, tuple(budgets), num_images)
    return tuple(tuple(b // num_images + (image < b % num_images) for b in budgets) for image in range(num_images))


def pruned_budgets(prune: float, budgets: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    """Return the budgets that leave out a share of all tokens, in the proportions of other budgets.

    Args:
      prune: share of the tokens to leave out, 0 to 1. counts: tokens of every view.
    """
    return share_out(math.floor(sum(counts) * (1 - prune) + 1e-6), budgets, counts)


def share_out(total: int, weights: Sequence[int], limits: Sequence[int]) -> tuple[int, ...]:
    """Divide a number in proportion to weights, each part at most its limit; the parts sum to it.

    What a limit cuts off goes to the others in proportion; remainders go to the largest fractions, then to the last.

    Raises:
      ValueError: the limits do not hold the number.
    """
    if not 0 <= total <= sum(limits):
        raise ValueError(f"total={total}: must be from 0 to {sum(limits)}")
    parts, open_ = [0] * len(weights), set(range(len(weights)))
    while True:
        left = total - sum(parts[i] for i in range(len(parts)) if i not in open_)
        ideal = {i: left * weights[i] / sum(weights[k] for k in open_) for i in open_}
        full = {i for i in open_ if ideal[i] > limits[i]}
        if not full:
            break
        for i in full:
            parts[i] = limits[i]
        open_ -= full
    for i in open_:
        parts[i] = math.floor(ideal[i])
    by_fraction = sorted(open_, key=lambda i: (parts[i] - ideal[i], -i))
    for i in [i for i in by_fraction if parts[i] < limits[i]][: total - sum(parts)]:
        parts[i] += 1
    return tuple(parts)
