"""The paper's tables as data: UHR-BAT (arXiv:2604.13565), Tables 1-9, as its text was read by a machine.

The reading lost most decimal points and a few digits; every cell that was mended by hand says so:

    31.8     as read                     31.8'    only its decimal point is restored (read as 318)
    31.6<31,6   corrected, read as 31,6  27.8?2738  read as 2738, the reading given is not certain

Accuracies are percent. Counts n per sub-task are questions: Table 1 prints its own; Table 2's come from the steps of
RSHR-Bench's published accuracies and Table 3's from the benchmark's files (neither is in the paper). `claims.py` holds
what the text says about these numbers, `audit.py` recomputes it.
"""

import dataclasses
from typing import Literal

from bat_jax.benchmarks.record import PERCEPTION, REASONING
from bat_jax.benchmarks.registry import BENCHMARKS

Legibility = Literal["as read", "point restored", "corrected", "uncertain"]


@dataclasses.dataclass(frozen=True)
class PublishedValue:
    """A number as printed. reading: what was mended; as_read: what the machine read; decimals: printed places."""

    value: float
    decimals: int
    reading: Legibility
    as_read: str

    @property
    def half_step(self) -> float:
        """Half a unit of the last printed place: the true value lies within it."""
        return 0.5 * 10.0**-self.decimals

    @property
    def text(self) -> str:
        """The number with its printed places."""
        return f"{self.value:.{self.decimals}f}"

    @classmethod
    def parse(cls, text: str) -> "PublishedValue":
        """Read the notation of this file.

        Raises:
          ValueError: the text is no number in that notation.
        """
        reading: Legibility = "as read"
        number, as_read = text, text
        if text.endswith("'"):
            number, reading = text[:-1], "point restored"
            as_read = number.replace(".", "")
        elif "<" in text:
            number, as_read = text.split("<")
            reading = "corrected"
        elif "?" in text:
            number, as_read = text.split("?")
            reading = "uncertain"
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f"cell {text!r} is no number") from None
        return cls(value, len(number.partition(".")[2]), reading, as_read)


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table: rows[name][column]; group[name]: what it stands under, "" for nothing."""

    number: int
    title: str
    rows: dict[str, dict[str, PublishedValue]]
    group: dict[str, str]

    def value(self, row: str, column: str) -> float:
        return self.rows[row][column].value


def read_table(number: int, title: str, columns: str, text: str) -> PublishedTable:
    """Parse lines "name | cells"; a line "[group]" names the group of the rows below it.

    Raises:
      ValueError: a row has another number of cells than there are columns, or a name stands twice.
    """
    names, rows, group, current = columns.split(), {}, {}, ""
    for line in text.strip().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
            continue
        name, _, cells = (part.strip() for part in line.partition("|"))
        found = [PublishedValue.parse(cell) for cell in cells.split()]
        if len(found) != len(names) or name in rows:
            raise ValueError(f"table {number}, row {name!r}: {len(found)} cells for {len(names)} columns, or twice")
        rows[name] = dict(zip(names, found, strict=True))
        group[name] = current
    return PublishedTable(number, title, rows, group)


OURS = "UHR-BAT"
# Questions per sub-task. XLRS-Bench-lite's are printed in Table 1.
XLRS_PERCEPTION, XLRS_REASONING = (BENCHMARKS["xlrs"].counts(group=group) for group in (PERCEPTION, REASONING))
RSHR_PERCEPTION, RSHR_REASONING = (BENCHMARKS["rshr"].counts(group=group) for group in (PERCEPTION, REASONING))
MME_FULL, MME_LITE = (BENCHMARKS["mme_realworld"].counts(variant) for variant in ("", "Lite"))

TABLE_1 = read_table(
    1,
    "XLRS-Bench (lite, 3,080 questions), w.Avg. weighted by questions",
    "OC RC OLUC RLUC OCC OCL OMS OSR AD ECR RP RCCD CCR w.Avg",
    """
[open]
InternLM-XComposer-2.5 | 21.7 42.0 7.0 68.0 31.8' 27.8?2738 6.7 26.0' 72.0' 81.0' 41.0 36.7 47.0 34.8'
LLaVA-Next | 26.7 40.0 5.0 67.0 28.8 32.8 66.7 30.0 69.0' 78.0' 27.0 35.0 36.0 36.0
LLaVA-OneVision-7B | 25.0' 38.0 2.0 69.5 35.9' 35.3' 65.0' 25.2' 76.0 83.0 24.0' 43.3' 36.0 38.1
InternVL2.5-8B | 38.3' 37.0 10.0 77.0 33.4' 35.5' 65.0' 21.6' 73.0 83.0 34.0' 50.0 43.0 38.5
InternVL3-8B | 40.0 39.0 10.0 71.5 44.5' 30.8' 65.0' 25.2' 77.0 82.0 36.0 21.7 50.0 40.3
Qwen2-VL-7B | 26.7 40.0 11.0 73.0 35.9' 34.6' 61.7' 31.8' 70.0' 81.0 35.0 46.7 48.0 40.1
Qwen2.5-VL-7B | 33.3 40.0 31.0 77.0 40.6' 40.5' 66.7' 36.2' 68.0 72.0' 27.0 38.3' 45.0 43.8
LLaVA-OneVision-72B | 33.3' 38.0 15.0 72.5 36.3 36.3 66.7 35.6' 74.0' 83.0 28.0 36.7 43.0 41.1
InternVL3-78B | 23.3' 49.0 33.0 74.0 42.5' 37.4' 66.7' 30.0' 76.0 81.0 40.0 45.0 42.0 43.5'
[closed]
GPT-4o | 25.0' 32.0' 15.0 66.0 9.5 11.3 11.7 24.6' 73.0 73.0' 35.0' 20.0 25.0 23.0
GPT-4o-mini | 23.3' 25.0' 19.0 59.5 40.9' 31.0 65.0' 23.6' 71.0 71.0 29.0 6.7 30.0 36.2
Claude 3.7 Sonnet | 27.6 22.7' 17.4 68.4 30.5 29.9' 63.6' 27.6' 64.8' 78.4' 34.5' 27.8 32.6 35.1
Gemini 2.0 Flash | 41.7 45.0 38.0 73.5 34.6' 27.6' 61.7' 32.0' 73.0 82.0' 43.0 30.0 51.0 39.5
[remote sensing]
GeoChat | 16.7 29.0 2.0 23.0 21.1 16.8 35.0' 24.2' 33.0 43.0 10.0' 24.0 21.0 21.2
GeoLLaVA-8K | 26.7 38.0 49.0 69.0 41.6 31.6<31,6 65.0' 35.0' 67.0' 78.0 66.0 50.0 52.0 43.3'
EarthDial | 18.3' 42.0' 1.0 36.0 31.3 31.0<31,0 65.0' 24.8' 62.0' 71.0 43.0 48.3' 50.0 33.8'
VHM | 16.7 30.0 2.0 26.0 21.4 16.8 35.0' 25.6' 42.0' 53.0 46.0' 28.3 21.0 23.6
UHR-BAT | 21.7 33.0' 50.0 55.5 43.5' 33.8 65.0' 44.8' 62.0' 71.0' 54.0' 46.7 51.0' 44.0'
""",
)

TABLE_2 = read_table(
    2,
    "RSHR-Bench, averages over sub-tasks",
    "COL SHP DET OC REL OGD RG OCN RCN AD FP MRJC MRJCS OSJ P.Avg R.Avg Avg",
    """
[open]
InternVL2.5-8B | 25.5' 22.0' 26.0' 26.0' 22.5' 24.5' 30.0' 22.5' 20.0' 26.0' 20.0' 22.5' 34.0' 20.0' 24.3' 24.5' 24.4'
InternVL3.5-8B | 21.5 28.0' 18.0' 21.5' 29.0' 28.5' 30.0' 26.5' 25.0' 20.0' 16.0' 29.0 34.0' 26.0' 25.3' 25.0' 25.2'
MiniCPM2_6 | 21.5' 28.0' 30.0' 24.0' 19.5' 29.5' 34.3' 22.0' 29.0' 26.0' 30.0' 35.0' 32.0' 30.0' 27.4' 30.6' 28.5'
Phi-3.5-Vision | 25.0' 24.0' 25.0' 25.0' 23.5' 25.0' 22.9' 25.0' 25.0' 24.0' 22.0' 23.5' 30.0' 22.0' 24.5' 24.3' 24.4'
Qwen2.5-VL-7B | 29.5' 25.0' 22.0' 28.0' 25.0' 24.5' 24.3' 26.5' 22.0' 26.0' 28.0' 25.0' 10.0' 20.0' 25.2' 21.8' 24.0'
DeepSeek-VL | 22.5' 22.0' 21.0' 25.0' 20.5' 26.0' 28.6' 20.5' 22.0' 22.0' 28.0' 50.0 32.0' 20.0' 23.1' 30.4' 25.7'
VILA-HD | 40.0' 22.0' 22.0' 37.0' 35.5' 26.0' 21.4' 24.5' 24.0' 58.0' 30.0' 55.0' 32.0' 58.0' 28.0' 46.6' 34.6'
[closed]
GPT-5 | 29.0' 10.0' 23.0' 23.0' 37.0' 24.5' 31.4' 20.0' 23.0' 74.0' 58.0' 35.0' 34.0' 66.0' 24.5' 53.4' 34.8'
GPT-4o | 49.5' 23.0' 15.0' 35.5' 30.5' 28.0' 27.1' 22.5' 41.0' 68.0' 56.0' 30.5' 32.0' 64.0' 30.2' 50.1' 37.3'
GPT-4o-mini | 41.5' 16.0' 29.0' 31.5' 31.5' 32.0' 28.6' 19.5' 32.0' 54.0' 54.0' 31.5' 48.0' 54.0' 29.1 48.3' 36.0'
[remote sensing]
EarthDial | 41.0' 22.0' 21.0' 30.0' 32.5' 30.5' 27.1' 18.0' 31.0' 42.0' 30.0' 29.5' 32.0' 52.0' 28.1' 37.1' 31.3'
GeoChat | 32.5' 22.0' 24.0' 29.5' 40.0' 25.0' 22.9' 22.5' 29.0' 30.0' 24.0' 25.5' 30.0' 32.0' 25.9' 28.3' 26.8'
GeoLLaVA-8K | 25.0' 24.0' 25.0' 25.0' 25.0' 25.0' 21.4' 25.0' 25.0' 24.0' 0.0' 0.0' 34.0' 22.0' 24.5' 16.0' 21.5'
VHM | 25.5' 25.0' 26.0' 26.5' 55.0' 25.0' 22.9' 25.0' 25.0' 26.0' 24.0' 26.5' 34.0' 28.0' 25.7' 27.7?217 26.4'
UHR-BAT | 46.5' 32.0' 38.0' 12.5' 38.5' 24.0' 17.1' 17.0' 37.0 44.0' 34.0' 65.0' 32.0' 50.0' 29.2' 45.0' 34.8'
""",
)

TABLE_3 = read_table(
    3,
    "MME-RealWorld remote sensing, Avg. called the mean of the three columns",
    "Position Color Count Avg",
    """
[closed]
GPT-4o | 33.52' 29.83 18.90 27.42
[open]
LLaVA-v1.5-7B | 21.48' 22.95' 16.31' 20.28
LLaVA-v1.6-7B | 26.49' 24.06 20.47' 23.70
LLaVA-ov-7B | 26.81' 26.14 27.57' 26.83
Qwen2.5-VL-7B | 22.12' 15.54' 14.93' 17.55
LLaVA-HR | 35.56' 44.30' 7.91' 29.26
[remote sensing]
GeoChat | 25.06' 23.11 15.66 21.32
VHM | 35.24' 20.32' 16.80 24.18
GeoLLaVA-8K | 34.90' 27.92' 22.27' 28.41
UHR-BAT | 44.00' 42.00 14.00' 33.33'
""",
)

TABLE_4 = read_table(
    4,
    "Efficiency per sample, 131,328 tokens in (compression x, TFLOPs, seconds in all and of generation)",
    "Compression TFLOPs Total_s Gen_s",
    """
4k | 32.83 267.68 20.93 4.34
5k | 26.27 274.91' 21.58 4.56
6k | 21.89 289.10 21.83 4.74
8k | 16.42 317.48 21.99 5.11
10k | 13.13 345.75 25.50 5.65
11k | 11.94 359.94 25.79 5.86
12k | 10.94 374.24 22.79' 5.99
""",
)

TABLE_5 = read_table(
    5,
    "XLRS-Bench by image resolution and kept tokens",
    "Perception Reasoning w.Avg",
    """
3k of 8k | 40.38 57.83 43.00
4k of 8k | 40.61 57.52 43.12
3k of 4k | 40.50 58.04 43.12
4k of 4k | 40.73 57.83 43.28
""",
)

# The group is the scale whose budget K varies; the others keep 120/320/600/2400.
TABLE_6 = read_table(
    6,
    "XLRS-Bench by the budget K of one scale, the others at 120/320/600/2400",
    "Perception Reasoning w.Avg",
    """
[672]
672 K=0 | 40.76 57.83 43.31
672 K=40 | 40.88 58.04 43.44
672 K=80 | 40.95 57.83 43.47
672 K=120 | 41.15 58.04 43.67
[1344]
1344 K=80 | 40.69 57.61 43.21
1344 K=160 | 40.88 57.17 43.33
1344 K=240 | 41.07 57.39 43.51
1344 K=320 | 41.15 58.04 43.67
[2688]
2688 K=0 | 40.80 58.04 43.38
2688 K=200 | 40.84 57.83 43.38
2688 K=400 | 41.07 57.83 43.57
2688 K=600 | 41.15 58.04 43.67
[4032]
4032 K=400 | 40.99 57.39 43.44
4032 K=1200 | 40.99 57.61 43.47
4032 K=2000 | 40.38 58.04 43.02
4032 K=2800 | 41.07 57.83 43.57
""",
)

# Printed with the cluster counts as columns; here they are the rows.
TABLE_7 = read_table(
    7,
    "XLRS-Bench by the number of clusters k",
    "Perception Reasoning Average",
    """
k=10 | 37.2 62.4' 40.9'
k=50 | 37.6 64.1 41.6
k=120 | 37.7' 63.5' 41.6
k=240 | 37.3' 62.4' 41.1
k=360 | 37.4' 63.3' 41.3'
k=480 | 37.3' 63.7' 41.2'
k=600 | 37.5' 63.9' 41.4'
k=720 | 37.1' 63.3' 41.0'
k=1000 | 37.2' 63.0 41.1
""",
)

# The last column's head is read "1w"; ten thousand is the only size of the series that it can be.
TABLE_8 = read_table(
    8,
    "XLRS-Bench (w.Avg) by region partition and kept tokens",
    "4k 5k 6k 8k 10k",
    """
BIRCH | 43.05 43.28' 43.28' 43.31' 43.51'
K-means | 43.34 43.57' 41.43?4143 43.73 43.31'
SAM | 43.28 43.54' 43.54' 43.57' 43.67
""",
)

TABLE_9 = read_table(
    9,
    "XLRS-Bench of other models by context length (the caption says resolution)",
    "Qwen2.5VL-7B InternVL-3.5 Phi-3.5",
    """
2K | 38.08 38.41 37.08
4K | 40.58 38.60 37.11
8K | 40.36 39.80 37.90
""",
)

TABLES = {
    table.number: table for table in (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, TABLE_9)
}

# Why an uncertain reading was chosen: (table, row, column).
WHY = {
    (1, "InternLM-XComposer-2.5", "OCL"): "27.8 makes the row's printed w.Avg; 27.3 and 23.8 do not",
    (2, "VHM", "R.Avg"): "27.7 is the mean of the row's cells and gives the text's +17.3; 21.7 does neither",
    (8, "K-means", "6k"): "41.43 is what the digits say and is 1276/3080; 43.43, which would fit the row, is no k/3080",
}
