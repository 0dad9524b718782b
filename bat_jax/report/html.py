"""A report as one HTML file: a pure function from content to text, with the pictures inside and no script.

Every text is escaped; the page asks nothing of a network, fits a phone and follows the reader's light or dark mode.
"""

import base64
import dataclasses
from collections.abc import Iterable, Sequence
from html import escape

Rgb = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageImage:
    """A JPEG and what is written below it; alt: for who cannot see it."""

    jpeg: bytes
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One of a question's options. is_true, is_chosen: by the ground truth, by the model."""

    letter: str
    text: str
    is_true: bool
    is_chosen: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageGroup:
    """Figures beside each other under a heading and a line of text, with a legend (name, colour).

    is_wide: a single figure has the page's whole width.
    """

    heading: str
    text: str
    figures: tuple[PageImage, ...]
    legend: tuple[tuple[str, Rgb], ...] = ()
    is_wide: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; the first column is on the left, the others on the right. title: above it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionCard:
    """One question and what came of it.

    Attributes:
      kind: its sub-task in words, "" for a user's own. options: empty for a user's own.
      answer: as the model wrote it. truth: None where it is not known; is_right likewise.
      kept: "729 of 14,592". seconds: running, without compiling.
      compared: what others answer, or None.
    """

    kind: str
    text: str
    options: tuple[Option, ...]
    answer: str
    truth: str | None
    is_right: bool | None
    kept: str
    seconds: float
    groups: tuple[ImageGroup, ...]
    compared: Table | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report; what is empty is left out.

    Attributes:
      lead: what this is. notice: a warning on top. steps: from picture to answer: (number, what it is).
      terms: words of the report and what they mean. images: for every image its groups: the image, its regions.
    """

    title: str
    lead: str
    summary: str
    notice: str
    steps: tuple[tuple[str, str], ...]
    terms: tuple[tuple[str, str], ...]
    images: tuple[tuple[ImageGroup, ...], ...]
    questions: tuple[QuestionCard, ...]
    tables: tuple[Table, ...]


_STYLE = """
:root{color-scheme:light dark;--bg:#f3f5f3;--card:#fff;--ink:#1b2420;--soft:#5a6862;--line:#dde3df;--tint:#e4eeea;
--accent:#0b6b5d;--good:#17703f;--goodbg:#e2f4e8;--bad:#b3261e;--badbg:#fbe7e5;--note:#7a4b00;--notebg:#fff3d6}
@media (prefers-color-scheme:dark){:root{--bg:#121715;--card:#1b2220;--ink:#e6ece9;--soft:#9fada7;--line:#303a36;
--tint:#222c29;--accent:#5cc9b5;--good:#6fd495;--goodbg:#173524;--bad:#ff938a;--badbg:#431d1a;--note:#f2cd85;
--notebg:#3a2c10}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 16px 56px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px}
h2{font-size:1.25rem;margin:36px 0 12px}
h3{font-size:.98rem;margin:22px 0 2px}
p{margin:4px 0}
.soft,figcaption,.group>p{color:var(--soft);font-size:.88rem}
.summary{font-size:1.15rem;font-weight:600}
.notice{background:var(--notebg);color:var(--note);border-radius:10px;padding:10px 14px;margin:14px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:18px 20px;margin:14px 0}
.steps{display:flex;flex-wrap:wrap;gap:10px;list-style:none;margin:18px 0 0;padding:0}
.steps li{flex:1 1 150px;background:var(--tint);border-radius:10px;padding:10px 14px;position:relative}
.steps b{display:block;font-size:1.15rem;color:var(--accent)}
.steps li:not(:last-child):after{content:"\\203A";position:absolute;right:-9px;top:50%;transform:translateY(-54%);
font-size:1.5rem;color:var(--soft)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:6px 16px;margin:0}
dt{font-weight:600}dd{margin:0}
.figures{display:grid;gap:12px;margin:10px 0 0}
.wide{grid-template-columns:minmax(0,1fr)}
.n1{grid-template-columns:minmax(0,640px)}
.n2{grid-template-columns:repeat(2,minmax(0,1fr))}
.n3{grid-template-columns:repeat(3,minmax(0,1fr))}
.n4{grid-template-columns:repeat(4,minmax(0,1fr))}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:8px 28px;align-items:start}
.pair .n4{grid-template-columns:repeat(2,minmax(0,1fr))}
.card .group>h2,.card .group>h3{margin-top:0}.card .pair,.card .group{margin-top:18px}
.card>h3:first-child,.card>.group:first-child,.card>.pair:first-child,.pair>.group{margin-top:0}
figure{margin:0}
figure img{width:100%;height:auto;display:block;border-radius:8px;border:1px solid var(--line)}
figcaption{margin-top:5px;line-height:1.35}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:8px;font-size:.86rem}
.legend i{display:inline-block;width:22px;height:14px;border-radius:3px;margin-right:6px;vertical-align:-2px;
border:1px solid var(--line)}
.legend.scale{gap:0;align-items:center}.legend.scale i{border-radius:0;border:0;margin:0}
.legend.scale span:first-child i{margin-left:8px}.legend.scale span:last-child i{margin-right:8px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.94rem}
th,td{text-align:right;padding:7px 10px;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);font-size:.82rem}
th:first-child,td:first-child,.left th,.left td{text-align:left}
.left .num{text-align:right;white-space:nowrap}
tr:last-child td{border-bottom:0}
a{color:inherit}
.mark{display:inline-block;border-radius:99px;padding:1px 11px;font-weight:600;font-size:.85rem;white-space:nowrap}
.right{background:var(--goodbg);color:var(--good)}.wrong{background:var(--badbg);color:var(--bad)}
.open{background:var(--notebg);color:var(--note)}.plain{background:var(--tint);color:var(--soft)}
.claims td{vertical-align:top}.claims td:nth-child(1){width:13%}.claims td:nth-child(2){width:24%}
.claims td:nth-child(4){width:23%}
table:not(.left){font-size:.86rem}table:not(.left) td{white-space:nowrap;padding:5px 7px}
.claims small{display:block;color:var(--soft)}
code{font-size:.86em;overflow-wrap:anywhere}
.head{display:flex;justify-content:space-between;gap:12px;align-items:flex-start}
.ask{font-size:1.15rem;font-weight:600;white-space:pre-wrap;overflow-wrap:anywhere}
.options{display:flex;flex-wrap:wrap;gap:8px;list-style:none;margin:10px 0;padding:0}
.options li{border:1px solid var(--line);border-radius:8px;padding:3px 12px}
.options .true{border-color:var(--good);box-shadow:inset 0 0 0 1px var(--good)}
.options .chosen{background:var(--goodbg)}.options .chosen.false{background:var(--badbg)}
.options small{color:var(--soft)}
@media (max-width:760px){.n3,.n4{grid-template-columns:repeat(2,minmax(0,1fr))}.card{padding:14px}
.head{flex-direction:column-reverse;gap:4px}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}
.steps li:after{display:none}
.asked thead,.asked .num{display:none}.asked tr{display:flex;flex-wrap:wrap;gap:2px 12px;padding:9px 0;
border-bottom:1px solid var(--line)}.asked tr:last-child{border:0}.asked td{border:0;padding:0}
.asked td:nth-child(2){flex:1 1 80%}
.asked td:nth-child(n+3):before{content:attr(data-name) " ";color:var(--soft)}
table{font-size:.85rem}th,td{padding:6px}}
@media print{.card{break-inside:avoid}}
"""


def render(page: Page) -> str:
    """Return the page as HTML text."""
    parts = opening(page.title, page.lead, page.summary, page.notice)
    if page.steps:
        steps = "".join(f"<li><b>{escape(number)}</b>{escape(text)}</li>" for number, text in page.steps)
        parts.append(f'<ol class="steps">{steps}</ol>')
    if page.questions:
        parts.append(_overview(page.questions))
    if page.terms:
        parts.append(explained(page.terms))
    parts += [f'<div class="card">{_groups(groups, "h2")}</div>' for groups in page.images]
    if page.questions:
        parts.append("<h2>Question by question</h2>")
        parts += [_question(number, question) for number, question in enumerate(page.questions, 1)]
    parts += [_table(table, "h2") for table in page.tables]
    return document(page.title, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """Return a whole HTML file in the house's style around parts of HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def opening(title: str, lead: str, summary: str, notice: str) -> list[str]:
    """Return the top of a page; summary and notice are left out where they are empty."""
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(lead)}</p>"]
    lines = (("summary", summary), ("notice", notice))
    return parts + [f'<p class="{kind}">{escape(text)}</p>' for kind, text in lines if text]


def explained(terms: Sequence[tuple[str, str]]) -> str:
    """Return words of a page and what they mean, in a card."""
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms)
    return f'<h2>How to read it</h2><div class="card"><dl>{items}</dl></div>'


def bare_table(kind: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already. kind: its class, or ""."""
    names = "".join(f"<th>{name}</th>" for name in header)
    head = f"<thead><tr>{names}</tr></thead>" if names else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    opened = f'<table class="{kind}">' if kind else "<table>"
    return f"{opened}{head}<tbody>{body}</tbody></table>"


def card(groups: Sequence[ImageGroup], tables: Sequence[Table] = ()) -> str:
    """Return groups of figures and tables in one card."""
    return f'<div class="card">{_groups(groups, "h3")}{"".join(_table(table, "h3") for table in tables)}</div>'


def _mark(is_right: bool | None) -> str:
    """Return the badge of a verdict; nothing where there is none."""
    if is_right is None:
        return ""
    return '<span class="mark right">✓ right</span>' if is_right else '<span class="mark wrong">✗ wrong</span>'


def _overview(questions: Sequence[QuestionCard]) -> str:
    has_truth = any(question.truth is not None for question in questions)
    names = ["", "question", "answer", *(["truth", ""] if has_truth else [])]
    rows = []
    for number, question in enumerate(questions, 1):
        cells = [str(number), f'<a href="#q{number}">{escape(question.text)}</a>', escape(question.answer)]
        if has_truth:
            cells += [escape(question.truth or ""), _mark(question.is_right)]
        numbers = (escape(question.kept), f"{question.seconds:.2f}")
        columns = "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in zip(names, cells, strict=True))
        rows.append(f"<tr>{columns}" + "".join(f'<td class="num">{cell}</td>' for cell in numbers) + "</tr>")
    header = "".join(f"<th>{name}</th>" for name in names)
    header += '<th class="num">tokens kept</th><th class="num">seconds</th>'
    return (
        '<h2>Questions and answers</h2><div class="card scroll"><table class="left asked">'
        f"<thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _groups(groups: Sequence[ImageGroup], level: str) -> str:
    """Return groups two by two beside each other; of an odd number the first has the whole width."""
    alone = len(groups) % 2
    parts = [_group(group, level) for group in groups[:alone]]
    for left, right in zip(groups[alone::2], groups[alone + 1 :: 2], strict=True):
        parts.append(f'<div class="pair">{_group(left, level)}{_group(right, level)}</div>')
    return "".join(parts)


def _group(group: ImageGroup, level: str) -> str:
    figures = "".join(_figure(figure) for figure in group.figures)
    kind = "wide" if group.is_wide else f"n{min(len(group.figures), 4)}"
    text = f"<p>{escape(group.text)}</p>" if group.text else ""
    return (
        f'<div class="group"><{level}>{escape(group.heading)}</{level}>{text}'
        f'<div class="figures {kind}">{figures}</div>{_legend(group.legend)}</div>'
    )


def _figure(figure: PageImage) -> str:
    data = base64.b64encode(figure.jpeg).decode("ascii")
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    return (
        f'<figure><img loading="lazy" alt="{escape(figure.alt)}" src="data:image/jpeg;base64,{data}">{caption}</figure>'
    )


def _legend(legend: Sequence[tuple[str, Rgb]]) -> str:
    """Return swatches with names; where only the ends have one, a scale."""
    if not legend:
        return ""
    is_scale = any(not name for name, _ in legend)
    items = [(f'<i style="background:rgb{colour}"></i>', escape(name)) for name, colour in legend]
    if is_scale:
        items[0] = items[0][::-1]
    spans = "".join(f"<span>{first}{second}</span>" for first, second in items)
    return f'<div class="legend{" scale" if is_scale else ""}">{spans}</div>'


def _question(number: int, question: QuestionCard) -> str:
    options = "".join(_option(option) for option in question.options)
    said = [f"The model answers <b>{escape(question.answer) or '(nothing)'}</b>"]
    if question.truth is not None:
        said.append(f"the truth is <b>{escape(question.truth)}</b>")
    facts = f"{escape(question.kept)} tokens kept, {question.seconds:.2f} s"
    kind = f'<div class="soft">{escape(question.kind)}</div>' if question.kind else ""
    listed = f'<ul class="options">{options}</ul>' if options else ""
    return (
        f'<section class="card" id="q{number}">{kind}<div class="head">'
        f'<div class="ask">{number}. {escape(question.text)}</div>{_mark(question.is_right)}</div>{listed}'
        f'<p>{"; ".join(said)}. <span class="soft">{facts}</span></p>'
        f"{_table(question.compared, 'h3') if question.compared else ''}{_groups(question.groups, 'h3')}</section>"
    )


def _option(option: Option) -> str:
    classes = [name for name, holds in (("true", option.is_true), ("chosen", option.is_chosen)) if holds]
    classes += [] if option.is_true else ["false"]
    notes = [name for name, holds in (("answer", option.is_chosen), ("truth", option.is_true)) if holds]
    note = f" <small>{' and '.join(notes)}</small>" if notes else ""
    return f'<li class="{" ".join(classes)}">{escape(option.letter)}. {escape(option.text)}{note}</li>'


def _table(table: Table, level: str) -> str:
    cells = (map(escape, row) for row in table.rows)
    body = bare_table("" if table.header else "left", list(map(escape, table.header)), map(list, cells))
    box = "card scroll" if level == "h2" else "scroll"
    return f'<{level}>{escape(table.title)}</{level}><div class="{box}">{body}</div>'
