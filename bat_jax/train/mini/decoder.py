"""Stages 2 to 5: what the projector, the scale embedding and the decoder learn, one loss a stage.

    letters      decoder alone, no picture: find the letter of the option that the text names
    word_bag     projector alone: a token's embedding is the sum of the words that are true of it
    attention    projector, scale embedding, decoder: importance alone, on the anchor's tokens
    given        projector, scale embedding, decoder: questions on a few tokens chosen by the truth, importance taught
    selected     decoder: questions on what the method itself selects, under random budgets and mixed selections

The tower is frozen in all of them, projector and scale embedding in the last: its tokens are then computed once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.config import BatConfig, ScaleSpec
from bat_jax.scenes.question import LETTERS, SUB_TASKS
from bat_jax.scenes.world import COLOURS, EVENT_KINDS, LAND_USES, OBJECT_KINDS, SITE_KINDS, STATES
from bat_jax.train.loss import importance_loss
from bat_jax.train.mini.groups import GroupBatch, Mix
from bat_jax.train.mini.packed import (
    AnswerLoss,
    Texts,
    answer_loss,
    last_rows,
    position_embeddings,
    prefix_cache,
    question_importance,
    question_rows,
    right_option,
    select_visual,
    text_only_loss,
    weighted_mean,
)
from bat_jax.train.mini.pictures import TokenTruth
from bat_jax.train.mini.stage import Loss
from bat_jax.typing import Array, Bool, Float, Int, Key, Params, UInt8

# The words that describe what a token shows, per kind of label, and how strongly they count in its embedding.
_WORDS = {
    "land_use": (LAND_USES, 1.0),
    "site_kind": (SITE_KINDS, 1.0),
    "object_kind": (OBJECT_KINDS, 1.5),
    "colour": (COLOURS, 1.5),
    "state": (STATES, 1.0),
    "event": (EVENT_KINDS, 1.0),
    "ring": (("circle",), 1.0),
}
_POSITION_SIZE = 0.1
_BRANCH_SIZE = 0.1
# Of the questions that need no picture, which keep the letters in mind.
_TOLD_WEIGHT = 0.5


class Signs(NamedTuple):
    """Ids of the tokens that make a list of options: its letters and the line break."""

    letters: np.ndarray
    newline: int

    @classmethod
    def of(cls, tokenizer: Any) -> "Signs":
        """Look the ids up."""
        convert = tokenizer.convert_tokens_to_ids
        return cls(np.array(convert(list(LETTERS))), convert("\n"))


def init_params(cfg: BatConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Return random weights of all parts, so that words and tokens are still themselves behind an untrained layer.

    What layers add to the residual stream begins small against the embeddings (it would be eight times as large after
    one layer, and a token would hardly resemble its word). The scale embedding's base grid begins as sinusoids.
    """
    params = bat.init_params(cfg, key)
    layers = params["decoder"]["layers"]
    for block, name in (("self_attn", "o_proj"), ("mlp", "down_proj")):
        layers[block][name]["kernel"] *= _BRANCH_SIZE
    side, width = cfg.scale_embedding.base_side, cfg.scale_embedding.width
    place = (np.arange(side) + 0.5) / side
    angles = place[:, None] * np.pi * 2.0 ** np.linspace(-1, 3, width // 4)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * _POSITION_SIZE
    base = np.concatenate(
        [
            np.broadcast_to(waves[:, None], (side, side, width // 2)),
            np.broadcast_to(waves[None], (side, side, width // 2)),
        ],
        axis=-1,
    )
    params["scale_embedding"]["base"] = jnp.asarray(base, jnp.float32)
    return params


def letters_loss(cfg: BatConfig, prefix_ids: Int[np.ndarray, "Tp"]) -> Loss:
    """Return the loss of questions that say their answer, over a Texts batch."""

    def loss(params: Params, fixed: None, batch: Texts, mode: None):
        del fixed, mode
        answers = text_only_loss(cfg, params, jnp.asarray(prefix_ids), batch)
        return jnp.mean(answers.loss), {"text_letter_accuracy": jnp.mean(answers.is_right)}

    return loss


def true_words(cfg: BatConfig, tokenizer: Any, embedding: Float[Array, "V D"], labels: UInt8[Array, "M 9"]):
    """Return (M, D): the sum of the words' embeddings that are true of each token."""
    del cfg
    truth = TokenTruth.of(labels)
    total = 0.0
    for name, (words, weight) in _WORDS.items():
        ids = tokenizer.convert_tokens_to_ids(list(words))
        table = jnp.concatenate([jnp.zeros((1, embedding.shape[1])), embedding[jnp.asarray(ids)]])
        total += weight * table[getattr(truth, name).astype(np.int32)]
    return total


def word_bag_loss(cfg: BatConfig, tokenizer: Any) -> Loss:
    """Return the squared error of projected tokens against their true words, over {"vision", "labels"}."""

    def loss(params: Params, fixed: Params, batch: dict[str, Array], mode: None):
        del mode
        embedding = fixed["decoder"]["embed_tokens"]["embedding"]
        wanted = true_words(cfg, tokenizer, embedding, batch["labels"])
        found = project(cfg, params, batch["vision"])
        error = jnp.mean(jnp.sum((found - wanted) ** 2, axis=-1))
        spread = jnp.mean(jnp.sum((wanted - jnp.mean(wanted, axis=0)) ** 2, axis=-1))
        return error, {"explained": 1 - error / spread}

    return loss


def project(cfg: BatConfig, params: Params, vision: Float[Array, "*B E"]) -> Float[Array, "*B D"]:
    """Return the projector's embeddings of vision features."""
    return bat.modules(cfg)["projector"].apply({"params": params["projector"]}, vision.astype(jnp.float32))


def naming_rows(
    texts: Texts, ids: Int[np.ndarray, "_"], others: Float[Array, "Q T"], among: Bool[Array, "Q T"] | None = None
) -> Float[Array, "Q T"]:
    """Return equal weights on a question's tokens (`among` some) that are one of some words; `others` where none is."""
    is_naming = (question_rows(texts) > 0) & jnp.isin(texts.ids, jnp.asarray(ids))
    if among is not None:
        is_naming &= among
    num = jnp.sum(is_naming, axis=1, keepdims=True)
    return jnp.where(num > 0, is_naming / jnp.maximum(num, 1), others).astype(jnp.float32)


def attention_loss(cfg: BatConfig, tokenizer: Any, prefix_ids: Int[np.ndarray, "Tp"]) -> Loss:
    """Return the auxiliary loss over {"groups": GroupBatch, "anchor": (B, M1, E)}, and that of text alone.

    The first half of a picture's questions is read at the words that name a place, where the match is nearly given (the
    projector made a token of its word), the others at all their words, which have to learn it from there.
    """
    naming_ids = np.array(tokenizer.convert_tokens_to_ids([*SITE_KINDS, "circle"]))

    def loss(params: Params, fixed: None, batch: dict[str, Any], mode: None):
        del fixed, mode
        groups: GroupBatch = batch["groups"]
        num_anchor = batch["anchor"].shape[1]
        position = position_embeddings(cfg, params)[:num_anchor]

        def one(asking, target, anchor):
            tokens = project(cfg, params, anchor) + position
            first = (jnp.arange(asking.weight.size) < asking.weight.size // 2)[:, None]
            everywhere = question_rows(asking)
            rows = jnp.where(first, naming_rows(asking, naming_ids, everywhere), everywhere)
            importance = question_importance(cfg, params, jnp.asarray(prefix_ids), tokens, asking, rows)
            return importance_loss(importance, target)

        auxiliary, mass = jax.vmap(one)(groups.asking, groups.target_mask, batch["anchor"])
        has_target = jnp.any(groups.target_mask, axis=-1) * groups.asking.weight
        told = text_only_loss(cfg, params, jnp.asarray(prefix_ids), groups.text_only)
        is_naming = jnp.arange(mass.shape[1]) < mass.shape[1] // 2
        facts = {
            "importance_loss": weighted_mean(auxiliary, has_target),
            "importance_mass": weighted_mean(mass, has_target * ~is_naming),
            "naming_mass": weighted_mean(mass, has_target * is_naming),
            "text_letter_accuracy": jnp.mean(told.is_right),
        }
        return facts["importance_loss"] + _TOLD_WEIGHT * jnp.mean(told.loss), facts

    return loss


def given_loss(
    cfg: BatConfig, tokenizer: Any, prefix_ids: Int[np.ndarray, "Tp"], importance_weight: float, evidence_weight: float
) -> Loss:
    """Return the loss over {"groups": GroupBatch, "vision": (B, U, E), "anchor": (B, M1, E)}; three parts learn.

    Beside answers and importance it teaches where to look, -log of the attention on the evidence (`evidence_tokens`):
    half at the words that name an object's kind or colour, where the match is nearly given, half at the row that the
    answer begins at. Found from answers alone it had not begun after 45,000 questions.
    """
    rows_of, signs = evidence_rows(tokenizer), Signs.of(tokenizer)

    def loss(params: Params, fixed: None, batch: dict[str, Any], mode: None):
        del fixed, mode
        groups: GroupBatch = batch["groups"]
        position = position_embeddings(cfg, params)
        num_anchor = batch["anchor"].shape[1]

        def one(texts, asking, target, index, vision, anchor):
            anchor_tokens = project(cfg, params, anchor) + position[:num_anchor]
            importance = question_importance(cfg, params, jnp.asarray(prefix_ids), anchor_tokens, asking)
            auxiliary, mass = importance_loss(importance, target)
            visual = project(cfg, params, vision) + position[index]
            cache = prefix_cache(
                cfg, params, jnp.asarray(prefix_ids), visual, jnp.ones(index.shape, bool), texts.ids.shape[0]
            )
            return answer_loss(cfg, params, cache, texts, rows_of(texts)), auxiliary, mass

        answers, auxiliary, mass = jax.vmap(one)(
            groups.texts, groups.asking, groups.target_mask, groups.token_index, batch["vision"], batch["anchor"]
        )
        shown = jax.vmap(evidence_tokens)(
            groups.objects, groups.token_index, batch["object_id"], groups.target_mask[:, 0]
        )
        weights = (importance_weight, evidence_weight)
        return _total(cfg, params, prefix_ids, groups, answers, auxiliary, mass, shown, weights, signs)

    return loss


def evidence_rows(tokenizer: Any) -> Callable[[Texts], Float[Array, "Q T"]]:
    """Return texts -> weights of the rows whose attention is taught, 1 in all.

    Half on the words of the question's first line that name an object's kind or colour, half (all, where there is no
    such word) on the row that the answer begins at.
    """
    naming_ids = np.array(tokenizer.convert_tokens_to_ids([*OBJECT_KINDS, *COLOURS]))
    newline = tokenizer.convert_tokens_to_ids("\n")

    def rows_of(texts: Texts) -> Float[Array, "Q T"]:
        at_end = last_rows(texts)
        # The first newline ends the image, the second the question itself; options come behind it.
        is_first_line = jnp.cumsum(texts.ids == newline, axis=1) == 1
        return (naming_rows(texts, naming_ids, at_end, is_first_line) + at_end) / 2

    return rows_of


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


def selected_loss(
    cfg: BatConfig,
    tokenizer: Any,
    mix: Mix,
    prefix_ids: Int[np.ndarray, "Tp"],
    importance_weight: float,
    evidence_weight: float,
) -> Loss:
    """Return the loss over GroupBatch with fixed = {"tokens": (N, M, D), "regions", "object_id": (N, M)}.

    The decoder learns, as in `given_loss`.

    mode: (selection, is_large), see `groups.GroupBatches.mode`.
    """
    rows_of, signs = evidence_rows(tokenizer), Signs.of(tokenizer)

    def loss(params: Params, fixed: dict[str, Array], groups: GroupBatch, mode: tuple[str, bool]):
        answers, auxiliary, mass, index = selected_answers(cfg, mix, prefix_ids, params, fixed, groups, mode, rows_of)
        object_id = jnp.where(index >= 0, fixed["object_id"][groups.picture[:, None], index], 0)
        shown = jax.vmap(evidence_tokens)(groups.objects, index, object_id, groups.target_mask[:, 0])
        weights = (importance_weight, evidence_weight)
        return _total(cfg, params, prefix_ids, groups, answers, auxiliary, mass, shown, weights, signs)

    return loss


def mode_config(cfg: BatConfig, mix: Mix, mode: tuple[str, bool]) -> BatConfig:
    """Return the config that a batch's tokens are selected under."""
    selection, is_large = mode
    if selection == "anchor":
        px = cfg.compressor.sizes_px[0]
        scales = (ScaleSpec(size_px=px, budget=cfg.num_tokens(px)),)
        return cfg.with_settings(selection="topk", scales=scales)
    budgets = cfg.compressor.budgets if is_large else mix.small_budgets
    scales = tuple(ScaleSpec(size_px=px, budget=b) for px, b in zip(cfg.compressor.sizes_px, budgets, strict=True))
    return cfg.with_settings(selection=selection, scales=scales)


def selected_answers(
    cfg: BatConfig,
    mix: Mix,
    prefix_ids: Int[np.ndarray, "Tp"],
    params: Params,
    fixed: dict[str, Array],
    groups: GroupBatch,
    mode: tuple[str, bool],
    rows_of: Callable[[Texts], Float[Array, "Q T"]] = last_rows,
) -> tuple[AnswerLoss, Float[Array, "B A"], Float[Array, "B A"], Int[Array, "B U"]]:
    """Return answers (B, Q), auxiliary loss and mass of the A = Q' questions that teach importance, and tokens kept."""
    selecting = mode_config(cfg, mix, mode)
    num_anchor = cfg.num_tokens(cfg.compressor.sizes_px[0])
    prefix = jnp.asarray(prefix_ids)

    def one(texts, asking, target, picture, budgets):
        tokens = fixed["tokens"][picture].astype(jnp.float32)
        importance = question_importance(cfg, params, prefix, tokens[:num_anchor], asking)
        auxiliary, mass = importance_loss(importance, target)
        if mode[0] == "anchor":
            budgets = jnp.full((1,), num_anchor, jnp.int32)
        visual, mask, index = select_visual(selecting, tokens, fixed["regions"][picture], importance[0], budgets)
        cache = prefix_cache(cfg, params, prefix, visual, mask, texts.ids.shape[0])
        return answer_loss(cfg, params, cache, texts, rows_of(texts)), auxiliary, mass, index

    return jax.vmap(one)(groups.texts, groups.asking, groups.target_mask, groups.picture, groups.budgets)


def _total(
    cfg: BatConfig,
    params: Params,
    prefix_ids: Int[np.ndarray, "Tp"],
    groups: GroupBatch,
    answers: AnswerLoss,
    auxiliary: Float[Array, "B A"],
    mass: Float[Array, "B A"],
    shown: Bool[Array, "B Q U"],
    weights: tuple[float, float],
    signs: Signs,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Add up the losses; `weights` are those of importance and of evidence in picture and options."""
    weight = groups.texts.weight
    has_target = jnp.any(groups.target_mask, axis=-1) * groups.asking.weight
    answer = weighted_mean(answers.loss, weight)
    aside = weighted_mean(auxiliary, has_target)
    facts = {"answer_loss": answer, "importance_loss": aside, "importance_mass": weighted_mean(mass, has_target)}
    for index, form in enumerate(("open", "word", "letter")):
        facts[f"accuracy_{form}"] = weighted_mean(answers.is_right, weight * (groups.form == index))
    for task in ("object_colour", "object_class", "existence", "location"):
        chosen = weight * (groups.sub_task == list(SUB_TASKS).index(task))
        facts[f"accuracy_{task}"] = weighted_mean(answers.is_right, chosen)
    start = len(prefix_ids)
    unseen, seen = importance_loss(answers.attention[..., start : start + shown.shape[-1]], shown)
    has_evidence = weight * jnp.any(shown, axis=-1)
    facts["evidence_mass"] = weighted_mean(seen, has_evidence)
    total = answer + weights[0] * aside + weights[1] * weighted_mean(unseen, has_evidence)
    missed, matched, has_option = match_loss(answers, groups.texts, signs)
    facts["option_mass"] = weighted_mean(matched, weight * has_option)
    total += weights[1] * weighted_mean(missed, weight * has_option)
    if groups.text_only.ids.shape[0]:
        told = text_only_loss(cfg, params, jnp.asarray(prefix_ids), groups.text_only)
        missed, matched, has_option = match_loss(told, groups.text_only, signs)
        total += _TOLD_WEIGHT * (jnp.mean(told.loss) + weights[1] * weighted_mean(missed, has_option))
        facts["text_letter_accuracy"] = jnp.mean(told.is_right)
        facts["text_option_mass"] = weighted_mean(matched, has_option)
    return total, facts


def match_loss(
    answers: AnswerLoss, texts: Texts, signs: Signs
) -> tuple[Float[Array, "*B"], Float[Array, "*B"], Float[Array, "*B"]]:
    """Return -log of the last layer's attention on the right option, that attention, and 1 where there is an option.

    The look-up in the picture takes the third of four layers; what it found can be matched with the options in the
    fourth alone. Letters learned on text were matched in the third, and with a picture that was no use: the word was
    right in 70 % of the answers, the letter in 30 %.
    """
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[texts.weight.ndim :]), texts)
    option = right_option(flat, signs.letters, signs.newline).reshape(texts.ids.shape)
    missed, matched = importance_loss(answers.last_attention[..., -texts.ids.shape[-1] :], option)
    return missed, matched, jnp.any(option, axis=-1).astype(jnp.float32)
