"""What a miniature study found, by the names of its parts, grids and cells; for `reproduction.py` and the report."""

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence

from bat_jax.config import BatConfig
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
    mean_interval,
    right_shares,
    scene_of,
)
from bat_jax.study.measured.coverage import UHR_BAT
from bat_jax.study.measured.grids import Cell, Grid
from bat_jax.study.measured.sweep import GridAnswers


def is_shared(record: Record) -> bool:
    """Return whether a question shares its tokens with questions about other sites (plan.shared_tasks)."""
    return "shared" in record["facts"]


def is_form(forms: Sequence[str]) -> IsWanted:
    """Return a test for questions of some forms that tokens are chosen for alone."""
    return lambda record: form_of(record) in forms and not is_shared(record)


ONE_SITE_ONLY, SCATTERED_ONLY, SMALL_ONLY = is_form(ONE_SITE), is_form(SCATTERED), is_form(SMALL_OBJECT)


@dataclasses.dataclass(frozen=True)
class Results:
    """What a study found: the parts' answers by name, and coverage's lines by scene. cfg: of the checkpoint.

    chance: how often a guess is right, by question, for the questions of all parts.
    """

    cfg: BatConfig
    sweeps: Mapping[str, GridAnswers]
    coverage: Records
    chance: Mapping[str, float]

    def grid(self, part: str, name: str) -> Grid:
        return next(grid for grid in self.sweeps[part].grids if grid.name == name)

    def answers(self, part: str, grid: str, name: str, column: str = "") -> Records:
        """Return the answers of a cell by its name and column.

        Raises:
          ValueError: the grid has no such cell.
        """
        for cell in self.grid(part, grid).cells:
            if (cell.name, cell.column) == (name, column):
                return self.sweeps[part].records(cell)
        raise ValueError(f"grid {grid}: has no cell {name!r} in column {column!r}")

    def series(self, part: str, grid: str) -> list[tuple[Cell, Records]]:
        """Return all cells of a grid with their answers."""
        return [(cell, self.sweeps[part].records(cell)) for cell in self.grid(part, grid).cells]

    @property
    def trained_tokens(self) -> int:
        """How many tokens the checkpoint keeps by itself: the most that UHR-Mini's models are trained with."""
        return sum(self.cfg.compressor.budgets)

    def is_trained(self, cell: Cell) -> bool:
        """Return whether a cell keeps no more tokens than the model was trained with."""
        return sum(cell.budgets) <= self.trained_tokens

    def columns(self, part: str, grid: str) -> list[str]:
        return list(dict.fromkeys(cell.column for cell in self.grid(part, grid).cells))

    def seeds(self, column: str) -> list[Records]:
        """Return UHR-BAT's answers at a budget under every seed of K-means."""
        cells = self.series("methods", "regions")
        return [found for cell, found in cells if cell.column == column and cell.name.split(", seed")[0] == UHR_BAT]

    def against(self, other: str, columns: Sequence[str], is_wanted: IsWanted) -> Paired:
        """Compare UHR-BAT, over seeds and budgets, with another selection of the part "methods"."""
        ours = [records for column in columns for records in self.seeds(column)]
        theirs = [self.answers("methods", "regions", other, column) for column in columns]
        return compare(ours, theirs, is_wanted)

    def own(self) -> Records:
        """Return the answers of the checkpoint's own settings."""
        return self.answers("selections", "selections", UHR_BAT)

    @functools.cached_property
    def is_guessing(self) -> bool:
        """Whether answers about small objects are not better than chance."""
        return self.are_guesses([self.own()], SMALL_ONLY)

    def are_guesses(self, runs: Sequence[Records], is_wanted: IsWanted) -> bool:
        """Return whether answers, taken over several runs, are not better than chance: with 95 % by scenes."""
        ids = [id for id, record in runs[0].items() if is_wanted(record)]
        gains = [share - self.chance[id] for id, share in zip(ids, right_shares(runs, ids), strict=True)]
        return mean_interval(gains, [scene_of(runs[0][id]) for id in ids]).low <= 0

    def small_objects(self) -> tuple[float, float]:
        """Return percent right and chance of the questions about small objects, under the checkpoint's own settings."""
        asked = {id: record for id, record in self.own().items() if SMALL_ONLY(record)}
        right = statistics.fmean(bool(record["is_right"]) for record in asked.values())
        return 100 * right, 100 * statistics.fmean(self.chance[id] for id in asked)
