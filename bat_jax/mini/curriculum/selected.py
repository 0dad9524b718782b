"""Questions on what the method itself selects: the decoder learns, under random budgets and mixed selections.

The tower, the projector and the scale embedding are frozen, so the tokens of every picture are computed once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.config import BatConfig, ScaleSpec
from bat_jax.mini.curriculum.bank import Bank
from bat_jax.mini.curriculum.group_batches import ANCHOR, GroupBatch, GroupBatches, Mix
from bat_jax.mini.curriculum.packed import AnswerLoss
from bat_jax.mini.curriculum.teaching import Teaching
from bat_jax.mini.world.question import SUB_TASKS
from bat_jax.train.loop import Loss
from bat_jax.typing import Array, Bool, Float, Int, Params, UInt8

NUM_HELD_OUT_BATCHES, _HELD_OUT_SEED = 12, 12345


def selected_loss(teaching: Teaching, mix: Mix) -> Loss:
    """Return the loss over GroupBatch with fixed = {"tokens": (N, M, D), "regions", "object_id": (N, M)}."""

    def loss(params: Params, fixed: dict[str, Array], groups: GroupBatch):
        answers, importance, index = selected_answers(teaching, mix, params, fixed, groups)
        object_id = jnp.where(index >= 0, fixed["object_id"][groups.picture[:, None], index], 0)
        return teaching.group_total(params, groups, answers, importance, index, object_id)

    return loss


def selected_answers(
    teaching: Teaching, mix: Mix, params: Params, fixed: dict[str, Array], groups: GroupBatch
) -> tuple[AnswerLoss, Float[Array, "B A M1"], Int[Array, "B U"]]:
    """Return answers (B, Q), the importance for every question that teaches it, and each kept token's index."""
    tokens, region_id = fixed["tokens"][groups.picture].astype(jnp.float32), fixed["regions"][groups.picture]
    importance = teaching.importance(params, tokens[:, : teaching.num_anchor], groups.asking)
    arrays = tokens, region_id, jax.lax.stop_gradient(importance[:, 0]), groups.budgets
    visual, mask, index = select_pictures(teaching.cfg, mix, *arrays, groups.selection)
    return teaching.answers(params, visual, groups.texts, mask), importance, index


def selecting_config(cfg: BatConfig, mix: Mix, selection: str) -> BatConfig:
    """Return the config that a batch's tokens are selected under."""
    if selection == ANCHOR:
        px = cfg.compressor.sizes_px[0]
        return cfg.with_settings(selection="topk", scales=(ScaleSpec(size_px=px, budget=cfg.num_tokens(px)),))
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
    """Return `select_visual` of every picture by one of the mix; a selection with few rows is padded."""
    names = [name for name, _ in mix.selections]
    num_anchor = importance.shape[1]
    num_rows = max(sum(selecting_config(cfg, mix, name).compressor.budgets) for name in names)

    def branch(name: str):
        selecting = selecting_config(cfg, mix, name)

        def select_rows(arrays):
            tokens, region_id, importance, budgets = arrays
            if name == ANCHOR:
                budgets = jnp.full((budgets.shape[0], 1), num_anchor, jnp.int32)
            visual, mask, index = jax.vmap(lambda *rows: select_visual(selecting, *rows))(
                tokens, region_id, importance, budgets
            )
            rows = ((0, 0), (0, num_rows - mask.shape[1]))
            visual, mask = jnp.pad(visual, (*rows, (0, 0))), jnp.pad(mask, rows)
            return visual, mask, jnp.pad(index, rows, constant_values=-1)

        return select_rows

    return jax.lax.switch(selection, [branch(name) for name in names], (tokens, region_id, importance, budgets))


def select_visual(
    cfg: BatConfig,
    tokens: Float[Array, "M D"],
    region_id: UInt8[Array, "M"],
    importance: Float[Array, "M1"],
    budgets: Int[Array, "S"],
) -> tuple[Float[Array, "U D"], Bool[Array, "U"], Int[Array, "U"]]:
    """Compress all views of a picture for one question; no gradient reaches tokens or importance.

    Returns:
      The visual tokens, which of them are there, and each one's index among all M tokens, -1 for a merged one.
    """
    grids = tuple(bat.token_grid(cfg, px) for px in cfg.compressor.sizes_px)
    bounds, low = [], 0
    for grid in grids:
        bounds.append((low, low + grid.num_tokens))
        low += grid.num_tokens
    scales = tuple(ScaleTokens(tokens[a:b], region_id[a:b].astype(jnp.int32), jnp.ones(b - a, bool)) for a, b in bounds)
    capacity = tuple(cfg.compressor.num_clusters for _ in grids)
    selections = select(cfg.compressor, grids, capacity, scales, jax.lax.stop_gradient(importance), budgets)
    visual, mask = jax.lax.stop_gradient(bat.visual_tokens(cfg, {}, selections))
    index = [
        jnp.where(part.keep_index >= 0, part.keep_index + a, -1)
        for part, (a, _) in zip(selections, bounds, strict=True)
    ]
    return visual, mask, jnp.concatenate(index)


def held_out_accuracy(
    teaching: Teaching, mix: Mix, bank: Bank, labels: np.ndarray, pictures: range, fixed: dict[str, Any]
) -> Callable[[Params], dict[str, float]]:
    """Return params -> accuracy a sub-task with letters, on pictures that nothing was trained on, at full budgets."""
    mix = dataclasses.replace(
        mix,
        forms=(0.0, 0.0, 1.0),
        num_text_only=0,
        num_asking=1,
        selections=(("uhr_bat", 1.0),),
        budgets=None,
        lowest=0.999,
    )
    batches = GroupBatches(teaching.cfg, mix, bank, labels, pictures, _HELD_OUT_SEED)

    def evaluate(params: Params) -> dict[str, float]:
        hits, tasks = [], []
        for position in range(NUM_HELD_OUT_BATCHES):
            groups = batches(position)
            used = groups.texts.weight > 0
            hits.append(np.asarray(_is_right(teaching, mix, params, fixed, groups))[used])
            tasks.append(groups.sub_task[used])
        right, task = np.concatenate(hits), np.concatenate(tasks)
        return {
            f"held_out_{name}": float(right[task == index].mean())
            for index, name in enumerate(SUB_TASKS)
            if np.any(task == index)
        }

    return evaluate


@functools.partial(jax.jit, static_argnums=(0, 1))
def _is_right(
    teaching: Teaching, mix: Mix, params: Params, fixed: dict[str, Any], groups: GroupBatch
) -> Bool[Array, "B Q"]:
    return selected_answers(teaching, mix, params, fixed, groups)[0].is_right
