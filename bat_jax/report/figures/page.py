"""Draws the figures asked for and writes them: PNG files, figures.json for other reports, one page with all of them."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from bat_jax.io.output_files import write_json
from bat_jax.report import html
from bat_jax.report.answer_page import About, Ask, page_figures, question_card, run_table, summary
from bat_jax.report.figures.cards import compare, compared_asks
from bat_jax.report.figures.figure import Figure, card_panels
from bat_jax.report.figures.record import FIGURES
from bat_jax.report.figures.subject import Subject
from bat_jax.report.pictures import Panel


def write_figures(
    folder: pathlib.Path,
    subject: Subject,
    numbers: Sequence[str],
    about: About,
    on_figure: Callable[[Figure], None] = lambda figure: None,
) -> None:
    """Write a PNG file of every figure, figures.json and figures.html into a folder.

    Args:
      numbers: names in FIGURES. on_figure: called with each figure when its file is written.
    """
    drawn = []
    for number in numbers:
        figure = FIGURES[number].draw(subject)
        figure.image.save(folder / _file(figure), compress_level=4)
        drawn.append(figure)
        on_figure(figure)
    write_json(
        folder / "figures.json",
        [{"figure": f.number, "title": f.title, "caption": f.caption, "png": _file(f)} for f in drawn],
    )
    (folder / "figures.html").write_text(html.render(_page(subject, drawn, about)), encoding="utf-8")


def _file(figure: Figure) -> str:
    return f"figure{figure.number}.png" if figure.number.isdigit() else f"{figure.number}.png"


def _page(subject: Subject, figures: Sequence[Figure], about: About) -> html.Page:
    numbers = {figure.number for figure in figures}
    compared = compared_asks(subject) if "11" in numbers else ()
    shown = subject.asks if "12" in numbers else compared
    asked = [subject.ask(ask) for ask in shown]
    places = [page_figures(card_panels(subject, ask), 84) for ask in shown]
    cards = [
        question_card(
            item,
            subject.num_tokens,
            [html.ImageGroup(heading="The place", text="", figures=place)],
            _compared(subject, ask) if ask in compared else None,
        )
        for ask, item, place in zip(shown, asked, places, strict=True)
    ]
    width, height = subject.scene().image_size
    return html.Page(
        title="UHR-BAT: figures",
        lead=f"Figures {', '.join(f.number for f in figures)} of the paper (arXiv:2604.13565), redone on "
        f"{subject.name}, {width} × {height} px.",
        summary=summary(asked) if asked else "",
        notice=about.notice,
        steps=(),
        terms=(),
        images=tuple((_group(figure),) for figure in figures),
        questions=tuple(cards),
        tables=(run_table(about),),
    )


def _group(figure: Figure) -> html.ImageGroup:
    shown = page_figures([Panel(np.asarray(figure.image), figure.title)], 86, has_caption=False)
    return html.ImageGroup(heading=figure.heading, text=figure.caption, figures=shown, is_wide=True)


def _compared(subject: Subject, ask: Ask) -> html.Table:
    rows = []
    for name, asked in compare(subject, ask):
        mark = "" if asked.truth is None else "✓ right" if asked.truth.is_right else "✗ wrong"
        rows.append((name, f"{asked.num_kept:,}", asked.answer_text or "(nothing)", mark))
    return html.Table(title="Ways to choose the tokens", header=("", "tokens", "answer", ""), rows=tuple(rows))
