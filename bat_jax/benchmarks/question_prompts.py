"""The text of a question as the release asks it, of whatever benchmark; a benchmark's own texts stand in its record.

Every function returns the text without `<image>` placeholders and without a chat template. The release's wording for
XLRS and MME stood in unpublished files with conversations; where a record has a conversation, its text is the question
(`release_conversation`). Where it has question, options and answer, the release's scripts build the text and so do we.

The release adds " You should choose multiple answers." when more than one letter occurs in the TRUTH. That tells the
model something about the answer; it is a switch of its own (`leak_hint`), off.
"""

import re
from collections.abc import Mapping, Sequence

RELEASE_MARKER = "Select the best answer based on the image."
RELEASE_HINT = " You should choose multiple answers."

Options = Sequence[str] | Mapping[str, str] | str | None

_IMAGE = "<image>"
_LEADING_IMAGES = re.compile(r"(?:\s*<image>\s*)+", re.IGNORECASE)


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


def release_question(question: str, options: Options, is_multi_answer: bool) -> str:
    """Return what the release's XLRS script asks."""
    del is_multi_answer
    lines = release_options(options)
    ending = f"\n{lines}\n{RELEASE_MARKER} Answer with the option letter only." if lines else ""
    return question.strip() + ending


def listed(options: Options) -> Sequence[str]:
    """Return options that a style needs as a list of texts with their letters, as the data has them.

    Raises:
      ValueError: they are none.
    """
    if options is None or isinstance(options, str | Mapping) or not all(isinstance(text, str) for text in options):
        raise ValueError(f"options={options!r}: this style needs a list of texts with their letters, as the data has")
    return options
