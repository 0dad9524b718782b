"""What the decoder's stages teach beside the answers: where to look for them, and how they come about.

Every stage adds up the same parts: the cross entropy of the answers, -log of the attention on the tokens that show the
answer (`evidence_tokens`) and on the option that says it, and -log of the importance on the place that is asked about.

Letters as in packed.py; A questions of a picture teach importance.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.config import BatConfig
from bat_jax.mini.curriculum.bank import FORMS
from bat_jax.mini.curriculum.group_batches import GroupBatch
from bat_jax.mini.curriculum.packed import (
    AnswerLoss,
    Texts,
    answer_loss,
    last_rows,
    prefix_cache,
    question_importance,
    question_rows,
    weighted_mean,
)
from bat_jax.mini.world.question import LETTERS, SUB_TASKS
from bat_jax.mini.world.world import COLOURS, OBJECT_KINDS, SITE_KINDS
from bat_jax.train.loss import importance_loss
from bat_jax.typing import Array, Bool, Float, Int, Params, UInt8

# Weight of the questions that need no picture, which keep the letters in mind.
_TEXT_ONLY_WEIGHT = 0.5
_LOGGED_TASKS = ("object_colour", "object_class", "existence", "location", "regional_land_use", "anomaly")

Total = tuple[Float[Array, ""], dict[str, Array]]


class Teaching:
    """The losses that stages share, with the ids of the words they look for."""

    def __init__(
        self,
        cfg: BatConfig,
        tokenizer: Any,
        prefix_ids: Int[np.ndarray, "Tp"],
        evidence_weight: float,
        importance_weight: float = 0.0,
    ):
        """Look ids up. `prefix_ids`: the text in front of the image. For the weights see MiniRecipe."""
        self.cfg, self.tokenizer, self.prefix_ids = cfg, tokenizer, jnp.asarray(prefix_ids)
        self.evidence_weight, self.importance_weight = evidence_weight, importance_weight
        ids = tokenizer.convert_tokens_to_ids
        self.newline = ids("\n")
        self._letters, self._places, self._objects = (
            np.array(ids(list(words))) for words in (LETTERS, (*SITE_KINDS, "circle"), (*OBJECT_KINDS, *COLOURS))
        )

    @property
    def num_anchor(self) -> int:
        """Tokens of the anchor view."""
        return self.cfg.num_tokens(self.cfg.compressor.sizes_px[0])

    def answers(
        self, params: Params, visual: Float[Array, "B U D"], texts: Texts, mask: Bool[Array, "B U"] | None = None
    ) -> AnswerLoss:
        """Return the losses of (B, Q, T) texts behind their picture's tokens, with the attention of `evidence_rows`."""

        def of_one(visual, mask, texts, rows):
            cache = prefix_cache(self.cfg, params, self.prefix_ids, visual, mask)
            return answer_loss(self.cfg, params, cache, mask, texts, rows)

        return jax.vmap(of_one)(visual, mask, texts, self.evidence_rows(texts))

    def importance(
        self, params: Params, anchors: Float[Array, "B M1 D"], texts: Texts, rows: Float[Array, "B A T"] | None = None
    ) -> Float[Array, "B A M1"]:
        """Return a_i of every picture's anchor tokens for its questions, at all their words by default."""

        def of_one(anchor, texts, rows):
            return question_importance(self.cfg, params, self.prefix_ids, anchor, texts, rows)

        return jax.vmap(of_one)(anchors, texts, question_rows(texts) if rows is None else rows)

    def text_total(self, params: Params, texts: Texts) -> Total:
        """Return the loss of (Q, T) texts without a picture, which say their answers themselves."""
        nothing = jnp.zeros((0, self.cfg.decoder.width))
        cache = prefix_cache(self.cfg, params, self.prefix_ids, nothing, None)
        answers = answer_loss(self.cfg, params, cache, None, texts, last_rows(texts))
        missed, matched, has_option = self.match_loss(answers, texts)
        facts = {
            "text_letter_accuracy": jnp.mean(answers.is_right),
            "text_option_mass": weighted_mean(matched, has_option),
        }
        return jnp.mean(answers.loss) + self.evidence_weight * jnp.mean(missed), facts

    def answers_total(
        self,
        params: Params,
        answers: AnswerLoss,
        texts: Texts,
        shown: Bool[Array, "B Q U"],
        kinds: tuple[Int[Array, "B Q"], Int[Array, "B Q"]],
        text_only: Texts,
    ) -> Total:
        """Add up the losses of answers, of where they look, of `match_loss`, and of texts without a picture.

        Args:
          shown: the evidence among the visual tokens. kinds: form and sub-task of every question.
        """
        form, sub_task = kinds
        weight, start = texts.weight, self.prefix_ids.size
        unseen, seen = importance_loss(answers.attention[..., start : start + shown.shape[-1]], shown)
        has_evidence = weight * jnp.any(shown, axis=-1)
        missed, matched, has_option = self.match_loss(answers, texts)
        facts = {
            "answer_loss": weighted_mean(answers.loss, weight),
            "evidence_mass": weighted_mean(seen, has_evidence),
            "option_mass": weighted_mean(matched, weight * has_option),
        }
        chosen = {name: form == index for index, name in enumerate(FORMS[:3])}
        chosen |= {task: sub_task == list(SUB_TASKS).index(task) for task in _LOGGED_TASKS}
        for name, is_one in chosen.items():
            facts[f"accuracy_{name}"] = weighted_mean(answers.is_right, weight * is_one)
        total = facts["answer_loss"]
        total += self.evidence_weight * (weighted_mean(unseen, has_evidence) + weighted_mean(missed, weight))
        if text_only.ids.shape[0]:
            text_loss, text_facts = self.text_total(params, text_only)
            total, facts = total + _TEXT_ONLY_WEIGHT * text_loss, facts | text_facts
        return total, facts

    def group_total(
        self,
        params: Params,
        groups: GroupBatch,
        answers: AnswerLoss,
        importance: Float[Array, "B A M1"],
        index: Int[Array, "B U"],
        object_id: UInt8[Array, "B U"],
    ) -> Total:
        """Return `answers_total` and the loss of importance; `evidence_tokens` explains index and object_id."""
        shown = jax.vmap(evidence_tokens)(groups.objects, index, object_id, groups.target_mask[:, 0])
        kinds = groups.form, groups.sub_task
        total, facts = self.answers_total(params, answers, groups.texts, shown, kinds, groups.text_only)
        auxiliary, mass = importance_loss(importance, groups.target_mask)
        has_target = jnp.any(groups.target_mask, axis=-1) * groups.asking.weight
        facts["importance_loss"] = weighted_mean(auxiliary, has_target)
        facts["importance_mass"] = weighted_mean(mass, has_target)
        return total + self.importance_weight * facts["importance_loss"], facts

    def place_rows(self, texts: Texts) -> Float[Array, "*B T"]:
        """Return equal weights on a question's words that name a place; on all its words where none does."""
        return _naming_rows(texts, self._places, question_rows(texts))

    def evidence_rows(self, texts: Texts) -> Float[Array, "*B T"]:
        """Return weights of the rows whose attention is taught, 1 in all.

        Half on the word of the question's first line that names an object's kind or colour, half on the row that the
        answer begins at; all of it there where no word or several do so (the first of two cannot know the second).
        """
        at_end = last_rows(texts)
        # The first newline ends the image, the second the question itself; options come behind it.
        is_first_line = jnp.cumsum(texts.ids == self.newline, axis=-1) == 1
        naming = _naming_rows(texts, self._objects, at_end, is_first_line)
        # Of several words each has less than all of the weight.
        return (jnp.where(jnp.max(naming, axis=-1, keepdims=True) == 1, naming, at_end) + at_end) / 2

    def right_option(self, texts: Texts) -> Bool[Array, "*B T"]:
        """Return which tokens are of the option that a question's answer names first; none for one that is no letter.

        An option is a line that begins with its letter; the line break behind it belongs to it.
        """
        ids, question_end = texts.ids, texts.question_end[..., None]
        in_question = jnp.arange(ids.shape[-1]) < question_end
        answer = jnp.take_along_axis(ids, question_end, axis=-1)
        is_break = ids == self.newline
        line = jnp.cumsum(is_break, axis=-1) - is_break
        begins = jnp.concatenate([jnp.zeros_like(is_break[..., :1]), is_break[..., :-1]], axis=-1) & in_question
        is_start = begins & (ids == answer) & jnp.isin(answer, jnp.asarray(self._letters))
        right = jnp.max(jnp.where(is_start, line, -1), axis=-1, keepdims=True)
        return (line == right) & in_question

    def answer_words(self, texts: Texts) -> Bool[Array, "*B T"]:
        """Return which tokens are the words of a question's answer.

        Those of the right option behind its letter and dot; of an answer that is no letter, the answer itself.
        """
        place, option = jnp.arange(texts.ids.shape[-1]), self.right_option(texts)
        words = option & (jnp.cumsum(option, axis=-1) > 2) & (texts.ids != self.newline)
        # The last token of an answer ends the turn.
        spoken = (place >= texts.question_end[..., None]) & (place < texts.end[..., None] - 1)
        return jnp.where(jnp.any(option, axis=-1, keepdims=True), words, spoken)

    def match_loss(
        self, answers: AnswerLoss, texts: Texts
    ) -> tuple[Float[Array, "*B"], Float[Array, "*B"], Float[Array, "*B"]]:
        """Return the loss of how an answer comes about, the attention on the right option, and 1 where there is one.

        Before the last layer the row that answers should know the answer's words (-log of their likelihood there, in
        the mean), in the last layer it should look at the option that says them (-log of its attention there). Both are
        the same whether a text says the words or a picture shows them, so a letter learned from texts is known for
        pictures.
        """
        option, words = self.right_option(texts), self.answer_words(texts)
        missed, matched = importance_loss(answers.last_attention[..., -texts.ids.shape[-1] :], option)
        likelihood = jnp.take_along_axis(jax.nn.log_softmax(answers.early_logits), texts.ids, axis=-1)
        unknown = -jnp.sum(likelihood * words, axis=-1) / jnp.maximum(jnp.sum(words, axis=-1), 1)
        return missed + unknown, matched, jnp.any(option, axis=-1).astype(jnp.float32)


def evidence_tokens(
    objects: UInt8[Array, "Q O"], index: Int[Array, "U"], object_id: UInt8[Array, "U"], target: Bool[Array, "M1"]
) -> Bool[Array, "Q U"]:
    """Return which visual tokens the answer is read from.

    Those that show one of the question's objects; for a question without any, the anchor's tokens on the named place.

    Args:
      objects: ids of objects, 0 for none. index: of the visual tokens among all, -1 for a merged one. object_id: that
        each visual token shows.
    """
    shows = jnp.any((objects[:, None, :] == object_id[None, :, None]) & (objects[:, None, :] > 0), axis=-1)
    num_anchor = target.shape[0]
    on_place = (index >= 0) & (index < num_anchor) & target[jnp.clip(index, 0, num_anchor - 1)]
    return jnp.where(jnp.any(objects > 0, axis=-1)[:, None], shows, on_place)


def _naming_rows(
    texts: Texts, ids: Int[np.ndarray, "_"], others: Float[Array, "*B T"], among: Bool[Array, "*B T"] | bool = True
) -> Float[Array, "*B T"]:
    """Return equal weights on a question's tokens (`among` some) that are one of some words; `others` where none is."""
    is_naming = (question_rows(texts) > 0) & jnp.isin(texts.ids, jnp.asarray(ids)) & among
    num = jnp.sum(is_naming, axis=-1, keepdims=True)
    return jnp.where(num > 0, is_naming / jnp.maximum(num, 1), others).astype(jnp.float32)
