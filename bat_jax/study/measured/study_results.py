"""What a miniature study found, by the names of its parts, grids and cells; for `reproduction.py` and the report."""

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence

from bat_jax.config import BatConfig
from bat_jax.study.measured.cluster_mean import cluster_mean
from bat_jax.study.measured.comparison import (
    ONE_SITE,
    SCATTERED,
    SMALL_OBJECT,
    IsWanted,
    Paired,
    Record,
    Records,
    compare,
    form_of,
    right_shares,
    scene_of,
)
from bat_jax.study.measured.grids import Cell, Grid
from bat_jax.study.measured.rules import UHR_BAT, Rules, load
from bat_jax.study.measured.sweep import GridAnswers


def is_shared(record: Record) -> bool:
    """Return whether a question shares its tokens with questions about other sites (plan.shared_tasks)."""
    return "shared" in record["facts"]


def is_form(forms: Sequence[str]) -> IsWanted:
    """Return a test for questions of some forms that tokens are chosen for alone."""
    return lambda record: form_of(record) in forms and not is_shared(record)


def everything(record: Record) -> bool:
    """Return True."""
    return True


# Kinds of questions, by their names in the rules.
QUESTIONS: Mapping[str, IsWanted] = {
    "": everything,
    "small": is_form(SMALL_OBJECT),
    "one_site": is_form(ONE_SITE),
    "shared": is_shared,
    "scattered": is_form(SCATTERED),
}


@dataclasses.dataclass(frozen=True)
class Results:
    """What a study found: the parts' answers by name, and coverage's lines by scene. cfg: of the checkpoint.

    chance: how often a guess is right, by question, for the questions of all parts. rules: that verdicts follow.
    """

    cfg: BatConfig
    sweeps: Mapping[str, GridAnswers]
    coverage: Records
    chance: Mapping[str, float]
    rules: Rules = dataclasses.field(default_factory=load)

    def grid(self, part: str, name: str) -> Grid:
        return next(grid for grid in self.sweeps[part].grids if grid.name == name)

    def runs(self, part: str, grid: str, name: str, column: str = "") -> list[tuple[Cell, Records]]:
        """Return the cells of a name and column with their answers: one, or UHR-BAT's under every seed of K-means.

        Raises:
          ValueError: the grid has no such cell.
        """
        cells = [
            cell
            for cell in self.grid(part, grid).cells
            if cell.column == column and cell.name.split(", seed")[0] == name
        ]
        if not cells:
            raise ValueError(f"grid {grid}: has no cell {name!r} in column {column!r}")
        return [(cell, self.sweeps[part].records(cell)) for cell in cells]

    def series(self, part: str, grid: str) -> list[tuple[Cell, Records]]:
        """Return all cells of a grid with their answers."""
        return [(cell, self.sweeps[part].records(cell)) for cell in self.grid(part, grid).cells]

    @property
    def trained_tokens(self) -> int:
        """How many tokens the checkpoint keeps by itself: the most that UHR-Mini's models are trained with."""
        return sum(self.cfg.compressor.budgets)

    def outside(self, cell: Cell) -> str:
        """Say what of a cell the weights were not trained for; "" if nothing."""
        selection = cell.settings.get("selection", self.cfg.compressor.selection)
        if selection not in self.rules.trained:
            return f"selection {selection}"
        if sum(cell.budgets) > self.trained_tokens:
            return f"more than {self.trained_tokens} tokens"
        return self.rules.not_trained.get(cell.name, "")

    def columns(self, part: str, grid: str) -> list[str]:
        return list(dict.fromkeys(cell.column for cell in self.grid(part, grid).cells))

    def against(self, other: str, column: str, is_wanted: IsWanted) -> Paired:
        """Compare UHR-BAT, over seeds, with another selection of the part "methods" at a budget."""
        ours, theirs = (self.runs("methods", "regions", name, column) for name in (UHR_BAT, other))
        return compare([run for _, run in ours], [run for _, run in theirs], self.rules, is_wanted)

    def own(self) -> Records:
        """Return the answers of the checkpoint's own settings."""
        [(_, found)] = self.runs("selections", "selections", UHR_BAT)
        return found

    @functools.cached_property
    def is_guessing(self) -> bool:
        """Whether answers about small objects are not better than chance."""
        return self.are_guesses([self.own()], QUESTIONS["small"])

    def are_guesses(self, runs: Sequence[Records], is_wanted: IsWanted) -> bool:
        """Return whether answers, taken over several runs, are not better than chance, by scenes at alpha / 2."""
        ids = [id for id, record in runs[0].items() if is_wanted(record)]
        gains = [share - self.chance[id] for id, share in zip(ids, right_shares(runs, ids), strict=True)]
        return cluster_mean(gains, [scene_of(runs[0][id]) for id in ids], self.rules).interval().low <= 0

    def small_objects(self) -> tuple[float, float]:
        """Return percent right and chance of the questions about small objects, under the checkpoint's own settings."""
        asked = {id: record for id, record in self.own().items() if QUESTIONS["small"](record)}
        right = statistics.fmean(bool(record["is_right"]) for record in asked.values())
        return 100 * right, 100 * statistics.fmean(self.chance[id] for id in asked)
