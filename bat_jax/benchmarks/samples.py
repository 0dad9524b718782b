"""One record type for the questions of all benchmarks, and what each of them calls its fields.

```
                   question            options                 answer        category          id
  toolkits' form   question            multi-choice options    answer        category *        index
  MME-RealWorld    Text                Answer choices          Ground truth  Category          Question_id
  RSHR, XHRBench   question            options                 answer        category          id
  LLaVA            first human turn    lines "A. ..." in it    first answer  category or none  id
```

* XLRS-Bench: `category` ("L2/L3"). MME-RealWorld: `l2-category`; its `category` is "Perception/Remote Sensing".

The toolkits' form is that of XLRS-Bench-lite and of MME-RealWorld for lmms-eval and VLMEvalKit. Options come as a list
(with or without letters of their own), as letter -> text, as the text of a Python list, or as one text that holds
"(A) ..." lines and perhaps a whole ending of the prompt (VLMEvalKit's XLRS-Bench); the last is kept beside the list
that it is read to.

RSHR-Bench's own columns could not be seen; its rows are read by the fields that the release's evaluation script reads.
"""

import ast
import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bat_jax.benchmarks import categories
from bat_jax.benchmarks.containers import DataRow, data_files, read_rows
from bat_jax.benchmarks.stored_images import StoredImage
from bat_jax.data.llava import clean_path, parse_turns

KEYS = ("xlrs", "mme_realworld", "rshr", "llava")
REMOTE_SENSING = "remote sensing"
# Where images stand beside a file, if not in its own folder.
_IMAGE_FOLDERS = ("", "images", "imgs", "data", "data/imgs", "data/images")
_LABELLED_LINE = re.compile(r"^[ \t]*(?:\(([A-F])\)|([A-F])[.):])[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_LABEL_INSIDE = re.compile(r"(?:^|\s)(?:\(([A-F])\)|([A-F])[.):])\s*")


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
      conversation: the user's whole turn, where the data holds conversations.
      place: "FILE: row N", for messages.
    """

    id: str
    images: tuple[StoredImage, ...]
    question: str
    options: tuple[str, ...]
    options_text: str | None
    answer: str | tuple[str, ...]
    category: str
    conversation: str | None
    place: str


class BenchmarkData:
    """The questions of a benchmark, read as they are asked for; iterate to get Samples.

    Attributes:
      key: one of KEYS. files: that hold the rows.
      left_out: reason -> number of rows, of the last complete iteration.
    """

    def __init__(self, key: str, path: str | pathlib.Path, image_folder: str | pathlib.Path | None = None):
        """Find the files.

        Args:
          path: the file or folder; see `containers`.
          image_folder: where image files stand. By default beside the data: its folder, or `images`, `imgs`, `data`,
            `data/imgs`, `data/images` in it; each image may stand in another one.

        Raises:
          ValueError: the key is unknown, there is no such folder, or the path is no data.
        """
        if key not in KEYS:
            raise ValueError(f"benchmark={key!r}: must be one of {', '.join(KEYS)}")
        self.key = key
        self.files = data_files(pathlib.Path(path))
        beside = self.files[0].parent
        self._folders = [beside / name for name in _IMAGE_FOLDERS]
        if image_folder is not None:
            if not pathlib.Path(image_folder).is_dir():
                raise ValueError(f"image_folder={image_folder}: is no folder")
            self._folders = [pathlib.Path(image_folder)]
        self.left_out: collections.Counter[str] = collections.Counter()

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in the order of the files.

        Raises:
          ValueError: a row lacks a field, its category is unknown, or not one image file exists; names row and field.
        """
        counts: collections.Counter[str] = collections.Counter()
        self.left_out.clear()
        tried = has_image = False
        for row in read_rows(self.files):
            reason = _reason_to_leave_out(self.key, row.fields)
            if reason:
                self.left_out[reason] += 1
                continue
            try:
                sample = self._sample(row)
                if self.key != "llava":
                    categories.subtask(SPELLED_AS[self.key], sample.category)
            except ValueError as error:
                raise ValueError(f"{row.place}: {error}") from None
            tried = True
            has_image = has_image or any(image.path is None or image.path.is_file() for image in sample.images)
            counts[sample.id] += 1
            number = counts[sample.id]
            yield sample if number == 1 else dataclasses.replace(sample, id=f"{sample.id}#{number}")
        if tried and not has_image:
            raise ValueError(f"{self.files[0]}: none of its image files is in {self._folders[0]}; give image_folder")
        if not tried:
            raise ValueError(f"{self.files[0]}: holds no question of {self.key}; left out: {dict(self.left_out)}")

    def _sample(self, row: DataRow) -> Sample:
        images = tuple(self._file(item) if isinstance(item, str) else item for item in row.images)
        if not images:
            raise ValueError("image: is missing or empty")
        fields = row.fields
        read = next(parse for name, parse in _PARSERS.items() if name in fields or not name)
        return Sample(images=images, place=row.place, **read(self.key, fields, row.number))

    def _file(self, text: str) -> StoredImage:
        """Find an image file; one that is nowhere gets its place in the first folder, and fails when it is read."""
        name = clean_path(text)
        paths = [folder / name for folder in self._folders]
        path = next((path for path in paths if path.is_file()), paths[0])
        return StoredImage(name=name, path=path, read=path.read_bytes)


# Key -> the benchmark whose spellings of categories its rows have.
SPELLED_AS = {"xlrs": "xlrs_lite", "mme_realworld": "mme_rs", "rshr": "rshr"}


def _reason_to_leave_out(key: str, fields: Mapping[str, Any]) -> str | None:
    """Say why a row is none of the benchmark's; a field that is absent is no reason, as in the release."""
    if key == "mme_realworld":
        part = fields.get("Subtask") or str(fields.get("category") or "").rpartition("/")[2]
        is_other = "Subtask" in fields or "l2-category" in fields
        return "not remote sensing" if is_other and part.strip().casefold() != REMOTE_SENSING else None
    if (
        key == "rshr"
        and "conversations" not in fields
        and not fields.get("options", fields.get("multi-choice options"))
    ):
        return "no options"
    return None


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


def _toolkit(key: str, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
    options, text = parse_options(_field(fields, "multi-choice options"))
    return {
        "id": _id(fields.get("index"), number),
        "question": _text(fields, "question"),
        "options": options,
        "options_text": text,
        "answer": _answer(fields, "answer"),
        "category": _text(fields, "l2-category" if key == "mme_realworld" else "category"),
        "conversation": None,
    }


def _mme_original(key: str, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
    del key
    options, text = parse_options(_field(fields, "Answer choices"))
    return {
        "id": _id(fields.get("Question_id"), number),
        "question": _text(fields, "Text"),
        "options": options,
        "options_text": text,
        "answer": _answer(fields, "Ground truth"),
        "category": _text(fields, "Category"),
        "conversation": None,
    }


def _question_and_options(key: str, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
    del key
    options, text = parse_options(_field(fields, "options"))
    return {
        "id": _id(fields.get("id"), number),
        "question": _text(fields, "question"),
        "options": options,
        "options_text": text,
        "answer": _answer(fields, "answer"),
        "category": _text(fields, "category"),
        "conversation": None,
    }


def _conversation(key: str, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Take the first question and its answer, as the release's scripts do."""
    turns = [turn for turn in parse_turns(_field(fields, "conversations")) if turn.role != "system"]
    asked, answer = (turn.text for turn in turns[:2])
    names = ("l2-category", "category", "Category") if key == "mme_realworld" else ("category",)
    return {
        "id": _id(fields.get("id"), number),
        "question": asked,
        "options": labelled_lines(asked),
        "options_text": None,
        "answer": answer,
        "category": str(fields.get("category") or "") if key == "llava" else _text(fields, *names),
        "conversation": asked,
    }


# The field that tells a form -> its parser; the last takes what is left.
_PARSERS = {
    "conversations": _conversation,
    "Answer choices": _mme_original,
    "multi-choice options": _toolkit,
    "": _question_and_options,
}


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
    """Return the options on lines of their own, "(A) ...", "A. ...", "A) ..." or "A: ...", each as "(A) ..."."""
    found: list[str] = []
    for match in _LABELLED_LINE.finditer(text):
        letter = match[1] or match[2]
        if letter == chr(ord("A") + len(found)):
            found.append(f"({letter}) {match[3]}")
    return tuple(found) if len(found) > 1 else ()


def _labelled_inside(text: str) -> tuple[str, ...]:
    """Return the options of a text that holds nothing else: "A. Red B. Blue"."""
    starts = []
    for match in _LABEL_INSIDE.finditer(text):
        if (match[1] or match[2]) == chr(ord("A") + len(starts)):
            starts.append(match)
    ends = [match.start() for match in starts[1:]] + [len(text)]
    pairs = zip(starts, ends, strict=True)
    found = tuple(f"({m[1] or m[2]}) {text[m.end() : end].strip()}" for m, end in pairs)
    return found if len(found) > 1 else ()
