"""The decoder's loss when many questions stand on one image prefix.

    [prefix, anchor tokens] ──> cache ──> Q' questions -> importance (Q', M1) -> auxiliary loss, selection
    [prefix, visual tokens] ──> cache ──> Q questions and answers -> cross entropy of the answers

Every question sees the image and itself, never another question, so it is answered as if it stood alone; the image's
rows are computed once and read by all where they stand. `train.loss` does the same for one question with everything
trained; this is what makes hundreds of thousands of short questions affordable.

Letters as in `bat_jax.typing`; Q questions of a group, of which Q' teach importance, U visual rows, M1 anchor tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.nn.decoder import KVCache
from bat_jax.ops.valid_first import valid_first, valid_slots
from bat_jax.typing import Array, Bool, Float, Int, Params

# <|im_end|>, newline, <|im_start|>, "assistant", newline: what stands between a question and its answer.
_TEMPLATE_END = 5


class Texts(NamedTuple):
    """Questions with their answers, tokenised (`bank.tokenized`). ids (.., T). question_end, end (..). weight (..)."""

    ids: Int[Array, "*B T"]
    question_end: Int[Array, "*B"]
    end: Int[Array, "*B"]
    weight: Float[Array, "*B"]


class AnswerLoss(NamedTuple):
    """loss: sum over the answer's tokens. is_right: the likeliest token is the right one at every place of it.

    attention (.., P + T): of the rows that were asked for, in the layer that importance is read at, on the rows of
    [prefix, visual tokens] and of the text. last_attention: of the row that the answer begins at, in the last layer;
    right at what stands behind the other rows that were asked for.

    early_logits (.., V): what that row would answer before the last layer.
    """

    loss: Float[Array, "*B"]
    is_right: Bool[Array, "*B"]
    attention: Float[Array, "*B S"]
    last_attention: Float[Array, "*B S"]
    early_logits: Float[Array, "*B V"]


def position_embeddings(cfg: BatConfig, params: Params) -> Float[Array, "M D"]:
    """Return the scale embedding of all tokens of all views, coarse to fine, each view tile-major (Eq. 5)."""
    return jnp.concatenate([bat.scale_embedding(cfg, px, params) for px in cfg.compressor.sizes_px])


def prefix_cache(
    cfg: BatConfig,
    params: Params,
    prefix_ids: Int[Array, "Tp"],
    visual: Float[Array, "U D"],
    mask: Bool[Array, "U"] | None,
) -> KVCache:
    """Return the cache of [prefix, visual tokens]; no mask: all are valid."""
    prefix = bat.embed(cfg, params, prefix_ids, visual.dtype)
    length = None
    if mask is not None:
        visual, length = visual[valid_first(mask)], (prefix_ids.shape[0] + jnp.sum(mask))[None]
    embeddings = jnp.concatenate([prefix, visual])[None]
    return bat.run_decoder(cfg, params, embeddings, length).cache


def question_importance(
    cfg: BatConfig,
    params: Params,
    prefix_ids: Int[Array, "Tp"],
    anchor: Float[Array, "M1 D"],
    texts: Texts,
    row_weight: Float[Array, "Q T"],
) -> Float[Array, "Q M1"]:
    """Return a_i of the anchor's tokens for every question (Eq. 2); layers above the one that is read do not run.

    Importance is the mean over rows, weighted by `row_weight`: `question_rows` as answering does it.
    """
    cfg, params = bat.first_layers(cfg, params, cfg.compressor.attention_layer % cfg.decoder.num_layers + 1)
    cache = prefix_cache(cfg, params, prefix_ids, anchor, None)
    embeddings = bat.embed(cfg, params, texts.ids, anchor.dtype)
    output = bat.run_decoder(cfg, params, embeddings, texts.end, prefix=cache, row_weight=row_weight)
    assert output.importance is not None
    start = prefix_ids.shape[0]
    return output.importance[-1][:, start : start + anchor.shape[0]]


def question_rows(texts: Texts) -> Float[Array, "*B T"]:
    """Return 1/n on each of the question's n tokens, as `compress.importance.suffix_row_weight` does."""
    place = jnp.arange(texts.ids.shape[-1])
    stop = (texts.question_end - _TEMPLATE_END)[..., None]
    is_question = (place >= 1) & (place < stop)  # place 0 is the newline behind the image
    return (is_question / jnp.maximum(stop - 1, 1)).astype(jnp.float32)


def last_rows(texts: Texts) -> Float[Array, "*B T"]:
    """Return 1 on the row that the answer begins at."""
    return (jnp.arange(texts.ids.shape[-1]) == texts.question_end[..., None] - 1).astype(jnp.float32)


def answer_loss(
    cfg: BatConfig,
    params: Params,
    cache: KVCache,
    mask: Bool[Array, "U"] | None,
    texts: Texts,
    row_weight: Float[Array, "Q T"],
) -> AnswerLoss:
    """Return the losses of answers that stand behind a cached prefix, and the attention of `row_weight`'s rows.

    cache, mask: of `prefix_cache`, and what it was given.
    """
    length = texts.ids.shape[1]
    place = jnp.arange(length)
    embeddings = bat.embed(cfg, params, texts.ids, cache.dtype)
    output = bat.run_decoder(
        cfg, params, embeddings, texts.end, prefix=cache, row_weight=row_weight, return_hidden=True
    )
    assert output.importance is not None and output.hidden_states is not None
    importance = output.importance
    if mask is not None:  # from slots to rows
        num_prefix = cache.num_slots - mask.size
        is_row = jnp.concatenate([jnp.ones(num_prefix, bool), mask, jnp.ones(length, bool)])
        slots = jnp.concatenate([jnp.arange(num_prefix), num_prefix + valid_slots(mask), cache.num_slots + place])
        importance = jnp.where(is_row, importance[..., slots], 0.0)
    logits = bat.logits(cfg, params, output.hidden[:, :-1])
    answering = texts.question_end[:, None] - 1
    early = jnp.take_along_axis(output.hidden_states[-2], answering[..., None], axis=1)[:, 0]
    labels = texts.ids[:, 1:]
    is_answer = (place[1:] >= texts.question_end[:, None]) & (place[1:] < texts.end[:, None])
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    is_hit = jnp.argmax(logits, axis=-1) == labels
    return AnswerLoss(
        loss=jnp.sum(jnp.where(is_answer, entropy, 0.0), axis=1),
        is_right=jnp.all(is_hit | ~is_answer, axis=1),
        attention=importance[cfg.compressor.attention_layer],
        last_attention=importance[-1] / jnp.take_along_axis(row_weight, answering, axis=1),
        early_logits=bat.logits(cfg, params, early, after_norm=False),
    )


def weighted_mean(values: Array, weight: Float[Array, "*B"]) -> Float[Array, ""]:
    """Return the mean of values with weight, 0 where there is none."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1.0)
