"""Importance over the picture with zooms (UHR-BAT, arXiv:2604.13565, Figure 8)."""

import numpy as np
from PIL import Image

from bat_jax.report.answer_page import Ask
from bat_jax.report.figures.figure import LETTERS, Figure, counts_text, framed, heading, place_panels, verdict
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.subject import Subject
from bat_jax.report.layers import ALL, importance_layer, window_in
from bat_jax.report.pictures import IMPORTANCE_SWATCHES, Panel, sheet, stack

_MOST_QUESTIONS = 4


def figure_8(subject: Subject) -> Figure:
    """Show for several questions what they make important."""
    asks = subject.local_asks(_MOST_QUESTIONS)
    rows = [_row(subject, ask, is_last=ask is asks[-1]) for ask in asks]
    settings, num_layers = subject.cfg.compressor, subject.cfg.decoder.num_layers
    layer = settings.attention_layer % num_layers + 1
    return Figure(
        "8",
        "What a question makes important",
        f"Attention from the question to the {settings.sizes_px[0]} px view in layer {layer} of {num_layers}, "
        f"carried over to the {settings.sizes_px[-1]} px view, on a logarithmic scale. On the right the framed place "
        "enlarged; frames in it are around what the answer depends on. The model does not see any frame.",
        stack(rows),
    )


def _row(subject: Subject, ask: Ask, is_last: bool) -> Image.Image:
    scene, backdrop, window = subject.scene(), subject.backdrop, subject.zoom(ask)
    asked = subject.ask(ask)
    finest = len(scene.grids) - 1
    layer = importance_layer(scene, asked.answer.importance[0][finest], finest)

    def heat(place):
        return backdrop.paint(layer, fade=0.8, window=place)

    picture, place = place_panels(subject, ask)
    panels = (
        picture._replace(caption=f"{verdict(asked)}. {counts_text(subject, asked)}"),
        Panel(framed(heat(ALL), [window]), "Importance"),
        place,
        Panel(framed(heat(window), window_in(ask.boxes, window)), _on_evidence(subject, ask)),
    )
    return sheet(heading(ask), panels, 4, IMPORTANCE_SWATCHES if is_last else (), letters=LETTERS)


def _on_evidence(subject: Subject, ask: Ask) -> str:
    """Say how much of the importance lies on the evidence's tokens of the coarsest view."""
    if not ask.boxes:
        return "Importance there"
    on, tokens = importance_on(subject, ask)
    return f"{100 * on:.1f} % of importance is on the evidence's tokens, {100 * tokens:.1f} % of all"


def importance_on(subject: Subject, ask: Ask) -> tuple[float, float]:
    """Return the shares of importance and of tokens that the evidence's tokens of the coarsest view have."""
    scene = subject.scene()
    grid, valid = scene.grids[0], np.asarray(scene.scales[0].valid)
    touched = grid.to_tiles(subject.backdrop.touched(grid.full_side, ask.boxes)) & valid
    importance = np.where(valid, subject.ask(ask).answer.anchor_importance[0], 0.0)
    return float(importance[touched].sum() / max(importance.sum(), 1e-30)), float(touched.sum() / valid.sum())


FIGURE = FigureRecord(name="8", draw=figure_8)
