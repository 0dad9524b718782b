"""From a question to token ids: the ChatML prompt with a place for every image, tokenised in pieces.

    <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n<image>\\n{question}<|im_end|>\\n<|im_start|>assistant\\n

The text between the images is tokenised apart, piece by piece; piece 0 is the prefix that an image's cached anchor pass
shares, the last piece holds the question.

Whatever comes from outside (a question, an answer of the training data, a system message) is text: a mark of the
template that it holds, as any other added token of the tokenizer, is spelt out and opens or closes no turn, unless the
setting `special_tokens` is "raw".
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bat_jax.config import PromptConfig
from bat_jax.io.tokenizer_file import TokenizerFile

IMAGE_TOKEN = "<image>"
IMAGE_ID = -200  # the placeholder in token id lists, as in LLaVA's code
START_OF_TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # a folder with a tokenizer has one of them
# Text is padded to this length or on by doubling, so that questions share compiled programs.
SHORTEST_TEXT = 64


class Dialogue(NamedTuple):
    """A question behind earlier turns, each what the user said and what was answered.

    The images stand where the first of the user's texts has them; `<image>` in a later one falls away, as in training.
    """

    question: str
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def first(self) -> str:
        """The user's first text."""
        return self.earlier[0][0] if self.earlier else self.question

    def with_first(self, text: str) -> "Dialogue":
        """Return the dialogue with another first text, and no `<image>` in others."""
        if not self.earlier:
            return self._replace(question=text)
        others = [(asked.replace(IMAGE_TOKEN, ""), answer) for asked, answer in self.earlier[1:]]
        question = self.question.replace(IMAGE_TOKEN, "")
        return Dialogue(question, ((text, self.earlier[0][1]), *others))


Question = str | Dialogue


class Prompt(NamedTuple):
    """pieces: num_images + 1 arrays of int32 ids, the visual tokens stand between them.

    question_at: where in the last piece the question begins, behind earlier turns.
    """

    pieces: tuple[np.ndarray, ...]
    question_at: int = 0


def bucket(length: int, shortest: int = SHORTEST_TEXT) -> int:
    """Return the smallest of shortest, 2 * shortest, 4 * shortest, ... that holds `length`."""
    while shortest < length:
        shortest *= 2
    return shortest


def padded(ids: np.ndarray, length: int, fill: int | float = 0) -> np.ndarray:
    """Return the array filled up to `length` at its end."""
    return np.pad(ids, (0, length - ids.size), constant_values=fill)


def load_tokenizer(directory: str | pathlib.Path, num_rows: int | None = None) -> Any:
    """Load a Hugging Face tokenizer from a local directory (never from a hub, never with remote code).

    Args:
      num_rows: of the embedding that its ids are looked up in.

    Raises:
      ValueError: the directory holds no tokenizer, one that cannot be read, or one with an id of `num_rows` or more;
        names it.
    """
    path = pathlib.Path(directory)
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        raise ValueError(f"{path}: holds no tokenizer ({' or '.join(TOKENIZER_FILES)})")
    tokenizer = TokenizerFile.read(path) or _of_transformers(path)
    added = tokenizer.get_added_vocab()
    largest = max([len(tokenizer) - 1, *added.values()])
    if num_rows is not None and largest >= num_rows:
        excess = [token for token, index in added.items() if index >= num_rows]
        names = f" ({', '.join(map(repr, excess[:3]))}{', ...' if len(excess) > 3 else ''})" if excess else ""
        raise ValueError(
            f"{path}: the tokenizer has ids up to {largest}{names}, the embedding has {num_rows} rows; give it a row "
            "for every token (transformers: resize_token_embeddings) or take the tokenizer that it was trained with"
        )
    return tokenizer


def _of_transformers(path: pathlib.Path) -> Any:
    import transformers  # imports torch where it is installed

    try:
        return transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the tokenizer's class raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: holds no tokenizer that transformers can read ({reason})") from None


def user_text(question: str, num_images: int, cfg: PromptConfig) -> str:
    """Return the user's turn with `<image>` placeholders.

    Release ("first" image only): every placeholder is taken out of the question, one stands in front; with
    `keep_image_newline` a stored "<image>\\nQ" keeps its newline and becomes "<image>\\n\\nQ".
    Paper ("all"): as many placeholders as images stay where they are; a question without any gets them in front.

    Raises:
      ValueError: the question is empty, or its placeholders do not match the images.
    """
    _check_asks(question)
    count = question.count(IMAGE_TOKEN)
    if cfg.images == "first":
        text = question.removeprefix(IMAGE_TOKEN)
        if not cfg.keep_image_newline and text != question:
            text = text.removeprefix("\n")
        return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '')}"
    if count == 0:
        return f"{IMAGE_TOKEN}\n" * num_images + question
    if count != num_images:
        raise ValueError(f"question: holds {count} {IMAGE_TOKEN} for {num_images} images; give as many, or none")
    return question


def _check_asks(question: str) -> None:
    if not question.replace(IMAGE_TOKEN, "").strip():
        raise ValueError(f"question={question!r}: is empty; ask something about the image")


def chatml(user: str, cfg: PromptConfig, earlier: Sequence[tuple[str, str]] = ()) -> tuple[str, ...]:
    """Wrap a user's turn in the ChatML template, open for the assistant's answer: text, mark, text, ..., mark, text.

    Earlier turns stand before it closed, as training writes them.
    """
    between = (END_OF_TURN, "\n", START_OF_TURN)
    parts: tuple[str, ...] = ("", START_OF_TURN, f"system\n{cfg.system}")
    for asked, answered in earlier:
        parts += (*between, f"user\n{asked}", *between, f"assistant\n{answered}")
    return (*parts, *between, f"user\n{user}", *between, "assistant\n")


def tokenize(tokenizer: Any, parts: Sequence[str], cfg: PromptConfig) -> Prompt:
    """Split a prompt at its `<image>` placeholders and tokenise each piece; `parts` as `chatml` returns them."""
    pieces: list[list[int]] = [[]]
    if cfg.special_tokens == "raw" or not any(_holds_added(tokenizer, text) for text in parts[::2]):
        # In one go where that is the same: some tokenizers write a text's beginning in another way than its middle.
        pieces = [template_ids(tokenizer, piece) for piece in "".join(parts).split(IMAGE_TOKEN)]
    else:
        for number, part in enumerate(parts):
            for place, text in enumerate(part.split(IMAGE_TOKEN)):
                pieces += [[]] if place else []
                pieces[-1] += template_ids(tokenizer, text) if number % 2 else text_ids(tokenizer, text, cfg)
    arrays = (np.asarray(piece, np.int32) for piece in pieces)
    return Prompt(tuple(mask_added_tokens(tokenizer, piece) if cfg.mask_added_tokens else piece for piece in arrays))


def template_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise text of our own, in which added tokens are what they stand for.

    Raises:
      ValueError: the text holds half of a surrogate pair, as text has that was made of bytes that are no UTF-8.
    """
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except TypeError:
        if not (halves := [sign for sign in text if "\ud800" <= sign <= "\udfff"]):
            raise
        raise ValueError(f"text {text[:80]!a}: holds {halves[0]!a}, which is no character of UTF-8") from None


def text_ids(tokenizer: Any, text: str, cfg: PromptConfig) -> list[int]:
    """Tokenise text from outside: added tokens in it are spelt out, unless the settings say "raw".

    Raises:
      ValueError: the tokenizer writes a part of the text as an added token all the same.
    """
    if cfg.special_tokens == "raw" or not _holds_added(tokenizer, text):
        return template_ids(tokenizer, text)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    else:
        # `split_special_tokens` leaves added tokens that are not special; the steps behind them know none.
        plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = backend.pre_tokenizer.pre_tokenize_str(plain) if backend.pre_tokenizer else [(plain, None)]
        ids = [token.id for word, _ in words for token in backend.model.tokenize(word)]
    if not (set(tokenizer.get_added_vocab().values()) - {tokenizer.unk_token_id}).isdisjoint(ids):
        raise ValueError(f"text {text[:80]!r}: holds a special token that this tokenizer cannot spell out; take it out")
    return ids


def _holds_added(tokenizer: Any, text: str) -> bool:
    added = set(tokenizer.get_added_vocab().values())
    if (tokenizer.unk_token or "") not in text:  # where it is not written out, it stands for a word that is not known
        added.discard(tokenizer.unk_token_id)
    return not added.isdisjoint(template_ids(tokenizer, text))


def mask_added_tokens(tokenizer: Any, ids: np.ndarray) -> np.ndarray:
    """Replace every id at or above the base vocabulary by the end-of-turn id, as the release's scripts do.

    Qwen2's base vocabulary leaves the added tokens out, so every <|im_start|> and <|im_end|> is replaced.
    """
    return np.where(ids >= tokenizer.vocab_size, tokenizer.eos_token_id, ids).astype(np.int32)


def build_prompt(tokenizer: Any, question: Question, num_images: int, cfg: PromptConfig) -> Prompt:
    """Return the prompt of a question about `num_images` images (one place only under the release's setting)."""
    if isinstance(question, str):
        return tokenize(tokenizer, chatml(user_text(question, num_images, cfg), cfg), cfg)
    for text in (question.question, *(asked for asked, _ in question.earlier)):
        _check_asks(text)
    whole = question.with_first(user_text(question.first, num_images, cfg))
    parts = chatml(whole.question, cfg, whole.earlier)
    prompt = tokenize(tokenizer, parts, cfg)
    if not whole.earlier:
        return prompt
    behind = len((whole.question, END_OF_TURN, "\n", START_OF_TURN, "assistant\n"))
    before = tokenize(tokenizer, (*parts[:-behind], "user\n"), cfg)
    same = [one == other for one, other in zip(before.pieces[-1], prompt.pieces[-1], strict=False)]
    return prompt._replace(question_at=(*same, False).index(False))


def split_ids(ids: np.ndarray) -> Prompt:
    """Split a list of token ids at the image placeholder -200.

    Raises:
      ValueError: the ids are no 1-D integers, or hold no placeholder, or no text after the last one.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"input_ids: need a 1-D integer array, got shape {ids.shape} of {ids.dtype}")
    places = np.flatnonzero(ids == IMAGE_ID)
    if not places.size:
        raise ValueError(f"input_ids: hold no image placeholder {IMAGE_ID}")
    if places[-1] == ids.size - 1:
        raise ValueError(f"input_ids: no text stands after the last image placeholder {IMAGE_ID}")
    pieces = np.split(ids.astype(np.int32), places)
    return Prompt((pieces[0], *(piece[1:] for piece in pieces[1:])))


def end_of_turn_id(tokenizer: Any) -> int | None:
    """Return the id of <|im_end|>, or of the tokenizer's end token when it has none."""
    token = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    return token if token is not None and token != tokenizer.unk_token_id else tokenizer.eos_token_id
