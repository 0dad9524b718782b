"""Which rows of the decoder's attention make the query-aware importance (UHR-BAT, arXiv:2604.13565, Sec. 3.2, Eq. 2).

The prompt is [prefix, anchor tokens, suffix]; the suffix holds the question. `suffix_row_weight` says how much each of
its rows counts; the decoder then returns sum_t w_t * mean over heads of softmax row t (ops/attention.py) for every
layer, and `model.anchor_importance` picks the layer and the anchor's columns.
"""

from collections.abc import Callable, Sequence

import numpy as np


def question_span(suffix_ids: Sequence[int], end_of_turn_id: int | None, is_space: Callable[[int], bool]) -> range:
    """Return the positions of the question's own tokens in the suffix.

    They stand before the first end-of-turn token (or reach to the end without one); tokens of white space in front are
    the template's. An all-space question counts with its spaces.
    """
    ids = list(suffix_ids)
    stop = ids.index(end_of_turn_id) if end_of_turn_id in ids else len(ids)
    start = next((i for i in range(stop) if not is_space(ids[i])), 0)
    return range(start, stop) if stop > start else range(len(ids))


def reads_one_row(rule: str) -> bool:
    """Return whether a rule gives weight to one row alone, so that no scores of others are needed."""
    return rule == "last_token"


def suffix_row_weight(
    rule: str,
    suffix_ids: Sequence[int],
    *,
    pad_id: int | None,
    end_of_turn_id: int | None,
    is_space: Callable[[int], bool],
) -> np.ndarray:
    """Return (T,) float32 weights that sum to 1 over the suffix's rows.

    Paper ("question"): 1/M on each of the question's M text tokens; they stand after the image and so see all of it.
    Release ("last_token"): 1 on the last token that is not padding, with ChatML the newline after "assistant".

    Raises:
      ValueError: the suffix holds no token.
    """
    if not len(suffix_ids):
        raise ValueError("prompt: no text stands after the image; importance needs at least one token there")
    weight = np.zeros(len(suffix_ids), np.float32)
    if reads_one_row(rule):
        positions = [i for i, token in enumerate(suffix_ids) if token != pad_id]
        weight[positions[-1] if positions else -1] = 1
        return weight
    span = question_span(suffix_ids, end_of_turn_id, is_space)
    weight[span.start : span.stop] = 1 / len(span)
    return weight
