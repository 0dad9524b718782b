"""What the miniature study asks: parts, each some grids of settings over the questions of some scenes.

    methods     regions and merging against top-K, on one-site and on scattered questions
    selections  what UHR-BAT is compared with, at equal budgets
    ablations   the paper's tables and figures
    settings    grids of our own: differences of paper and release, layers, K-means

A part is one sweep: what its grids share is answered once. The reduced plan has fewer cells and scenes: those that the
rules compare, and in `settings` the ends and middles of the grids. How many scenes a part has is in the rules.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from bat_jax.benchmarks.record import Picture, Task
from bat_jax.benchmarks.records.uhr_mini import task_of
from bat_jax.config import BatConfig
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.masks import instance_map
from bat_jax.mini.world.question import Question
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import NATIVE_PX, render
from bat_jax.mini.world.world import WorldScene
from bat_jax.study.measured import rules
from bat_jax.study.measured.comparison import SCATTERED, SHARED
from bat_jax.study.measured.grids import GRIDS, Cell, Grid

PAPER_ABLATIONS = ("table5", "table6", "table7", "table8", "table9", "figure3")
OUR_SETTINGS = ("differences", "layers", "kmeans")
COVERAGE = "coverage"
# Fewest questions that share a selection.
MIN_SHARED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Grids over scenes.

    Attributes:
      num_scenes: most of them. scattered_rounds: more rounds of questions about several sites.
      shares_tokens: also ask questions about different sites that share one selection (`shared_tasks`).
    """

    name: str
    grids: tuple[Grid, ...]
    num_scenes: int
    scattered_rounds: int = 0
    shares_tokens: bool = False

    def pictures(self, seeds: range, picture_px: int | None) -> tuple[Picture, ...]:
        """Return the pictures with their questions, painted at a size (None: the finest view's)."""
        found = scene_pictures(
            seeds[: self.num_scenes], picture_px or NATIVE_PX, self.scattered_rounds, self.shares_tokens
        )
        return tuple(found)


def scene_pictures(
    seeds: range, side: int, scattered_rounds: int = 0, shares_tokens: bool = False
) -> Iterator[Picture]:
    """Yield a picture a scene with its questions (`plain_questions`, `shared_tasks`)."""
    for seed in seeds:
        scene = generate_scene(seed)
        tasks = []
        for number, question in plain_questions(scene, scattered_rounds):
            task = task_of(question)
            tasks.append(dataclasses.replace(task, id=f"{task.id}-round{number}") if number else task)
        tasks += shared_tasks(scene) if shares_tokens else ()
        yield Picture(key=str(seed), load=functools.partial(render, scene, side), tasks=tuple(tasks))


def shared_tasks(scene: WorldScene) -> tuple[Task, ...]:
    """Return questions about objects on different sites, in groups for each of which tokens are chosen once.

    The targets of a group lie as far apart as sites do, while each question is one that the model can answer by itself.
    A group has the first question of every site that has one, the next group the second ones, down to groups of
    MIN_SHARED. Lines carry {"shared": questions in the group} among their facts.
    """
    by_site: dict[int, list[Question]] = {}
    for _, question in plain_questions(scene):
        if question.form in SHARED:
            by_site.setdefault(question.site_ids[0], []).append(question)
    found = []
    for turn in range(max(map(len, by_site.values()), default=0)):
        group = [questions[turn] for questions in by_site.values() if len(questions) > turn]
        if len(group) < MIN_SHARED:
            break
        tasks = [task_of(question) for question in group]
        for task in tasks:
            others = tuple(other.text for other in tasks if other is not task)
            facts = {**task.facts, "shared": len(group)}
            found.append(dataclasses.replace(task, id=f"{task.id}-shared", shared_with=others, facts=facts))
    return tuple(found)


def plain_questions(scene: WorldScene, scattered_rounds: int = 0) -> tuple[tuple[int, Question], ...]:
    """Return (round, question) of those that need no red circle in the pixels, which would be a picture of its own.

    Args:
      scattered_rounds: how many more rounds of questions (`generate_questions`) to take those about several sites from,
        unless the same was asked before.
    """
    found: dict[tuple[str, tuple[str, ...]], tuple[int, Question]] = {}
    for number in range(1 + scattered_rounds):
        for question in generate_questions(scene, number):
            if question.marker is None and (not number or question.form in SCATTERED):
                found.setdefault((question.text, tuple(sorted(question.options))), (number, question))
    return tuple(found.values())


def scene_masks(picture: Picture) -> np.ndarray:
    """Return the masks of the scene that a picture shows: what a perfect segmentation would find."""
    return instance_map(generate_scene(int(picture.scene)), NATIVE_PX)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole study. coverage_scenes: how many scenes token coverage looks at."""

    parts: tuple[Part, ...]
    coverage_scenes: int

    @property
    def scenes(self) -> dict[str, int]:
        """Most scenes of every part, and of token coverage."""
        return {part.name: part.num_scenes for part in self.parts} | {COVERAGE: self.coverage_scenes}

    def with_scenes(self, counts: Mapping[str, int]) -> "Plan":
        """Return the plan with other numbers of scenes.

        Raises:
          ValueError: it has no such part, or a number is below 1.
        """
        for name, count in counts.items():
            if name not in self.scenes or count < 1:
                raise ValueError(f"scenes={name}={count}: want one of {', '.join(self.scenes)} and at least 1")
        counts = {**self.scenes, **counts}
        parts = tuple(dataclasses.replace(part, num_scenes=counts[part.name]) for part in self.parts)
        return Plan(parts=parts, coverage_scenes=counts[COVERAGE])


def full(cfg: BatConfig) -> Plan:
    """Return the plan with all cells, for hours."""
    # ToMe's steps follow each other and take most of a second a question: at one budget only.
    selections = (
        GRIDS["selections"](cfg),
        _some_cells(cfg, "figure1", lambda number, cell: cell.name != "tome"),
        GRIDS["figure5"](cfg),
    )
    ablations, settings = (tuple(GRIDS[name](cfg) for name in names) for names in (PAPER_ABLATIONS, OUR_SETTINGS))
    return _plan("full", (GRIDS["regions"](cfg),), selections, ablations, settings)


def reduced(cfg: BatConfig) -> Plan:
    """Return the plan with fewer cells and scenes, for about an hour on two cores."""

    def numbered(name: str, *numbers: int) -> Grid:
        return _some_cells(cfg, name, lambda number, cell: number in numbers)

    columns = ("1k", "3k", "6k")
    # Two seeds of five.
    regions = _some_cells(
        cfg,
        "regions",
        lambda number, cell: cell.column in columns and cell.seed < 2 and cell.settings.get("coverage") != "guaranteed",
    )
    own = ("uhr_bat", "random", "pooling", "anchor view alone", "anchor view alone, by importance")
    selections = (
        _some_cells(cfg, "selections", lambda number, cell: cell.name in own),
        _some_cells(cfg, "figure1", lambda number, cell: cell.column in columns and cell.name != "tome"),
        GRIDS["figure5"](cfg),
    )
    ablations = (
        GRIDS["table5"](cfg),
        numbered("table6", 0, 3, 4, 7, 8, 11, 12, 15),  # the ends of each view's range
        numbered("table7", 0, 2, 6, 8),
        _some_cells(cfg, "table8", lambda number, cell: cell.column in ("4k", "6k") and "ours" not in cell.name),
        GRIDS["table9"](cfg),
        numbered("figure3", 0, 1, 3, 6),
    )
    settings = (GRIDS["differences"](cfg), GRIDS["layers"](cfg), numbered("kmeans", 0, 2, 4, 5, 6))
    return _plan("reduced", (regions,), selections, ablations, settings)


def _plan(
    name: str,
    methods: tuple[Grid, ...],
    selections: tuple[Grid, ...],
    ablations: tuple[Grid, ...],
    settings: tuple[Grid, ...],
) -> Plan:
    """Return the plan of four parts with the numbers of scenes that the rules have under its name."""
    scenes = rules.load().sizes[name]
    parts = (
        Part(name="methods", grids=methods, num_scenes=scenes["methods"], scattered_rounds=4, shares_tokens=True),
        Part(name="selections", grids=selections, num_scenes=scenes["selections"]),
        Part(name="ablations", grids=ablations, num_scenes=scenes["ablations"]),
        Part(name="settings", grids=settings, num_scenes=scenes["settings"]),
    )
    return Plan(parts=parts, coverage_scenes=scenes[COVERAGE])


def _some_cells(cfg: BatConfig, name: str, is_wanted: Callable[[int, Cell], bool]) -> Grid:
    """Return a grid with those of its cells that are wanted by number or content."""
    grid = GRIDS[name](cfg)
    cells = tuple(cell for number, cell in enumerate(grid.cells) if is_wanted(number, cell))
    return dataclasses.replace(grid, cells=cells)
