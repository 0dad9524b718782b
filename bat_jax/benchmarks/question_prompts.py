"""The text of a question as each benchmark, each toolkit and the release ask it.

    benchmark     official                      vlmevalkit              release
    xlrs_lite     lmms-eval's XLRS task         question + ready text   the release's XLRS script
    mme_rs(_lite) MME-RealWorld's own script    its MMERealWorld class  the release's MME script
    rshr          not published; see below      -                       the release's XLRS script

Every function returns the text without `<image>` placeholders and without a chat template. What the styles ask for is
quoted exactly, blanks and missing blanks included:
  * XLRS official puts nothing between the question and "The choices are listed below:", prints "(A, B, C, D)" for two
    options too, and its multi-answer ending has no line break before "The answer(s)". (The README of XLRS-Bench differs
    from that code: a blank before "The choices", no empty line before the ending, and no "The answer(s) is(are):".)
  * MME official has a blank before its first line break; VLMEvalKit has one after "option." instead.
  * RSHR's own thirteen prompts stand in an appendix that we could not read. The only text known to be run on its
    records is the release's, so "official" is not offered.
The release's wording for XLRS and MME stood in unpublished files with conversations; where a record has a
conversation, its text is the question (`release_conversation`). Where it has question, options and answer, the
release's scripts build the text and so do we.

The release adds " You should choose multiple answers." when more than one letter occurs in the TRUTH. That tells the
model something about the answer; it is a switch of its own (`leak_hint`), off.
"""

import re
from collections.abc import Mapping, Sequence

STYLES = ("official", "vlmevalkit", "release")

XLRS_SINGLE = (
    "\nSelect the best answer for the multiple-choice question based on the image. Only respond with the letter"
    " corresponding to the correct answer (A, B, C, D).\nThe answer is:"
)
XLRS_MULTIPLE = (
    "\nSelect the best answer(s) for the multiple-choice question based on the image. There may be more than one"
    " correct option. Only respond with the letter(s) corresponding to the correct answer(s) (A, B, C, D), with"
    " multiple choices separated by spaces.The answer(s) is(are):"
)
MME_TASK = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter"
    " (A, B, C, D, or E) of the correct option."
)
RELEASE_MARKER = "Select the best answer based on the image."
RELEASE_HINT = " You should choose multiple answers."
RELEASE_MME_TASK = "Please reply with the letter of the correct option (e.g., A/B/C/D/E)."
# What the release's MME script asks where a record has neither text nor options.
RELEASE_MME_EMPTY = "Answer the question based on the image.\nPlease reply concisely."

Options = Sequence[str] | Mapping[str, str] | str | None

_IMAGE = "<image>"
_LEADING_IMAGES = re.compile(r"(?:\s*<image>\s*)+", re.IGNORECASE)
_MME_PREFIX = re.compile(r"\s*\(?[A-E]\)?[.:\-\s]*", re.IGNORECASE)


def prompt(
    benchmark: str,
    style: str,
    question: str,
    options: Options,
    *,
    is_multi_answer: bool = False,
    truth: str | Sequence[str] | None = None,
    leak_hint: bool = False,
) -> str:
    """Return the text to ask.

    Args:
      benchmark: xlrs_lite, mme_rs_lite, mme_rs or rshr.
      style: one of STYLES.
      question: as the data holds it; boxes in pixels stay as they are.
      options: as the data holds them, with their own "(A) " where they have it. VLMEvalKit's XLRS form is one text.
      is_multi_answer: whether the sub-task allows several answers (a fact of the sub-task, never of the question).
      truth: the record's answer, read only for `leak_hint`.
      leak_hint: add the release's hint where the truth holds more than one letter. Style "release" only.

    Raises:
      ValueError: the style is unknown or the benchmark has none of that name; the options do not fit it; `leak_hint`
        outside the release's style, or without a truth.
    """
    if leak_hint and (style != "release" or truth is None):
        raise ValueError(f"leak_hint=True: needs style='release' and a truth, got style={style!r}, truth={truth!r}")
    if (benchmark, style) not in _BUILDERS:
        offered = ", ".join(sorted(name for known, name in _BUILDERS if known == benchmark))
        raise ValueError(f"style={style!r}: {benchmark} offers {offered or 'nothing, it is unknown'}")
    text = _BUILDERS[benchmark, style](question, options, is_multi_answer)
    return with_leaked_hint(text, truth) if leak_hint else text


def with_leaked_hint(text: str, truth: str | Sequence[str]) -> str:
    """Put the release's hint behind every marker sentence if the truth holds several different letters A-F.

    The release looks for letters anywhere in the truth's text, so a truth written out ("B) Dark green": A, B, D, E)
    gets the hint as well.
    """
    joined = release_truth(truth)
    is_multiple = len({letter for letter in joined.upper() if letter in "ABCDEF"}) > 1
    if not is_multiple or RELEASE_HINT.strip(" .") in text:
        return text
    return text.replace(RELEASE_MARKER, RELEASE_MARKER + RELEASE_HINT)


def release_truth(truth: str | Sequence[str]) -> str:
    """Return a record's answer as the release's script writes it: a list is joined without anything in between."""
    return truth.strip() if isinstance(truth, str) else "".join(item.strip() for item in truth)


def release_conversation(text: str) -> str:
    """Return the question of a record that holds a conversation, as the release's scripts put it to the model.

    Leading placeholders go with the blanks around them; a line break among them comes back as one "\\n" in front of the
    question. Placeholders in mid-text go without a trace. With the chat template's own `<image>\\n` in front, a stored
    "<image>\\nQ" is asked as "<image>\\n\\nQ".
    """
    match = _LEADING_IMAGES.match(text)
    if match:
        rest = text[match.end() :].lstrip("\r\n")
        text = "\n" + rest if "\n" in match[0] and rest else rest
    return text.replace(_IMAGE, "")


def release_options(options: Options) -> str:
    """Return the option lines of the release's XLRS script.

    Labels of a mapping are sorted as they are and then upper-cased, empty options left out. A list is labelled A, B, C
    without taking an own prefix away: "(A) x" becomes "A. (A) x". A text stays.
    """
    if not options:
        return ""
    if isinstance(options, str):
        return options.strip()
    if isinstance(options, Mapping):
        pairs = [(str(key).strip().upper(), options[key].strip()) for key in sorted(options, key=str)]
        return "\n".join(f"{label}. {text}" for label, text in pairs if label and text)
    return "\n".join(f"{chr(ord('A') + index)}. {text.strip()}" for index, text in enumerate(options))


def release_mme_option(option: str) -> str:
    """Return an option without its label as the release's MME script does it.

    The first letter goes whenever it is one of A-E, label or not: "Airport" becomes "irport", "East" becomes "ast".
    """
    return _MME_PREFIX.sub("", option, count=1).strip() if _MME_PREFIX.match(option) else option.strip()


def _listed(options: Options) -> Sequence[str]:
    if options is None or isinstance(options, str | Mapping) or not all(isinstance(text, str) for text in options):
        raise ValueError(f"options={options!r}: this style needs a list of texts with their letters, as the data has")
    return options


def _xlrs_official(question: str, options: Options, is_multi_answer: bool) -> str:
    ending = XLRS_MULTIPLE if is_multi_answer else XLRS_SINGLE
    return f"{question}The choices are listed below:\n" + "\n".join(_listed(options)) + f"\n{ending}"


def _xlrs_vlmevalkit(question: str, options: Options, is_multi_answer: bool) -> str:
    del is_multi_answer  # the ready text says it
    if not isinstance(options, str):
        raise ValueError(f"options={options!r}: VLMEvalKit's form of XLRS-Bench holds options and ending as one text")
    return question + options


def _mme_official(question: str, options: Options, is_multi_answer: bool) -> str:
    del is_multi_answer
    lines = "".join(f"{option}\n" for option in _listed(options))
    return f"{question} The choices are listed below: \n{lines}{MME_TASK}\nThe best answer is:"


def _mme_vlmevalkit(question: str, options: Options, is_multi_answer: bool) -> str:
    del is_multi_answer
    lines = "".join(f"{option}\n" for option in _listed(options))
    return f"{question} The choices are listed below:\n{lines}{MME_TASK} \nThe best answer is:"


def _release_question(question: str, options: Options, is_multi_answer: bool) -> str:
    del is_multi_answer
    lines = release_options(options)
    ending = f"\n{lines}\n{RELEASE_MARKER} Answer with the option letter only." if lines else ""
    return question.strip() + ending


def _release_mme(question: str, options: Options, is_multi_answer: bool) -> str:
    del is_multi_answer
    texts = [release_mme_option(option) for option in _listed(options)]
    if not question.strip() and not texts:
        return RELEASE_MME_EMPTY
    lines = [question.strip(), "Options:", *(f"{chr(ord('A') + index)}. {text}" for index, text in enumerate(texts))]
    return "\n".join([*lines, RELEASE_MME_TASK])


_BUILDERS = {
    ("xlrs_lite", "official"): _xlrs_official,
    ("xlrs_lite", "vlmevalkit"): _xlrs_vlmevalkit,
    ("xlrs_lite", "release"): _release_question,
    ("rshr", "release"): _release_question,
    **{(name, "official"): _mme_official for name in ("mme_rs", "mme_rs_lite")},
    **{(name, "vlmevalkit"): _mme_vlmevalkit for name in ("mme_rs", "mme_rs_lite")},
    **{(name, "release"): _release_mme for name in ("mme_rs", "mme_rs_lite")},
}
