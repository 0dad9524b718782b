"""The tour of docs/, executed as a reader would, says what it says in the repository."""

import pathlib

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
TOUR = ROOT / "docs" / "tour.ipynb"


def said(notebook):
    """Return what every cell printed, and how many pictures it shows."""
    cells = [cell.get("outputs", []) for cell in notebook.cells]
    texts = ["".join(output.text for output in outputs if output.output_type == "stream") for outputs in cells]
    return texts, [sum("image/jpeg" in output.get("data", {}) for output in outputs) for outputs in cells]


def test_the_tour_prints_and_shows_what_it_is_committed_with_and_compiles_nothing_for_another_budget():
    committed = nbformat.read(TOUR, as_version=4)
    assert TOUR.stat().st_size < 400_000
    texts, pictures = said(committed)
    assert "programs compiled since: 0" in "".join(texts) and sum(pictures) == 4
    run = nbformat.read(TOUR, as_version=4)
    for cell in run.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(run, timeout=600, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    assert said(run) == (texts, pictures)
