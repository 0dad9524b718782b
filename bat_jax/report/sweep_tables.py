"""The results of a grid of settings as Markdown, CSV and a plot; the paper's numbers beside ours."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence

import matplotlib.figure

from bat_jax.io.output_files import staged_file, write_text
from bat_jax.report.markdown import table_lines
from bat_jax.study.measured.cluster_mean import Interval
from bat_jax.study.measured.grids import Grid
from bat_jax.study.measured.sweep import CellResult
from bat_jax.study.measured.verdicts import FromFirst


def write_grid(folder: pathlib.Path, grid: Grid, results: Sequence[CellResult], facts: Sequence[str]) -> str:
    """Write a grid's table, numbers and plot as NAME.md, .csv and .png, and return the table."""
    table = to_markdown(grid, results, [*facts, grid.note] if grid.note else facts)
    write_text(folder / f"{grid.name}.md", table)
    write_text(folder / f"{grid.name}.csv", to_csv(results))
    plot(grid, results, folder / f"{grid.name}.png")
    return table


def to_markdown(grid: Grid, results: Sequence[CellResult], facts: Sequence[str]) -> str:
    """Return the table of a grid.

    Args:
      facts: lines of text on what was asked, for the top.
    """
    lines = [f"# {grid.title}", "", *(f"- {fact}" for fact in facts)]
    lines += [
        "- right: percent of answers [95 % interval, questions as independent]; to first: percent points to the first "
        "row on the same questions [95 % interval, by scenes or pictures]; right-hand columns: percent by sub-task",
        "- scenes, discordant: pictures or scenes, and questions that are right under one of the two rows alone; p: "
        "two-sided, by Holm's rule over the rows; verdict: against the first row",
    ]
    if any(result.cell.published for result in results):
        lines.append("- paper: what the paper prints for this cell, on its own benchmark and model")
    return "\n".join([*lines, "", *table_lines(*cells(results))]) + "\n"


def cells(results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    """Return the heads of a grid's table and a row of text for every cell."""
    published = _published(results)
    subtasks = list(dict.fromkeys(name for result in results for name in result.subtasks))
    rows = []
    for number, result in enumerate(results):
        cell = result.cell
        rows.append(
            [
                cell.key.replace(" | ", ", "),
                "/".join(map(str, cell.budgets)),
                f"{result.tokens:.0f}",
                result.accuracy.text(".1f") + (f", {result.num_failed} failed" if result.num_failed else ""),
                *_difference(result.from_first),
                *(_number(values[number]) for values in published.values()),
                *(_number(result.subtasks.get(name)) for name in subtasks),
            ]
        )
    head = ["setting", "budgets", "kept", "right", "to first", "scenes", "discordant", "p", "verdict"]
    return [*head, *published, *subtasks], rows


def _difference(one: FromFirst | None) -> list[str]:
    if one is None:
        return [""] * 5
    found = one.found
    counts = [str(found.difference.num_clusters), str(found.num_discordant)]
    return [found.interval.text(), *counts, p_text(one.p), one.verdict]


def p_text(p: float) -> str:
    """Write a p-value, "" for none."""
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _published(results: Sequence[CellResult]) -> dict[str, list[float | None]]:
    """Return head -> the paper's number of every cell; one head where a cell's column says which number it is."""
    cells = [result.cell for result in results]
    names = list(dict.fromkeys(name for cell in cells for name in cell.published))
    if names and all(set(cell.published) <= {cell.column} for cell in cells):
        return {"paper": [cell.published.get(cell.column) for cell in cells]}
    return {f"paper {name}": [cell.published.get(name) for cell in cells] for name in names}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def to_csv(results: Sequence[CellResult]) -> str:
    """Return one line a cell: name, budgets, questions, tokens, accuracy, difference, what it decides, seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    subtasks = list(dict.fromkeys(name for result in results for name in result.subtasks))
    heads = "name column budgets questions tokens right low high to_first to_first_low to_first_high"
    heads += " scenes discordant p verdict seconds"
    writer.writerow([*heads.split(), *subtasks])
    for result in results:
        first = result.from_first
        difference = [""] * 7
        if first is not None:
            difference = [f"{value:.2f}" for value in first.found.interval]
            difference += [str(first.found.difference.num_clusters), str(first.found.num_discordant)]
            difference += ["" if math.isnan(first.p) else f"{first.p:.4g}", first.verdict]
        writer.writerow(
            [result.cell.name, result.cell.column, "/".join(map(str, result.cell.budgets)), result.num_questions]
            + [f"{value:.2f}" for value in (result.tokens, *result.accuracy)]
            + [*difference, f"{result.seconds:.4f}"]
            + [f"{result.subtasks.get(name, math.nan):.2f}" for name in subtasks]
        )
    return text.getvalue()


def means_and_errors(intervals: Sequence[Interval]) -> tuple[list[float], list[list[float]]]:
    """Return means, and how far the intervals go below and above them, as matplotlib's `errorbar` takes them."""
    means = [one.middle for one in intervals]
    return means, [[one.middle - one.low for one in intervals], [one.high - one.middle for one in intervals]]


def plot(grid: Grid, results: Sequence[CellResult], path: pathlib.Path) -> None:
    """Draw accuracy with its interval as a PNG: against kept tokens where cells form series, else one bar a cell."""
    has_series = any(result.cell.column for result in results)
    height = 4.5 if has_series else 1.2 + 0.3 * len(results)
    figure = matplotlib.figure.Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    if has_series:
        for name in dict.fromkeys(result.cell.name for result in results):
            series = sorted((one for one in results if one.cell.name == name), key=lambda one: one.tokens)
            means, errors = means_and_errors([one.accuracy for one in series])
            tokens = [one.tokens for one in series]
            axes.errorbar(tokens, means, yerr=errors, marker="o", capsize=2, linewidth=1, label=name)
        axes.set_xlabel("tokens kept")
        figure.legend(loc="outside right upper", fontsize="small")
    else:
        rows = range(len(results))
        means, errors = means_and_errors([one.accuracy for one in results])
        axes.errorbar(means, rows, xerr=errors, fmt="o", capsize=2)
        axes.set_yticks(rows, [one.cell.name for one in results])
        axes.set_ylim(len(results) - 0.5, -0.5)  # the first cell at the top
    axes.set_title(grid.title)
    (axes.set_ylabel if has_series else axes.set_xlabel)("percent right")
    axes.grid(alpha=0.3)
    save(figure, path)


def save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    """Write a plot as a PNG, whole or not at all."""
    with staged_file(path) as stage:
        figure.savefig(stage, format="png", dpi=120)
