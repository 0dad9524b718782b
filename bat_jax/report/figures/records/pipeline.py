"""The compressor's steps one below the other, a column a view, as one question takes them (UHR-BAT, section 3)."""

from bat_jax.report.figures.figure import LETTERS, Figure, budget_text, counts_text, framed, heading, verdict
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.seen import seen_picture
from bat_jax.report.figures.subject import Subject
from bat_jax.report.layers import importance_layer
from bat_jax.report.pictures import FATE_SWATCHES, IMPORTANCE_SWATCHES, Panel, fate_panels, region_panels, sheet, stack


def pipeline(subject: Subject) -> Figure:
    """Show views, importance, regions and the fate of tokens for the first question with a place, and what is left."""
    ask, scene, backdrop = subject.local_asks(1)[0], subject.scene(), subject.backdrop
    asked = subject.ask(ask)
    selections, window = asked.answer.selections[0], subject.zoom(ask)
    names = [f"{px} px view" for px in scene.scales_px]

    def panel(pixels, caption):
        return Panel(framed(pixels, [window]), caption)

    places = [
        Panel(backdrop.crop(window, px), f"{name}: {grid.num_tokens:,} tokens")
        for px, name, grid in zip(scene.scales_px, names, scene.grids, strict=True)
    ]
    maps = [importance_layer(scene, one, scale) for scale, one in enumerate(asked.answer.importance[0])]
    heat = [panel(backdrop.paint(one, fade=0.8), name) for one, name in zip(maps, names, strict=True)]
    fates = [panel(one.pixels, one.caption) for one in fate_panels(scene, backdrop, selections)]
    left = [
        panel(backdrop.picture(), "The picture"),
        panel(seen_picture(scene, backdrop, selections), counts_text(subject, asked)),
        Panel(backdrop.crop(window), "The framed place"),
        Panel(seen_picture(scene, backdrop, selections, window), "What is left of it"),
    ]
    columns, budget = len(places), budget_text(subject.cfg.compressor.budgets)
    rows = [
        sheet(f"{heading(ask)}   1. The framed place in each view", places, columns, letters=LETTERS),
        sheet("2. Importance, carried to finer views", heat, columns, IMPORTANCE_SWATCHES, LETTERS),
        sheet("3. Regions", region_panels(scene, backdrop), columns, letters=LETTERS),
        sheet(f"4. Preserve, merge, cut at {budget}", fates, columns, FATE_SWATCHES, LETTERS),
        sheet(f"5. What is left of all views. {verdict(asked)}", left, len(left), letters=LETTERS),
    ]
    return Figure(
        "pipeline",
        "From a picture to the tokens of an answer",
        "Columns are views, coarse to fine. The frame is around what the answer depends on, or what is most important.",
        stack(rows),
    )


FIGURE = FigureRecord(name="pipeline", draw=pipeline)
