"""Bare lists of options, then a word of them: the first lesson in answering with letters.

    A . blue \\n B . red \\n C . green \\n D . black \\n red \\n   ->   B

The word stands behind the list, as what the picture shows is known behind it. In front of it, the rows of the options
find the same word before them and mark themselves, which no picture can do for them: letters were then right for all
texts and guessed for all pictures.
"""

from typing import Any

import numpy as np

from bat_jax.io.prompts import END_OF_TURN
from bat_jax.mini.curriculum.packed import Texts
from bat_jax.mini.curriculum.teaching import Teaching
from bat_jax.mini.world.question import LETTERS
from bat_jax.mini.world.questions import CORNERS, COUNTS, DIRECTIONS, YES_NO
from bat_jax.mini.world.world import COLOURS, EVENT_KINDS, LAND_USES, OBJECT_KINDS, SITE_KINDS, STATES
from bat_jax.train.loop import Loss
from bat_jax.typing import Params

_LISTS = (COLOURS, OBJECT_KINDS, SITE_KINDS, LAND_USES, EVENT_KINDS, COUNTS, DIRECTIONS, YES_NO, STATES, CORNERS)
_LENGTH = 32
# Share of lists whose letter follows the word itself: a word finds its like at once, a row behind it has to fetch it.
_AT_THE_WORD = 0.5


class OptionBatches:
    """Draws batches: position -> Texts (B, 32); `prefix_ids` is the one newline that stands in front."""

    def __init__(self, tokenizer: Any, batch_size: int, seed: int):
        self.batch_size, self.seed = batch_size, seed
        self._ids = {text: tokenizer.encode(text, add_special_tokens=False) for part in _LISTS for text in part}
        self._letters = [tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS]
        self._newline, self._dot = (tokenizer.convert_tokens_to_ids(sign) for sign in "\n.")
        self._end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        self.prefix_ids = np.array([self._newline], np.int32)

    def __call__(self, position: int) -> Texts:
        rng = np.random.default_rng([self.seed, position])
        ids = np.zeros((self.batch_size, _LENGTH), np.int32)
        question_end, end = np.zeros((2, self.batch_size), np.int32)
        for row in range(self.batch_size):
            texts = _LISTS[rng.integers(len(_LISTS))]
            options = [texts[i] for i in rng.permutation(len(texts))[:4]]
            right = int(rng.integers(len(options)))
            sequence = []
            for letter, text in zip(self._letters, options, strict=False):
                sequence += [self._newline, letter, self._dot, *self._ids[text]]
            sequence += [self._newline, *self._ids[options[right]]]
            if rng.random() >= _AT_THE_WORD:
                sequence.append(self._newline)
            question_end[row] = len(sequence)
            sequence += [self._letters[right], self._end]
            end[row] = len(sequence)
            ids[row, : len(sequence)] = sequence
        return Texts(ids, question_end, end, np.ones(self.batch_size, np.float32))


def options_loss(teaching: Teaching) -> Loss:
    """Return the loss over a batch of OptionBatches; the decoder learns."""

    def loss(params: Params, fixed: None, batch: Texts):
        del fixed
        return teaching.text_total(params, batch)

    return loss
