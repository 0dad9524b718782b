"""FastV (Chen et al. 2024, arXiv:2403.06764, Sec. 4), with the anchor's attention in the place of all tokens'.

FastV lets all visual tokens through the decoder's first K layers and then drops those that received the least attention
in layer K, on average over all tokens. Here the question meets the anchor before it meets the finer views, so what
exists at decoder level is the anchor's attention: layer K (`CompressorConfig.fastv_layer`, 2 as in the paper) is read
at the prompt's last token, mean over heads, aligned with the finer scales as importance is, and the best of each scale
are kept. Dropped tokens never enter the decoder.
"""

from bat_jax.compress.candidates import by_scale
from bat_jax.config import BatConfig, SelectionRule


def _check(cfg: BatConfig, budgets: tuple[int, ...], num_images: int) -> None:
    """Refuse a layer that the decoder does not have."""
    layer, num_layers = cfg.compressor.fastv_layer, cfg.decoder.num_layers
    if layer > num_layers:
        raise ValueError(f"fastv_layer={layer}: the decoder has {num_layers} layers")


SELECTION = SelectionRule(
    name="fastv",
    title="FastV",
    source="FastV, Chen et al. 2024, arXiv:2403.06764",
    difference="reads layer K (`fastv_layer`, 2) at the prompt's last token over the anchor, aligned to finer scales; "
    "there, the mean over all tokens' rows, and dropped tokens are seen by the first K layers, here never",
    choose=by_scale(lambda scale: scale.keep_top()),
    attention=lambda cfg: (cfg.fastv_layer - 1, "last_token"),
    check=_check,
    shown_in=("grids",),
    place=3,
)
