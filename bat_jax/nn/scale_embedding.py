"""Scale-specific positional embedding (UHR-BAT, arXiv:2604.13565, Sec. 3.3, Eq. 5): h_i = e_i + p_i + q.

Two forms of weights, two ways to lay a grid over a view, each its own setting:

  form "base"      one base grid p (G, G, D) for all scales and a vector q per scale (the paper)
  form "residual"  one learned grid per scale, no q (the authors' release)
  extent "scale"   the grid is stretched over the whole view, so that tokens of different tiles differ (the paper)
  extent "tile"    the grid is squeezed onto one tile and added alike to every tile (the release)
"""

import flax.linen as nn
import jax.numpy as jnp

from bat_jax.config import ScaleEmbeddingConfig
from bat_jax.ops.interpolate import resize_bilinear
from bat_jax.typing import Array, Float


class ScaleEmbedding(nn.Module):
    """The learned grids; `cfg.form` must not be "none"."""

    cfg: ScaleEmbeddingConfig

    def setup(self):
        cfg = self.cfg
        init = nn.initializers.normal(cfg.width**-0.5)
        if cfg.form == "base":
            self.base = self.param("base", init, (cfg.base_side, cfg.base_side, cfg.width))
            self.scale = self.param("scale", init, (len(cfg.scales_px), cfg.width))
        else:
            self.residual = {
                size: self.param(f"residual_{size}", init, (side, side, cfg.width))
                for size, side in zip(cfg.scales_px, cfg.sides, strict=True)
            }

    def __call__(self, scale_px: int, side: int) -> Float[Array, "Q Q D"]:
        """Return the embedding of a scale, resized bilinearly to `side` x `side` tokens, float32.

        Args:
          scale_px: one of `cfg.scales_px`.
          side: the whole view's tokens along a side for extent "scale", a tile's for extent "tile".
        """
        if scale_px not in self.cfg.scales_px:
            raise ValueError(f"scales={scale_px}: the scale embedding knows {list(self.cfg.scales_px)} only")
        if self.cfg.form == "base":
            vector = self.scale[self.cfg.scales_px.index(scale_px)]
            return resize_bilinear(self.base, side) + vector.astype(jnp.float32)
        return resize_bilinear(self.residual[scale_px], side)

    def all_scales(self) -> list[Float[Array, "Q Q D"]]:
        """Return every scale's embedding at side 1; initialises all parameters in one call."""
        return [self(size, 1) for size in self.cfg.scales_px]
