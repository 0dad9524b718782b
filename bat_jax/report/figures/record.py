"""What a figure is, and where figures are found: one file each in `records`."""

import dataclasses
from collections.abc import Callable

from bat_jax.registry import Registry
from bat_jax.report.figures.figure import Figure
from bat_jax.report.figures.subject import Subject


def _nothing_missing() -> None:
    """Most figures need nothing beyond what is always installed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FigureRecord:
    """A figure by its number in the paper, or, where the paper has none, by a name.

    Attributes:
      draw: makes the figure; its `number` is `name`.
      check_installed: raises ValueError with what to install, before anything is read.
    """

    name: str
    draw: Callable[[Subject], Figure]
    check_installed: Callable[[], None] = _nothing_missing


def _order(record: FigureRecord) -> tuple[bool, int, str]:
    is_number = record.name.isdigit()
    return not is_number, int(record.name) if is_number else 0, record.name


FIGURES = Registry(
    FigureRecord,
    noun="figure",
    package="bat_jax.report.figures.records",
    attribute="FIGURE",
    group="bat_jax.figures",
    order=_order,
)
