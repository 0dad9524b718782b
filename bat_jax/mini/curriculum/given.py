"""Questions on a few tokens chosen by the truth: projector, scale embedding and decoder learn to answer from them."""

from bat_jax.mini.curriculum.group_batches import GroupBatch
from bat_jax.mini.curriculum.packed import position_embeddings
from bat_jax.mini.curriculum.teaching import Teaching
from bat_jax.mini.curriculum.word_bag import project
from bat_jax.train.loop import Loss
from bat_jax.typing import Array, Params


def given_loss(teaching: Teaching) -> Loss:
    """Return the loss over GroupBatch with fixed = {"vision": (N, M, E), "object_id": (N, M)}.

    Beside answers and importance it teaches where to look, -log of the attention on the evidence: half at the words
    that name an object's kind or colour, where the match is nearly given, half at the row that the answer begins at.
    Found from answers alone it had not begun after 45,000 questions.
    """
    cfg, num_anchor = teaching.cfg, teaching.num_anchor

    def loss(params: Params, fixed: dict[str, Array], groups: GroupBatch):
        position = position_embeddings(cfg, params)
        given = groups.picture[:, None], groups.token_index
        anchors = project(cfg, params, fixed["vision"][groups.picture, :num_anchor]) + position[:num_anchor]
        visual = project(cfg, params, fixed["vision"][given]) + position[groups.token_index]
        importance = teaching.importance(params, anchors, groups.asking)
        answers = teaching.answers(params, visual, groups.texts)
        object_id = fixed["object_id"][given]
        return teaching.group_total(params, groups, answers, importance, groups.token_index, object_id)

    return loss
