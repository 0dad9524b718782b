"""What the projector, the scale embedding and the decoder learn, one loss a stage.

    options      decoder alone, no picture: find the letter of the option that the text names
    lookups      decoder alone, made-up tokens: find the token that a question names, and its word among the options
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
from bat_jax.mini.curriculum.bank import FORMS
from bat_jax.mini.curriculum.group_batches import ANCHOR, GroupBatch, Mix
from bat_jax.mini.curriculum.lookups import LookupBatch
from bat_jax.mini.curriculum.packed import (
    AnswerLoss,
    Texts,
    answer_loss,
    answer_words,
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
from bat_jax.mini.curriculum.picture_store import TokenTruth
from bat_jax.mini.curriculum.stage import Loss
from bat_jax.mini.world.question import LETTERS, SUB_TASKS
from bat_jax.mini.world.questions import CORNERS
from bat_jax.mini.world.world import COLOURS, EVENT_KINDS, LAND_USES, OBJECT_KINDS, SITE_KINDS, STATES
from bat_jax.train.loss import importance_loss
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
# Of the words for a token's quarter of the picture; as strong as the others they drowned colours (94 -> 77 % right).
_CORNER_WEIGHT = 0.5
_BRANCH_SIZE = 0.1
# Of the questions that need no picture, which keep the letters in mind.
_TOLD_WEIGHT = 0.5
# Of the look-ups, which are not to be forgotten while importance is learnt.
_KEPT_WEIGHT = 0.5


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
    one layer, and a token would hardly resemble its word). Attention begins by looking for its like (the queries of a
    group of heads are its keys) and by copying what it finds (the way out is the way in, transposed). The scale
    embedding's base grid begins as sinusoids.
    """
    params = bat.init_params(cfg, key)
    layers = params["decoder"]["layers"]
    layers["mlp"]["down_proj"]["kernel"] *= _BRANCH_SIZE
    attention, dec = layers["self_attn"], cfg.decoder
    group = dec.num_heads // dec.num_kv_heads
    heads = (dec.num_layers, dec.width, dec.num_kv_heads, dec.head_dim)
    keys = attention["k_proj"]["kernel"].reshape(heads)
    queries = attention["q_proj"]["kernel"].reshape(dec.num_layers, dec.width, dec.num_heads, dec.head_dim)
    alike = queries.at[:, :, :group].set(keys[:, :, :1])
    attention["q_proj"]["kernel"] = alike.reshape(dec.num_layers, dec.width, -1)
    copied = jnp.repeat(attention["v_proj"]["kernel"].reshape(heads), group, axis=2)
    attention["o_proj"]["kernel"] = _BRANCH_SIZE * copied.reshape(dec.num_layers, dec.width, -1).swapaxes(1, 2)
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


def options_loss(cfg: BatConfig, tokenizer: Any, prefix_ids: Int[np.ndarray, "Tp"], evidence_weight: float) -> Loss:
    """Return the loss of bare lists of options, over a Texts batch."""
    signs = Signs.of(tokenizer)

    def loss(params: Params, fixed: None, batch: Texts):
        del fixed
        return told_loss(cfg, params, prefix_ids, batch, evidence_weight, signs)

    return loss


def told_loss(
    cfg: BatConfig,
    params: Params,
    prefix_ids: Int[np.ndarray, "Tp"],
    texts: Texts,
    evidence_weight: float,
    signs: Signs,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Return the loss of answers and of the look at the right option, where the text itself says the answer."""
    told = text_only_loss(cfg, params, jnp.asarray(prefix_ids), texts)
    missed, matched, has_option = match_loss(told, texts, signs)
    facts = {
        "text_letter_accuracy": jnp.mean(told.is_right),
        "text_option_mass": weighted_mean(matched, has_option),
    }
    return jnp.mean(told.loss) + evidence_weight * jnp.mean(missed), facts


def lookups_loss(cfg: BatConfig, tokenizer: Any, prefix_ids: Int[np.ndarray, "Tp"], evidence_weight: float) -> Loss:
    """Return the loss over {"lookups": LookupBatch, "told": Texts}; the decoder learns, its words make tokens."""
    rows_of, signs = evidence_rows(tokenizer), Signs.of(tokenizer)

    def loss(params: Params, fixed: Any, batch: dict[str, Any]):
        del fixed
        lookups: LookupBatch = batch["lookups"]
        embedding = params["decoder"]["embed_tokens"]["embedding"]

        corners = corner_words(tokenizer, embedding)

        def one(texts, labels, corner, noise):
            visual = true_words(tokenizer, embedding, labels) + corners[corner] + noise
            mask = jnp.ones(visual.shape[0], bool)
            cache = prefix_cache(cfg, params, jnp.asarray(prefix_ids), visual, mask, texts.ids.shape[0])
            return answer_loss(cfg, params, cache, texts, rows_of(texts))

        answers = jax.vmap(one)(lookups.texts, lookups.labels, lookups.corner, lookups.noise)
        start, kinds = len(prefix_ids), (lookups.form, lookups.sub_task)
        total, facts = _answers_total(answers, lookups.texts, lookups.shown, start, evidence_weight, signs, *kinds)
        told, told_facts = told_loss(cfg, params, prefix_ids, batch["told"], evidence_weight, signs)
        return total + _TOLD_WEIGHT * told, facts | told_facts

    return loss


def true_words(tokenizer: Any, embedding: Float[Array, "V D"], labels: UInt8[Array, "*M 9"]):
    """Return (*M, D): the sum of the words' embeddings that are true of each token."""
    truth = TokenTruth.of(labels)
    total = 0.0
    for name, (words, weight) in _WORDS.items():
        ids = tokenizer.convert_tokens_to_ids(list(words))
        table = jnp.concatenate([jnp.zeros((1, embedding.shape[1])), embedding[jnp.asarray(ids)]])
        total += weight * table[getattr(truth, name).astype(np.int32)]
    return total


def corner_words(tokenizer: Any, embedding: Float[Array, "V D"]) -> Float[Array, "4 D"]:
    """Return the sum of the words' embeddings of each of CORNERS, to be added to what lies in that quarter."""
    ids = [tokenizer.convert_tokens_to_ids(corner.split()) for corner in CORNERS]
    return _CORNER_WEIGHT * jnp.sum(embedding[jnp.asarray(ids)], axis=1)


def corner_grid(tokenizer: Any, embedding: Float[Array, "V D"], side: int) -> Float[Array, "G G D"]:
    """Return a base grid that says in the decoder's words which quarter of the picture a cell is in.

    Beside sinusoids alone the decoder had learned "Where in the image is the harbour?" in 45 % of cases: nothing in a
    token resembled the options' words.
    """
    is_second = np.arange(side) >= side // 2
    return corner_words(tokenizer, embedding)[2 * is_second[:, None] + is_second[None]]


def word_bag_loss(cfg: BatConfig, tokenizer: Any) -> Loss:
    """Return the squared error of projected tokens against their true words, over {"picture": (B, 1), "token": (B, K)}.

    fixed: {"vision": (N, M, E), "labels": (N, M, 9), "decoder": its weights}.
    """

    def loss(params: Params, fixed: dict[str, Any], batch: dict[str, Array]):
        embedding = fixed["decoder"]["embed_tokens"]["embedding"]
        rows = batch["picture"], batch["token"]
        wanted = true_words(tokenizer, embedding, fixed["labels"][rows]).reshape(-1, embedding.shape[1])
        found = project(cfg, params, fixed["vision"][rows]).reshape(wanted.shape)
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


def attention_loss(cfg: BatConfig, tokenizer: Any, prefix_ids: Int[np.ndarray, "Tp"], evidence_weight: float) -> Loss:
    """Return the auxiliary loss over {"groups": GroupBatch}, and `lookups_loss` over the rest of a batch.

    fixed: {"vision": (N, M, E)}.

    The first half of a picture's questions is read at the words that name a place, where the match is nearly given (the
    projector made a token of its word), the others at all their words, which have to learn it from there.
    """
    naming_ids = np.array(tokenizer.convert_tokens_to_ids([*SITE_KINDS, "circle"]))
    kept = lookups_loss(cfg, tokenizer, prefix_ids, evidence_weight)

    num_anchor = cfg.num_tokens(cfg.compressor.sizes_px[0])

    def loss(params: Params, fixed: dict[str, Array], batch: dict[str, Any]):
        groups: GroupBatch = batch["groups"]
        position = position_embeddings(cfg, params)[:num_anchor]
        anchors = fixed["vision"][groups.picture, :num_anchor]

        def one(asking, target, anchor):
            tokens = project(cfg, params, anchor) + position
            first = (jnp.arange(asking.weight.size) < asking.weight.size // 2)[:, None]
            everywhere = question_rows(asking)
            rows = jnp.where(first, naming_rows(asking, naming_ids, everywhere), everywhere)
            importance = question_importance(cfg, params, jnp.asarray(prefix_ids), tokens, asking, rows)
            return importance_loss(importance, target)

        auxiliary, mass = jax.vmap(one)(groups.asking, groups.target_mask, anchors)
        has_target = jnp.any(groups.target_mask, axis=-1) * groups.asking.weight
        lookups, lookup_facts = kept(params, fixed, batch)
        is_naming = jnp.arange(mass.shape[1]) < mass.shape[1] // 2
        facts = {
            "importance_loss": weighted_mean(auxiliary, has_target),
            "importance_mass": weighted_mean(mass, has_target * ~is_naming),
            "naming_mass": weighted_mean(mass, has_target * is_naming),
        }
        return facts["importance_loss"] + _KEPT_WEIGHT * lookups, facts | lookup_facts

    return loss


def given_loss(
    cfg: BatConfig, tokenizer: Any, prefix_ids: Int[np.ndarray, "Tp"], importance_weight: float, evidence_weight: float
) -> Loss:
    """Return the loss over GroupBatch with fixed = {"vision": (N, M, E), "object_id": (N, M)}; three parts learn.

    Beside answers and importance it teaches where to look, -log of the attention on the evidence (`evidence_tokens`):
    half at the words that name an object's kind or colour, where the match is nearly given, half at the row that the
    answer begins at. Found from answers alone it had not begun after 45,000 questions.
    """
    rows_of, signs = evidence_rows(tokenizer), Signs.of(tokenizer)

    num_anchor = cfg.num_tokens(cfg.compressor.sizes_px[0])

    def loss(params: Params, fixed: dict[str, Array], groups: GroupBatch):
        position = position_embeddings(cfg, params)
        given = groups.picture[:, None], groups.token_index
        anchors = fixed["vision"][groups.picture, :num_anchor]

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
            groups.texts, groups.asking, groups.target_mask, groups.token_index, fixed["vision"][given], anchors
        )
        object_id = fixed["object_id"][given]
        shown = jax.vmap(evidence_tokens)(groups.objects, groups.token_index, object_id, groups.target_mask[:, 0])
        weights = (importance_weight, evidence_weight)
        return _total(cfg, params, prefix_ids, groups, answers, auxiliary, mass, shown, weights, signs)

    return loss


def evidence_rows(tokenizer: Any) -> Callable[[Texts], Float[Array, "Q T"]]:
    """Return texts -> weights of the rows whose attention is taught, 1 in all.

    Half on the word of the question's first line that names an object's kind or colour, half on the row that the answer
    begins at; all of it there where no word or several do so (the first of two cannot know the second).
    """
    naming_ids = np.array(tokenizer.convert_tokens_to_ids([*OBJECT_KINDS, *COLOURS]))
    newline = tokenizer.convert_tokens_to_ids("\n")

    def rows_of(texts: Texts) -> Float[Array, "Q T"]:
        at_end = last_rows(texts)
        # The first newline ends the image, the second the question itself; options come behind it.
        is_first_line = jnp.cumsum(texts.ids == newline, axis=1) == 1
        naming = naming_rows(texts, naming_ids, at_end, is_first_line)
        # Of several words each has less than all of the weight.
        return (jnp.where(jnp.max(naming, axis=1, keepdims=True) == 1, naming, at_end) + at_end) / 2

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
    """
    rows_of, signs = evidence_rows(tokenizer), Signs.of(tokenizer)

    def loss(params: Params, fixed: dict[str, Array], groups: GroupBatch):
        answers, auxiliary, mass, index = selected_answers(cfg, mix, prefix_ids, params, fixed, groups, rows_of)
        object_id = jnp.where(index >= 0, fixed["object_id"][groups.picture[:, None], index], 0)
        shown = jax.vmap(evidence_tokens)(groups.objects, index, object_id, groups.target_mask[:, 0])
        weights = (importance_weight, evidence_weight)
        return _total(cfg, params, prefix_ids, groups, answers, auxiliary, mass, shown, weights, signs)

    return loss


def selecting_config(cfg: BatConfig, mix: Mix, selection: str) -> BatConfig:
    """Return the config that a batch's tokens are selected under."""
    if selection == ANCHOR:
        px = cfg.compressor.sizes_px[0]
        scales = (ScaleSpec(size_px=px, budget=cfg.num_tokens(px)),)
        return cfg.with_settings(selection="topk", scales=scales)
    budgets = mix.budgets or cfg.compressor.budgets
    scales = tuple(ScaleSpec(size_px=px, budget=b) for px, b in zip(cfg.compressor.sizes_px, budgets, strict=True))
    return cfg.with_settings(selection=selection, scales=scales)


def select_pictures(
    cfg: BatConfig,
    mix: Mix,
    tokens: Float[Array, "B M D"],
    region_id: UInt8[Array, "B M"],
    importance: Float[Array, "B M1"],
    budgets: Int[Array, "B S"],
    selection: Int[Array, ""],
) -> tuple[Float[Array, "B U D"], Bool[Array, "B U"], Int[Array, "B U"]]:
    """Return `packed.select_visual` of every picture by one of the mix; a selection with few rows is padded."""
    names = [name for name, _ in mix.selections]
    num_anchor = importance.shape[1]
    num_rows = max(sum(selecting_config(cfg, mix, name).compressor.budgets) for name in names)

    def branch(name: str):
        selecting = selecting_config(cfg, mix, name)

        def select(arrays):
            tokens, region_id, importance, budgets = arrays
            if name == ANCHOR:
                budgets = jnp.full((budgets.shape[0], 1), num_anchor, jnp.int32)
            visual, mask, index = jax.vmap(lambda *rows: select_visual(selecting, *rows))(
                tokens, region_id, importance, budgets
            )
            rows = ((0, 0), (0, num_rows - mask.shape[1]))
            visual, mask = jnp.pad(visual, (*rows, (0, 0))), jnp.pad(mask, rows)
            return visual, mask, jnp.pad(index, rows, constant_values=-1)

        return select

    arrays = tokens, region_id, jax.lax.stop_gradient(importance), budgets
    return jax.lax.switch(selection, [branch(name) for name in names], arrays)


def selected_answers(
    cfg: BatConfig,
    mix: Mix,
    prefix_ids: Int[np.ndarray, "Tp"],
    params: Params,
    fixed: dict[str, Array],
    groups: GroupBatch,
    rows_of: Callable[[Texts], Float[Array, "Q T"]] = last_rows,
) -> tuple[AnswerLoss, Float[Array, "B A"], Float[Array, "B A"], Int[Array, "B U"]]:
    """Return answers (B, Q), auxiliary loss and mass of the A = Q' questions that teach importance, and tokens kept."""
    num_anchor = cfg.num_tokens(cfg.compressor.sizes_px[0])
    prefix = jnp.asarray(prefix_ids)

    def importance_of(asking, tokens):
        return question_importance(cfg, params, prefix, tokens, asking)

    def answers_of(texts, visual, mask):
        cache = prefix_cache(cfg, params, prefix, visual, mask, texts.ids.shape[0])
        return answer_loss(cfg, params, cache, texts, rows_of(texts))

    tokens, region_id = fixed["tokens"][groups.picture].astype(jnp.float32), fixed["regions"][groups.picture]
    importance = jax.vmap(importance_of)(groups.asking, tokens[:, :num_anchor])
    auxiliary, mass = importance_loss(importance, groups.target_mask)
    visual, mask, index = select_pictures(
        cfg, mix, tokens, region_id, importance[:, 0], groups.budgets, groups.selection
    )
    return jax.vmap(answers_of)(groups.texts, visual, mask), auxiliary, mass, index


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
    importance_weight, evidence_weight = weights
    total, facts = _answers_total(
        answers, groups.texts, shown, len(prefix_ids), evidence_weight, signs, groups.form, groups.sub_task
    )
    has_target = jnp.any(groups.target_mask, axis=-1) * groups.asking.weight
    aside = weighted_mean(auxiliary, has_target)
    facts |= {"importance_loss": aside, "importance_mass": weighted_mean(mass, has_target)}
    total += importance_weight * aside
    if groups.text_only.ids.shape[0]:
        told, told_facts = told_loss(cfg, params, prefix_ids, groups.text_only, evidence_weight, signs)
        total += _TOLD_WEIGHT * told
        facts |= told_facts
    return total, facts


def _answers_total(
    answers: AnswerLoss,
    texts: Texts,
    shown: Bool[Array, "B Q U"],
    start: int,
    evidence_weight: float,
    signs: Signs,
    form: Int[Array, "B Q"],
    sub_task: Int[Array, "B Q"],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Add up the losses of answers, of where they look (the evidence `shown`, behind row `start`), of `match_loss`."""
    weight = texts.weight
    answer = weighted_mean(answers.loss, weight)
    unseen, seen = importance_loss(answers.attention[..., start : start + shown.shape[-1]], shown)
    has_evidence = weight * jnp.any(shown, axis=-1)
    missed, matched, has_option = match_loss(answers, texts, signs)
    facts = {
        "answer_loss": answer,
        "evidence_mass": weighted_mean(seen, has_evidence),
        "option_mass": weighted_mean(matched, weight * has_option),
    }
    for index, name in enumerate(FORMS[:3]):
        facts[f"accuracy_{name}"] = weighted_mean(answers.is_right, weight * (form == index))
    for task in ("object_colour", "object_class", "existence", "location", "regional_land_use", "anomaly"):
        chosen = weight * (sub_task == list(SUB_TASKS).index(task))
        facts[f"accuracy_{task}"] = weighted_mean(answers.is_right, chosen)
    aside = weighted_mean(unseen, has_evidence) + weighted_mean(missed, weight)
    return answer + evidence_weight * aside, facts


def match_loss(
    answers: AnswerLoss, texts: Texts, signs: Signs
) -> tuple[Float[Array, "*B"], Float[Array, "*B"], Float[Array, "*B"]]:
    """Return the loss of how an answer comes about, the attention on the right option, and 1 where there is one.

    Before the last layer the row that answers should know the answer's words (-log of their likelihood there, in the
    mean), in the last layer it should look at the option that says them (-log of its attention there). Both are the
    same whether a text told the words or a picture shows them, so a letter learned from texts is known for pictures.
    """
    flat, found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[texts.weight.ndim :]), (texts, answers))
    option = right_option(flat, signs.letters, signs.newline)
    missed, matched = importance_loss(found.last_attention[:, -texts.ids.shape[-1] :], option)
    words = answer_words(flat, signs.letters, signs.newline)
    likelihood = jnp.take_along_axis(jax.nn.log_softmax(found.early_logits), flat.ids, axis=-1)
    unknown = -jnp.sum(likelihood * words, axis=-1) / jnp.maximum(jnp.sum(words, axis=-1), 1)
    shape = texts.weight.shape
    return (
        (missed + unknown).reshape(shape),
        matched.reshape(shape),
        jnp.any(option, axis=-1).astype(jnp.float32).reshape(shape),
    )
