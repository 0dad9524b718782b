"""What is to fit, and the numbers in it that a search may raise until memory ends (fit/limits.py)."""

import dataclasses
from collections.abc import Callable, Mapping

from bat_jax.config import BatConfig
from bat_jax.engine import cost
from bat_jax.train.recipe import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitWork:
    """A config, text lengths, the picture's side, tiles and questions at once; or a training by its recipe.

    tile_batch: of all devices together. questions_at_once: about one picture, in one program; those that it has room
    for. stages_apart: answering stage by stage, as `BatModel(stages_apart=True)` does; else an image is one program and
    a question one. layers: of tower and decoder that are compiled, all by default; what the others hold is added.
    """

    cfg: BatConfig
    text: cost.Text
    tile_batch: int
    image_px: int = 8192
    questions_at_once: int = 1
    recipe: TrainConfig | None = None
    stages_apart: bool = False
    layers: int | None = None

    @property
    def compiled_cfg(self) -> BatConfig:
        """The config that programs are compiled of."""
        if self.layers is None:
            return self.cfg
        cut = self.layers - self.cfg.vision.num_run_layers
        vision = dataclasses.replace(self.cfg.vision, num_layers=self.cfg.vision.num_layers + cut)
        decoder = dataclasses.replace(self.cfg.decoder, num_layers=self.layers)
        return dataclasses.replace(self.cfg, vision=vision, decoder=decoder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of some work on several devices.

    Attributes:
      number: what it is. changed: the work with another one, a multiple of `step`, all else as it is.
      most: the most that means anything, None where nothing but memory ends it.
      power: memory grows nearly evenly with number ** power.
    """

    number: Callable[[FitWork, int], int]
    changed: Callable[[FitWork, int, int], FitWork]
    most: Callable[[FitWork, int], int | None] = lambda work, num_devices: None
    step: Callable[[FitWork, int], int] = lambda work, num_devices: 1
    power: int = 1


def with_kept(cfg: BatConfig, kept: int) -> BatConfig:
    """Return the config with budgets of `kept` tokens in all, in proportion to its own as far as scales have tokens."""
    scales = cfg.compressor.scales
    counts = [cfg.num_tokens(scale.size_px) for scale in scales]
    budgets, free = [0] * len(scales), kept
    # From the scale that is full first: what it cannot take goes to the others.
    order = sorted(range(len(scales)), key=lambda i: counts[i] / scales[i].budget)
    for place, i in enumerate(order):
        share = sum(scales[j].budget for j in order[place:])
        budgets[i] = min(counts[i], round(free * scales[i].budget / share))
        free -= budgets[i]
    pairs = zip(scales, budgets, strict=True)
    return cfg.with_settings(scales=tuple(dataclasses.replace(scale, budget=budget) for scale, budget in pairs))


def with_largest_view(work: FitWork, side_px: int) -> FitWork:
    """Return the work with another largest view, of a picture that is at least as large.

    Raises:
      ValueError: the checkpoint's scale embedding, which is added to the tokens, does not know the view.
    """
    *others, largest = work.cfg.compressor.scales
    scales = (*others, dataclasses.replace(largest, size_px=side_px))
    return dataclasses.replace(work, cfg=work.cfg.with_settings(scales=scales), image_px=max(work.image_px, side_px))


def _even_side(work: FitWork, num_devices: int) -> int:
    """Return the least side of a view, in pixels, whose tiles the devices share evenly, and that of its multiples."""
    tiles = next(side for side in range(1, num_devices + 1) if side**2 % num_devices == 0)
    return tiles * work.cfg.vision.image_size_px


def _most_kept(work: FitWork, num_devices: int) -> int:
    room = work.cfg.decoder.max_positions - work.text.prompt - work.text.answer
    return min(room, cost.total_tokens(work.cfg))


QUANTITIES: Mapping[str, Quantity] = {
    "kept": Quantity(
        number=lambda work, num_devices: sum(work.cfg.compressor.budgets),
        changed=lambda work, num_devices, kept: dataclasses.replace(work, cfg=with_kept(work.cfg, kept)),
        most=_most_kept,
    ),
    # Of each device.
    "tiles": Quantity(
        number=lambda work, num_devices: -(-work.tile_batch // num_devices),
        changed=lambda work, num_devices, tiles: dataclasses.replace(work, tile_batch=tiles * num_devices),
        most=lambda work, num_devices: -(-cost.num_tiles(work.cfg) // num_devices),
    ),
    # The largest view's side in pixels.
    "picture": Quantity(
        number=lambda work, num_devices: work.cfg.compressor.sizes_px[-1],
        changed=lambda work, num_devices, side_px: with_largest_view(work, side_px),
        step=_even_side,
        power=2,
    ),
    "questions": Quantity(
        number=lambda work, num_devices: work.questions_at_once,
        changed=lambda work, num_devices, number: dataclasses.replace(work, questions_at_once=number),
    ),
}
