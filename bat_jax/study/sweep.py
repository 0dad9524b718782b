"""Ask the same questions under every cell of a grid: networks of the image once, programs compiled once.

    picture --once--> encoded views --once a partition--> scene --once a cell--> answers

A picture goes through the tower once for all cells (once a size, where a grid varies it). All cells share shapes: views
are compiled for the grid's largest budgets and numbers of clusters, and a cell's own are values that the programs take.
A rule that cells differ in (`selection`, a flag) compiles the selection alone anew, never tower, decoder or K-means.

Every cell has a predictions file as a run of `experiments.evaluate` has, so a killed sweep goes on where it was.
"""

import dataclasses
import math
import pathlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from bat_jax.config import ScaleSpec
from bat_jax.encoding import EncodedViews
from bat_jax.evals.aggregate import wilson
from bat_jax.evals.runner import Picture, PredictionLog, answer_picture, read_predictions
from bat_jax.pipeline import BatModel, Scene
from bat_jax.study.grids import Cell, Grid

_Z = statistics.NormalDist().inv_cdf(0.975)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell's numbers over the questions that were asked.

    Attributes:
      accuracy: percent right; interval: its 95 % interval (Wilson). subtasks: abbreviation -> percent right.
      difference: percent points to the grid's first cell on the same questions, with its 95 % interval; None for that
        cell itself.
      num_failed: questions without an answer, which count as wrong.
      tokens: mean number kept. seconds: mean a question, without what compiled.
    """

    cell: Cell
    num_questions: int
    accuracy: float
    interval: tuple[float, float]
    subtasks: Mapping[str, float]
    difference: tuple[float, float, float] | None
    num_failed: int
    tokens: float
    seconds: float


class Sweep:
    """A grid over pictures, in one directory."""

    def __init__(self, model: BatModel, grid: Grid, directory: pathlib.Path):
        """Prepare the cells.

        Args:
          model: its settings are those that cells do not change.

        Raises:
          ValueError: a cell's settings are none of this model's.
        """
        self.grid, self.directory = grid, directory
        sizes = model.cfg.compressor.sizes_px
        room = [max(1, *budgets) for budgets in zip(*((0, *cell.budgets) for cell in grid.cells), strict=True)][1:]
        scales = tuple(ScaleSpec(size_px=px, budget=most) for px, most in zip(sizes, room, strict=True))
        self.models = [model.configured(model.cfg.with_settings(**cell.settings, scales=scales)) for cell in grid.cells]
        # One that reads the tower's attention, if there is one, encodes for all.
        self.encoder = max(self.models, key=lambda one: one.cfg.compressor.reads_tower_attention)
        self.max_clusters = max(self._num_clusters(one) for one in self.models)

    def run(
        self,
        pictures_of: Callable[[int | None], Sequence[Picture]],
        label_map_of: Callable[[Picture], np.ndarray] | None = None,
        max_new_tokens: int = 8,
        on_picture: Callable[[int], None] | None = None,
    ) -> None:
        """Answer what is not answered yet.

        Args:
          pictures_of: picture_px of a cell -> the pictures with their questions.
          label_map_of: picture -> (H, W) labels, for cells with partition "sam".
          on_picture: called with the number of questions that a picture and size brought, answered before or now.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for px in dict.fromkeys(cell.picture_px for cell in self.grid.cells):
            numbers = [index for index, cell in enumerate(self.grid.cells) if cell.picture_px == px]
            with ExitStack() as stack:
                logs = {index: stack.enter_context(PredictionLog(self._path(index))) for index in numbers}
                for picture in pictures_of(px):
                    self._answer(picture, logs, label_map_of, max_new_tokens)
                    if on_picture:
                        on_picture(len(picture.tasks) * len(numbers))

    def _answer(
        self,
        picture: Picture,
        logs: Mapping[int, PredictionLog],
        label_map_of: Callable[[Picture], np.ndarray] | None,
        max_new_tokens: int,
    ) -> None:
        views: tuple[EncodedViews, ...] | None = None
        scenes: dict[tuple, Scene] = {}
        for index, log in logs.items():
            left = tuple(task for task in picture.tasks if task.id not in log.ids)
            if not left:
                continue
            cell, model = self.grid.cells[index], self.models[index]
            if views is None:
                loaded = picture.load()
                images = loaded if isinstance(loaded, tuple) else (loaded,)
                views = tuple(self.encoder.encode_views(image) for image in images)
            options: dict[str, Any] = {"seed": cell.seed, "max_clusters": self.max_clusters}
            if model.cfg.compressor.partition == "sam" and label_map_of is not None:
                options["label_map"] = label_map_of(picture)
            source = _Encoded(model, views, scenes, (tuple(sorted(cell.settings.items())), cell.seed), options)
            asked = dataclasses.replace(picture, tasks=left)
            ask = {"budgets": cell.budgets, "max_new_tokens": max_new_tokens}
            numbers = tuple(range(len(views)))
            for record in answer_picture(source, asked, lambda numbers=numbers: (numbers, 0.0), {}, ask):
                log.append(record)

    def results(self) -> tuple[CellResult, ...]:
        """Return every cell's numbers, from what is in the directory.

        Raises:
          ValueError: a cell has no answers yet.
        """
        found, first = [], None
        for index, cell in enumerate(self.grid.cells):
            records = read_predictions(self._path(index).parent)
            if not records:
                raise ValueError(f"{self.directory}: cell {cell.key!r} has no answers")
            first = first or records
            found.append(_result(cell, records, None if records is first else first))
        return tuple(found)

    def _path(self, index: int) -> pathlib.Path:
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.grid.cells[index].key).strip("-")
        folder = self.directory / f"{index:02d}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "predictions.jsonl"

    @staticmethod
    def _num_clusters(model: BatModel) -> int:
        settings = model.cfg.compressor
        if settings.partition == "sam":
            return 1
        counts = (model.cfg.num_tokens(spec.size_px) for spec in settings.scales)
        return max(settings.clusters_of(spec, count) for spec, count in zip(settings.scales, counts, strict=True))


class _Encoded:
    """A model for images that are encoded already, by number; makes scenes once for all cells that share them."""

    def __init__(
        self,
        model: BatModel,
        views: tuple[EncodedViews, ...],
        scenes: dict[tuple, Scene],
        key: tuple,
        options: Mapping[str, Any],
    ):
        self.views, self.scenes, self.key, self.options = views, scenes, key, options
        self.model, self.ask = model, model.ask

    def encode(self, number: int) -> Scene:
        key = (*self.key, number)
        if key not in self.scenes:
            self.scenes[key] = self.model.make_scene(self.views[number], **self.options)
        return self.scenes[key]


def _result(cell: Cell, records: Mapping[str, Mapping], first: Mapping[str, Mapping] | None) -> CellResult:
    right = {id: bool(record["is_right"]) for id, record in records.items()}
    by_task: dict[str, list[bool]] = {}
    for id, record in records.items():
        by_task.setdefault(record["sub_task"], []).append(right[id])
    low, high = wilson(sum(right.values()), len(right))
    answered = [record for record in records.values() if record["status"] == "answered"]
    warm = [record["seconds"] for record in answered if not record["compile_seconds"]]
    difference = None
    if first is not None:
        shared = [id for id in right if id in first]
        difference = paired_difference([right[id] for id in shared], [bool(first[id]["is_right"]) for id in shared])
    return CellResult(
        cell=cell,
        num_questions=len(right),
        accuracy=100 * sum(right.values()) / len(right),
        interval=(100 * low, 100 * high),
        subtasks={name: 100 * statistics.fmean(values) for name, values in by_task.items()},
        difference=difference,
        num_failed=len(records) - len(answered),
        tokens=statistics.fmean(sum(record["tokens_kept"]) for record in answered) if answered else math.nan,
        seconds=statistics.fmean(warm) if warm else math.nan,
    )


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[float, float, float]:
    """Return (difference, low, high) of two accuracies on the same questions, in percent points.

    With b questions that only we have right and c that only they have, (b - c) / n with the standard error
    sqrt(b + c - (b - c)^2 / n) / n (McNemar's setting, normal approximation), 95 %.

    Raises:
      ValueError: there are no questions, or not the same number.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"need the same questions of both, got {len(ours)} and {len(theirs)}")
    num = len(ours)
    gained = sum(our and not their for our, their in zip(ours, theirs, strict=True))
    lost = sum(their and not our for our, their in zip(ours, theirs, strict=True))
    difference = (gained - lost) / num
    error = math.sqrt(gained + lost - (gained - lost) ** 2 / num) / num
    return 100 * difference, 100 * (difference - _Z * error), 100 * (difference + _Z * error)
