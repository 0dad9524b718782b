"""Tables and plots of the miniature study: the rules' comparisons, token coverage, and what became of the claims."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib.figure
from matplotlib.axes import Axes

from bat_jax.report.html import Table
from bat_jax.report.markdown import table_lines
from bat_jax.report.sweep_tables import means_and_errors, p_text, save
from bat_jax.study.measured import coverage
from bat_jax.study.measured.cluster_mean import Interval
from bat_jax.study.measured.comparison import IsWanted, Records
from bat_jax.study.measured.rules import Rules
from bat_jax.study.measured.study_results import QUESTIONS, Results
from bat_jax.study.measured.verdicts import POOLED, Judged, has_common_sign

_KINDS = {"one site": "one_site", "tokens shared": "shared", "several sites": "scattered", "all questions": ""}
RIVALS = ("topk", "topk_global")
_PLACES: Mapping[str, IsWanted] = {
    "one site": lambda target: not target["is_scattered"],
    "one site, inner half": lambda target: not target["is_scattered"] and not target["is_outer"],
    "one site, outer half": lambda target: not target["is_scattered"] and target["is_outer"],
    "several sites": lambda target: target["is_scattered"],
}
_IMPORTANCE = {coverage.OWN: "the model's importance", coverage.ORACLE: "an oracle's importance"}


def markdown(table: Table) -> str:
    """Return a table as Markdown, under its title if it has one."""
    title = [f"## {table.title}", ""] if table.title else []
    return "\n".join([*title, *table_lines(table.header, table.rows)]) + "\n"


def comparison_table(judged: Sequence[Judged]) -> Table:
    """Return every comparison that claims are judged by: numbers, p-values within its family, and what it decides.

    A mean over budgets is left out where their differences have different signs.
    """
    header = ("claim", "family", "comparison", "budget", "n", "scenes", "discordant", "ours", "theirs", "difference")
    rows = []
    for claim in judged:
        for one in claim.tests:
            if one.column == POOLED and not has_common_sign(claim.tests, one.name):
                continue
            found, p = one.found, one.adjusted
            rows.append(
                (
                    one.claim.id,
                    "" if one.outside else one.claim.family,
                    one.name,
                    one.column,
                    str(found.num_questions),
                    str(found.difference.num_clusters),
                    str(found.num_discordant),
                    f"{found.ours:.1f}",
                    f"{found.theirs:.1f}",
                    found.interval.text(),
                    *((p_text(p.supports), p_text(p.opposes)) if p else ("", "")),
                    f"{one.verdict} ({reason})" if (reason := one.outside or one.excluded) else one.verdict,
                )
            )
    return Table(title="Comparisons", header=(*header, "p for", "p against", "verdict"), rows=tuple(rows))


def coverage_tables(lines: Records, rules: Rules) -> tuple[Table, ...]:
    """Return the share of targets that are kept unmerged, by importance, kind of question, selection and budget."""
    tables = []
    for source, words in _IMPORTANCE.items():
        rows = []
        for (kind, is_wanted), way in itertools.product(_PLACES.items(), coverage.ways_in(lines)):
            kept = [coverage.share(lines, source, way, budget, "k", is_wanted, rules) for budget in coverage.BUDGETS]
            shares = [share.text(".0f") for share in kept if share]
            merged = coverage.share(lines, source, way, 2, "m", is_wanted, rules)
            lead = coverage.difference(lines, source, way, coverage.TOP_K, coverage.BUDGETS, is_wanted, rules)
            if merged and lead:  # else there are no such targets
                leads = "" if way == coverage.TOP_K else lead.interval.text()
                rows.append((kind, way, *shares, leads, f"{merged.middle:.1f}"))
        header = ("questions", "selection", *(f"{kept}k" for kept in coverage.BUDGETS), "kept - topk", "merged at 2k")
        tables.append(Table(title=f"Targets kept unmerged, {words}", header=header, rows=tuple(rows)))
    return tuple(tables)


def claims_table(judged: Sequence[Judged]) -> Table:
    """Return the claims with what was run, the number and the verdict."""
    rows = tuple(
        (one.where, one.claim, one.ran, one.number + (f" ({one.note})" if one.note else ""), f"**{one.verdict}**")
        for one in judged
    )
    return Table(title="", header=("where", "claim", "what we ran", "number", "verdict"), rows=rows)


def count_verdicts(judged: Sequence[Judged]) -> str:
    """Return "31 claims: 8 reproduced in miniature; 9 not reproduced; ..."."""
    verdicts = [one.verdict for one in judged]
    counts = "; ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(verdicts)))
    return f"{len(judged)} claims: {counts}"


def reproduction_markdown(judged: Sequence[Judged], facts: Sequence[str], command: str) -> str:
    """Return docs/reproduction.md."""
    commands: dict[str, list[str]] = {}
    for one in judged:
        if one.command:
            commands.setdefault(one.command, []).append(f"{one.where}: {one.claim}")
    return "\n".join(
        [
            "# What reproduces",
            "",
            f"Written by `{command}`; do not edit by hand. Every claim of the abstract and of Sections 3, 4 and C of "
            "UHR-BAT (arXiv:2604.13565), what was run on the small model and its made-up world, the number, and a "
            "verdict that rules decide which were written before the answers were asked "
            "([ablations.md](ablations.md#verdicts)). Differences are percent points on the same questions, ours minus "
            "the other, with a 95 % interval that allows for questions of one scene leaning the same way; verdicts are "
            "by tests that are adjusted for how many there are. Every comparison with its numbers: "
            "[results/mini/comparison.md](../results/mini/comparison.md).",
            "",
            "A verdict on the small model says nothing certain about the 7B model: its world is simple and its "
            "importance was trained on the asked places. How the grids work: [ablations.md](ablations.md). Whether the "
            "paper's own numbers agree with each other: [paper_audit.md](paper_audit.md).",
            "",
            *(f"- {fact}" for fact in facts),
            f"- {count_verdicts(judged)}",
            "",
            markdown(claims_table(judged)),
            "## With the real weights",
            "",
            "Convert them once ([checkpoints/README.md](../checkpoints/README.md)); PATH is the benchmark's download "
            "([benchmarks.md](benchmarks.md)).",
            "",
            *table_lines(("command", "for"), [(f"`{text}`", "; ".join(of)) for text, of in commands.items()]),
            "",
        ]
    )


def comparison_plot(results: Results, path: pathlib.Path) -> None:
    """Draw uhr_bat minus top-K against budget as a PNG, whole or not at all, with intervals, by kind of question."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(_KINDS), sharey=True)
    columns = results.columns("methods", "regions")
    for axes, (kind, name) in zip(panels, _KINDS.items(), strict=True):
        for number, rival in enumerate(RIVALS):
            places = [index + 0.16 * number for index in range(len(columns))]
            found = [results.against(rival, column, QUESTIONS[name]).interval for column in columns]
            _draw(axes, places, found, f"uhr_bat - {rival}", "none")
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_title(kind)
        axes.set_xlabel("kept, of the paper's tokens")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("percent points")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(RIVALS), fontsize="small"
    )
    save(figure, path)


def coverage_plot(lines: Records, rules: Rules, path: pathlib.Path) -> None:
    """Draw the share of targets kept unmerged against budget as a PNG, as above, by importance and kind of question."""
    figure = matplotlib.figure.Figure(figsize=(9, 6.4), layout="constrained")
    kinds = ("one site", "several sites")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, (source, words) in zip(panels, _IMPORTANCE.items(), strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            for number, way in enumerate(coverage.ways_in(lines)):
                kept = [
                    coverage.share(lines, source, way, budget, "k", _PLACES[kind], rules) for budget in coverage.BUDGETS
                ]
                shares = [share for share in kept if share]
                if shares:
                    places = [budget + 0.05 * number for budget in coverage.BUDGETS]
                    _draw(axes, places, shares, way, "-")
            axes.set_title(f"{kind}, {words}", fontsize="medium")
            axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel("percent of targets kept")
    for axes in panels[1]:
        axes.set_xlabel("thousands kept, of the paper's tokens")
    panels[0, 0].legend(fontsize="x-small")
    save(figure, path)


def _draw(
    axes: Axes, places: Sequence[float], intervals: Sequence[Interval], label: str, line: Literal["-", "none"]
) -> None:
    means, errors = means_and_errors(intervals)
    axes.errorbar(
        places, means, yerr=errors, marker="o", markersize=4, capsize=2, linewidth=1, linestyle=line, label=label
    )
