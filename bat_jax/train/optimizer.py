"""AdamW with a learning rate per part: optax, one group a trained part, nothing for frozen ones.

UHR-BAT (arXiv:2604.13565), App. B: cosine schedule with warm-up, clipping of the global norm. The schedule is that of
transformers' get_cosine_schedule_with_warmup, which the authors' scripts use: the very first step has rate 0.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bat_jax.train.recipe import AdamWSettings, TrainConfig
from bat_jax.typing import Params

# Leaves with these names are matrices; biases, norms and learned positions do not decay.
_DECAYED = ("kernel", "embedding")


def split_params(recipe: TrainConfig, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (trained parts, frozen parts) by the recipe's rates.

    Raises:
      ValueError: none of the parts that have a rate is in the checkpoint.
    """
    trained = {part: leaves for part, leaves in params.items() if recipe.rates.get(part)}
    if not trained:
        wanted = [part for part, rate in recipe.rates.items() if rate]
        raise ValueError(f"TrainConfig: trains {', '.join(wanted)}, the checkpoint holds {', '.join(params)} only")
    return trained, {part: leaves for part, leaves in params.items() if part not in trained}


def schedule(peak: float, num_steps: int, warmup_ratio: float) -> Callable[[Any], Any]:
    """Return step -> rate: linear from 0 over ceil(warmup_ratio * num_steps) steps, then half a cosine down to 0."""
    num_warmup = math.ceil(warmup_ratio * num_steps)

    def rate(step):
        rising = step / max(num_warmup, 1)
        progress = (step - num_warmup) / max(num_steps - num_warmup, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        return peak * jnp.where(step < num_warmup, rising, falling)

    return rate


def make_optimizer(settings: AdamWSettings, rates: Mapping[str, float], num_steps: int) -> optax.GradientTransformation:
    """Return the optimiser over weights that are one dict a part; `rates` are the peaks of the parts that are trained.

    The gradient's norm is clipped over all of them together, then every part takes its own AdamW. Moments are float32
    where gradients are (see `apply_gradients`).
    """

    def group(rate: float) -> optax.GradientTransformation:
        return optax.adamw(
            schedule(rate, num_steps, settings.warmup_ratio),
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=_decays,
        )

    parts = optax.multi_transform(
        {part: group(rate) for part, rate in rates.items() if rate},
        lambda params: {part: jax.tree.map(lambda _, part=part: part, leaves) for part, leaves in params.items()},
    )
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return optax.chain(clip, parts)


def init_optimizer(optimizer: optax.GradientTransformation, trained: Params) -> optax.OptState:
    """Return the optimiser's state; moments in float32, whatever the weights are stored in."""
    return optimizer.init(_float32(trained))


def apply_gradients(
    optimizer: optax.GradientTransformation, gradients: Params, opt_state: optax.OptState, trained: Params
) -> tuple[dict[str, Any], optax.OptState]:
    """Return (new weights in their own dtype, new state); all arithmetic is float32."""
    updates, opt_state = optimizer.update(gradients, opt_state, _float32(trained))
    new = jax.tree.map(lambda leaf, step: (leaf.astype(jnp.float32) + step).astype(leaf.dtype), trained, updates)
    return new, opt_state


def learning_rates(settings: AdamWSettings, rates: Mapping[str, float], num_steps: int, step: int) -> dict[str, float]:
    """Return {"rate_PART": the rate that step number `step` used}, for the log; the schedule counts from 0."""
    return {
        f"rate_{part}": float(schedule(rate, num_steps, settings.warmup_ratio)(step - 1))
        for part, rate in rates.items()
        if rate
    }


def _float32(tree: Mapping[str, Any]) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def _decays(params: Params) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: getattr(path[-1], "key", None) in _DECAYED, params)
