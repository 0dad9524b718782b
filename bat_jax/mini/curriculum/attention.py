"""Importance alone, on the anchor's tokens: projector, scale embedding and decoder learn where a question looks."""

from typing import Any

import jax.numpy as jnp

from bat_jax.mini.curriculum.group_batches import GroupBatch
from bat_jax.mini.curriculum.lookups import lookups_loss
from bat_jax.mini.curriculum.packed import position_embeddings, question_rows, weighted_mean
from bat_jax.mini.curriculum.teaching import Teaching
from bat_jax.mini.curriculum.word_bag import project
from bat_jax.train.loop import Loss
from bat_jax.train.loss import importance_loss
from bat_jax.typing import Array, Params

# Weight of the look-ups, which are not to be forgotten meanwhile.
_LOOKUPS_WEIGHT = 0.5


def attention_loss(teaching: Teaching) -> Loss:
    """Return the auxiliary loss over {"groups": GroupBatch}, and `lookups_loss` over the rest of a batch.

    fixed: {"vision": (N, M, E)}.

    The first half of a picture's questions is read at the words that name a place, where the match is nearly given (the
    projector made a token of its word), the others at all their words, which have to learn it from there.
    """
    cfg, num_anchor, lookups_of = teaching.cfg, teaching.num_anchor, lookups_loss(teaching)

    def loss(params: Params, fixed: dict[str, Array], batch: dict[str, Any]):
        groups: GroupBatch = batch["groups"]
        anchors = project(cfg, params, fixed["vision"][groups.picture, :num_anchor])
        anchors += position_embeddings(cfg, params)[:num_anchor]
        is_naming = jnp.arange(groups.asking.weight.shape[1]) < groups.asking.weight.shape[1] // 2
        rows = jnp.where(is_naming[:, None], teaching.place_rows(groups.asking), question_rows(groups.asking))
        importance = teaching.importance(params, anchors, groups.asking, rows)
        auxiliary, mass = importance_loss(importance, groups.target_mask)
        has_target = jnp.any(groups.target_mask, axis=-1) * groups.asking.weight
        lookups, lookup_facts = lookups_of(params, fixed, batch)
        facts = {
            "importance_loss": weighted_mean(auxiliary, has_target),
            "importance_mass": weighted_mean(mass, has_target * ~is_naming),
            "naming_mass": weighted_mean(mass, has_target * is_naming),
        }
        return facts["importance_loss"] + _LOOKUPS_WEIGHT * lookups, facts | lookup_facts

    return loss
