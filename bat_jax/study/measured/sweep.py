"""Ask the same questions under every cell of some grids: networks of the image once, programs compiled once.

    picture --once--> encoded views --once a partition--> scene --once a setting--> answers

A picture goes through the tower once for all cells (once a size, where a grid varies it). Cells with the same settings,
of one grid or of several, are one run and are answered once. Runs share shapes: views are compiled for the most
clusters of all, and selections for the largest budgets. A run's own budgets and clusters are values that the programs
take. A rule that runs differ in (`selection`, a flag) compiles the selection alone anew, never tower or K-means; the
decoder is compiled for prompts of every 64th length, so that a small budget does not pay for a large one.

Several questions about a picture go through a run together, and what the decoder says of the anchor's importance for a
text is read once for all runs whose anchor is the same. Pictures are shared out: each of several devices has a copy of
the model and takes one at a time; on a CPU threads share one model, a picture each (`threads_of`).

Every run has a predictions file as a run of `experiments.evaluate` has, named by its settings, so a killed sweep goes
on where it was, a grid that is added later asks only what is new in it, and answers that failed are asked for again.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import numpy as np

from bat_jax.asking import ImportanceRows
from bat_jax.benchmarks.record import Picture
from bat_jax.config import BatConfig, ScaleSpec
from bat_jax.encoding import EncodedViews
from bat_jax.engine.mesh import device_mesh
from bat_jax.evals.aggregate import wilson
from bat_jax.evals.prediction_log import PredictionLog, read_predictions
from bat_jax.evals.runner import answer_picture, in_groups
from bat_jax.pipeline import BatModel, Scene
from bat_jax.study.measured.cluster_mean import Interval
from bat_jax.study.measured.comparison import Records, compare
from bat_jax.study.measured.grids import Cell, Grid
from bat_jax.study.measured.rules import Rules
from bat_jax.study.measured.verdicts import OUTSIDE, FromFirst, from_first

ANSWERS = "answers"
QUESTIONS_AT_ONCE = 8
# Fields of CompressorConfig that only the question's half reads: scenes are shared whatever they are.
_OF_THE_QUESTION = (
    "scales",
    "selection",
    "coverage",
    "preserve_equal",
    "fastv_layer",
    "importance_layer",
    "importance_query",
    "token_mlp",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell's numbers over the questions that were asked.

    Attributes:
      accuracy: percent right, with Wilson's interval. subtasks: abbreviation -> percent right.
      from_first: how it differs from the grid's first cell on the same questions; None for that cell itself.
      num_failed: questions without an answer, which count as wrong.
      tokens: mean number kept. seconds: mean a question, without what compiled.
    """

    cell: Cell
    num_questions: int
    accuracy: Interval
    subtasks: Mapping[str, float]
    from_first: FromFirst | None
    num_failed: int
    tokens: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """Cells with the same settings. model: with these and room for the largest budgets, to ask. alone: with the cell's
    own budgets, to make scenes: they decide the number of clusters where `num_clusters` is 0.
    """

    cell: Cell
    model: BatModel
    alone: BatModel

    @property
    def scene_key(self) -> tuple:
        """What decides a scene beside the picture's views."""
        settings = self.model.cfg.compressor
        fields = {field.name for field in dataclasses.fields(settings)} - {*_OF_THE_QUESTION}
        return (*(getattr(settings, name) for name in sorted(fields)), _num_clusters(self.alone), self.cell.seed)

    @property
    def importance_key(self) -> tuple:
        """What decides the anchor's importance beside the picture and the question, in all layers."""
        settings = self.model.cfg.compressor
        embedding = (settings.embedding_repeats("attention"), settings.scale_embedding_extent)
        return (*embedding, settings.mask_padding, settings.attention_query)


class GridAnswers:
    """What the cells of some grids answered, by the name of the run that a cell is part of."""

    def __init__(self, cfg: BatConfig, grids: Sequence[Grid], read: Callable[[str], Records]):
        """Keep where answers are.

        Args:
          cfg: of the checkpoint: settings that cells do not change.
          read: name of a run -> its answers by question, empty where there are none.
        """
        self.cfg, self.grids = cfg, tuple(grids)
        self._cells = {self._name(cell): cell for grid in self.grids for cell in grid.cells}
        self._read = functools.cache(read)

    def records(self, cell: Cell) -> Records:
        """Return a cell's answers by question.

        Raises:
          ValueError: it has none.
        """
        found = self._read(self._name(cell))
        if not found:
            raise ValueError(f"{self._name(cell)}: cell {cell.key!r} has no answers")
        return found

    def runs(self) -> dict[str, Records]:
        """Return all answers by run.

        Raises:
          ValueError: a run has none.
        """
        return {name: self.records(cell) for name, cell in self._cells.items()}

    def results(
        self, grid: Grid, rules: Rules, outside: Callable[[Cell], str] = lambda cell: ""
    ) -> tuple[CellResult, ...]:
        """Return the numbers of every cell of one of the grids.

        Args:
          rules: that say what a cell's difference to the first one decides.
          outside: what of a cell the weights were not trained for, so that it decides nothing; "" if nothing.

        Raises:
          ValueError: a cell has no answers.
        """
        records = [self.records(cell) for cell in grid.cells]
        why = [outside(cell) for cell in grid.cells[1:]]
        compared = [compare([found], [records[0]], rules) for found in records[1:]]
        judged = iter(from_first([one for one, text in zip(compared, why, strict=True) if not text], rules))
        differences = [
            FromFirst(one, math.nan, f"{OUTSIDE} ({text})") if text else next(judged)
            for one, text in zip(compared, why, strict=True)
        ]
        return tuple(_result(*part) for part in zip(grid.cells, records, [None, *differences], strict=True))

    def _name(self, cell: Cell) -> str:
        """Return the name of the run that a cell is part of: "20-70-190-449_selection-topk_seed-1"."""
        own = self.cfg.compressor
        changes = {name: value for name, value in cell.settings.items() if getattr(own, name) != value}
        parts = ["-".join(map(str, cell.budgets))]
        parts += [f"{name}-{value}" for name, value in sorted(changes.items())]
        parts += [f"px-{cell.picture_px}"] if cell.picture_px else []
        parts += [f"seed-{cell.seed}"] if cell.seed else []
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(parts))


class Sweep(GridAnswers):
    """Grids over pictures, in one directory."""

    def __init__(self, model: BatModel, grids: Sequence[Grid], directory: pathlib.Path):
        """Prepare the runs.

        Args:
          model: its settings are those that cells do not change.

        Raises:
          ValueError: a cell's settings are none of this model's.
        """
        super().__init__(model.cfg, grids, lambda name: read_predictions(self._folder(name)))
        self.model, self.directory = model, directory
        cells = self._cells
        self._runs: dict[str, _Run] = {}
        room = [max(budgets) for budgets in zip(*(cell.budgets for cell in cells.values()), strict=True)]
        for name, cell in cells.items():
            self._runs[name] = _Run(cell=cell, model=_with(model, cell, room), alone=_with(model, cell, cell.budgets))
        # One that reads the tower's attention, if there is one, encodes for all.
        models = [run.model for run in self._runs.values()]
        self.encoder = max(models, key=lambda one: one.cfg.compressor.reads_tower_attention)
        self.max_clusters = max(max(_num_clusters(run.alone)) for run in self._runs.values())

    @property
    def num_runs(self) -> int:
        """How many times each question is answered."""
        return len(self._runs)

    def run(
        self,
        pictures_of: Callable[[int | None], Sequence[Picture]],
        label_map_of: Callable[[Picture], np.ndarray] | None = None,
        max_new_tokens: int = 8,
        on_answers: Callable[[int], None] | None = None,
        at_once: int | None = None,
        questions_at_once: int = QUESTIONS_AT_ONCE,
        devices: Sequence[jax.Device] | None = None,
    ) -> int:
        """Answer what is not answered yet, and return how many of these answers had failed before.

        Args:
          pictures_of: picture_px of a cell -> the pictures with their questions.
          label_map_of: picture -> (H, W) labels, for cells with partition "sam".
          on_answers: called with the number of questions that a run has of a picture, answered before or now.
          at_once: pictures that threads work on at once on a single device, `threads_of` it by default. Answers do not
            depend on it, the order of lines does.
          questions_at_once: most questions about a picture that are asked together.
          devices: that share the pictures, by default all of this process, or the model's own mesh.
        """
        self._read.cache_clear()
        num_again = 0
        places = self._places(devices, at_once)
        for px in dict.fromkeys(run.cell.picture_px for run in self._runs.values()):
            names = [name for name, run in self._runs.items() if run.cell.picture_px == px]
            with ExitStack() as stack:
                logs = {}
                for name in names:
                    self._folder(name).mkdir(parents=True, exist_ok=True)
                    logs[name] = stack.enter_context(PredictionLog(self._folder(name) / "predictions.jsonl"))
                num_again += sum(len(log.failed) for log in logs.values())
                pictures = pictures_of(px)
                most = max((len(picture.tasks) for picture in pictures), default=1)
                options: dict[str, Any] = {
                    "logs": logs,
                    "label_map_of": label_map_of,
                    "max_new_tokens": max_new_tokens,
                    "room": max(in_groups(most, questions_at_once)),
                }
                threads = [functools.partial(self._answer, place, **options) for place in places]
                _in_threads(threads, pictures, on_answers)
        return num_again

    def _places(self, devices: Sequence[jax.Device] | None, at_once: int | None) -> list["_Place"]:
        """Return for every thread where it answers."""
        devices = jax.local_devices() if devices is None else devices
        here = _Place(self.encoder, self._runs)
        if self.model.stages.mesh is not None or len(devices) == 1:
            return [here] * (at_once or threads_of(devices[0]))
        places = []
        for device in devices:
            copy = self.model.on(device_mesh(self.model.cfg, "data=1", [device]))
            runs = {
                name: dataclasses.replace(
                    run, model=copy.configured(run.model.cfg), alone=copy.configured(run.alone.cfg)
                )
                for name, run in self._runs.items()
            }
            places.append(_Place(copy.configured(self.encoder.cfg), runs))
        return places

    def _answer(
        self,
        place: "_Place",
        picture: Picture,
        *,
        logs: Mapping[str, PredictionLog],
        label_map_of: Callable[[Picture], np.ndarray] | None,
        max_new_tokens: int,
        room: int,
    ) -> Iterator[int]:
        """Ask every run's questions about a picture; yield how many questions are done with it."""
        scenes: dict[tuple, Scene] = {}
        importance: dict[tuple, ImportanceRows] = {}

        @functools.cache
        def views() -> tuple[EncodedViews, ...]:
            loaded = picture.load()
            images = loaded if isinstance(loaded, tuple) else (loaded,)
            return tuple(place.encoder.encode_views(one) for one in images)

        for name, log in logs.items():
            left = tuple(task for task in picture.tasks if task.id not in log.ids)
            yield len(picture.tasks) - len(left)
            run = place.runs[name]
            if left:
                labels = None
                if label_map_of is not None and run.model.cfg.compressor.partition == "sam":
                    labels = functools.partial(label_map_of, picture)
                asked = dataclasses.replace(picture, tasks=left, label_map=labels)
                known = importance.setdefault(run.importance_key, {})
                ask = {"budgets": run.cell.budgets, "max_new_tokens": max_new_tokens, "importance": known}
                source = _Encoded(run, views, scenes, {"seed": run.cell.seed, "max_clusters": self.max_clusters})
                for records in answer_picture(source, asked, source.load, {}, ask, room):
                    log.append(*records)
                    yield len(records)

    def _folder(self, name: str) -> pathlib.Path:
        return self.directory / ANSWERS / name


def threads_of(device: jax.Device) -> int:
    """Return how many pictures to work on at once: a CPU's cores, at most 4; an accelerator takes one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(4, cores) if device.platform == "cpu" else 1


def _in_threads(
    threads: Sequence[Callable[[Picture], Iterator[int]]],
    pictures: Iterable[Picture],
    on_answers: Callable[[int], None] | None,
) -> None:
    """Answer pictures in threads; at an error or an interrupt each ends with the question that it is at."""
    rest, lock, is_over = iter(pictures), threading.Lock(), threading.Event()

    def work(answer: Callable[[Picture], Iterator[int]]) -> None:
        while True:
            with lock:
                picture = next(rest, None)
            if picture is None:
                return
            for count in answer(picture):
                if on_answers:
                    with lock:
                        on_answers(count)
                if is_over.is_set():
                    return

    # Threads even for one picture at a time: an interrupt ends a run in the same way.
    with futures.ThreadPoolExecutor(len(threads)) as pool:
        running = [pool.submit(work, answer) for answer in threads]
        try:
            for thread in futures.as_completed(running):
                thread.result()
        finally:
            is_over.set()


def _with(model: BatModel, cell: Cell, budgets: Sequence[int]) -> BatModel:
    """Return the model with a cell's settings and these budgets, 1 for 0."""
    sizes = model.cfg.compressor.sizes_px
    scales = tuple(ScaleSpec(size_px=px, budget=max(1, most)) for px, most in zip(sizes, budgets, strict=True))
    return model.configured(model.cfg.with_settings(**cell.settings, scales=scales))


def _num_clusters(model: BatModel) -> tuple[int, ...]:
    """Return the number of clusters of every scale; 1 where labels are given instead."""
    settings = model.cfg.compressor
    if settings.partition == "sam":
        return tuple(1 for _ in settings.scales)
    counts = (model.cfg.num_tokens(spec.size_px) for spec in settings.scales)
    return tuple(settings.clusters_of(spec, count) for spec, count in zip(settings.scales, counts, strict=True))


class _Place(NamedTuple):
    """Models of one device, or of one mesh: one that encodes for all runs, and the runs by name."""

    encoder: BatModel
    runs: Mapping[str, _Run]


class _Encoded:
    """A run's model for images by number: networks run once for all runs, scenes are made once for all that share them.

    Encoding an image happens in here, so that one that fails is a failed answer of each run.
    """

    def __init__(
        self,
        run: _Run,
        views: Callable[[], tuple[EncodedViews, ...]],
        scenes: dict[tuple, Scene],
        options: Mapping[str, Any],
    ):
        self.run, self.views, self.scenes, self.options = run, views, scenes, options
        self.ask_many = run.model.ask_many

    def load(self) -> tuple[tuple[int, ...], float]:
        """Return the numbers of the images, and that loading them took no time of the run's own."""
        return tuple(range(len(self.views()))), 0.0

    def encode(self, number: int, **regions: np.ndarray) -> Scene:
        key = (*self.run.scene_key, number)
        if key not in self.scenes:
            self.scenes[key] = self.run.alone.make_scene(self.views()[number], **self.options, **regions)
        return dataclasses.replace(self.scenes[key], model=self.run.model)


def _result(cell: Cell, records: Records, difference: FromFirst | None) -> CellResult:
    right = {id: bool(record["is_right"]) for id, record in records.items()}
    by_task: dict[str, list[bool]] = {}
    for id, record in records.items():
        by_task.setdefault(record["sub_task"], []).append(right[id])
    low, high = wilson(sum(right.values()), len(right))
    answered = [record for record in records.values() if record["status"] == "answered"]
    warm = [record["seconds"] for record in answered if not record["compile_seconds"]]
    return CellResult(
        cell=cell,
        num_questions=len(right),
        accuracy=Interval(100 * sum(right.values()) / len(right), 100 * low, 100 * high),
        subtasks={name: 100 * statistics.fmean(values) for name, values in by_task.items()},
        from_first=difference,
        num_failed=len(records) - len(answered),
        tokens=statistics.fmean(sum(record["tokens_kept"]) for record in answered) if answered else math.nan,
        seconds=statistics.fmean(warm) if warm else math.nan,
    )
