"""From the lines of a run to its numbers and its table.

`summarise` joins lines to questions by id and counts under every rule; questions without a line are missing, and wrong,
as failed ones are. `to_markdown` prints what a person reads.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bat_jax.benchmarks import answer_readers
from bat_jax.benchmarks.record import Benchmark, Picture
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.evals import aggregate
from bat_jax.evals.aggregate import Prediction, Tally
from bat_jax.evals.runner import DEFAULT_RULE

# Failed questions and incomplete dialogues that the table names.
_NUM_QUOTED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """A run's numbers.

    Attributes:
      benchmark: its key. answer_form: what the questions ask for, "letters" or "texts".
      reports: rule -> Report over all questions; micro, macro and sub-tasks with intervals and chance.
      breakdowns: title -> rows, under the default rule.
      num_pictures: with at least one line. status: number of questions by status.
      tokens_kept: mean number a question; tokens_per_scale: the same of every scale; None where nothing was answered.
      question_seconds, encode_seconds, load_seconds: means, the last two a picture; None as above. What compiled is
        left out where something did not.
      errors: (id, reason) of every failed question.
    """

    benchmark: str
    answer_form: str
    reports: Mapping[str, aggregate.Report]
    breakdowns: Mapping[str, tuple[Tally, ...]]
    num_pictures: int
    status: Mapping[str, int]
    tokens_kept: float | None
    tokens_per_scale: tuple[float, ...]
    question_seconds: float | None
    encode_seconds: float | None
    load_seconds: float | None
    errors: tuple[tuple[str, str], ...]

    @property
    def report(self) -> aggregate.Report:
        """The report under the default rule."""
        return self.reports[DEFAULT_RULE]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold, the default rule's numbers first."""
        report = self.report
        return {
            "benchmark": self.benchmark,
            "rule": DEFAULT_RULE,
            "answer_form": self.answer_form,
            "overall": report.micro["overall"]._asdict() | {"macro": report.macro["overall"]},
            "averaging": report.averaging,
            "headline": dict(report.headline),
            "subtasks": {cell.name: cell._asdict() for cell in report.subtasks},
            "breakdowns": {
                title: {cell.name: cell._asdict() for cell in cells} for title, cells in self.breakdowns.items()
            },
            "status": dict(self.status),
            "num_pictures": self.num_pictures,
            "tokens_kept": self.tokens_kept,
            "tokens_per_scale": list(self.tokens_per_scale),
            "question_seconds": self.question_seconds,
            "encode_seconds": self.encode_seconds,
            "load_seconds": self.load_seconds,
            "errors": dict(self.errors),
            "rules": {rule: report.as_dict() for rule, report in self.reports.items()},
        }


def summarise(record: Benchmark, pictures: Sequence[Picture], records: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Count a run.

    Args:
      pictures: all that the run is to answer, by whichever process.
      records: lines by id, as `prediction_log.read_predictions` returns them.

    Raises:
      ValueError: a line belongs to none of the questions.
    """
    tasks = {task.id: task for picture in pictures for task in picture.tasks}
    predictions = {id: Prediction(output=line["output"], error=line["error"]) for id, line in records.items()}
    outcomes = aggregate.score(tasks.values(), predictions)
    answered = [line for line in records.values() if line["status"] == "answered"]
    of_picture = {line["picture"]: line for line in records.values()}
    per_scale = zip(*(line["tokens_kept"] for line in answered), strict=True)
    return Summary(
        benchmark=record.name,
        answer_form=next(iter(tasks.values())).question.answer_form,
        reports={rule: aggregate.aggregate(record.name, outcomes, rule) for rule in answer_readers.RULES},
        breakdowns={
            title: aggregate.breakdown(outcomes, DEFAULT_RULE, row_of) for title, row_of in record.breakdowns.items()
        },
        num_pictures=len(of_picture),
        status={name: sum(outcome.status == name for outcome in outcomes) for name in aggregate.STATUSES},
        tokens_kept=_mean(sum(line["tokens_kept"]) for line in answered),
        tokens_per_scale=tuple(statistics.fmean(kept) for kept in per_scale),
        question_seconds=_mean_warm((line["seconds"], line["compile_seconds"]) for line in answered),
        encode_seconds=_mean_warm(
            (line["encode_seconds"], line["encode_compile_seconds"]) for line in of_picture.values()
        ),
        load_seconds=_mean(line["load_seconds"] for line in of_picture.values()),
        errors=tuple((id, line["error"]) for id, line in records.items() if line["error"] is not None),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _mean_warm(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Return the mean of seconds that hold no compiling; if all do, of seconds less compiling."""
    known = [(seconds, compiling) for seconds, compiling in pairs if seconds is not None and compiling is not None]
    warm = [seconds for seconds, compiling in known if not compiling]
    return _mean(warm or [seconds - compiling for seconds, compiling in known])


def to_markdown(summary: Summary, facts: Sequence[str]) -> str:
    """Return the table of a run.

    Args:
      facts: lines of text on what was run, for the top.
    """
    overall, macro = summary.report.micro["overall"], summary.report.macro["overall"]
    title = BENCHMARKS[summary.benchmark].title
    lines = [f"# {title}: {_headline(summary)}", "", *(f"- {fact}" for fact in facts)]
    status = summary.status
    lines.append(
        f"- {overall.total} questions: {status['answered']} answered, {status['error']} failed, "
        f"{status['missing']} missing; failed and missing ones count as wrong"
    )
    if parts := summary.report.part_dialogues:
        more = f" and {len(parts) - _NUM_QUOTED} more" if len(parts) > _NUM_QUOTED else ""
        lines.append(
            f"- MTEM@1 is over {summary.report.dialogues.total} whole dialogues; {len(parts)} incomplete ones count in "
            f"nothing: {', '.join(parts[:_NUM_QUOTED])}{more}"
        )
    if summary.tokens_kept is not None:
        scales = " + ".join(f"{kept:.1f}" for kept in summary.tokens_per_scale)
        lines.append(f"- tokens kept, mean: {summary.tokens_kept:.1f} ({scales})")
    seconds = (
        ("a question", summary.question_seconds),
        ("to encode a picture", summary.encode_seconds),
        ("to load one", summary.load_seconds),
    )
    shown = ", ".join(f"{value:.3f} {what}" for what, value in seconds if value is not None)
    if shown:
        lines.append(f"- seconds without compiling, mean: {shown}")
    lines.append(f"- overall, mean of sub-tasks (macro): {'-' if macro is None else f'{100 * macro:.1f}'}")
    # Texts are read in one way; four equal columns would say nothing.
    rules = [DEFAULT_RULE] if summary.answer_form == "texts" else list(summary.reports)
    lines += ["", "Percent right [95 % interval] by rule of reading the answer:", ""]
    lines.append(aggregate.to_markdown([summary.reports[rule] for rule in rules]))
    for name, cells in summary.breakdowns.items():
        if cells:
            lines += [f"| {name} | n | {DEFAULT_RULE} | chance |", "|---|---:|---:|---:|"]
            lines += [
                f"| {cell.name} | {cell.total} | {_share(cell)} | {100 * cell.chance:.1f} |"
                for cell in cells
                if cell.chance is not None
            ]
            lines.append("")
    if summary.errors:
        lines.append(f"{len(summary.errors)} questions failed, such as:")
        lines += ["", *(f"- {id}: {reason}" for id, reason in summary.errors[:_NUM_QUOTED]), ""]
    return "\n".join(lines)


def _headline(summary: Summary) -> str:
    report = summary.report
    if BENCHMARKS[summary.benchmark].mean_of(report.averaging) == "micro":
        return f"{_share(report.micro['overall'])} percent right"
    value = report.headline["overall"]
    return f"{'-' if value is None else f'{100 * value:.1f}'} percent right, mean of sub-tasks"


def _share(cell: Tally) -> str:
    return "-" if cell.accuracy is None else f"{100 * cell.accuracy:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
