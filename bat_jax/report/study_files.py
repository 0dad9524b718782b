"""Everything a study run writes: tables as Markdown and CSV, plots, the report, and the page of claims for the docs."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bat_jax.io.output_files import staged_file
from bat_jax.report import study_page, study_tables, sweep_tables
from bat_jax.study.measured.study_results import Results
from bat_jax.study.measured.verdicts import Judged

REPORT = "report.html"


def write_study(
    judged: Sequence[Judged],
    results: Results,
    facts: Sequence[str],
    output: pathlib.Path,
    pictures: Sequence[study_page.StudyFigure],
    record: Mapping[str, Any],
) -> None:
    """Write a study's files into a folder, each whole or not at all.

    Args:
      facts: lines on what was asked. pictures: the paper's figures drawn anew. record: `run_record`'s content.
    """
    for part, sweep in results.sweeps.items():
        for grid in sweep.grids:
            found = sweep.results(grid)
            sweep_tables.write_grid(output, grid, found, [f"{found[0].num_questions} questions, part {part}", *facts])
    top = "\n".join([*(f"- {fact}" for fact in facts), "", ""])
    covered = "\n".join(map(study_tables.markdown, study_tables.coverage_tables(results.coverage)))
    for name, text in (
        ("comparison.md", study_tables.markdown(study_tables.comparison_table(results))),
        ("coverage.md", covered),
        ("claims.md", study_tables.markdown(study_tables.claims_table(judged))),
    ):
        write_text(output / name, top + text)
    with staged_file(output / "comparison.png") as stage:
        study_tables.comparison_plot(results, stage)
    with staged_file(output / "coverage.png") as stage:
        study_tables.coverage_plot(results.coverage, stage)
    write_text(output / REPORT, study_page.render(judged, results, facts, output, pictures, record))


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")
