"""Shape types, in one place.

Letters, everywhere in this project (einsum strings, shape types, prose): B batch, T query length, S key length (slots),
N query heads, K key-value heads, H head dim, D decoder width, E vision width, F mlp width, V vocabulary, L layers,
I tiles of a scale, P patches of a tile, M candidate tokens of a scale (I * P), J kept tokens, R regions, C channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Shaped, UInt8, UInt32

Array = jax.Array | np.ndarray
# An array, or its shape and dtype alone: of functions that only hand it on, to stages that may not be run.
ArrayOrShape = Any
Params = Mapping[str, Any]

__all__ = ["Array", "ArrayOrShape", "Bool", "Float", "Int", "Key", "Params", "Shaped", "UInt8", "UInt32"]
