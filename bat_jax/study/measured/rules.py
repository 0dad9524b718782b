"""Rules of verdicts as data: levels, margins, sizes and the list of comparisons, written before the answers are asked.

A version is one file, rules_vN.toml, that is never edited after its study: its SHA-256 goes into every result. What
changes is a new version beside it; docs/ablations.md says what version 1 was.
"""

import dataclasses
import datetime
import hashlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

from bat_jax.mini.world.splits import SPLITS

VERSION = 2
ClaimKind = Literal["gain", "equal", "no_more", "rise", "above", "counted", "construction", "computed", "weights"]
UHR_BAT = "uhr_bat"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper and how it is judged; the file of the rules says what the kinds mean.

    Attributes:
      id: unique. where: section, table or figure. claim: in short.
      part, grid: where its cells are; part "coverage": the importance, or the fact of a scene.
      ours, theirs: names of cells; theirs empty: all others, as the kind has it.
      columns: of the cells, one comparison each. family: what p-values are adjusted in.
      questions: which kind of them counts, "" for all.
      margin: percent points, of kinds "equal" and "no_more". limit: percent, of "above".
      why: the reason of margin or limit, or of what was not run. note: what a reader has to know.
    """

    id: str
    where: str
    claim: str
    kind: ClaimKind
    part: str = ""
    grid: str = ""
    family: str = ""
    ours: str = UHR_BAT
    theirs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("",)
    questions: str = ""
    margin: float = 0.0
    limit: float = 0.0
    why: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignFlips:
    """below_clusters: from so many on none are flipped. num: most of them. seed: of those that are drawn."""

    below_clusters: int
    num: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """A version of the rules.

    Attributes:
      digest: SHA-256 of the file. alpha, margin, least_clusters, least_discordant, sign_flips: see the file.
      trained: selections that the decoder saw in training, and those with rows like theirs. not_trained: cells that
        are outside of training whatever their selection -> why.
      exclusions: what decides nothing, in words. split: of UHR-Mini. sizes: plan -> part -> scenes.
    """

    version: int
    date: datetime.date
    digest: str
    alpha: float
    margin: float
    least_clusters: int
    least_discordant: int
    sign_flips: SignFlips
    trained: tuple[str, ...]
    not_trained: Mapping[str, str]
    exclusions: Mapping[str, str]
    split: str
    sizes: Mapping[str, Mapping[str, int]]
    claims: tuple[Claim, ...]

    @property
    def text(self) -> str:
        """Name it for settings and tables: "rules v2 of 2026-11-28, SHA-256 0123..."."""
        return f"rules v{self.version} of {self.date}, SHA-256 {self.digest}"

    def departures(self, plan: str, scenes: Mapping[str, int], seeds: range) -> tuple[str, ...]:
        """Say in what a study is none under these rules: other numbers of scenes, or other scenes than the split's.

        Args:
          plan: "reduced" or "full". scenes: of every part. seeds: of the scenes, of which a part takes the first ones.
        """
        wanted = self.sizes[plan]
        found = [f"{part} {num} scenes, not {wanted[part]}" for part, num in scenes.items() if num != wanted[part]]
        if seeds[:1] != SPLITS[self.split][:1]:
            found.append(f"scenes from {seeds.start}, not those of the {self.split} split")
        return tuple(found)


def load(version: int = VERSION) -> Rules:
    """Read a version of the rules.

    Raises:
      ValueError: there is no such version.
    """
    file = resources.files(__package__) / f"rules_v{version}.toml"
    if not file.is_file():
        raise ValueError(f"version={version}: there are no such rules; the newest are {VERSION}")
    data = file.read_bytes()
    found = tomllib.loads(data.decode("utf-8"))
    trained, sizes, questions = found.pop("trained"), found.pop("sizes"), found.pop("questions")
    claims = tuple(claim for entry in found.pop("claim") for claim in _claims(entry, questions))
    return Rules(
        digest=hashlib.sha256(data).hexdigest(),
        sign_flips=SignFlips(**found.pop("sign_flips")),
        trained=(*trained["selections"], *trained["alike"]),
        not_trained=trained["not"],
        split=sizes.pop("split"),
        sizes=sizes,
        claims=claims,
        **found,
    )


def _claims(entry: dict[str, Any], questions: Mapping[str, str]) -> tuple[Claim, ...]:
    """Return an entry's claims, one for every kind of questions that it names."""
    kinds = entry.pop("questions", [""])
    for name in ("theirs", "columns"):
        if name in entry:
            entry[name] = tuple(entry[name])
    base = Claim(**{"family": entry.get("grid", ""), **entry})
    if len(kinds) == 1:
        return (dataclasses.replace(base, questions=kinds[0]),)
    return tuple(
        dataclasses.replace(base, id=f"{base.id}_{kind}", claim=f"{base.claim}: {questions[kind]}", questions=kind)
        for kind in kinds
    )
