"""One stage of the mini model's training: any loss over any batches, with AdamW, a cosine, metrics and exact resume.

`train.loop` trains the parts of a whole model on records; the stages here train other things first (dense heads, a
projector on word sums, packed questions on given tokens). They share its optimiser's schedule, its log and its
checkpoints.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from bat_jax.train.loop import Log, NonFiniteLossError
from bat_jax.train.optimizer import schedule
from bat_jax.train.state import Checkpoints, TrainState, new_state
from bat_jax.typing import Params

# (params, fixed, batch) -> (loss, what is logged beside it)
Loss = Callable[[Params, Any, Any], tuple[jax.Array, dict[str, jax.Array]]]


# Batches that a pool of processes is asked for before they are needed.
_BATCHES_AHEAD = 48


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How a stage is trained.

    Attributes:
      num_steps: optimiser steps. rate: peak learning rate, reached after `warmup_ratio` of the steps, then half a
        cosine down to 0. b2, weight_decay, clip_norm: of AdamW.
      checkpoint_every: steps between checkpoints, of which the newest stays. log_every: steps between lines of metrics.
      eval_every: steps between calls of the stage's evaluation; 0 for none. seed: of the order of the data.
    """

    num_steps: int
    rate: float
    warmup_ratio: float = 0.02
    b2: float = 0.98
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    checkpoint_every: int = 500
    log_every: int = 20
    eval_every: int = 0
    seed: int = 0


def run_stage(
    directory: pathlib.Path,
    settings: StageSettings,
    params: Params,
    loss: Loss,
    batch_of: Callable[[int], Any],
    evaluate: Callable[[Params], dict[str, float]] | None = None,
    fixed: Any = None,
    pool: concurrent.futures.Executor | None = None,
) -> Params:
    """Train `params` and return them; goes on from the newest checkpoint in `directory` where there is one.

    Args:
      batch_of: position -> NumPy arrays; called in a thread, in order, one batch ahead.
      evaluate: called every `eval_every` steps and at the end; its numbers go into the log.
      fixed: arrays that the loss reads and nobody changes, such as frozen weights and features.
      pool: makes batches in its processes instead, several ahead; `batch_of` has to be picklable then.

    Raises:
      NonFiniteLossError: names stage and step.
    """
    rate = schedule(settings.rate, settings.num_steps, settings.warmup_ratio)
    optimizer = optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(rate, b2=settings.b2, weight_decay=settings.weight_decay, mask=_is_matrix),
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step_of(state: TrainState, fixed: Any, batch: Any):
        (value, facts), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, fixed, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = optax.apply_updates(state.params, updates)
        facts = facts | {"grad_norm": optax.global_norm(gradients)}
        return TrainState(state.step + 1, new, opt_state, state.key, state.position + 1), value, facts

    # Donated below; the caller's arrays stay his.
    params = jax.tree.map(jnp.array, params)
    state = new_state(params, optimizer.init(params), settings.seed)
    checkpoints = Checkpoints(directory / "checkpoints", keep=1)
    log = None
    try:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
        start = int(state.step)
        log = Log(directory, start)
        bar = tqdm(
            total=settings.num_steps, initial=start, unit="step", desc=directory.name, disable=not sys.stderr.isatty()
        )
        began, since = time.perf_counter(), start
        for step, batch in _prefetched(batch_of, start, settings.num_steps, pool):
            state, value, facts = step_of(state, fixed, batch)
            is_last = step == settings.num_steps
            if step % settings.log_every == 0 or is_last:
                row = {name: float(fact) for name, fact in facts.items()}
                row = {"step": step, "loss": float(value)} | row | {"rate": float(rate(step - 1))}
                if not np.isfinite(row["loss"]) or not np.isfinite(row["grad_norm"]):
                    raise NonFiniteLossError(f"stage {directory.name}, step {step}: loss {row['loss']}")
                row["seconds_per_step"] = (time.perf_counter() - began) / (step - since)
                if evaluate and (is_last or (settings.eval_every and step % settings.eval_every == 0)):
                    row |= evaluate(state.params)
                log.write(row)
                began, since = time.perf_counter(), step
            bar.update()
            if is_last or step % settings.checkpoint_every == 0:
                checkpoints.save(step, state)
        bar.close()
    finally:
        if log is not None:
            log.close()
        checkpoints.close()
    return state.params


def _prefetched(
    batch_of: Callable[[int], Any], start: int, num_steps: int, pool: concurrent.futures.Executor | None
) -> Iterator[tuple[int, Any]]:
    """Yield (step, batch), the next ones being made meanwhile."""
    with contextlib.ExitStack() as stack:
        ahead = _BATCHES_AHEAD
        if pool is None:
            pool, ahead = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)), 1
        positions = iter(range(start, num_steps))
        waiting = collections.deque(pool.submit(batch_of, position) for position in itertools.islice(positions, ahead))
        for step in range(start + 1, num_steps + 1):
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(batch_of, position) for position in itertools.islice(positions, 1))
            yield step, batch


def _is_matrix(params: Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
