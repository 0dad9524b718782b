"""The report of a study run as one HTML file: claims and verdicts, the region rule, tables and figures, pictures."""

import dataclasses
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from bat_jax.report import html, study_tables, sweep_tables
from bat_jax.report.html import ImageGroup, PageImage, Table
from bat_jax.runs import package_versions
from bat_jax.study.measured.grids import Grid, flag_of
from bat_jax.study.measured.study_results import Results
from bat_jax.study.measured.sweep import CellResult
from bat_jax.study.measured.verdicts import COMPUTED, NEEDS_WEIGHTS, NOT_REPRODUCED, REPRODUCED, UNDECIDED, Judged

FIGURES_FILE = "figures.json"
_MARK_CLASSES = {
    REPRODUCED: "right",
    NOT_REPRODUCED: "wrong",
    UNDECIDED: "open",
    COMPUTED: "plain",
    NEEDS_WEIGHTS: "plain",
}
_TERMS = (
    ("Guaranteed", "This project's rule: every region gets a row before the budget is filled in order."),
    ("Inner half", "The object stands nearer to the middle of its site than to its edge."),
    ("Budget", "Tokens kept for the decoder. 3k means as large a share of all tokens as 3,000 are of the paper's."),
    ("Difference", "Percent points on the same questions, with a 95 % interval that allows for scenes."),
    ("Reproduced", "The whole interval of the claimed gain lies above 0; or all settings lie within one point."),
    ("Not reproduced", "The gain is below one point with certainty; or settings differ by more."),
    ("Undecided", "The interval allows for either; more questions would tell."),
    ("Computed", "From the model's sizes, not measured."),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyFigure:
    """One of the paper's figures, drawn anew. png: the file."""

    figure: str
    title: str
    caption: str
    png: pathlib.Path


def read_figures(folder: pathlib.Path) -> tuple[StudyFigure, ...]:
    """Read what `experiments.figures` wrote: figures.json and the files that it names.

    Raises:
      ValueError: the file or a picture is missing, or an entry lacks something.
    """
    path = folder / FIGURES_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = tuple(
            StudyFigure(
                figure=str(entry["figure"]), title=entry["title"], caption=entry["caption"], png=folder / entry["png"]
            )
            for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no list of figures ({type(error).__name__}: {error})") from None
    for picture in found:
        if not picture.png.is_file():
            raise ValueError(f"{path}: names {picture.png.name}, which is not there")
    return found


def render(
    judged: Sequence[Judged],
    results: Results,
    facts: Sequence[str],
    folder: pathlib.Path,
    pictures: Sequence[StudyFigure],
    record: Mapping[str, Any],
) -> str:
    """Return the page.

    Args:
      facts: lines on what was asked. folder: holds comparison.png, coverage.png and a PNG for every grid.
      record: `run_record`'s content.
    """
    title = "UHR-BAT in miniature: what reproduces"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(' · '.join(facts))}</p>",
        f'<p class="summary">{escape(study_tables.count_verdicts(judged))}.</p>',
    ]
    if results.is_guessing:
        right, chance = results.small_objects()
        text = (
            f"The model's answers about small objects are guesses ({right:.1f} % right, guessing gets "
            f"{chance:.1f} %). Numbers about accuracy below say nothing about the methods; token coverage does."
        )
        parts.append(f'<p class="notice">{escape(text)}</p>')
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in _TERMS)
    parts += [
        f"<h2>Claims of the paper</h2>{_claims(judged)}",
        f'<h2>How to read it</h2><div class="card"><dl>{terms}</dl></div>',
        "<h2>Does preserve-and-merge keep what top-K loses?</h2>",
        _card("Accuracy, uhr_bat minus top-K", "", folder / "comparison.png", study_tables.comparison_table(results)),
        _card(
            "Token coverage: share of target objects whose token is kept unmerged",
            "",
            folder / "coverage.png",
            *study_tables.coverage_tables(results.coverage),
        ),
        "<h2>Tables and figures of the paper, and ours</h2>",
    ]
    for sweep in results.sweeps.values():
        for grid in sweep.grids:
            table = _grid_table(sweep.results(grid))
            parts.append(_card(f"{grid.title} ({_name(grid)})", grid.note, folder / f"{grid.name}.png", table))
    if pictures:
        parts.append("<h2>Pictures</h2>")
    parts += [_card(f"Figure {one.figure}: {one.title}", one.caption, one.png) for one in pictures]
    record = {**record, "packages": package_versions(record)}
    rows = tuple((name, str(value)) for name, value in record.items())
    parts.append(html.card((), [Table(title="This run", header=(), rows=rows)]))
    return html.document(title, parts)


def _name(grid: Grid) -> str:
    """Return "Table 7" for "table7", "ours: layers" for a grid of our own."""
    kind, name = flag_of(grid.name)
    return f"ours: {name}" if kind == "ours" else f"{kind.capitalize()} {name}"


def _card(heading: str, text: str, png: pathlib.Path, *tables: Table) -> str:
    data = io.BytesIO()
    Image.open(png).convert("RGB").save(data, "JPEG", quality=90, subsampling=0)
    figure = PageImage(jpeg=data.getvalue(), caption="", alt=heading)
    return html.card([ImageGroup(heading=heading, text=text, figures=(figure,), is_wide=True)], tables)


def _claims(judged: Sequence[Judged]) -> str:
    rows = []
    for one in judged:
        mark = f'<span class="mark {_MARK_CLASSES[one.verdict]}">{escape(one.verdict)}</span>'
        note = f"<small>{escape(one.note)}</small>" if one.note else ""
        command = f"<small><code>{escape(one.command)}</code></small>" if one.verdict == NEEDS_WEIGHTS else ""
        cells = (
            escape(one.where),
            escape(one.claim),
            f"{escape(one.ran)}{command}",
            f"{escape(one.number)}{note}",
            mark,
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{name}</th>" for name in ("where", "claim", "what we ran", "number", ""))
    return (
        f'<div class="card scroll"><table class="left claims"><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _grid_table(found: Sequence[CellResult]) -> Table:
    header, rows = sweep_tables.cells(found)
    words = tuple(name.replace("_", " ") for name in header)
    return Table(title="Numbers", header=words, rows=tuple(map(tuple, rows)))
