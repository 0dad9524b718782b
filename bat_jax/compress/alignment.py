"""Cross-scale importance alignment (UHR-BAT, arXiv:2604.13565, Sec. 3.3, Eq. 6-7, App. C.3, Eq. 16)."""

import jax

from bat_jax.ops.interpolate import resize_bilinear, resize_bilinear_masked
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float


def align_importance(
    anchor: Float[Array, "M1"],
    anchor_grid: TokenGrid,
    grid: TokenGrid,
    anchor_valid: Bool[Array, "M1"] | None = None,
) -> Float[Array, "M"]:
    """Carry the anchor's scores to another scale: a = Psi(A_anchor, tau(u, v)), bilinear at every token's centre.

    A patch token covers one grid cell, so the mean of Eq. 7 is that cell's value. On the anchor's own grid it is the
    identity.

    Args:
      anchor: importance of the anchor's tokens, tile-major.
      anchor_grid, grid: the two scales' grids.
      anchor_valid: False for padding tokens, whose scores are left out of the interpolation; None uses all, as the
        authors' release does.
    """
    with jax.named_scope("align_importance"):
        scores = anchor_grid.to_grid(anchor)
        if anchor_valid is None:
            aligned = resize_bilinear(scores, grid.full_side)
        else:
            aligned = resize_bilinear_masked(scores, anchor_grid.to_grid(anchor_valid), grid.full_side)
        return grid.to_tiles(aligned)
