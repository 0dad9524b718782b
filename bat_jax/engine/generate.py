"""The decoding loop: greedy or sampled, one compiled while-loop over a fixed-size cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bat_jax.config import BatConfig
from bat_jax.model import decode_step
from bat_jax.nn.decoder import KVCache
from bat_jax.typing import Array, Float, Int, Key, Params


class Generated(NamedTuple):
    """ids (B, max_new_tokens) int32, 0 behind the end. length (B,): tokens written, the stop token not counted."""

    ids: Int[Array, "B N"]
    length: Int[Array, "B"]


def sample_token(
    logits: Float[Array, "B V"], key: Key[Array, ""], temperature: Float[Array, ""], top_p: Float[Array, ""]
) -> Int[Array, "B"]:
    """Draw the next token: the best one at temperature 0, else from the smallest set whose probability reaches top_p.

    The token that crosses top_p belongs to the set, so it is never empty.
    """
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def sample(_):
        order = jnp.argsort(-logits, axis=-1)
        scaled = jnp.take_along_axis(logits, order, axis=-1) / jnp.maximum(temperature, 1e-6)
        probability = jax.nn.softmax(scaled, axis=-1)
        is_before = jnp.cumsum(probability, axis=-1) - probability < top_p
        rank = jax.random.categorical(key, jnp.where(is_before, scaled, -jnp.inf), axis=-1)
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
    key: Key[Array, ""],
) -> Generated:
    """Generate until every sequence has met a stop token or `max_new_tokens` are written.

    Args:
      logits: after the prompt, from `model.prefill`, as is `cache` with at least max_new_tokens - 1 free slots.
      stop_ids: any of these ends a sequence; ids below 0 never match.
      temperature: 0 is greedy. top_p: in (0, 1].
    """
    batch = logits.shape[0]

    class State(NamedTuple):
        step: Array
        logits: Array
        cache: KVCache
        ids: Array
        length: Array
        is_done: Array

    def goes_on(state):
        return (state.step < max_new_tokens) & ~jnp.all(state.is_done)

    def step(state):
        token = sample_token(state.logits, jax.random.fold_in(key, state.step), temperature, top_p)
        is_done = state.is_done | jnp.any(token[:, None] == stop_ids, axis=1)
        ids = state.ids.at[:, state.step].set(jnp.where(is_done, 0, token))
        # The last token needs no successor: its step is skipped, and so the cache needs no slot for it.
        is_last = (state.step + 1 == max_new_tokens) | jnp.all(is_done)
        next_logits, next_cache = jax.lax.cond(
            is_last, lambda c: (state.logits, c), lambda c: decode_step(cfg, params, token, c), state.cache
        )
        return State(state.step + 1, next_logits, next_cache, ids, state.length + ~is_done, is_done)

    start = State(
        jnp.int32(0),
        logits,
        cache,
        jnp.zeros((batch, max_new_tokens), jnp.int32),
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch,), bool),
    )
    with jax.named_scope("generate"):
        end = jax.lax.while_loop(goes_on, step, start)
    return Generated(end.ids, end.length)
