"""No compression: every token of every view, in order, where budgets and decoder hold them."""

from bat_jax.compress.candidates import by_scale
from bat_jax.compress.groups import each_alone
from bat_jax.config import BatConfig, SelectionRule


def _check(cfg: BatConfig, budgets: tuple[int, ...], num_images: int) -> None:
    """Refuse views that the budgets or the decoder's positions do not hold, and budgets that images share."""
    sizes, counts = list(cfg.compressor.sizes_px), [cfg.num_tokens(size) for size in cfg.compressor.sizes_px]
    if num_images > 1:
        raise ValueError(f"selection='dense': keeps all tokens of one image; {num_images} images have no room for that")
    if list(budgets) != counts:
        raise ValueError(
            f"selection='dense': the views {sizes} have {counts} tokens, the budgets are {list(budgets)}; "
            f"give --budgets={','.join(map(str, counts))}, or fewer --scales"
        )
    limit = cfg.decoder.max_positions
    if sum(counts) >= limit:
        raise ValueError(
            f"selection='dense': the views {sizes} have {sum(counts)} tokens together, the decoder {limit} positions; "
            "give fewer --scales"
        )


SELECTION = SelectionRule(
    name="dense",
    title="all tokens",
    source="no compression",
    difference="budgets must hold every token and the decoder every position, else an error says which sizes do "
    "not fit",
    needs=(),
    choose=by_scale(lambda scale: scale.merge(each_alone(scale.valid, scale.budget))),
    check=_check,
    shown_in=(),
    place=11,
)
