"""Products at float32's precision on units that multiply bfloat16.

A float32 is the sum of three bfloat16, and a product of two bfloat16 is exact in float32. Where one operand is bfloat16
already (features, a one-hot matrix), three fast products replace the slow one of float32, with no larger error.
"""

import jax
import jax.numpy as jnp

from bat_jax.typing import Array, Float

# bfloat16 has 8 significant bits, of which 7 are stored; three of them hold float32's 24.
NUM_PIECES = 3


def bfloat16_pieces(values: Float[Array, "*shape"]) -> tuple[jax.Array, ...]:
    """Return bfloat16 arrays whose sum is `values`, the largest first; one for bfloat16, three for float32.

    Exact but for magnitudes below about 1e-33, whose last pieces are too small for float32's exponents.
    """
    values = jnp.asarray(values)
    if values.dtype == jnp.bfloat16:
        return (values,)
    pieces, rest = [], values.astype(jnp.float32)
    for _ in range(NUM_PIECES):
        # Not a cast there and back: XLA may take it for superfluous, and the next piece would be 0.
        piece = jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7)
        pieces.append(piece.astype(jnp.bfloat16))
        rest = rest - piece
    return tuple(pieces)


def float32_product(subscripts: str, first: Float[Array, "*a"], second: Float[Array, "*b"]) -> Float[jax.Array, "*c"]:
    """Return the einsum of two operands in float32, by exact products and sums in float32.

    A bfloat16 `first` is multiplied by the pieces of `second`; a float32 one at precision "highest".
    """
    if first.dtype != jnp.bfloat16:
        return jnp.einsum(subscripts, first, second, precision="highest", preferred_element_type=jnp.float32)
    products = (
        jnp.einsum(subscripts, first, piece, preferred_element_type=jnp.float32) for piece in bfloat16_pieces(second)
    )
    # The small ones first, so that they are not lost one by one.
    return sum(reversed(list(products)), start=jnp.float32(0))
