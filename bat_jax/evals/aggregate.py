"""From verdicts to a benchmark's table: micro and macro, perception and reasoning, per sub-task, with intervals.

    micro       right answers / questions: every question has the same weight
    macro       mean of the sub-tasks' accuracies, over the sub-tasks that have questions
    macro_all   the same over all sub-tasks of the benchmark, one without questions counting 0 (lmms-eval's XLRS task)
    paper       what the UHR-BAT paper prints, leaderboard what the benchmark's own table prints: the benchmark's record
                says which mean that is. An XLRS number under one and one under the other are not comparable.

A question without a prediction and a question that failed count as wrong and are shown as counts of their own. Turns
of dialogues are in no average: they have their rows and MTEM@1, as in RSHR-Bench, over the dialogues of which every
turn is among the questions; others are named and count in nothing. Intervals are Wilson's, 95 %, for proportions only
(sub-tasks, micro, MTEM@1); they take the questions as independent, which several questions about one image are not
quite. Chance is what guessing gets: one option of k, or one of the 2^k - 1 non-empty sets of options, unless the
question says what it is (`Item.chance`).
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bat_jax.benchmarks import answer_readers
from bat_jax.benchmarks.letters import Reading
from bat_jax.benchmarks.record import MEANS, MULTI_TURN, PERCEPTION, REASONING, Benchmark, Task
from bat_jax.benchmarks.registry import BENCHMARKS

STATUSES = ("answered", "missing", "error")
_Z = statistics.NormalDist().inv_cdf(0.975)
_SINGLE_TURN = (PERCEPTION, REASONING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """output: what the model wrote, None if it failed. error: why. letter_scores: see answer_readers.judge."""

    output: str | None
    error: str | None = None
    letter_scores: Mapping[str, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """verdicts: rule -> Reading, for all of answer_readers.RULES. status: one of STATUSES."""

    task: Task
    status: str
    verdicts: Mapping[str, Reading]


class Tally(NamedTuple):
    """A proportion. accuracy, low, high, chance in 0..1; accuracy and chance None where total is 0.

    num_unjudged: questions to which the rule gives no verdict; they are among the wrong ones, as the missing and the
    failed are.
    """

    name: str
    total: int
    num_right: int
    num_missing: int
    num_errors: int
    num_unjudged: int
    accuracy: float | None
    low: float
    high: float
    chance: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A benchmark's results under one rule.

    Attributes:
      subtasks: a Tally each, in the papers' order, absent ones with total 0.
      micro: "perception", "reasoning" and "overall" as Cells.
      macro, macro_all: the same three as accuracies; None where nothing was asked.
      dialogues: MTEM@1, a Tally over whole dialogues. part_dialogues: "NAME (k of n turns)" of those that are not.
      averaging: as asked for; headline: the three accuracies under it.
    """

    benchmark: str
    rule: str
    averaging: str
    subtasks: tuple[Tally, ...]
    micro: Mapping[str, Tally]
    macro: Mapping[str, float | None]
    macro_all: Mapping[str, float | None]
    headline: Mapping[str, float | None]
    dialogues: Tally
    part_dialogues: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as what JSON can hold."""
        values = dataclasses.asdict(self)
        values["subtasks"] = [cell._asdict() for cell in self.subtasks]
        values["micro"] = {group: cell._asdict() for group, cell in self.micro.items()}
        values["dialogues"] = self.dialogues._asdict()
        return values


def wilson(num_right: float | int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion (E. B. Wilson, 1927); (0, 1) for total 0.

    A rounded share of a table gives a `num_right` that is no whole number.

    The ends are the p for which |num_right / total - p| = z * sqrt(p * (1 - p) / total), z = 1.96.

    Raises:
      ValueError: not 0 <= num_right <= total.
    """
    if not 0 <= num_right <= total:
        raise ValueError(f"num_right={num_right}: must be in 0..total={total}")
    if total == 0:
        return 0.0, 1.0
    share = num_right / total
    scale = 1 + _Z**2 / total
    centre = (share + _Z**2 / (2 * total)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    # Rounding must not move an end past what is certain.
    return (0.0 if num_right == 0 else centre - half), (1.0 if num_right == total else centre + half)


def chance(num_options: int, is_multi_answer: bool) -> float:
    """Return the probability that a guess is right: 1 / k, or 1 / (2^k - 1) where any non-empty set may be."""
    return 1 / (2**num_options - 1) if is_multi_answer else 1 / num_options


def average(kind: str, counts: Sequence[int], accuracies: Sequence[float | None]) -> float | None:
    """Average sub-tasks' accuracies (in any unit); None if there is nothing to average.

    Args:
      kind: one of MEANS.
      counts: questions of each sub-task.
      accuracies: None for a sub-task that was not run ("-" in a table): left out above and below, 0 in macro_all.

    Raises:
      ValueError: the kind is unknown.
    """
    if kind not in MEANS:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(MEANS)}")
    pairs = [(n, value) for n, value in zip(counts, accuracies, strict=True) if value is not None and n]
    if not pairs:
        return None
    if kind == "micro":
        return sum(n * value for n, value in pairs) / sum(n for n, _ in pairs)
    return sum(value for _, value in pairs) / (len(pairs) if kind == "macro" else len(counts))


def score(tasks: Iterable[Task], predictions: Mapping[str, Prediction]) -> tuple[Outcome, ...]:
    """Join predictions to questions by id and judge them under every rule.

    Raises:
      ValueError: an id occurs twice, or a prediction belongs to no question.
    """
    outcomes, seen = [], set()
    for task in tasks:
        if task.id in seen:
            raise ValueError(f"id={task.id!r}: occurs twice among the questions")
        seen.add(task.id)
        found = predictions.get(task.id, Prediction(output=None))
        failed = found.error is not None or found.output is None
        status = "missing" if task.id not in predictions else "error" if failed else "answered"
        answered = Prediction(output=None) if failed else found
        verdicts = answer_readers.judge(answered.output, task.question, answered.letter_scores)
        outcomes.append(Outcome(task=task, status=status, verdicts=verdicts))
    unknown = sorted(set(predictions) - seen)
    if unknown:
        raise ValueError(f"predictions: {len(unknown)} ids are of no question, the first is {unknown[0]!r}")
    return tuple(outcomes)


def aggregate(name: str, outcomes: Sequence[Outcome], rule: str, averaging: str | None = None) -> Report:
    """Return a benchmark's results under a rule, with a headline that is averaged as its record says by default.

    Raises:
      ValueError: benchmark, rule, averaging or a category is unknown; a turn of a dialogue does not name its dialogue.
    """
    record = BENCHMARKS[name]
    averaging = averaging or record.averaging
    kind = record.mean_of(averaging)
    if rule not in answer_readers.RULES:
        raise ValueError(f"rule={rule!r}: must be one of {', '.join(answer_readers.RULES)}")
    parts: dict[str, list[Outcome]] = {subtask.abbreviation: [] for subtask in record.subtasks}
    for outcome in outcomes:
        parts[record.subtask(outcome.task.category).abbreviation].append(outcome)
    cells = {abbreviation: _cell(abbreviation, part, rule) for abbreviation, part in parts.items()}
    groups = {group: [item.abbreviation for item in record.in_group(group)] for group in _SINGLE_TURN}
    groups["overall"] = [item.abbreviation for item in record.subtasks if item.group != MULTI_TURN]
    micro = {group: _cell(group, [o for key in keys for o in parts[key]], rule) for group, keys in groups.items()}
    means = {
        mean: {
            group: average(mean, [cells[key].total for key in keys], [cells[key].accuracy for key in keys])
            for group, keys in groups.items()
        }
        for mean in ("micro", "macro", "macro_all")
    }
    whole, part_dialogues = _dialogues(
        record, [o for item in record.in_group(MULTI_TURN) for o in parts[item.abbreviation]]
    )
    return Report(
        benchmark=record.name,
        rule=rule,
        averaging=averaging,
        subtasks=tuple(cells.values()),
        micro=micro,
        macro=means["macro"],
        macro_all=means["macro_all"],
        headline=means[kind],
        dialogues=_dialogue_cell(whole, rule),
        part_dialogues=part_dialogues,
    )


def breakdown(outcomes: Iterable[Outcome], rule: str, row_of: Callable[[Task], str | None]) -> tuple[Tally, ...]:
    """Return a Tally for every row that `row_of` puts tasks into, by name; None leaves a task out."""
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        name = row_of(outcome.task)
        if name is not None:
            rows.setdefault(name, []).append(outcome)
    return tuple(_cell(name, rows[name], rule) for name in sorted(rows))


def _make_cell(name: str, rights: Sequence[bool], chances: Sequence[float], counts: tuple[int, int, int]) -> Tally:
    """counts: missing, errors, unjudged."""
    total, num_right = len(rights), sum(rights)
    low, high = wilson(num_right, total)
    accuracy, mean_chance = (num_right / total, math.fsum(chances) / total) if total else (None, None)
    return Tally(name, total, num_right, *counts, accuracy, low, high, mean_chance)


def _counts(outcomes: Sequence[Outcome], rule: str) -> tuple[int, int, int]:
    return (
        sum(outcome.status == "missing" for outcome in outcomes),
        sum(outcome.status == "error" for outcome in outcomes),
        sum(outcome.verdicts[rule].is_right is None for outcome in outcomes),
    )


def _chance(outcome: Outcome) -> float:
    if outcome.task.chance is not None:
        return outcome.task.chance
    return chance(len(outcome.task.question.options), outcome.task.question.is_multi_answer)


def _cell(name: str, outcomes: Sequence[Outcome], rule: str) -> Tally:
    rights = [outcome.verdicts[rule].is_right is True for outcome in outcomes]
    return _make_cell(name, rights, [_chance(outcome) for outcome in outcomes], _counts(outcomes, rule))


def _dialogues(record: Benchmark, turns: Sequence[Outcome]) -> tuple[dict[str, list[Outcome]], tuple[str, ...]]:
    """Return (turns of every whole dialogue, "NAME (k of n turns)" of every other one)."""
    dialogues: dict[str, list[Outcome]] = {}
    for outcome in turns:
        if outcome.task.dialogue is None:
            raise ValueError(f"id={outcome.task.id!r}: is a turn of category {outcome.task.category!r} in no dialogue")
        dialogues.setdefault(outcome.task.dialogue, []).append(outcome)
    whole, others = {}, []
    for name, part in dialogues.items():
        task = part[0].task
        num_turns = task.num_turns or record.subtask(task.category).num_turns
        if len(part) == num_turns:
            whole[name] = part
        else:
            others.append(f"{name} ({len(part)} of {num_turns} turns)")
    return whole, tuple(others)


def _dialogue_cell(dialogues: Mapping[str, Sequence[Outcome]], rule: str) -> Tally:
    """MTEM@1; a dialogue is missing or failed if one of its turns is. Its chance is the product of its turns'."""
    num_right, total = answer_readers.mtem_at_1(
        {name: [turn.verdicts[rule].is_right for turn in part] for name, part in dialogues.items()}
    )
    of_each = [_counts(part, rule) for part in dialogues.values()]
    missing, errors, unjudged = (sum(any_of[index] > 0 for any_of in of_each) for index in range(3))
    chances = [math.prod(_chance(turn) for turn in part) for part in dialogues.values()]
    return _make_cell(
        "MTEM@1", [True] * num_right + [False] * (total - num_right), chances, (missing, errors, unjudged)
    )


def to_markdown(reports: Sequence[Report]) -> str:
    """Return one table of a benchmark with a column for every report (one a rule), in percent.

    Raises:
      ValueError: there is no report, or they are of different benchmarks, questions or averagings.
    """
    if not reports:
        raise ValueError("reports: is empty; give one report for every rule to show")
    first = reports[0]
    shape = [(cell.name, cell.total) for cell in first.subtasks]
    for report in reports[1:]:
        if (report.benchmark, report.averaging) != (first.benchmark, first.averaging) or shape != [
            (cell.name, cell.total) for cell in report.subtasks
        ]:
            raise ValueError(f"reports: {report.rule} and {first.rule} are not of the same questions and averaging")
    rules = [report.rule for report in reports]
    lines = [
        f"| {BENCHMARKS[first.benchmark].title} | n | missing | errors | {' | '.join(rules)} | chance |",
        "|---|" + "---:|" * (len(rules) + 4),
    ]
    columns = [
        [*report.subtasks, *(report.micro[group] for group in report.micro), report.dialogues] for report in reports
    ]
    lines += [_row(cells) for cells in zip(*columns, strict=True) if cells[0].total]
    averages = {"macro": [report.macro for report in reports]}
    if first.averaging != "micro":  # those rows are there
        averages[first.averaging] = [report.headline for report in reports]
    for label, means in averages.items():
        for group in first.macro:
            shown = " | ".join(_percent(mean[group]) for mean in means)
            lines.append(f"| {group}, {label} | | | | {shown} | |")
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[Tally]) -> str:
    cell = cells[0]
    name = f"{cell.name}, micro" if cell.name in (*_SINGLE_TURN, "overall") else cell.name
    shown = " | ".join(f"{_percent(c.accuracy)} [{_percent(c.low)}, {_percent(c.high)}]" for c in cells)
    counts = f"{cell.total} | {cell.num_missing} | {cell.num_errors}"
    return f"| {name} | {counts} | {shown} | {_percent(cell.chance)} |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
