"""How the picture is cut into regions (UHR-BAT, arXiv:2604.13565, Figure 6)."""

import numpy as np
from PIL import Image

from bat_jax.compress.partition import ALONE
from bat_jax.report.figures.figure import LETTERS, Figure
from bat_jax.report.figures.record import FigureRecord
from bat_jax.report.figures.seen import group_colours, token_colours
from bat_jax.report.figures.subject import Subject
from bat_jax.report.pictures import Panel, region_panels, sheet, stack

_NAMES = {
    "kmeans": "K-means of features and places",
    "birch": "BIRCH of features and places",
    "sam": "The label map's regions",
    "grid": "A regular grid",
    "one": "One region",
}


def figure_6(subject: Subject) -> Figure:
    """Show the regions of the settings' partition, of K-means, and of the label map where there is one."""
    partitions = [subject.cfg.compressor.partition, "kmeans", *(["sam"] if subject.has_label_map else [])]
    return Figure(
        "6",
        "Regions of the picture",
        "Regions depend on the picture alone, not on the question. Colours only tell neighbours apart; on the right "
        "every token of the finest view has the mean colour of its region.",
        stack([_row(subject, partition) for partition in dict.fromkeys(partitions)]),
    )


def _row(subject: Subject, partition: str) -> Image.Image:
    scene, backdrop = subject.scene(partition), subject.backdrop
    regions = region_panels(scene, backdrop)
    finest = len(scene.grids) - 1
    region_id = np.asarray(scene.scales[finest].region_id)
    is_member = (region_id != ALONE) & np.asarray(scene.scales[finest].valid)
    colours = group_colours(token_colours(scene, backdrop, finest), region_id, is_member) / 255
    layer = np.concatenate([colours, is_member[:, None]], axis=1)
    panels = [Panel(backdrop.picture(), "The picture"), regions[0]]
    panels += [regions[finest]] if finest else []
    panels.append(Panel(backdrop.paint(scene.grids[finest].to_grid(layer)), "Mean colour of every region"))
    return sheet(_NAMES[partition], panels, len(panels), letters=LETTERS)


FIGURE = FigureRecord(name="6", draw=figure_6)
