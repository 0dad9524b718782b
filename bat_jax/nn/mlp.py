"""The two-layer GELU perceptron: LLaVA's "mlp2x_gelu" projector and the release's token MLP."""

import flax.linen as nn
import jax

from bat_jax.config import MlpConfig
from bat_jax.typing import Array, Float


class GeluMlp(nn.Module):
    """linear_2(gelu(linear_1(x))) with exact (erf) GELU.

    As projector it is phi of UHR-BAT (arXiv:2604.13565), Sec. 3.2, Eq. 1: vision width E to decoder width D. As token
    MLP (authors' release only, the paper has none) it maps the selected tokens D to D, after merging.
    """

    cfg: MlpConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
        x = nn.Dense(self.cfg.out_dim, name="linear_1")(x)
        return nn.Dense(self.cfg.out_dim, name="linear_2")(jax.nn.gelu(x, approximate=False))
