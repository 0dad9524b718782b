"""The paper's ablations as grids of settings, carried over to any model by one stated rule, with the paper's numbers.

The paper's budgets and cluster counts belong to its 131,328 tokens of four views. For a model whose views have N tokens
together, every such number is multiplied by N / 131,328 and rounded, at least 1 (0 stays 0): the share of tokens kept
is then the paper's. The mini model's grid is the paper's at a ninth, so 4k tokens become 444 and 600 clusters 67.
Picture sizes are carried over by the finest view in the same way (4032 pixels in the paper).

A grid of the paper's tells which column of which table each of its cells redoes; grids of our own have no such column.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from bat_jax.compress.budgets import pruned_budgets
from bat_jax.config import BatConfig
from bat_jax.config.selections import shown_in
from bat_jax.study.paper.published import TABLES

PAPER_TOKENS = 131_328
PAPER_FINEST_PX = 4032
# What each view keeps in Tables 6 and 7, and in Appendix A, after which other totals are divided.
_TABLE_6 = (120, 320, 600, 2400)
_APPENDIX_A = (80, 320, 600, 2000)
_NUM_SEEDS = 5
# Totals that selections are compared at, in thousands of the paper's tokens.
KEPT_THOUSANDS = (1, 2, 3, 4, 6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of a grid.

    Attributes:
      name: of the row. column: of the table that it makes with others; "" where there is one only.
      settings: fields of CompressorConfig that differ from the checkpoint's.
      budgets: tokens kept of every view, coarse to fine; 0 leaves a view out.
      picture_px: most pixels of the picture's long side, where the grid varies it.
      seed: of K-means' first centres.
      published: the paper's numbers for this cell, by column of its table (percent); empty for our own.
    """

    name: str
    column: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    budgets: tuple[int, ...]
    picture_px: int | None = None
    seed: int = 0
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """Unique in its grid."""
        return f"{self.name} | {self.column}" if self.column else self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings that are compared with each other. name: as the command line has it."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    note: str = ""


class Scaling:
    """Carries the paper's numbers over to a model."""

    def __init__(self, cfg: BatConfig):
        """Wrap a model's config.

        Raises:
          ValueError: it has not four views, as the paper's has.
        """
        self.cfg = cfg
        self.sizes_px = cfg.compressor.sizes_px
        if len(self.sizes_px) != len(_APPENDIX_A):
            raise ValueError(f"scales={list(self.sizes_px)}: the paper's grids are for four views")
        self.factor = sum(cfg.num_tokens(px) for px in self.sizes_px) / PAPER_TOKENS

    def number(self, count: int) -> int:
        """Return what `count` tokens or clusters of the paper are here."""
        return max(1, round(count * self.factor)) if count else 0

    def budgets(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Return the same for each view, at most the view's tokens."""
        limits = (self.cfg.num_tokens(px) for px in self.sizes_px)
        return tuple(min(self.number(count), limit) for count, limit in zip(counts, limits, strict=True))

    def total(self, count: int) -> tuple[int, ...]:
        """Divide a total of the paper among the views as its default budgets do."""
        return self.budgets(tuple(round(part * count / sum(_APPENDIX_A)) for part in _APPENDIX_A))

    def thousands(self, text: str) -> tuple[int, ...]:
        """Return the same for a total as tables write it: "4k"."""
        return self.total(1000 * int(text[:-1]))

    def picture_px(self, side: int) -> int:
        """Return the side of a picture that is to the finest view as the paper's `side` is to its own."""
        return round(side * self.sizes_px[-1] / PAPER_FINEST_PX)


def _published(number: int, row: str) -> dict[str, float]:
    return {column: cell.value for column, cell in TABLES[number].rows[row].items()}


def table_5(cfg: BatConfig) -> Grid:
    """Picture size against kept tokens."""
    scaling = Scaling(cfg)
    cells = (
        Cell(
            name=f"{kept} of {side}",
            budgets=scaling.thousands(kept),
            picture_px=scaling.picture_px(pixels),
            published=_published(5, f"{kept} of {side}"),
        )
        for side, pixels in (("8k", 8192), ("4k", 4096))
        for kept in ("3k", "4k")
    )
    return Grid(
        name="table5",
        title="Resolution of the picture and kept tokens",
        cells=tuple(cells),
        note="scenes are painted at the size, files down-sampled to it; the views are the same",
    )


def table_6(cfg: BatConfig) -> Grid:
    """The budget of one view, the others as they are; also Figure 4."""
    scaling = Scaling(cfg)
    cells = []
    for row, group in TABLES[6].group.items():
        place = ("672", "1344", "2688", "4032").index(group)
        value = int(row.partition("K=")[2])
        counts = tuple(value if index == place else count for index, count in enumerate(_TABLE_6))
        name = f"{cfg.compressor.sizes_px[place]} px: {scaling.number(value)}"
        cells.append(Cell(name=name, budgets=scaling.budgets(counts), published=_published(6, row)))
    return Grid(
        name="table6",
        title="Budget of one view, the others at the paper's 120/320/600/2400",
        cells=tuple(cells),
        note="with K = 0 of the anchor its tokens still score the others; none of them is kept",
    )


def table_7(cfg: BatConfig) -> Grid:
    """The number of clusters; also Figure 3, left."""
    scaling = Scaling(cfg)
    cells = []
    for row in TABLES[7].rows:
        count = scaling.number(int(row.removeprefix("k=")))
        settings = {"partition": "kmeans", "num_clusters": count}
        budgets, published = scaling.budgets(_TABLE_6), _published(7, row)
        cells.append(Cell(name=f"{count} clusters", settings=settings, budgets=budgets, published=published))
    return Grid(name="table7", title="Number of clusters", cells=tuple(cells))


def table_8(cfg: BatConfig) -> Grid:
    """Region partition against kept tokens; regular squares are ours."""
    scaling, rows = Scaling(cfg), TABLES[8].rows
    partitions = {"BIRCH": "birch", "K-means": "kmeans", "SAM": "sam", "regular grid (ours)": "grid"}
    cells = (
        Cell(
            name=row,
            column=column,
            settings={"partition": partition},
            budgets=scaling.thousands(column),
            published={column: rows[row][column].value} if row in rows else {},
        )
        for row, partition in partitions.items()
        for column in rows["SAM"]
    )
    return Grid(
        name="table8",
        title="Region partition and kept tokens",
        cells=tuple(cells),
        note="SAM's regions are the scene's own masks of land, sites and objects where the benchmark has them",
    )


def table_9(cfg: BatConfig) -> Grid:
    """Context length of models without compression: here, the picture pooled to as many tokens."""
    scaling = Scaling(cfg)
    cells = (
        Cell(
            name=f"{length} of context",
            settings={"selection": "pooling"},
            budgets=scaling.thousands(length),
            published=_published(9, length),
        )
        for length in TABLES[9].rows
    )
    return Grid(
        name="table9",
        title="Context length without selection",
        cells=tuple(cells),
        note="the paper's row is of other models; ours is uniform pooling to as many tokens",
    )


def _at_every_total(cfg: BatConfig, name: str, settings: Mapping[str, Any], seed: int = 0) -> tuple[Cell, ...]:
    """Return a row of cells, one for each of KEPT_THOUSANDS."""
    scaling = Scaling(cfg)
    return tuple(
        Cell(name=name, column=f"{kept}k", settings=settings, budgets=scaling.total(1000 * kept), seed=seed)
        for kept in KEPT_THOUSANDS
    )


def figure_1(cfg: BatConfig) -> Grid:
    """Accuracy against tokens, ours and what it is compared with, at equal budgets."""
    cells = (cell for name in shown_in("grids") for cell in _at_every_total(cfg, name, {"selection": name}))
    return Grid(name="figure1", title="Accuracy against kept tokens, by selection", cells=tuple(cells))


def figure_3(cfg: BatConfig) -> Grid:
    """Kept tokens from 3k to 12k; the left half of the figure is Table 7."""
    scaling = Scaling(cfg)
    kept = ("3k", "4k", "5k", "6k", "8k", "10k", "12k")
    cells = tuple(Cell(name=count, budgets=scaling.thousands(count)) for count in kept)
    return Grid(name="figure3", title="Kept tokens", cells=cells)


def figure_5(cfg: BatConfig) -> Grid:
    """Ours against pruning that does not know the question, at 95 % pruning, in the proportions of the budgets."""
    counts = [cfg.num_tokens(px) for px in cfg.compressor.sizes_px]
    left = pruned_budgets(0.95, cfg.compressor.budgets, counts)
    return Grid(
        name="figure5",
        title="Ours against text-agnostic pruning, 95 % pruned",
        cells=tuple(Cell(name=name, settings={"selection": name}, budgets=left) for name in ("uhr_bat", "background")),
        note="the paper compares with GeoLLaVA-8K itself on one picture; here background pruning in its manner",
    )


def differences(cfg: BatConfig) -> Grid:
    """Every setting in which paper and release differ, and our own, flipped one at a time."""
    settings = cfg.compressor
    other = {
        "cluster_features": ("vision", "projected"),
        "coordinates": ("scale", "tile"),
        "preserve_equal": (True, False),
        "importance_query": ("question", "last_token"),
        "scale_embedding_extent": ("scale", "tile"),
        "scale_embedding_repeats": (1, 2),
        "scale_embedding": (True, False),
        "coverage": ("off", "guaranteed"),
    }
    cells = [Cell(name="as the checkpoint", budgets=settings.budgets)]
    for field, (ours, theirs) in other.items():
        value = theirs if getattr(settings, field) == ours else ours
        cells.append(Cell(name=f"{field}={value}", settings={field: value}, budgets=settings.budgets))
    return Grid(name="differences", title="One setting flipped at a time", cells=tuple(cells))


def selections(cfg: BatConfig) -> Grid:
    """What UHR-BAT is compared with, at the checkpoint's own budgets, and all of the anchor's tokens alone.

    These come in raster order, as down-sampling yields them, and by importance, as the small model was trained on them.
    """
    settings = cfg.compressor
    cells = [Cell(name=name, settings={"selection": name}, budgets=settings.budgets) for name in shown_in("grids")]
    anchor = (cfg.num_tokens(settings.sizes_px[0]), *(0 for _ in settings.sizes_px[1:]))
    cells.append(Cell(name="anchor view alone", settings={"selection": "pooling"}, budgets=anchor))
    cells.append(Cell(name="anchor view alone, by importance", settings={"selection": "topk"}, budgets=anchor))
    return Grid(name="selections", title="Selection at the same budget", cells=tuple(cells))


def regions(cfg: BatConfig) -> Grid:
    """Regions and merging against plain top-K at several budgets, with several seeds of K-means.

    "guaranteed" is the rule that gives every region a row, which the paper's own does not (docs/differences.md).
    """
    cells: list[Cell] = []
    for seed in range(_NUM_SEEDS):
        cells += _at_every_total(cfg, f"uhr_bat, seed {seed}" if seed else "uhr_bat", {"selection": "uhr_bat"}, seed)
    cells += _at_every_total(cfg, "uhr_bat, guaranteed", {"selection": "uhr_bat", "coverage": "guaranteed"})
    for name in ("topk", "topk_global"):
        cells += _at_every_total(cfg, name, {"selection": name})
    return Grid(name="regions", title="Preserve and merge against top-K", cells=tuple(cells))


def layers(cfg: BatConfig) -> Grid:
    """The decoder layer whose attention is read."""
    cells = tuple(
        Cell(name=f"layer {layer}", settings={"importance_layer": layer}, budgets=cfg.compressor.budgets)
        for layer in range(cfg.decoder.num_layers)
    )
    return Grid(name="layers", title="Layer that importance is read at", cells=cells)


def kmeans(cfg: BatConfig) -> Grid:
    """Lloyd steps, and the spread over seeds, which the paper does not report."""
    budgets = cfg.compressor.budgets
    steps = tuple(
        Cell(name=f"{count} steps", settings={"kmeans_iterations": count}, budgets=budgets) for count in (1, 3, 10, 30)
    )
    seeds = tuple(Cell(name=f"seed {seed}", seed=seed, budgets=budgets) for seed in range(_NUM_SEEDS))
    return Grid(name="kmeans", title="K-means: steps and seeds", cells=steps + seeds)


# Figure 4 shows the numbers of Table 6.
GRIDS: Mapping[str, Callable[[BatConfig], Grid]] = {
    "table5": table_5,
    "table6": table_6,
    "table7": table_7,
    "table8": table_8,
    "table9": table_9,
    "figure1": figure_1,
    "figure3": figure_3,
    "figure5": figure_5,
    "differences": differences,
    "selections": selections,
    "regions": regions,
    "layers": layers,
    "kmeans": kmeans,
}


def flag_of(name: str) -> tuple[str, str]:
    """Return flag and value that ask `experiments.ablate` for a grid: ("table", "7"), ("ours", "layers")."""
    match = re.fullmatch(r"(table|figure)(\d+)", name)
    return (match[1], match[2]) if match else ("ours", name)
