"""LLaVA conversation JSON: records by byte offset, in an order that is a function of (seed, epoch).

    [{"id": 12, "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", ...}]}]

The file is scanned once for where each record stands and a record is parsed when it is needed, so that a file of any
length costs sixteen bytes a record. A JSON list and JSON lines are both read. What the known files hold beside that is
accepted: `image` as text, list or absent; `conversations` as JSON text; roles user/assistant; a conversation that
starts with the assistant; `./`, back-slashes; one `<image>` in the middle of a text; fewer `<image>` than images.
A record that is wrong is an error of that record alone (RecordError).
"""

import array
import codecs
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bat_jax.text_files import not_utf8, text_start

IMAGE_TOKEN = "<image>"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_BLOCK_BYTES = 2**20
# What decides where a record ends: a bracket, and strings with their escapes, in which brackets are text. A string ends
# with its quote or with the block, perhaps between a back-slash and what it escapes. Possessive repeats keep no way
# back, which would take memory for every character.
_REST = rb'[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|(?P<unfinished>\\?)\Z)'
_REST_OF_STRING = re.compile(_REST, re.DOTALL)
_TOKEN = re.compile(rb'(?P<bracket>[{}\[\]])|"' + _REST, re.DOTALL)


class RecordError(ValueError):
    """A record that cannot be used; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """role: "system", "user" or "assistant". text: with `<image>` placeholders in user turns."""

    role: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One conversation.

    Attributes:
      id: as in the file, or the record's number.
      images: files, relative to the folder of images; none for text alone.
      turns: user and assistant in turn, the user first; a system turn may stand in front.
      target_boxes: (x0, y0, x1, y1) in fractions of the image where the question looks, for the auxiliary importance
        loss; usually none.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    target_boxes: tuple[tuple[float, float, float, float], ...] = ()


@runtime_checkable
class RecordSource(Protocol):
    """What training reads: its items are Records or raise RecordError."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class LlavaFile:
    """A LLaVA conversation file as a sequence of Records; see `record_spans` for what is refused."""

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self._spans = record_spans(self.path)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Record:
        start, end = self._spans[index]
        with open(self.path, "rb") as file:
            file.seek(start)
            text = file.read(int(end - start))
        try:
            values = json.loads(text)
        except ValueError as error:
            raise RecordError(f"is no valid JSON: {error}") from None
        return parse_record(values, index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordRange:
    """Some records of a source, as a source."""

    source: RecordSource
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Record:
        return self.source[self.numbers[index]]


def record_spans(path: pathlib.Path) -> np.ndarray:
    """Return (records, 2) int64: first byte and end of every top-level object of a JSON list or of JSON lines.

    The file is read in blocks, of which one is in memory at a time, however long its strings are.

    Raises:
      ValueError: the file is no list of JSON objects (nor one object a line), is cut off, or holds none.
    """
    spans = array.array("q")
    start = depth = 0
    is_list = None
    for place, bracket in _brackets(path):
        if is_list is None:
            is_list = bracket == b"["
            if is_list:
                continue
        if bracket in b"{[":
            if depth == 0:
                start = place
                if bracket == b"[":
                    raise ValueError(f"{path}: byte {start} starts a list where a record is expected")
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                spans.extend((start, place + 1))
            elif depth < 0 and not is_list:
                raise ValueError(f"{path}: byte {place + 1} closes a bracket that was never opened")
    if depth > 0 or (is_list and depth == 0):
        raise ValueError(f"{path}: ends inside a {'record' if depth else 'list'}; the file is cut off")
    if not spans:
        raise ValueError(f"{path}: holds no records; want a JSON list of objects, or one object a line")
    return np.asarray(spans, np.int64).reshape(-1, 2)


def _brackets(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yield (byte, bracket) of every bracket of a JSON file that stands in no string."""
    base = 0
    text_start(path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    unfinished: bytes | None = None  # how a string that is open at the end of a block ended there: b"\\" or b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: {not_utf8(f'byte {base + error.start}')}") from None
            place = 0
            if unfinished is not None:
                match = _REST_OF_STRING.match(block, len(unfinished))
                assert match is not None
                place, unfinished = match.end(), match["unfinished"]
            for match in _TOKEN.finditer(block, place):
                if match["bracket"]:
                    yield base + match.start(), match["bracket"]
                else:
                    unfinished = match["unfinished"]
            base += len(block)


def parse_record(values: Any, index: int) -> Record:
    """Turn one parsed JSON value into a Record; `index` is its id where it has none.

    Raises:
      RecordError: says what is wrong.
    """
    if not isinstance(values, dict):
        raise RecordError("is no JSON object")
    name, images = values.get("id"), _images(values)
    return Record(
        id=str(index if name is None or name == "" else name),
        images=images,
        turns=_placed_images(parse_turns(values.get("conversations")), len(images)),
        target_boxes=_boxes(values.get("target_boxes", ())),
    )


def clean_path(text: str) -> str:
    """Return a file name with forward slashes and without `./` in front."""
    text = text.strip().replace("\\", "/")
    while text.startswith("./"):
        text = text[2:]
    return text


def _images(values: dict) -> tuple[str, ...]:
    images = values.get("image", values.get("images"))
    images = [] if images is None or images == "" else images
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(item, str) and item.strip() for item in images):
        raise RecordError(f"image={images!r}: must be a file name or a list of them")
    return tuple(clean_path(item) for item in images)


def _boxes(values: Any) -> tuple[tuple[float, float, float, float], ...]:
    boxes = []
    for box in values or ():
        is_box = isinstance(box, list | tuple) and len(box) == 4 and all(type(v) in (int, float) for v in box)
        if not is_box or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise RecordError(f"target_boxes: {box!r} is no (x0, y0, x1, y1) in fractions of the image")
        x0, y0, x1, y1 = map(float, box)
        boxes.append((x0, y0, x1, y1))
    return tuple(boxes)


def parse_turns(conversations: Any) -> tuple[Turn, ...]:
    """Return a conversation's turns, texts as they stand: user and assistant in turn, perhaps a system turn in front.

    Raises:
      RecordError: it is no conversation with a question and an answer.
    """
    if isinstance(conversations, str):
        try:
            conversations = json.loads(conversations)
        except ValueError:
            raise RecordError("conversations: is text that is no JSON") from None
    if not isinstance(conversations, list) or not conversations:
        raise RecordError("conversations: must be a list of turns, and not empty")
    turns = []
    for item in conversations:
        role = item.get("from", item.get("role")) if isinstance(item, dict) else None
        text = item.get("value", item.get("content")) if isinstance(item, dict) else None
        if role not in _ROLES or not isinstance(text, str):
            raise RecordError(f"conversations: {str(item)[:80]!r} is no turn with a known `from` and a text `value`")
        turns.append(Turn(role=_ROLES[role], text=text))
    system = turns[:1] if turns[0].role == "system" else []
    turns = turns[len(system) :]
    if turns and turns[0].role == "assistant":  # LLaVA's loader drops an answer without a question
        turns = turns[1:]
    wanted = ["user", "assistant"] * (len(turns) // 2 + 1)
    if [turn.role for turn in turns] != wanted[: len(turns)]:
        raise RecordError("conversations: user and assistant do not take turns")
    if turns and turns[-1].role == "user":
        turns = turns[:-1]
    if not turns:
        raise RecordError("conversations: holds no question with an answer")
    return (*system, *turns)


def _placed_images(turns: tuple[Turn, ...], num_images: int) -> tuple[Turn, ...]:
    """Make the first question hold one `<image>` in front, or as many as there are images where they stand."""
    first = next(index for index, turn in enumerate(turns) if turn.role == "user")
    texts = [turn.text for turn in turns]
    count = sum(text.count(IMAGE_TOKEN) for text in texts)
    if count and not num_images:
        raise RecordError(f"holds {count} {IMAGE_TOKEN} and names no image")
    if num_images and (count != num_images or count == 1):
        texts = [text.replace(IMAGE_TOKEN, "").strip() if IMAGE_TOKEN in text else text for text in texts]
        texts[first] = f"{IMAGE_TOKEN}\n" * num_images + texts[first]
    if any(IMAGE_TOKEN in text for turn, text in zip(turns, texts, strict=True) if turn.role != "user"):
        raise RecordError(f"conversations: {IMAGE_TOKEN} outside a user's turn")
    return tuple(dataclasses.replace(turn, text=text) for turn, text in zip(turns, texts, strict=True))


def epoch_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch: a permutation of 0..num_records-1, the same on every machine."""
    return np.random.default_rng([seed, epoch]).permutation(num_records)


def batch_indices(num_records: int, batch_size: int, seed: int, position: int) -> Sequence[int]:
    """Return the records of the batch at a data position.

    The position counts batches from the beginning of training; it alone says what comes next, so a resumed run goes on
    where it was. The last batch of an epoch may be short.
    """
    per_epoch = -(-num_records // batch_size)
    epoch, step = divmod(position, per_epoch)
    return epoch_order(num_records, seed, epoch)[step * batch_size : (step + 1) * batch_size].tolist()
