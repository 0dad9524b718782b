"""The most of something that a device holds, by few compilations: memory grows nearly along a straight line."""

from collections.abc import Callable

_MOST_TRIALS = 4
_CLOSE_ENOUGH = 0.05
_MARGIN = 0.01


def largest(
    peak_of: Callable[[int], int],
    known: int,
    known_peak: int,
    usable: int,
    *,
    base: int = 0,
    most: int | None = None,
    step: int = 1,
    power: int = 1,
) -> int:
    """Return a number from `known` on whose peak is at most `usable`, where neither a step nor a twentieth more fits.

    What is returned was tried itself (or is `known`). That no more fits is what a straight line through the two
    nearest numbers that were tried says, of which one may be too large.

    Args:
      peak_of: number -> peak in bytes; called at most four times.
      known, known_peak: a number that fits. base: bytes that are there with none.
      most: no larger number means anything. step: only its multiples do. power: peaks grow with number ** power.
    """
    below, low, high = (0, base), (known, known_peak), None
    for _ in range(_MOST_TRIALS):
        first, second = (below, low) if high is None else (low, high)
        end = most if high is None else high[0] - step
        done = low[0] ** power
        line = max(second[1] - first[1], 1) / (second[0] ** power - first[0] ** power)
        meets = done + (usable - low[1]) / line
        reach = meets if high is None else min(meets, high[0] ** power)
        if reach - done <= _CLOSE_ENOUGH * done or (end is not None and end <= low[0]):
            break
        guess = max(int((meets * (1 - _MARGIN)) ** (1 / power)) // step * step, low[0] + step)
        guess = guess if end is None else min(guess, end)
        peak = peak_of(guess)
        if peak <= usable:
            below, low = low, (guess, peak)
        else:
            high = (guess, peak)
    return low[0]
