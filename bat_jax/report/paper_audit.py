"""The audit of the paper's numbers as a page of Markdown: docs/paper_audit.md."""

from collections.abc import Iterable

from bat_jax.evals.aggregate import wilson
from bat_jax.report.markdown import table_lines
from bat_jax.study.paper.audit import AVERAGES
from bat_jax.study.paper.claims import AGREES, DISAGREES, UNCHECKED, Finding
from bat_jax.study.paper.published import OURS, TABLES, WHY
from bat_jax.study.paper.statements import Tables, ranking

_TITLES = {
    "average": "Averages",
    "gain": "Gains in the text",
    "count": "Accuracies and numbers of questions",
    "statement": "Statements",
}


def _findings(findings: Iterable[Finding]) -> list[str]:
    rows = [(f.where, f.what, f.published, f.recomputed, f.note) for f in findings]
    return table_lines(("where", "what", "published", "recomputed", "note"), rows)


def _place_lines(tables: Tables) -> list[str]:
    """Return the place of ours in every column of Tables 1-3: what the text does not say about the weak ones."""
    rows = []
    for number in (1, 2, 3):
        table, places = tables[number], []
        for column, cell in table.rows[OURS].items():
            values = [value for _, value in ranking(table, column)]
            places.append(f"{column} {values.index(cell.value) + 1}")
        rows.append((str(number), str(len(table.rows)), ", ".join(places)))
    return table_lines(("table", "rows", "place of ours by column (equal values share the better place)"), rows)


def _sampling_lines(tables: Tables) -> list[str]:
    """Return what the size of the benchmarks allows to say about the leads of Tables 1 and 3."""
    rows = []
    for number, column, count in ((1, "w.Avg", 3080), (3, "Avg", 150)):
        table, ours = tables[number], tables[number].value(OURS, column)
        low, high = (100 * end for end in wilson(ours * count / 100, count))
        inside = [f"{n} {v:g}" for n, v in ranking(table, column) if low <= v <= high and n != OURS]
        row = (f"Table {number} {column} {ours:g}", f"{count:,}", f"{low:.1f} to {high:.1f}")
        rows.append((*row, ", ".join(inside) or "none"))
    return table_lines(("result", "n", "95 % Wilson interval", "others inside it"), rows)


def report(findings: list[Finding], tables: Tables = TABLES) -> str:
    """Return the audit as Markdown."""
    of = {verdict: [f for f in findings if f.verdict == verdict] for verdict in (AGREES, DISAGREES, UNCHECKED)}
    cells = [(t.number, row, column, c) for t in tables.values() for row in t.rows for column, c in t.rows[row].items()]
    readings = {kind: [item for item in cells if item[3].reading == kind] for kind in ("corrected", "uncertain")}
    restored = sum(item[3].reading == "point restored" for item in cells)
    lines = [
        "# Audit of the paper's numbers",
        "",
        "Made by `python -m experiments.audit_paper`. The tables of UHR-BAT (arXiv:2604.13565) are typed in as data "
        "(`bat_jax/study/paper/published.py`) and every average, gain and statement about them is computed again. No "
        "model runs here: the question is whether the published numbers agree with each other.",
        "",
        "A printed number stands for half a unit of its last place on either side; an average disagrees only if no "
        "values within the printed places of its cells can give it.",
        "",
    ]
    counts = [(verdict, [sum(f.kind == kind for f in some) for kind in _TITLES], some) for verdict, some in of.items()]
    rows = [(verdict, *map(str, numbers), str(len(some))) for verdict, numbers, some in counts]
    lines += table_lines(("verdict", "averages", "gains", "questions", "statements", "all"), rows)
    lines += ["", "## Does not agree"]
    for kind, title in _TITLES.items():
        some = [f for f in of[DISAGREES] if f.kind == kind]
        lines += ["", f"### {title}", "", *(_findings(some) if some else ["None."])]
    lines += [
        "",
        "Table 3 compares two splits: our row has values of 50 questions a column (MME-RealWorld-Lite), no other row "
        "has one. Seven of the nine others fit the full split's 1,257 / 1,255 / 1,226 questions in all three columns "
        "(by chance a two-decimal value fits in one case of eight), and six averages are weighted by them. The full "
        "split's sum, 3,738, is known; its division was remembered and is borne out by these 21 cells.",
        "",
        "## How much the size of a benchmark allows to say",
        "",
        *_sampling_lines(tables),
        "",
        "These intervals are for one accuracy alone, as if rows were independent; a paired test needs the answers.",
        "",
        "## Where ours stands column by column",
        "",
        *_place_lines(tables),
        "",
        "## Cannot be checked",
        "",
        *_findings(of[UNCHECKED]),
        "",
        "## Agrees",
        "",
        *_findings(f for f in of[AGREES] if f.kind != "average"),
        "",
        "Averages:",
        "",
    ]
    averages = [f for f in findings if f.kind == "average"]
    rows = []
    for number, column, _ in AVERAGES:
        some = [f for f in averages if f.what == column and f.where.startswith(f"Table {number},")]
        rows.append((str(number), column, f"{sum(f.verdict == AGREES for f in some)} of {len(some)}"))
    lines += [
        *table_lines(("table", "column", "rows that agree"), rows),
        "",
        "## How the tables were read",
        "",
        f"{len(cells)} cells. {restored} lost their decimal point in the reading and got it back; "
        f"{len(readings['corrected'])} were corrected otherwise and {len(readings['uncertain'])} are not certain:",
        "",
    ]
    rows = []
    for number, row, column, cell in readings["corrected"] + readings["uncertain"]:
        why = WHY.get((number, row, column), "comma for point")
        rows.append((str(number), row, column, cell.as_read, f"{cell.value:.{cell.decimals}f}", why))
    lines += table_lines(("table", "row", "column", "as read", "taken as", "why"), rows)
    return "\n".join(lines) + "\n"
