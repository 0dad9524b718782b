"""One record type for the questions of all benchmarks, and the fields of the rows that several of them share.

```
                   question            options                 answer        category          id
  toolkits' form   question            multi-choice options    answer        category          index
  plain            question            options                 answer        category          id
  LLaVA            first human turn    lines "A. ..." in it    first answer  category          id
```

The toolkits' form is that of XLRS-Bench-lite and of MME-RealWorld for lmms-eval and VLMEvalKit. Options come as a list
(with or without letters of their own), as letter -> text, as the text of a Python list, or as one text that holds
"(A) ..." lines and perhaps a whole ending of the prompt (VLMEvalKit's XLRS-Bench); the last is kept beside the list
that it is read to.
"""

import ast
import dataclasses
import json
import re
import string
from collections.abc import Mapping
from typing import Any

from bat_jax.benchmarks.stored_images import StoredImage
from bat_jax.data.llava import parse_turns

# What a row may call the dialogue that it is a turn of.
_DIALOGUE_FIELDS = ("dialogue_id", "dialog_id", "conversation_id", "dialogue")
_LABELLED_LINE = re.compile(r"^[ \t]*(?:\(([A-Za-z])\)|([A-Za-z])[.):])[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)
_LABEL_INSIDE = re.compile(r"(?:^|\s)(?:\(([A-Z])\)|([A-Z])[.):])\s*")
_NAMES_LETTER = re.compile(r"\(?[A-Za-z]\)?(?:[).:,]|$)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A question of a benchmark.

    Attributes:
      id: unique over the data; a repeated one has "#2", "#3" behind it.
      images: at least one.
      question: as the data holds it; boxes in it are pixels of the original image.
      options: in the order of their letters, with labels of their own where the data has them; none for an open one.
      options_text: the options as one text, where the data holds them so.
      answer: as the data holds it.
      category: as the data spells it; "" where LLaVA data names none.
      place: "FILE: row N", for messages.
      conversation: the user's whole turn, where the data holds conversations.
      record: JSON of the whole conversation and its target boxes there; "" elsewhere.
      dialogue: id of the dialogue that it is a turn of, num_turns: how many that has; "" and 0 where the data says
        neither.
    """

    id: str
    images: tuple[StoredImage, ...]
    question: str
    options: tuple[str, ...]
    options_text: str | None
    answer: str | tuple[str, ...]
    category: str
    place: str
    conversation: str | None = None
    record: str = ""
    dialogue: str = ""
    num_turns: int = 0


def read_dialogue(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Sample's `dialogue` and `num_turns` from a row that is a turn.

    Raises:
      ValueError: num_turns is no whole number from 1.
    """
    num_turns = fields.get("num_turns")
    if num_turns is not None and (type(num_turns) is not int or num_turns < 1):
        raise ValueError(f"num_turns={num_turns!r}: must be a whole number from 1")
    names = (fields.get(name) for name in _DIALOGUE_FIELDS)
    name = next((name for name in names if isinstance(name, str | int) and name != ""), "")
    return {"dialogue": str(name), "num_turns": num_turns or 0}


def _field(fields: Mapping[str, Any], *names: str) -> Any:
    """Return the first of the named fields that is there.

    Raises:
      ValueError: none is, or it is empty.
    """
    value = next((fields[name] for name in names if fields.get(name) not in (None, "")), None)
    if value is None:
        raise ValueError(f"{names[0]}: is missing or empty")
    return value


def _text(fields: Mapping[str, Any], *names: str) -> str:
    value = _field(fields, *names)
    if not isinstance(value, str):
        raise ValueError(f"{names[0]}={value!r}: must be text")
    return value


def _answer(fields: Mapping[str, Any], *names: str) -> str | tuple[str, ...]:
    value = _field(fields, *names)
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{names[0]}={value!r}: must be text or a list of texts")
    return tuple(value)


def _id(value: Any, number: int) -> str:
    return str(number if value in (None, "") else value)


def read_fields(
    fields: Mapping[str, Any],
    number: int,
    *,
    id: str = "id",
    question: str = "question",
    options: str = "options",
    answer: str = "answer",
    category: tuple[str, ...] = ("category",),
) -> dict[str, Any]:
    """Return a Sample's fields from a row of question, options and answer.

    Args:
      number: the row's, its id where it has none.
      id, question, options, answer: what the row calls them. category: names of which the first that is there counts.

    Raises:
      ValueError: a field is missing or of another type; names it.
    """
    texts, text = parse_options(_field(fields, options))
    return {
        "id": _id(fields.get(id), number),
        "question": _text(fields, question),
        "options": texts,
        "options_text": text,
        "answer": _answer(fields, answer),
        "category": _text(fields, *category),
    }


def read_conversation(
    fields: Mapping[str, Any], number: int, category: tuple[str, ...] = ("category",)
) -> dict[str, Any]:
    """Return a Sample's fields from a conversation: its first question and answer, as the release's scripts do.

    Args:
      category: as in `read_fields`; () where a row need not name one.

    Raises:
      ValueError: it is no conversation, or a field is missing.
    """
    conversations = _field(fields, "conversations")
    turns = [turn for turn in parse_turns(conversations) if turn.role != "system"]
    asked, answer = (turn.text for turn in turns[:2])
    record = {"conversations": conversations, "target_boxes": fields.get("target_boxes", ())}
    return {
        "id": _id(fields.get("id"), number),
        "question": asked,
        "options": _asked_options(asked, answer),
        "options_text": None,
        "answer": answer,
        "category": _text(fields, *category) if category else str(fields.get("category") or ""),
        "conversation": asked,
        "record": json.dumps(record, ensure_ascii=False),
    }


def read_row(fields: Mapping[str, Any], number: int, category: tuple[str, ...] = ("category",)) -> dict[str, Any]:
    """Return a Sample's fields from a row of any form that several benchmarks share.

    Raises:
      ValueError: see `read_fields` and `read_conversation`.
    """
    if "conversations" in fields:
        return read_conversation(fields, number, category)
    if "multi-choice options" in fields:
        return read_fields(fields, number, id="index", options="multi-choice options", category=category)
    return read_fields(fields, number, category=category)


def parse_options(value: Any) -> tuple[tuple[str, ...], str | None]:
    """Return (texts in the order of their letters, the one text they stood in or None).

    Empty options of a mapping are none, so that {"A": "Yes", "B": "No", "C": ""} are two.

    Raises:
      ValueError: it is no list, mapping or text of options, or a mapping's letters are not A, B, C, ...
    """
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            return parse_options(_literal_list(value))[0], None
        options = labelled_lines(value) or _labelled_inside(value)
        if not options:
            raise ValueError(f"options={value[:80]!r}: holds no options (A), (B), ...")
        return options, value
    if isinstance(value, Mapping):
        pairs = sorted((str(key).strip().upper(), text) for key, text in value.items() if text not in (None, ""))
        if [key for key, _ in pairs] != [chr(ord("A") + index) for index in range(len(pairs))]:
            raise ValueError(f"options={sorted(value)}: letters must be A, B, C, ... without a gap")
        value = [text for _, text in pairs]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError(f"options={value!r}: must be a list of texts")
    return tuple(value), None


def _literal_list(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        raise ValueError(f"options={text[:80]!r}: is no list") from None


def labelled_lines(text: str) -> tuple[str, ...]:
    """Return the options on lines of their own, "(A) ...", "A. ...", "A) ..." or "A: ...", each as "(A) ...".

    They begin with the first line that is labelled A. One line alone is none.

    Raises:
      ValueError: the labels are not A, B, C, ... in this order, or small letters.
    """
    lines = [(match[1] or match[2], match[3]) for match in _LABELLED_LINE.finditer(text)]
    capitals = [line for line in lines if line[0].isupper()]
    lines = capitals or lines
    first = next((index for index, (letter, _) in enumerate(lines) if letter in "Aa"), len(lines))
    letters = "".join(letter for letter, _ in lines[first:])
    if len(letters) < 2:
        return ()
    if not string.ascii_uppercase.startswith(letters):
        raise ValueError(f"options: labels are {', '.join(letters)}; want A, B, C, ... in this order, each once")
    return tuple(f"({letter}) {option}" for letter, option in lines[first:])


def _asked_options(asked: str, answer: str) -> tuple[str, ...]:
    """Return the options of a conversation's question; none where its answer needs none.

    Raises:
      ValueError: the answer names a letter, and the lines that have letters are no list of options.
    """
    try:
        return labelled_lines(asked)
    except ValueError:
        if _NAMES_LETTER.match(answer.strip()):
            raise
        return ()


def _labelled_inside(text: str) -> tuple[str, ...]:
    """Return the options of a text that holds nothing else: "A. Red B. Blue"; as `labelled_lines` does."""
    starts: list[re.Match[str]] = []
    behind = ""
    for match in _LABEL_INSIDE.finditer(text):
        letter = match[1] or match[2]
        if letter == chr(ord("A") + len(starts)):
            starts.append(match)
            behind = ""
        else:
            behind += letter
    if len(starts) > 1 and behind:
        last = chr(ord("A") + len(starts) - 1)
        raise ValueError(
            f"options={text[:80]!r}: label {behind[0]} stands behind {last}; want A, B, C, ... in this order"
        )
    ends = [match.start() for match in starts[1:]] + [len(text)]
    pairs = zip(starts, ends, strict=True)
    found = tuple(f"({m[1] or m[2]}) {text[m.end() : end].strip()}" for m, end in pairs)
    return found if len(found) > 1 else ()
