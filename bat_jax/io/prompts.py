"""From a question to token ids: the ChatML prompt with a place for every image, tokenised in pieces.

    <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n<image>\\n{question}<|im_end|>\\n<|im_start|>assistant\\n

The text between the images is tokenised apart, piece by piece; piece 0 is the prefix that an image's cached anchor pass
shares, the last piece holds the question.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import transformers

from bat_jax.config import PromptConfig

IMAGE_TOKEN = "<image>"
IMAGE_ID = -200  # the placeholder in token id lists, as in LLaVA's code
END_OF_TURN = "<|im_end|>"
# Text is padded to this length or on by doubling, so that questions share compiled programs.
SHORTEST_TEXT = 64


class Prompt(NamedTuple):
    """pieces: num_images + 1 arrays of int32 ids, the visual tokens stand between them."""

    pieces: tuple[np.ndarray, ...]


def bucket(length: int, shortest: int = SHORTEST_TEXT) -> int:
    """Return the smallest of shortest, 2 * shortest, 4 * shortest, ... that holds `length`."""
    while shortest < length:
        shortest *= 2
    return shortest


def padded(ids: np.ndarray, length: int, fill: int | float = 0) -> np.ndarray:
    """Return the array filled up to `length` at its end."""
    return np.pad(ids, (0, length - ids.size), constant_values=fill)


def load_tokenizer(directory: str | pathlib.Path) -> Any:
    """Load a Hugging Face tokenizer from a local directory (never from a hub, never with remote code).

    Raises:
      ValueError: the directory holds no tokenizer.
    """
    path = pathlib.Path(directory)
    if not (path / "tokenizer_config.json").exists() and not (path / "tokenizer.json").exists():
        raise ValueError(f"{path}: holds no tokenizer (tokenizer.json or tokenizer_config.json)")
    return transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)


def user_text(question: str, num_images: int, cfg: PromptConfig) -> str:
    """Return the user's turn with `<image>` placeholders.

    Release ("first" image only): every placeholder is taken out of the question, one stands in front; with
    `keep_image_newline` a stored "<image>\\nQ" keeps its newline and becomes "<image>\\n\\nQ".
    Paper ("all"): as many placeholders as images stay where they are; a question without any gets them in front.

    Raises:
      ValueError: the question is empty, or its placeholders do not match the images.
    """
    if not question.replace(IMAGE_TOKEN, "").strip():
        raise ValueError(f"question={question!r}: is empty; ask something about the image")
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


def chatml(user: str, cfg: PromptConfig) -> str:
    """Wrap a user's turn in the ChatML template, open for the assistant's answer."""
    return (
        f"<|im_start|>system\n{cfg.system}{END_OF_TURN}\n<|im_start|>user\n{user}{END_OF_TURN}\n<|im_start|>assistant\n"
    )


def tokenize(tokenizer: Any, text: str, cfg: PromptConfig) -> Prompt:
    """Split a prompt at its `<image>` placeholders and tokenise each piece."""
    pieces = [
        np.asarray(tokenizer.encode(piece, add_special_tokens=False), np.int32) for piece in text.split(IMAGE_TOKEN)
    ]
    return Prompt(tuple(mask_added_tokens(tokenizer, piece) if cfg.mask_added_tokens else piece for piece in pieces))


def mask_added_tokens(tokenizer: Any, ids: np.ndarray) -> np.ndarray:
    """Replace every id at or above the base vocabulary by the end-of-turn id, as the release's scripts do.

    Qwen2's base vocabulary leaves the added tokens out, so every <|im_start|> and <|im_end|> is replaced.
    """
    return np.where(ids >= tokenizer.vocab_size, tokenizer.eos_token_id, ids).astype(np.int32)


def build_prompt(tokenizer: Any, question: str, num_images: int, cfg: PromptConfig) -> Prompt:
    """Return the prompt of a question about `num_images` images (one place only under the release's setting)."""
    return tokenize(tokenizer, chatml(user_text(question, num_images, cfg), cfg), cfg)


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
