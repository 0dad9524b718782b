"""Preserve and merge once more, from the paper's Algorithm 1 in plain Python: loops over regions, exact fractions.

Nothing here comes from bat_jax. Importance is given as integers (any common unit), so means and their order are exact.
"""

import dataclasses
from fractions import Fraction

import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the outcome: the tokens it stands for, whether it is their mean, and the region's id."""

    members: tuple[int, ...]
    is_merged: bool
    region: int


@dataclasses.dataclass(frozen=True)
class Region:
    """A region with its rows in serialised order: kept tokens by importance, then the merged one."""

    mean: Fraction
    region: int
    kept: tuple[int, ...]
    redundant: tuple[int, ...]

    @property
    def rows(self) -> list[Row]:
        rows = [Row((token,), False, self.region) for token in self.kept]
        return rows + [Row(self.redundant, True, self.region)] * bool(self.redundant)


def serialised_regions(importance, region_id, valid, *, preserve_equal: bool) -> list[Region]:
    """Return the regions in the order of Algorithm 1 (Eq. 8-12), each with what it keeps and what it merges."""
    members: dict[tuple[int, int], list[int]] = {}
    for token, (region, is_valid) in enumerate(zip(region_id, valid, strict=True)):
        if is_valid:
            # A token of id -1 is a region of its own; with equal means these come first, by token index.
            members.setdefault((0, token) if region < 0 else (1, int(region)), []).append(token)
    found = []
    for (is_shared, name), tokens in members.items():
        mean = Fraction(sum(int(importance[t]) for t in tokens), len(tokens))
        kept, redundant = [], []
        for token in tokens:
            a = int(importance[token])
            is_kept = not is_shared or (a >= mean if preserve_equal else a > mean)
            (kept if is_kept else redundant).append(token)
        kept.sort(key=lambda t: (-int(importance[t]), t))
        region = Region(mean, name if is_shared else -1, tuple(kept), tuple(redundant))
        found.append(((-mean, is_shared, name), region))
    return [region for _, region in sorted(found, key=lambda pair: pair[0])]


def select_rows(regions: list[Region], budget: int, coverage: str) -> list[Row]:
    """Concatenate the regions' rows and keep the first `budget` ("off"), or one a region first ("guaranteed")."""
    rows = [row for region in regions for row in region.rows]
    if coverage == "off":
        return rows[:budget]
    first, position = [], 0
    for region in regions:
        first.append(position)
        position += len(region.rows)
    others = [position for position in range(len(rows)) if position not in first]
    return [rows[position] for position in sorted((first + others)[:budget])]


def embeddings(rows: list[Row], tokens: np.ndarray) -> np.ndarray:
    """Return the rows' embeddings; means are one float32 division of an exact sum (integer-valued tokens)."""
    out = np.zeros((len(rows), tokens.shape[1]), np.float32)
    for position, row in enumerate(rows):
        out[position] = tokens[list(row.members)].astype(np.float32).sum(0) / np.float32(len(row.members))
    return out


def row_matrix(rows: list[Row], num_rows: int, num_tokens: int) -> np.ndarray:
    """Return W (num_rows, num_tokens) with `W @ tokens` = the embeddings: the derivative of the outcome."""
    matrix = np.zeros((num_rows, num_tokens))
    for position, row in enumerate(rows):
        matrix[position, list(row.members)] = 1 / len(row.members)
    return matrix
