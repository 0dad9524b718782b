"""The HTML report: every text escaped, everything inside, verdicts as they are."""

import dataclasses
import html.parser

import pytest

from bat_jax.report.html import ImageGroup, Option, Page, PageImage, QuestionCard, Table, render

NASTY = "<script>alert('x')</script> & \"quotes\""
FIGURE = PageImage(jpeg=b"\xff\xd8\xff picture", caption=NASTY, alt=NASTY)
QUESTION = QuestionCard(
    kind="object colour",
    text=NASTY,
    options=(
        Option(letter="A", text=NASTY, is_true=False, is_chosen=True),
        Option(letter="B", text="blue", is_true=True, is_chosen=False),
    ),
    answer=NASTY,
    truth="B (blue)",
    is_right=False,
    kept="7 of 90",
    seconds=0.25,
    groups=tuple(
        ImageGroup(heading=NASTY, text=NASTY, figures=(FIGURE,), legend=((NASTY, (1, 2, 3)),)) for _ in range(3)
    ),
)
PAGE = Page(
    title=NASTY,
    lead=NASTY,
    summary=NASTY,
    notice=NASTY,
    steps=((NASTY, NASTY),),
    terms=((NASTY, NASTY),),
    images=((QUESTION.groups[0],),),
    questions=(QUESTION,),
    tables=(Table(title=NASTY, header=(NASTY,), rows=((NASTY,),)),),
)
VOID = {"meta", "img"}


class Reader(html.parser.HTMLParser):
    """Collects tags, addresses and text; fails on a tag that is not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.ids, self.words, self._open = [], [], [], [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_every_text_is_escaped_and_nothing_is_fetched():
    text = render(PAGE)
    page = Reader(text)
    assert "script" not in page.tags
    assert "".join(page.words).count(NASTY) > 15
    assert page.tags.count("img") == 4
    for address in page.addresses:
        assert address.startswith("data:image/jpeg;base64,") or address.removeprefix("#") in page.ids
    assert "@import" not in text and "url(" not in text and "http:" not in text and "https:" not in text


def test_a_verdict_is_shown_as_it_is_and_left_out_where_there_is_none():
    right = dataclasses.replace(QUESTION, is_right=True)
    unknown = dataclasses.replace(QUESTION, options=(), truth=None, is_right=None)
    texts = [
        "".join(Reader(render(dataclasses.replace(PAGE, questions=(q,)))).words) for q in (QUESTION, right, unknown)
    ]
    assert "✗ wrong" in texts[0] and "✓ right" not in texts[0]
    assert "✓ right" in texts[1] and "✗ wrong" not in texts[1]
    assert "✓" not in texts[2] and "✗" not in texts[2] and "the truth is" not in texts[2]


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4])
def test_groups_stand_in_pairs(num_groups):
    groups = tuple(dataclasses.replace(QUESTION.groups[0], heading=f"group {i}") for i in range(num_groups))
    text = render(dataclasses.replace(PAGE, questions=(dataclasses.replace(QUESTION, groups=groups),)))
    Reader(text)
    assert [text.count(f"<h3>group {i}</h3>") for i in range(num_groups)] == [1] * num_groups
    assert text.count('<div class="pair">') == num_groups // 2


def test_a_legend_with_unnamed_swatches_is_a_scale():
    legend = (("low", (0, 0, 0)), ("", (9, 9, 9)), ("high", (99, 99, 99)))
    group = dataclasses.replace(QUESTION.groups[0], legend=legend)
    text = render(dataclasses.replace(PAGE, images=((group,),)))
    assert '<div class="legend scale"><span>low<i' in text
    assert "rgb(99, 99, 99)" in text


def test_what_others_answer_stands_in_the_question_s_own_card():
    compared = Table(title="Others", header=("", "answer"), rows=((NASTY, "B"),))
    page = Reader(render(dataclasses.replace(PAGE, questions=(dataclasses.replace(QUESTION, compared=compared),))))
    section = page.tags[page.tags.index("section") :]
    assert section.index("table") < section.index("figure")
    assert page.tags.count("table") == Reader(render(PAGE)).tags.count("table") + 1
    assert "Others" in page.words


def test_empty_parts_of_a_page_are_left_out():
    bare = dataclasses.replace(PAGE, steps=(), terms=(), questions=(), summary="", notice="")
    words = Reader(render(bare)).words
    for heading in ("Questions and answers", "How to read it", "Question by question"):
        assert heading in Reader(render(PAGE)).words and heading not in words


def test_a_wide_figure_has_the_page_s_width():
    group = dataclasses.replace(QUESTION.groups[0], is_wide=True)
    assert '<div class="figures wide">' in render(dataclasses.replace(PAGE, images=((group,),)))
    assert '<div class="figures wide">' not in render(PAGE)
