"""Sub-tasks of the benchmarks: the category strings as the data spells them, abbreviations, groups, counts.

    xlrs_lite     XLRS-Bench-lite                            13 sub-tasks  3,080 questions
    mme_rs_lite   MME-RealWorld-Lite, remote sensing          3              150
    mme_rs        MME-RealWorld, remote sensing (English)     3            3,738
    rshr          RSHR-Bench, multiple choice (= XHRBench)   17            1,932 (342 of them turns of 114 dialogues)
    uhr_mini      UHR-Mini, the synthetic world here         12            4,588 (its test split)
    llava         any file of LLaVA conversations             2            any number

Sources of the strings: XLRS: `TASK_PAIRs` of lmms-eval's XLRS task. MME: the benchmark's JSON (`Category`, lower case).
RSHR: a scorer that others wrote for XHRBench; its misspellings are said to stand in the data, so both spellings are
read. Sources of the counts: XLRS and MME Lite are counted; the full MME split's three are remembered (their sum is
published); RSHR's are derived from the step of the published percentages. Counts therefore warn and never assert.

UHR-Mini takes its categories from those benchmarks, and its groups as well: anomaly and route planning are reasoning
(XLRS), all else is perception, spatial relation (XLRS), existence (RSHR's detection) and location (MME) included. Its
columns have the sub-tasks' own names.

XLRS: the first half of a category is not the paper's group. "Counting/Counting with changing detection" and
"Counting/Counting with complex reasoning" are reasoning in the paper, so a category is looked up by its full string.
"""

import dataclasses
import types
from collections.abc import Mapping

from bat_jax.mini.world.question import SUB_TASKS

PERCEPTION, REASONING, MULTI_TURN = "perception", "reasoning", "multi-turn"
OTHER = "other"  # neither of the first two, but counted overall


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubTask:
    """A column of a benchmark's table.

    Attributes:
      abbreviation: the column's head in the papers.
      category: exactly as the data holds it.
      group: PERCEPTION, REASONING, MULTI_TURN or OTHER.
      count: questions (turns, where group is MULTI_TURN) to expect; see the module's text for how sure that is. 0: any.
      is_multi_answer: whether several options may be right together.
      num_images: images that one question shows.
      num_options: where it is the same for all questions; None where it varies (2 to 4).
      num_turns: questions of one dialogue; 1 outside MULTI_TURN.
      aliases: other spellings of `category` that are read.
    """

    abbreviation: str
    category: str
    group: str
    count: int
    is_multi_answer: bool = False
    num_images: int = 1
    num_options: int | None = None
    num_turns: int = 1
    aliases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """name: the key in BENCHMARKS. title: for tables. subtasks: in the order of the papers' columns."""

    name: str
    title: str
    subtasks: tuple[SubTask, ...]

    @property
    def count(self) -> int:
        return sum(subtask.count for subtask in self.subtasks)

    def in_group(self, group: str) -> tuple[SubTask, ...]:
        return tuple(subtask for subtask in self.subtasks if subtask.group == group)


def _xlrs(abbreviation: str, group: str, category: str, count: int, **facts) -> SubTask:
    return SubTask(abbreviation=abbreviation, category=category, group=group, count=count, **facts)


def _mme(category: str, count: int) -> SubTask:
    return SubTask(abbreviation=category.capitalize(), category=category, group=PERCEPTION, count=count, num_options=5)


def _mini(name: str, count: int, group: str = PERCEPTION, **facts) -> SubTask:
    category = SUB_TASKS[name].category
    return SubTask(abbreviation=name, category=category, group=group, count=count, aliases=(name,), **facts)


def _rshr(abbreviation: str, group: str, category: str, count: int, *aliases: str, **facts) -> SubTask:
    return SubTask(
        abbreviation=abbreviation, category=category, group=group, count=count, aliases=tuple(aliases), **facts
    )


_XLRS = (
    _xlrs("OC", PERCEPTION, "Counting/Overall counting", 60),
    _xlrs("RC", PERCEPTION, "Counting/Regional counting", 100),
    _xlrs(
        "OLUC",
        PERCEPTION,
        "Land use classification/Overall Land use classification",
        100,
        is_multi_answer=True,
    ),
    _xlrs("RLUC", PERCEPTION, "Land use classification/Regional Land use classification", 200),
    _xlrs("OCC", PERCEPTION, "Object properties/Object classification", 800),
    _xlrs("OCL", PERCEPTION, "Object properties/Object color", 800),
    _xlrs("OMS", PERCEPTION, "Object properties/Object motion state", 60, num_options=2),
    _xlrs("OSR", PERCEPTION, "Object spatial relationship/Object spatial relationship", 500),
    _xlrs("AD", REASONING, "Complex reasoning/Anomaly Detection and Interpretation", 100),
    _xlrs("ECR", REASONING, "Complex reasoning/Environmental condition reasoning", 100),
    _xlrs("RP", REASONING, "Complex reasoning/Route planning", 100),
    _xlrs("RCCD", REASONING, "Counting/Counting with changing detection", 60, num_images=2),
    _xlrs("CCR", REASONING, "Counting/Counting with complex reasoning", 100),
)

_RSHR = (
    _rshr("COL", PERCEPTION, "color", 200),
    _rshr("SHP", PERCEPTION, "shape", 100),
    _rshr("DET", PERCEPTION, "detection", 100),  # a figure of the benchmark's paper calls it orientation
    _rshr("OC", PERCEPTION, "object_clasfication", 200, "object_classification"),
    _rshr("REL", PERCEPTION, "relation", 200),
    _rshr("OGD", PERCEPTION, "object_grounding", 200),
    _rshr("RG", PERCEPTION, "regional_grouding", 70, "regional_grounding"),
    _rshr("OCN", PERCEPTION, "object_counting", 200),
    _rshr("RCN", PERCEPTION, "regionla_counting", 100, "regional_counting"),
    _rshr("AD", REASONING, "anomaly_detection", 50),
    _rshr("FP", REASONING, "future_prediction_two_image", 50, num_images=2),
    # The least certain count: many published numbers of this column repeat those of REL.
    _rshr("MRJC", REASONING, "multi_region_join_contrast", 20),
    _rshr("MRJCS", REASONING, "multi_region_join_contrast_singal", 50, "multi_region_join_contrast_single"),
    _rshr("OSJ", REASONING, "object_state_judgement", 50),
    _rshr("MAD", MULTI_TURN, "multturn_anomaly_detection", 60, "multiturn_anomaly_detection", num_turns=3),
    _rshr("MTFP", MULTI_TURN, "multitrun-future_prediction", 150, "multiturn_future_prediction", num_turns=3),
    _rshr("MOSJ", MULTI_TURN, "multiturn_object_state_judgement", 132, num_turns=3),
)

_MINI = (
    _mini("overall_counting", 200, num_options=4),
    _mini("regional_counting", 400),
    _mini("overall_land_use", 200, num_options=4, is_multi_answer=True),
    _mini("regional_land_use", 389, num_options=4),
    _mini("object_class", 600, num_options=4),
    _mini("object_colour", 600, num_options=4),
    _mini("motion_state", 400, num_options=2),
    _mini("existence", 600),
    _mini("location", 200, num_options=4),
    _mini("spatial_relation", 399, num_options=4),
    _mini("anomaly", 400, group=REASONING, num_options=4),
    _mini("route_planning", 200, group=REASONING),
)

BENCHMARKS: Mapping[str, Benchmark] = types.MappingProxyType(
    {
        "xlrs_lite": Benchmark(name="xlrs_lite", title="XLRS-Bench-lite", subtasks=_XLRS),
        "mme_rs_lite": Benchmark(
            name="mme_rs_lite",
            title="MME-RealWorld-Lite, remote sensing",
            subtasks=(_mme("position", 50), _mme("color", 50), _mme("count", 50)),
        ),
        "mme_rs": Benchmark(
            name="mme_rs",
            title="MME-RealWorld, remote sensing",
            subtasks=(_mme("position", 1257), _mme("color", 1255), _mme("count", 1226)),
        ),
        "rshr": Benchmark(name="rshr", title="RSHR-Bench (XHRBench)", subtasks=_RSHR),
        "uhr_mini": Benchmark(name="uhr_mini", title="UHR-Mini", subtasks=_MINI),
        "llava": Benchmark(
            name="llava",
            title="LLaVA conversations",
            subtasks=(
                SubTask(abbreviation="choice", category="multiple choice", group=OTHER, count=0),
                SubTask(abbreviation="open", category="open", group=OTHER, count=0),
            ),
        ),
    }
)


def benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark={name!r}: is unknown; known are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def spelling(name: str, category: str) -> str:
    """Return the form in which two spellings of a category are the same.

    All: capitals and extra blanks do not count. RSHR: neither does `-` for `_`.
    """
    form = " ".join(category.split()).lower()
    if name.startswith("rshr"):
        return form.replace("-", "_")
    return "/".join(part.strip() for part in form.split("/"))


def subtask(name: str, category: str) -> SubTask:
    """Look up the sub-task of a category string.

    Args:
      name: a key of BENCHMARKS.
      category: as the data holds it. XLRS: the full "L2/L3" string; its half alone is unknown. MME: `Category` of the
        original JSON, `l2-category` of the parquet form.

    Raises:
      ValueError: the benchmark or the category is unknown; abbreviations are no categories.
    """
    table = _TABLES[benchmark(name).name]
    found = table.get(spelling(name, category))
    if found is None:
        known = ", ".join(repr(item.category) for item in BENCHMARKS[name].subtasks)
        raise ValueError(f"category={category!r}: {name} has no such category; known are {known}")
    return found


def count_warnings(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Say which sub-tasks have another number of questions than expected.

    Args:
      counts: abbreviation -> number of questions found; an abbreviation that is absent has none.
    """
    return tuple(
        f"{name}: {item.abbreviation} has {counts.get(item.abbreviation, 0)} questions, {item.count} are expected"
        for item in benchmark(name).subtasks
        if item.count and counts.get(item.abbreviation, 0) != item.count
    )


def _table(entry: Benchmark) -> dict[str, SubTask]:
    return {spelling(entry.name, text): item for item in entry.subtasks for text in (item.category, *item.aliases)}


_TABLES = {name: _table(entry) for name, entry in BENCHMARKS.items()}
