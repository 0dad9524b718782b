"""What the text of UHR-BAT (arXiv:2604.13565) says about its numbers: gains over others, and what no one can check.

`statements.py` holds the sentences that need a calculation of their own; `audit.py` runs all of them.
"""

import dataclasses
from typing import Literal

Verdict = Literal["agrees", "does not agree", "cannot be checked"]
AGREES: Verdict = "agrees"
DISAGREES: Verdict = "does not agree"
UNCHECKED: Verdict = "cannot be checked"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One published number or sentence, what the tables give instead, and the verdict.

    kind: "average", "gain", "statement" or "count"; where: table and row, or section of the paper.
    """

    kind: str
    where: str
    what: str
    published: str
    recomputed: str
    verdict: Verdict
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Gain:
    """ "+points over another row": ours minus `over` in a column of a table. over "best GROUP" is the group's best."""

    where: str
    table: int
    column: str
    over: str
    points: str


_S1 = "Sec. 4, XLRS-Bench"
_S2 = "Sec. 4, RSHR-Bench"
_S3 = "Sec. 4, MME-RealWorld"

GAINS = (
    Gain(_S1, 1, "w.Avg", "GeoChat", "22.8"),
    Gain(_S1, 1, "w.Avg", "GeoLLaVA-8K", "0.7"),
    Gain(_S1, 1, "w.Avg", "EarthDial", "10.2"),
    Gain(_S1, 1, "w.Avg", "VHM", "20.4"),
    Gain(_S1, 1, "w.Avg", "GPT-4o", "21.0"),
    Gain(_S1, 1, "w.Avg", "Claude 3.7 Sonnet", "8.9"),
    Gain(_S1, 1, "w.Avg", "LLaVA-OneVision-72B", "2.9"),
    Gain(_S2, 2, "P.Avg", "EarthDial", "1.1"),
    Gain(_S2, 2, "P.Avg", "GeoChat", "3.3"),
    Gain(_S2, 2, "P.Avg", "GeoLLaVA-8K", "4.7"),
    Gain(_S2, 2, "P.Avg", "VHM", "3.5"),
    Gain(_S2, 2, "P.Avg", "VILA-HD", "1.2"),
    Gain(_S2, 2, "R.Avg", "EarthDial", "7.9"),
    Gain(_S2, 2, "R.Avg", "GeoChat", "16.7"),
    Gain(_S2, 2, "R.Avg", "GeoLLaVA-8K", "29.0"),
    Gain(_S2, 2, "R.Avg", "VHM", "17.3"),
    Gain(_S2, 2, "MRJC", "best", "10.0"),
    Gain(_S2, 2, "SHP", "best", "4.0"),
    Gain(_S2, 2, "DET", "best", "8.0"),
    Gain(_S3, 3, "Avg", "GeoChat", "12.01"),
    Gain(_S3, 3, "Avg", "VHM", "9.15"),
    Gain(_S3, 3, "Avg", "GeoLLaVA-8K", "4.92"),
    Gain(_S3, 3, "Avg", "GPT-4o", "5.91"),
    Gain(_S3, 3, "Position", "best remote sensing", "8.76"),
    Gain(_S3, 3, "Color", "best remote sensing", "14.08"),
)

# Cells that the text quotes: (where, table, row, column, as quoted).
QUOTED = (
    (_S1, 1, "UHR-BAT", "w.Avg", "44.0"),
    (_S2, 2, "UHR-BAT", "P.Avg", "29.2"),
    (_S2, 2, "UHR-BAT", "R.Avg", "45.0"),
    (_S2, 2, "UHR-BAT", "MRJC", "65.0"),
    (_S2, 2, "UHR-BAT", "SHP", "32.0"),
    (_S2, 2, "UHR-BAT", "DET", "38.0"),
    (_S3, 3, "UHR-BAT", "Avg", "33.33"),
    (_S3, 3, "UHR-BAT", "Position", "44.00"),
    (_S3, 3, "UHR-BAT", "Color", "42.00"),
    ("Sec. 4, efficiency", 4, "12k", "Compression", "10.94"),
    ("Sec. 4, efficiency", 4, "4k", "Compression", "32.83"),
    ("Sec. 4, efficiency", 4, "12k", "TFLOPs", "374.24"),
    ("Sec. 4, efficiency", 4, "4k", "TFLOPs", "267.68"),
    ("Sec. 4, efficiency", 4, "12k", "Gen_s", "5.99"),
    ("Sec. 4, efficiency", 4, "4k", "Gen_s", "4.34"),
    ("App. C.4", 7, "k=600", "Average", "41.4"),
    ("App. C.4", 9, "2K", "Qwen2.5VL-7B", "38.08"),
    ("App. C.4", 9, "4K", "Qwen2.5VL-7B", "40.58"),
    ("App. C.4", 9, "8K", "Qwen2.5VL-7B", "40.36"),
)


def _unchecked(where: str, what: str, why: str, published: str = "") -> Finding:
    return Finding("statement", where, what, published, "", UNCHECKED, why)


CANNOT_BE_CHECKED = (
    _unchecked(
        "Table 1-2", "best results bold, second best underlined", "type faces are not in the text that was read"
    ),
    _unchecked("Fig. 1", "superior performance using fewer tokens", "a picture without printed numbers"),
    _unchecked("Fig. 3", "accuracy against clusters and against tokens", "a picture; Tables 7 and 8 are near it"),
    _unchecked("Fig. 4", "accuracy per scale", "a picture; Table 6 holds numbers of the same kind"),
    _unchecked(
        "Sec. 4", "baselines evaluated zero-shot with a unified prompt", "App. B says they come from other papers"
    ),
    _unchecked("Sec. 4, Table 3", "a larger backbone and a higher resolution help", "the table has no such column"),
    _unchecked("Sec. 4, Table 4", "input resolution decoupled from cost", "Table 4 holds a single input size"),
    _unchecked("Sec. 4, Fig. 5", "better than GeoLLaVA-8K at 95 % pruning", "a picture of one scene, no numbers"),
    _unchecked("App. A", "peak inference memory", "no table; docs/cost.md has a memory model beside it", "30 GB"),
    _unchecked("App. A", "8K training on one card", "no table; docs/cost.md has a memory model beside it", "48 GB"),
    _unchecked("App. B", "images of XLRS-Bench", "a fact of the benchmark, not of a table", "about 8500 x 8500"),
    _unchecked("App. B", "images of RSHR-Bench", "a fact of the benchmark, not of a table", "5,329"),
    _unchecked("App. B", "sub-tasks of XLRS-Bench", "Table 1 has the 13 with questions; three are other tasks", "16"),
    _unchecked("App. B", "learning rates", "the exponents are lost in the text that was read", "1 x 10^?, 5 x 10^?"),
    _unchecked("App. B", "10K training pairs, batch 16, 2 epochs", "nothing else in the paper depends on them"),
    _unchecked("App. C", "about 600 regions per image by SAM", "no table", "~600"),
    _unchecked("App. C", "SAM costs prohibitive preprocessing time", "no time is printed"),
    _unchecked(
        "Tables 5-8", "which partition, clusters, seed", "not stated per table; Table 7 is 2 points below Table 8"
    ),
    _unchecked("all tables", "spread over seeds", "one number per cell; K-means starts from random tokens"),
)
