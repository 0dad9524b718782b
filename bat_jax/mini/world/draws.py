"""Draw by chance in whole numbers, the same on every machine and with every version of NumPy.

NumPy promises that the raw bits of PCG64 never change; what `Generator` makes of them may. So the few kinds of draws
that a scene needs are made here, from the raw bits, without any floating point.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """A stream of draws. Streams of other seeds, or other `stream` numbers, are independent."""

    def __init__(self, seed: int, stream: int = 0):
        self._bits = np.random.PCG64([seed, stream])

    def below(self, n: int) -> int:
        """Draw from 0, 1, ..., n - 1. The bias of multiply-and-shift is below n / 2^64."""
        return (int(self._bits.random_raw()) * n) >> 64

    def between(self, low: int, high: int) -> int:
        """Draw from low, ..., high, both included."""
        return low + self.below(high - low + 1)

    def percent(self, chance: int) -> bool:
        """Return True with a chance of so many in a hundred."""
        return self.below(100) < chance

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order (Fisher-Yates)."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def sample(self, items: Sequence[T], num: int) -> list[T]:
        """Return `num` different items in a random order."""
        if num > len(items):
            raise ValueError(f"num={num}: there are {len(items)} items to draw from")
        return self.shuffled(items)[:num]
