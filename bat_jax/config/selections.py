"""What a selection is: one record in one file of `bat_jax/compress/selections`, of an installed package, or registered.

    from bat_jax.config import SELECTIONS, SelectionRule

    SELECTIONS.register(SelectionRule(name="first", title="first tokens", choose=...))

Everything that names selections reads the registry: `CompressorConfig.selection`, `--set=selection=NAME`, the
compressor, grids and figures that compare selections, token coverage, the training mixes of the small model, and the
table of docs/compressors.md. Another package adds a record through the entry-point group `bat_jax.selections`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from bat_jax.registry import Registry

Need = Literal["question", "regions", "tower"]
ShownIn = Literal["grids", "cards", "coverage"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """A way to choose which tokens of the views the decoder sees.

    Attributes:
      name: value of `CompressorConfig.selection`. title: in figures.
      choose: (scales, **settings) -> one Selection a scale. `scales` are Candidates, coarse to fine
        (compress/candidates.py, which also makes a rule for one scale one for all: `by_scale`). Runs under jit: budgets
        are traced, every other number is static.
      source: the paper it is from. difference: what is different here; both for docs/compressors.md.
      needs: "question": importance of the question at hand. "regions": the partition. "tower": the vision tower's
        attention, with which images are then encoded.
      settings: fields of CompressorConfig that `choose` gets by name; it sees no others.
      attention: config -> (layer, query) of the decoder's attention that is its importance, as
        `importance_layer` and `importance_query` say it; None reads these.
      check: (BatConfig, budgets, number of images) -> None; raises a ValueError where the rule cannot run.
      shares_budget: the scales share the sum of all budgets, so each has room for all of it.
      shown_in: "grids" of the study, "cards" of Figure 11, token "coverage".
      place: where it stands among the others; equal ones stand by name.
    """

    name: str
    title: str
    choose: Callable[..., tuple[Any, ...]]
    source: str = "-"
    difference: str = "-"
    needs: tuple[Need, ...] = ("question",)
    settings: tuple[str, ...] = ()
    attention: Callable[[Any], tuple[int, str]] | None = None
    check: Callable[[Any, tuple[int, ...], int], None] | None = None
    shares_budget: bool = False
    shown_in: tuple[ShownIn, ...] = ("grids", "cards", "coverage")
    place: int = 100


SELECTIONS: Registry[SelectionRule] = Registry(
    SelectionRule,
    noun="selection",
    package="bat_jax.compress.selections",
    attribute="SELECTION",
    group="bat_jax.selections",
    order=lambda rule: (rule.place, rule.name),
)


def shown_in(place: ShownIn) -> tuple[str, ...]:
    """Return the names of the selections that a grid, the cards or token coverage show."""
    return tuple(rule.name for rule in SELECTIONS if place in rule.shown_in)


def markdown_table() -> str:
    """Return the table of selections in docs/compressors.md."""
    lines = ["| name | source | needs | what is different here |", "|---|---|---|---|"]
    for rule in SELECTIONS:
        needs = ", ".join(rule.needs) or "nothing"
        lines.append(f"| `{rule.name}` | {rule.source} | {needs} | {rule.difference} |")
    return "\n".join(lines) + "\n"
