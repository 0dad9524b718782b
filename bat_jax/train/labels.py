"""From a conversation to token ids, labels and importance rows.

    <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n<image>\\n{question}<|im_end|>\\n
    <|im_start|>assistant\\n{answer}<|im_end|>\\n<|im_start|>user\\n{next question}<|im_end|>\\n ...

    label rule      system, user                                    assistant
    "answer"        nothing                                         {answer}<|im_end|>
    "release"       <|im_start|>, <|im_end|> and the \\n behind it   the same, and {answer}

The text in front of the first answer is tokenised as `io.prompts.build_prompt` does it for answering, so training and
answering see the same ids; "assistant\\n" and the answer are tokenised apart for the same reason. (The authors'
training script writes the newlines around <image> as two tokens where its evaluation writes one; not followed.)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bat_jax.compress.importance import suffix_row_weight
from bat_jax.config import PromptConfig
from bat_jax.data.llava import Record, RecordError
from bat_jax.io.prompts import (
    END_OF_TURN,
    IMAGE_TOKEN,
    START_OF_TURN,
    bucket,
    end_of_turn_id,
    template_ids,
    text_ids,
    user_text,
)

IGNORE = -100
_SHORTEST_PREFIX = 16
_IMAGE = -1  # stands for the image among token ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation:
    """A tokenised conversation around one image.

    Attributes:
      prefix_ids, prefix_labels: (Tp,) int32, before the image; empty for text alone.
      suffix_ids, suffix_labels: (Ts,) int32, behind the image; all of the text where there is no image. A label is the
        token itself where it is a target and IGNORE elsewhere.
      row_weight: (Ts,) float32, the suffix's rows of importance: those of the first question, summing to 1; zeros
        without an image.
    """

    prefix_ids: np.ndarray
    prefix_labels: np.ndarray
    suffix_ids: np.ndarray
    suffix_labels: np.ndarray
    row_weight: np.ndarray

    @property
    def num_targets(self) -> int:
        """Tokens that count in the loss; the very first token of a sequence is predicted by nothing."""
        labels = np.concatenate([self.prefix_labels, self.suffix_labels])
        return int(np.sum(labels[1:] != IGNORE))


def tokenize_conversation(
    tokenizer: Any,
    record: Record,
    prompt: PromptConfig,
    *,
    label_rule: str,
    attention_query: str,
    max_length: int,
) -> Conversation:
    """Tokenise a record and mark what is learnt.

    Args:
      tokenizer: with <|im_start|> and <|im_end|> as special tokens.
      prompt: template; with images "first" only the first image of several is used.
      label_rule: "answer" or "release", see the table above.
      attention_query: rule of the importance rows (compress/importance.py), applied to the first question as if it
        stood alone: text up to and with "assistant\\n".
      max_length: text tokens kept, the image counted as one.

    Raises:
      RecordError: several images where every image wants its place; nothing to learn is left within max_length; the
        first question alone is longer than that; the image has no place, or several; the first question is empty.
    """
    if len(record.images) > 1 and prompt.images == "all":
        raise RecordError(
            f"shows {len(record.images)} images; training takes one (prompt setting images='first' uses the first)"
        )
    try:
        ids, labels, place, query_end = _token_stream(tokenizer, record, prompt, label_rule)
    except ValueError as error:
        raise RecordError(str(error)) from None
    num_places = ids.count(_IMAGE)
    if num_places != bool(record.images):
        raise RecordError(f"has {num_places} places for {min(len(record.images), 1)} image")
    cut = min(len(ids), max_length)
    if record.images:
        if query_end > cut:
            raise RecordError(f"its first question ends at token {query_end}, max_length is {max_length}")
        prefix, query = ids[:place], ids[place + 1 : query_end]
        behind = slice(place + 1, cut)
    else:
        place, prefix, query, behind = 0, [], [], slice(0, cut)
    row_weight = np.zeros(len(ids[behind]), np.float32)
    if record.images:
        row_weight[: len(query)] = suffix_row_weight(
            attention_query,
            query,
            pad_id=tokenizer.pad_token_id,
            end_of_turn_id=end_of_turn_id(tokenizer),
            is_space=lambda token: tokenizer.decode([token]).isspace(),
        )
    conversation = Conversation(
        prefix_ids=np.asarray(prefix, np.int32),
        prefix_labels=np.asarray(labels[:place], np.int32),
        suffix_ids=np.asarray(ids[behind], np.int32),
        suffix_labels=np.asarray(labels[behind], np.int32),
        row_weight=row_weight,
    )
    if not conversation.num_targets or not np.any(conversation.suffix_labels != IGNORE):
        raise RecordError(f"has nothing to learn within max_length={max_length} tokens")
    return conversation


def _token_stream(
    tokenizer: Any, record: Record, prompt: PromptConfig, label_rule: str
) -> tuple[list[int], list[int], int, int]:
    """Return (ids with _IMAGE for the image, labels, the image's place, end of the first question's prompt)."""
    ids: list[int] = []
    place = 0
    labels: list[int] = []
    frame = label_rule == "release"

    def add(tokens: list[int], is_target: bool) -> None:
        ids.extend(tokens)
        labels.extend(tokens if is_target else [IGNORE] * len(tokens))

    turns = record.turns
    system = turns[0].text.replace(IMAGE_TOKEN, "") if turns[0].role == "system" else prompt.system
    turns = turns[1:] if turns[0].role == "system" else turns
    query_end = 0
    for number, (role, text) in enumerate([("system", system), *((turn.role, turn.text) for turn in turns)]):
        if role == "user":
            # The first question carries the image's place as for answering; placeholders of further images fall away.
            text = user_text(text, 1, prompt) if number == 1 and record.images else text.replace(IMAGE_TOKEN, "")
        add(template_ids(tokenizer, START_OF_TURN), frame)
        if role == "assistant":
            add(template_ids(tokenizer, "assistant\n"), False)
            query_end = query_end or len(ids)
            add(text_ids(tokenizer, text, prompt), True)
            add(template_ids(tokenizer, END_OF_TURN), True)
        else:
            before, *after = f"{role}\n{text}".split(IMAGE_TOKEN)
            add(text_ids(tokenizer, before, prompt), False)
            for piece in after:
                place = place or len(ids)
                ids.append(_IMAGE)
                labels.append(IGNORE)
                add(text_ids(tokenizer, piece, prompt), False)
            add(template_ids(tokenizer, END_OF_TURN), frame)
        add(template_ids(tokenizer, "\n"), frame)
    return ids, labels, place, query_end


def common_buckets(conversations: Sequence[Conversation]) -> tuple[int, int]:
    """Return (prefix, suffix) lengths that all conversations of a batch are padded to."""
    prefix = max((item.prefix_ids.size for item in conversations), default=0)
    suffix = max((item.suffix_ids.size for item in conversations), default=0)
    return bucket(prefix, _SHORTEST_PREFIX), bucket(suffix)
