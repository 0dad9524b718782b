"""What a study run writes: tables as Markdown and CSV, plots, and one HTML file with all of them and the claims."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from bat_jax.io.output_files import write_text
from bat_jax.report import html, study_tables, sweep_tables
from bat_jax.report.figures.figure import Figure
from bat_jax.report.html import ImageGroup, PageImage, Table
from bat_jax.runs import package_versions
from bat_jax.study.measured.grids import Grid, flag_of
from bat_jax.study.measured.study_results import Results
from bat_jax.study.measured.sweep import CellResult
from bat_jax.study.measured.verdicts import (
    COMPUTED,
    CONSTRUCTED,
    DIFFERS,
    NEEDS_WEIGHTS,
    NOT_REPRODUCED,
    OUTSIDE,
    REPRODUCED,
    UNDECIDED,
    Judged,
)

REPORT = "report.html"
FIGURES_FILE = "figures.json"
_MARK_CLASSES = {
    REPRODUCED: "right",
    NOT_REPRODUCED: "wrong",
    UNDECIDED: "open",
    DIFFERS: "open",
    OUTSIDE: "plain",
    CONSTRUCTED: "plain",
    COMPUTED: "plain",
    NEEDS_WEIGHTS: "plain",
}
_TERMS = (
    ("Guaranteed", "This project's rule: every region gets a row before the budget is filled in order."),
    ("Inner half", "The object stands nearer to the middle of its site than to its edge."),
    ("Budget", "Tokens kept for the decoder. 3k means as large a share of all tokens as 3,000 are of the paper's."),
    ("Difference", "Percent points on the same questions, with a 95 % interval that allows for scenes."),
    ("Discordant", "Questions that are right under one of two ways more often than under the other."),
    ("p for, p against", "Of the tests for the claim and against it, by Holm's rule over the family; 0.025 decides."),
    ("Reproduced", "The test for the claim decides: it is better, or within the margin, in every comparison."),
    ("Not reproduced", "A test against it decides: a gain of one point, or equality within the margin, is ruled out."),
    ("Undecided", "Neither does, or there are too few scenes or discordant questions."),
    ("Differs by budget", "Budgets have different verdicts, and their differences different signs."),
    ("Outside", "More tokens or another selection than the weights were trained with: shown, deciding nothing."),
    ("By construction", "No measurement: an invariant of the code that its tests hold."),
    ("Computed", "From the model's sizes, not measured."),
)


def read_figures(folder: pathlib.Path) -> tuple[Figure, ...]:
    """Read what `experiments.figures` wrote: figures.json and the files that it names.

    Raises:
      ValueError: the file or a picture is missing, or an entry lacks something.
    """
    path = folder / FIGURES_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            Figure(str(entry["figure"]), entry["title"], entry["caption"], Image.open(folder / entry["png"]))
            for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no list of figures ({type(error).__name__}: {error})") from None


def write_study(
    judged: Sequence[Judged],
    results: Results,
    facts: Sequence[str],
    output: pathlib.Path,
    pictures: Sequence[Figure],
    record: Mapping[str, Any],
) -> None:
    """Write a study's files into a folder, each whole or not at all: tables, their plots, and the page of all of them.

    Args:
      facts: lines on what was asked. pictures: the paper's figures drawn anew. record: `run_record`'s content.
    """
    cards = []
    for part, sweep in results.sweeps.items():
        for grid in sweep.grids:
            found = sweep.results(grid, results.rules, results.outside)
            sweep_tables.write_grid(output, grid, found, [f"{found[0].num_questions} questions, part {part}", *facts])
            heading, plot = f"{grid.title} ({_name(grid)})", Image.open(output / f"{grid.name}.png")
            cards.append(_card(heading, grid.note, plot, _grid_table(found)))
    if pictures:
        cards.append("<h2>Pictures</h2>")
    cards += [_card(one.heading, one.caption, one.image) for one in pictures]
    comparison = study_tables.comparison_table(judged)
    coverage = study_tables.coverage_tables(results.coverage, results.rules)
    study_tables.comparison_plot(results, output / "comparison.png")
    study_tables.coverage_plot(results.coverage, results.rules, output / "coverage.png")
    top = "\n".join([*(f"- {fact}" for fact in facts), "", ""])
    for name, tables in (
        ("comparison", [comparison]),
        ("coverage", coverage),
        ("claims", [study_tables.claims_table(judged)]),
    ):
        write_text(output / f"{name}.md", top + "\n".join(map(study_tables.markdown, tables)))
    targets = "Token coverage: share of target objects whose token is kept unmerged"
    rows = tuple((name, str(value)) for name, value in {**record, "packages": package_versions(record)}.items())
    title = "UHR-BAT in miniature: what reproduces"
    lead, summary = " · ".join(facts), f"{study_tables.count_verdicts(judged)}."
    parts = [
        *html.opening(title, lead, summary, _notice(results)),
        f"<h2>Claims of the paper</h2>{_claims(judged)}",
        html.explained((*_TERMS, ("Exclusions", "; ".join(results.rules.exclusions.values())))),
        "<h2>Does preserve-and-merge keep what top-K loses?</h2>",
        _card("Accuracy, uhr_bat minus top-K", "", Image.open(output / "comparison.png"), comparison),
        _card(targets, "", Image.open(output / "coverage.png"), *coverage),
        "<h2>Tables and figures of the paper, and ours</h2>",
        *cards,
        html.card((), [Table(title="This run", header=(), rows=rows)]),
    ]
    write_text(output / REPORT, html.document(title, parts))


def _notice(results: Results) -> str:
    if not results.is_guessing:
        return ""
    right, chance = results.small_objects()
    return (
        f"The model's answers about small objects are guesses ({right:.1f} % right, guessing gets {chance:.1f} %). "
        "Numbers about accuracy below say nothing about the methods; token coverage does."
    )


def _name(grid: Grid) -> str:
    """Return "Table 7" for "table7", "ours: layers" for a grid of our own."""
    kind, name = flag_of(grid.name)
    return f"ours: {name}" if kind == "ours" else f"{kind.capitalize()} {name}"


def _card(heading: str, text: str, picture: Image.Image, *tables: Table) -> str:
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=90, subsampling=0)
    figure = PageImage(jpeg=data.getvalue(), caption="", alt=heading)
    return html.card([ImageGroup(heading=heading, text=text, figures=(figure,), is_wide=True)], tables)


def _claims(judged: Sequence[Judged]) -> str:
    rows = []
    for one in judged:
        mark = f'<span class="mark {_MARK_CLASSES[one.verdict]}">{escape(one.verdict)}</span>'
        note = f"<small>{escape(one.note)}</small>" if one.note else ""
        command = f"<small><code>{escape(one.command)}</code></small>" if one.verdict == NEEDS_WEIGHTS else ""
        ran, number = f"{escape(one.ran)}{command}", f"{escape(one.number)}{note}"
        rows.append((escape(one.where), escape(one.claim), ran, number, mark))
    table = html.bare_table("left claims", ("where", "claim", "what we ran", "number", ""), rows)
    return f'<div class="card scroll">{table}</div>'


def _grid_table(found: Sequence[CellResult]) -> Table:
    header, rows = sweep_tables.cells(found)
    words = tuple(name.replace("_", " ") for name in header)
    return Table(title="Numbers", header=words, rows=tuple(map(tuple, rows)))
