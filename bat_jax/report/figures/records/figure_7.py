"""Tokens in a plane by t-SNE, coloured by region (UHR-BAT, arXiv:2604.13565, Figure 7).

t-SNE always shows clumps, so the figure says in numbers what it is about: of a token's nearest neighbours, how many
lie in its own region, in the plane and in the space of the features, and how many would by chance.
"""

import importlib.util
import io

import matplotlib
import matplotlib.figure
import numpy as np
from PIL import Image

from bat_jax.compress.partition import ALONE
from bat_jax.report.figures.figure import LETTERS, Figure
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.subject import Subject
from bat_jax.report.pictures import Panel
from bat_jax.typing import Float, Int

NUM_COLOURS = 12
NUM_NEIGHBOURS = 10
# t-SNE's time grows faster than its number of points; a view of more tokens is sampled.
MOST_TOKENS = 2500
_PERPLEXITY = 30.0
_OTHERS = (0.78, 0.80, 0.79, 1.0)
_PX, _DPI = (2400, 1180), 100


def check_installed() -> None:
    """Refuse to go on without scikit-learn.

    Raises:
      ValueError: it is missing; names the extra.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("figure 7: needs scikit-learn for t-SNE; pip install 'bat_jax[figures]'")


def figure_7(subject: Subject) -> Figure:
    """Lay out a view's tokens by t-SNE of what was clustered, coloured by region."""
    check_installed()
    scale = _largest_view(subject)
    scene, settings = subject.scene(), subject.cfg.compressor
    features = subject.views.features[scale].vision
    what = "the vision tower's features"
    if settings.cluster_features == "projected":
        features, what = scene.scales[scale].tokens, "the projected tokens"
    region_id = np.asarray(scene.scales[scale].region_id)
    tokens = np.flatnonzero(np.asarray(scene.scales[scale].valid) & (region_id != ALONE))
    num_tokens = tokens.size
    if num_tokens > MOST_TOKENS:
        tokens = np.sort(np.random.default_rng(0).choice(tokens, MOST_TOKENS, replace=False))
    rows = np.asarray(features, np.float32)[tokens]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    place, label = plane(rows), region_id[tokens]
    colours = region_colours(region_id, label)
    grid = scene.grids[scale]
    layer = np.zeros((grid.num_tokens, 4))
    layer[region_id != ALONE] = colours[region_id[region_id != ALONE]]
    layer[:, 3] *= np.where((layer[:, :3] == _OTHERS[:3]).all(axis=1), 0.0, 0.75)
    px = scene.scales_px[scale]
    sampled = f", {tokens.size:,} of them drawn" if tokens.size < num_tokens else ""
    panel = Panel(
        subject.backdrop.paint(grid.to_grid(layer), fade=0.6), f"The same colours on the picture, {px} px view"
    )
    shares = [same_region_share(points, label) for points in (place, rows)]
    chance = float(np.sum((np.bincount(label) / label.size) ** 2))
    return Figure(
        "7",
        "t-SNE of tokens, coloured by region",
        f"{num_tokens:,} tokens of the {px} px view{sampled}, by {what} (unit length, without places); the "
        f"{NUM_COLOURS} largest of {scene.num_regions[scale]} regions have a colour. Of a token's {NUM_NEIGHBOURS} "
        f"nearest neighbours {100 * shares[0]:.0f} % lie in its region in this plane and {100 * shares[1]:.0f} % in "
        f"the space of the features; any two tokens share a region in {100 * chance:.0f} % of cases.",
        _draw(place, colours[label], panel),
    )


def plane(rows: Float[np.ndarray, "M C"]) -> Float[np.ndarray, "M 2"]:
    """Return t-SNE's places; the same rows always give the same."""
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, max((len(rows) - 1) / 3, 1.0))
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)


def same_region_share(points: Float[np.ndarray, "M C"], label: Int[np.ndarray, "M"]) -> float:
    """Return how many of the nearest neighbours of all points have the point's own label, as a share."""
    points = points.astype(np.float64)
    square = np.sum(points**2, axis=1)
    distance = square[:, None] + square[None, :] - 2 * points @ points.T
    np.fill_diagonal(distance, np.inf)
    count = min(NUM_NEIGHBOURS, len(points) - 1)
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return float(np.mean(label[nearest] == label[:, None]))


def region_colours(region_id: Int[np.ndarray, "M"], label: Int[np.ndarray, "M2"]) -> Float[np.ndarray, "R 4"]:
    """Return a colour for every region: the largest among `label` have one of their own, the others are grey."""
    sizes = np.bincount(label, minlength=int(region_id.max()) + 1)
    colours = np.tile(_OTHERS, (sizes.size, 1))
    largest = np.argsort(-sizes, kind="stable")[:NUM_COLOURS]
    colours[largest] = matplotlib.colormaps["Paired"](np.arange(largest.size))
    return colours


def _largest_view(subject: Subject) -> int:
    """Return the largest view whose tokens need no sampling, the coarsest if all do."""
    fitting = [scale for scale, count in enumerate(subject.valid_counts) if count <= MOST_TOKENS]
    return fitting[-1] if fitting else 0


def _draw(place: np.ndarray, colours: np.ndarray, panel: Panel) -> Image.Image:
    figure = matplotlib.figure.Figure(
        figsize=(_PX[0] / _DPI, _PX[1] / _DPI), dpi=_DPI, layout="constrained", facecolor="white"
    )
    points, picture = figure.subplots(1, 2)
    points.scatter(*place.T, c=colours, s=34, linewidths=0.3, edgecolors=(0.15, 0.2, 0.18))
    points.set_axis_off()
    picture.imshow(panel.pixels)
    picture.set_axis_off()
    size = LETTERS * 72 / _DPI
    points.set_title("Every point is a token; other regions are grey", fontsize=size)
    picture.set_title(panel.caption, fontsize=size)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


FIGURE = FigureRecord(name="7", draw=figure_7, check_installed=check_installed)
