"""What one question computes, from the ids of its text to the ids of its answer, as one pure function of arrays.

    anchor_importance                                   once an image: `importance_of`
    select -> visual_tokens                             once an image: `compress`
    splice                                              once: `choose`
    prefill                                             once: `begin`
    generate                                            once: `answer`

All take the way to run a stage, so that one description serves two: `engine.stages.Stages.run` compiles every stage
apart and clocks it, `run_inside` makes them parts of the one program that surrounds them (`answer_in_one`). Many
questions about the same images are one program, too (`answer_many`): their importance and the tokens of their answers
are computed side by side, because either moves all weights for a few rows; what lies between is busy with one question
and goes through them in turn. Or they are three (`answer_by_stage`), of which settings share what they have in common.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bat_jax import model as bat
from bat_jax.compress.alignment import align_importance
from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.compress.importance import reads_one_row
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import BatConfig
from bat_jax.engine.generate import Generated, generate
from bat_jax.nn.decoder import KVCache
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, ArrayOrShape, Bool, Float, Int, Params, UInt32

# Most rows of prompts that go through the decoder side by side: a CPU's caches hold no more, short prompts alone would
# leave it idle, and what an accelerator needs for them stays small.
PREFILL_ROWS = 2048

RunStage = Callable[..., Any]  # (name, function, static arguments, *arrays) -> what the function returns


class SceneArrays(NamedTuple):
    """What a question reads of an encoded image; cache: over [prompt prefix, anchor tokens]."""

    scales: tuple[ScaleTokens, ...]
    cache: KVCache


class SceneLayout(NamedTuple):
    """What programs are specialised to: each scale's grid and its most regions."""

    grids: tuple[TokenGrid, ...]
    region_capacity: tuple[int, ...]


class Suffix(NamedTuple):
    """Text behind the image, as importance is read at: padded ids, which of them are text, weight of each row."""

    ids: Int[Array, "T"]
    valid: Bool[Array, "T"]
    row_weight: Float[Array, "T"]


class QuestionArrays(NamedTuple):
    """One question.

    suffixes: texts whose importance is averaged. shares: every image's budgets. texts, text_valid: pieces of the
    prompt, images + 1. stop_ids (2,): ids that end the answer, -1 for none. temperature, top_p, seed (): of sampling.
    """

    suffixes: tuple[Suffix, ...]
    shares: tuple[Int[Array, "S"], ...]
    texts: tuple[Int[Array, "_"], ...]
    text_valid: tuple[Bool[Array, "_"], ...]
    stop_ids: Int[Array, "2"]
    temperature: Float[Array, ""]
    top_p: Float[Array, ""]
    seed: UInt32[Array, ""]

    @property
    def drawing(self) -> tuple[Any, ...]:
        """What tokens are drawn by."""
        return self.stop_ids, self.temperature, self.top_p, self.seed


class Compression(NamedTuple):
    """One image's tokens for one question.

    tokens (U, D), mask (U,): rows of all scales. selections: by scale. anchor_importance (M1,). importance: by scale,
    (M,) tile-major.
    """

    tokens: Float[Array, "U D"]
    mask: Bool[Array, "U"]
    selections: tuple[Selection, ...]
    anchor_importance: Float[Array, "M"]
    importance: tuple[Float[Array, "_"], ...]


class AnswerArrays(NamedTuple):
    """ids (1, N), of which the first `length` (1,) are the answer. is_finite (1,): whether all logits were numbers.

    num_rows (1,): of the prompt.
    kept (I, S): rows kept. logits (1, V): after the prompt. compressions: by image.
    """

    ids: Int[Array, "1 N"]
    length: Int[Array, "1"]
    is_finite: Bool[Array, "1"]
    num_rows: Int[Array, "1"]
    kept: Int[Array, "I S"]
    logits: Float[Array, "1 V"]
    compressions: tuple[Compression, ...]

    @property
    def outcome(self) -> tuple[Array, ...]:
        """What is copied to the host of every answer."""
        return self.ids, self.length, self.is_finite, self.num_rows, self.kept


def run_inside(name: str, function: Callable[..., Any], static: tuple[Any, ...], *args: Any) -> Any:
    """Run a stage as a part of the program that is being traced."""
    with jax.named_scope(name):
        return function(*static, *args)


def importance_of(
    run: RunStage, cfg: BatConfig, params: Params, scene: SceneArrays, suffixes: tuple[Suffix, ...]
) -> Float[ArrayOrShape, "M"]:
    """Return the importance of an image's anchor tokens for the questions in `suffixes` together."""
    static = (cfg.networks, reads_one_row(cfg.compressor.attention_query))
    valid = scene.scales[0].valid
    rows = [
        run("anchor_importance", bat.anchor_importance, static, params, scene.cache, valid, *suffix)
        for suffix in suffixes
    ]
    return run("importance_rows", _mean_row, (cfg.compressor.attention_layer,), *rows)


def compress(
    run: RunStage,
    cfg: BatConfig,
    layout: SceneLayout,
    params: Params,
    scene: SceneArrays,
    importance: Float[ArrayOrShape, "M"],
    budgets: Int[ArrayOrShape, "S"],
) -> Compression:
    """Choose an image's tokens by the importance of its anchor's."""
    settings = cfg.compressor
    valid = scene.scales[0].valid
    selections = run("preserve_merge", select, (settings.for_select, *layout), scene.scales, importance, budgets)
    static = (cfg.networks_with("scales", "token_mlp"),)
    tokens, mask = run("token_mlp", bat.visual_tokens, static, params, selections)
    aligned = run("align_importance", _aligned, (layout.grids, settings.mask_padding), importance, valid)
    return Compression(tokens, mask, selections, importance, aligned)


class Chosen(NamedTuple):
    """A question's prompt with the tokens that were chosen for it; the others as in AnswerArrays."""

    spliced: bat.Spliced
    kept: Int[Array, "I S"]
    compressions: tuple[Compression, ...]


def choose(
    run: RunStage,
    cfg: BatConfig,
    layouts: tuple[SceneLayout, ...],
    params: Params,
    scenes: tuple[SceneArrays, ...],
    importance: tuple[Float[ArrayOrShape, "M"], ...],
    question: QuestionArrays,
) -> Chosen:
    """Make a question's prompt about images whose importance is known: one place for each."""
    compressions = tuple(
        compress(run, cfg, layout, params, scene, row, budgets)
        for layout, scene, row, budgets in zip(layouts, scenes, importance, question.shares, strict=True)
    )
    spliced = run(
        "splice",
        bat.splice,
        (cfg.networks,),
        params,
        question.texts,
        question.text_valid,
        tuple(item.tokens for item in compressions),
        tuple(item.mask for item in compressions),
    )
    masks = tuple(tuple(selection.mask for selection in item.selections) for item in compressions)
    return Chosen(spliced, run("count_rows", _counts, (), masks), compressions)


class Begun(NamedTuple):
    """A question up to its answer: the cache behind the prompt; the others as in AnswerArrays."""

    cache: KVCache
    num_rows: Int[Array, "1"]
    kept: Int[Array, "I S"]
    logits: Float[Array, "1 V"]
    compressions: tuple[Compression, ...]


def begin(
    run: RunStage,
    cfg: BatConfig,
    layouts: tuple[SceneLayout, ...],
    max_new_tokens: int,
    params: Params,
    *asked: Any,
) -> Begun:
    """Read a question about images whose importance is known; `asked` as in `choose`."""
    chosen = choose(run, cfg, layouts, params, *asked)
    logits, cache = run("prefill", bat.prefill, (cfg.networks, max_new_tokens), params, chosen.spliced)
    return Begun(cache, chosen.spliced.length, chosen.kept, logits, chosen.compressions)


def answer(
    run: RunStage,
    cfg: BatConfig,
    layouts: tuple[SceneLayout, ...],
    max_new_tokens: int,
    params: Params,
    scenes: tuple[SceneArrays, ...],
    question: QuestionArrays,
) -> AnswerArrays:
    """Answer a question about images."""
    importance = tuple(importance_of(run, cfg, params, scene, question.suffixes) for scene in scenes)
    begun = begin(run, cfg, layouts, max_new_tokens, params, scenes, importance, question)
    static = (cfg.networks, max_new_tokens)
    generated = run("generate", _generate, static, params, begun.logits, begun.cache, *question.drawing)
    return AnswerArrays(generated.ids, generated.length, generated.is_finite, *begun[1:])


def answer_many(
    cfg: BatConfig,
    layouts: tuple[SceneLayout, ...],
    max_new_tokens: int,
    params: Params,
    scenes: tuple[SceneArrays, ...],
    questions: QuestionArrays,
    num_questions: Int[Array, ""],
) -> AnswerArrays:
    """Answer questions about the same images, each as `answer` would; every array of the result begins with Q.

    Args:
      questions: suffixes, texts and text_valid begin with Q, the program's room; all else is common to them.
      num_questions: how many of them are questions, the first ones. It is traced: one program answers any number.
    """

    def importance(suffixes):
        return tuple(importance_of(run_inside, cfg, params, scene, suffixes) for scene in scenes)

    def begun(of_images, question):
        return begin(run_inside, cfg, layouts, max_new_tokens, params, scenes, of_images, question)

    found = _each(begun, jax.vmap(importance)(questions.suffixes), questions, num_questions)
    # (Q, ..., 1, S, K, H): the questions take the place of the one sequence.
    pairs = (found.cache.key, found.cache.value)
    key, value = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -4).squeeze(-5), pairs)
    cache = KVCache(key, value, found.cache.length[:, 0])
    static = (cfg.networks, max_new_tokens)
    drawing = (*questions.drawing, num_questions)
    generated = run_inside("generate", _generate_each, static, params, found.logits, cache, *drawing)
    return AnswerArrays(*generated, *found[1:])


def answer_by_stage(
    run: RunStage,
    cfg: BatConfig,
    layouts: tuple[SceneLayout, ...],
    max_new_tokens: int,
    most_rows: int,
    params: Params,
    scenes: tuple[SceneArrays, ...],
    importance: tuple[Float[ArrayOrShape, "Q M"], ...],
    questions: QuestionArrays,
    num_questions: Int[ArrayOrShape, ""],
) -> AnswerArrays:
    """Answer as `answer_many` does, stage by stage, questions whose importance is known; their prompts side by side.

    A selection compiles `choose_each` alone anew, how long prompts are the decoder alone.

    Args:
      most_rows: that a prompt has, fewer than the config has room for where `questions.shares` are less.
      questions: without suffixes.
    """
    rules = ("scales", "mask_padding", "token_mlp", "selection", *cfg.compressor.rule.settings)
    static = (cfg.networks_with(*rules), layouts)
    chosen = run("choose", choose_each, static, params, scenes, importance, questions, num_questions)
    networks = (cfg.networks, max_new_tokens)
    prompts = (params, chosen.spliced, num_questions)
    logits, cache = run("prefill", _prefill_each, (*networks, most_rows), *prompts)
    drawing = (*questions.drawing, num_questions)
    generated = run("generate", _generate_each, networks, params, logits, cache, *drawing)
    rest = (chosen.spliced.length, chosen.kept, logits, chosen.compressions)
    return AnswerArrays(generated.ids, generated.length, generated.is_finite, *rest)


def importance_rows(
    cfg: BatConfig,
    is_one_row: bool,
    params: Params,
    cache: KVCache,
    anchor_valid: Bool[Array, "M"],
    suffixes: Suffix,
) -> Float[Array, "Q L M"]:
    """Return `model.anchor_importance` of many texts side by side; the arrays of `suffixes` begin with Q."""
    of_text = functools.partial(bat.anchor_importance, cfg, is_one_row, params, cache, anchor_valid)
    return jax.vmap(of_text)(*suffixes)


def choose_each(
    cfg: BatConfig,
    layouts: tuple[SceneLayout, ...],
    params: Params,
    scenes: tuple[SceneArrays, ...],
    importance: tuple[Float[Array, "Q M"], ...],
    questions: QuestionArrays,
    num_questions: Int[Array, ""],
) -> Chosen:
    """Return `choose` of many questions, one by one; every array of the result begins with Q."""
    function = functools.partial(choose, run_inside, cfg, layouts, params, scenes)
    return _each(function, importance, questions, num_questions)


def _each(
    function: Callable[..., Any],
    importance: tuple[Float[Array, "Q M"], ...],
    questions: QuestionArrays,
    num_questions: Int[Array, ""],
) -> Any:
    """Return function(importance, question) of the first questions one by one, and zeros for the others."""

    def one(index):
        texts, text_valid, of_images = jax.tree.map(
            lambda x: x[index], (questions.texts, questions.text_valid, importance)
        )
        return function(of_images, questions._replace(texts=texts, text_valid=text_valid))

    def step(index, found):
        return jax.tree.map(lambda all_of_them, one: all_of_them.at[index].set(one), found, jax.jit(one)(index))

    room = questions.texts[-1].shape[0]
    shapes = jax.eval_shape(jax.jit(one), num_questions)
    nothing = jax.tree.map(lambda leaf: jnp.zeros((room, *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, num_questions, step, nothing)


def answer_in_one(cfg: BatConfig, layouts: tuple[SceneLayout, ...], max_new_tokens: int, *args: Any) -> AnswerArrays:
    """Return `answer` as one program."""
    return answer(run_inside, cfg, layouts, max_new_tokens, *args)


def _mean_row(layer: int, *rows: Float[Array, "L M"]) -> Float[Array, "M"]:
    return jnp.mean(jnp.stack([row[layer] for row in rows]), axis=0)


def _aligned(
    grids: tuple[TokenGrid, ...], mask_padding: bool, importance: Float[Array, "M"], valid: Bool[Array, "M"]
) -> tuple[Float[Array, "_"], ...]:
    return tuple(align_importance(importance, grids[0], grid, valid if mask_padding else None) for grid in grids)


def _generate(cfg, max_new_tokens, params, logits, cache, stop_ids, temperature, top_p, seed):
    key = jax.random.key(seed)
    return generate(cfg, max_new_tokens, params, logits, cache, stop_ids, temperature, top_p, key)


def _prefill_each(cfg, max_new_tokens, most_rows, params, spliced, num_questions):
    """Read many prompts, of which no row behind the first `most_rows` is valid, a few side by side at a time."""
    room = spliced.length.shape[0]
    at_once = min(room, max(1, 1 << (PREFILL_ROWS // most_rows).bit_length() >> 1))

    def some(number):
        # The last ones stand further in front where they are fewer: some prompts are then read twice.
        first = jnp.minimum(number * at_once, room - at_once)
        embeddings, length = (jax.lax.dynamic_slice_in_dim(leaf, first, at_once) for leaf in spliced)
        prompts = bat.Spliced(embeddings[:, 0, :most_rows], length[:, 0])
        logits, cache = bat.prefill(cfg, max_new_tokens, params, prompts)
        return first, logits[:, None], cache

    def step(number, found):
        first, *new = jax.jit(some)(number)

        def write(all_of_them, some_of_them):
            axis = max(all_of_them.ndim - 4, 0)  # (Q, 1, V), ([L,] Q, S, K, H), (Q,)
            return jax.lax.dynamic_update_slice_in_dim(all_of_them, some_of_them, first, axis)

        return jax.tree.map(write, found, tuple(new))

    def nothing(leaf):
        axis = max(leaf.ndim - 4, 0)
        return jnp.zeros((*leaf.shape[:axis], room, *leaf.shape[axis + 1 :]), leaf.dtype)

    _, *shapes = jax.eval_shape(jax.jit(some), num_questions)
    return jax.lax.fori_loop(0, -(-num_questions // at_once), step, jax.tree.map(nothing, tuple(shapes)))


def _generate_each(cfg, max_new_tokens, params, logits, cache, stop_ids, temperature, top_p, seed, num_questions):
    """Generate many answers, each drawn as it would be alone; logits (Q, 1, V), and every result begins with (Q, 1)."""
    keys = jax.vmap(jax.random.key)(jnp.repeat(seed, logits.shape[0]))
    drawing = (stop_ids, temperature, top_p, keys, num_questions)
    found = generate(cfg, max_new_tokens, params, logits[:, 0], cache, *drawing)
    return Generated(*(leaf[:, None] for leaf in found))


def _counts(masks: tuple[tuple[Bool[Array, "_"], ...], ...]) -> Int[Array, "I S"]:
    return jnp.array([[jnp.sum(mask) for mask in of_image] for of_image in masks], jnp.int32)
