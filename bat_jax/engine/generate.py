"""The decoding loop: greedy or sampled, one compiled while-loop over a fixed-size cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.config import BatConfig
from bat_jax.model import decode_step
from bat_jax.nn.decoder import KVCache
from bat_jax.typing import Array, Bool, Float, Int, Key, Params


class Generated(NamedTuple):
    """ids (B, max_new_tokens) int32, 0 behind the end. length (B,): tokens written, the stop token not counted.

    is_finite (B,): whether the logits of every token that was drawn are numbers; else the ids mean nothing.
    """

    ids: Int[Array, "B N"]
    length: Int[Array, "B"]
    is_finite: Bool[Array, "B"]


def sample_token(
    logits: Float[Array, "B V"], key: Key[Array, "*K"], temperature: Float[Array, ""], top_p: Float[Array, ""]
) -> Int[Array, "B"]:
    """Draw the next token: the best one at temperature 0, else from the smallest set whose probability reaches top_p.

    The token that crosses top_p belongs to the set, so it is never empty. key: as in `generate`.
    """
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def sample(_):
        order = jnp.argsort(-logits, axis=-1)
        scaled = jnp.take_along_axis(logits, order, axis=-1) / jnp.maximum(temperature, 1e-6)
        probability = jax.nn.softmax(scaled, axis=-1)
        is_before = jnp.cumsum(probability, axis=-1) - probability < top_p
        draw = jax.vmap(jax.random.categorical) if key.ndim else jax.random.categorical
        rank = draw(key, jnp.where(is_before, scaled, -jnp.inf))
        return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0].astype(jnp.int32)

    return jax.lax.cond(temperature > 0, sample, lambda _: greedy, None)


def generate(
    cfg: BatConfig,
    max_new_tokens: int,
    params: Params,
    logits: Float[Array, "B V"],
    cache: KVCache,
    stop_ids: Int[Array, "E"],
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    key: Key[Array, "*K"],
    num_sequences: Int[Array, ""] | None = None,
) -> Generated:
    """Generate until every sequence has met a stop token or `max_new_tokens` are written.

    Args:
      logits: after the prompt, from `model.prefill`, as is `cache` with at least max_new_tokens - 1 free slots.
      stop_ids: any of these ends a sequence; ids below 0 never match.
      temperature: 0 is greedy. top_p: in (0, 1].
      key: (), with which the sequences are drawn apart; or (B,), a key for each, whose draws others do not change.
      num_sequences: how many of the B are wanted, the first ones; None for all.
    """
    batch = logits.shape[0]
    is_left_out = jnp.zeros(batch, bool) if num_sequences is None else jnp.arange(batch) >= num_sequences

    fold_in = jax.vmap(jax.random.fold_in, (0, None)) if key.ndim else jax.random.fold_in

    class State(NamedTuple):
        step: Array
        token: Array
        cache: KVCache
        ids: Array
        length: Array
        is_done: Array
        is_finite: Array

    def written(step, logits, cache, ids, length, is_done, is_finite):
        """Draw token `step` and write it down."""
        is_finite = is_finite & (is_done | jnp.all(jnp.isfinite(logits), axis=-1))
        token = sample_token(logits, fold_in(key, step), temperature, top_p)
        is_done = is_done | jnp.any(token[:, None] == stop_ids, axis=1)
        ids = ids.at[:, step].set(jnp.where(is_done, 0, token))
        return State(step + 1, token, cache, ids, length + ~is_done, is_done, is_finite)

    def goes_on(state):
        return (state.step < max_new_tokens) & ~jnp.all(state.is_done)

    def step(state):
        # The token before is fed here and not where it is drawn: the last one needs no step, so the cache no slot.
        next_logits, cache = decode_step(cfg, params, state.token, state.cache)
        return written(state.step, next_logits, cache, *state[3:])

    with jax.named_scope("generate"):
        ids = jnp.zeros((batch, max_new_tokens), jnp.int32)
        nothing = (ids, jnp.zeros(batch, jnp.int32), is_left_out, jnp.ones(batch, bool))
        end = jax.lax.while_loop(goes_on, step, written(jnp.int32(0), logits, cache, *nothing))
    return Generated(end.ids, end.length, end.is_finite)
