"""One stage of the mini model's training: `train.loop` over any loss and any batches.

Fine-tuning trains the parts of a whole model on records; the stages train other things first (dense heads, a projector
on word sums, packed questions on given tokens).
"""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bat_jax.train.loop import Log, LoopSettings, Loss, StepResult, Trainer, plain_gradients, run
from bat_jax.train.optimizer import init_optimizer, learning_rates, make_optimizer
from bat_jax.train.recipe import AdamWSettings
from bat_jax.train.state import TrainState
from bat_jax.typing import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSettings(AdamWSettings):
    """How a stage is trained.

    Attributes:
      num_steps: optimiser steps. rate: peak learning rate of all parts. seed: of the order of the data.
      checkpoint_every, log_every, eval_every: see LoopSettings; the newest checkpoint stays.
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

    `fixed` are arrays that the loss reads and nobody changes, such as frozen weights and features; for the others see
    `train.loop.run`.

    Raises:
      NonFiniteLossError: names stage and step.
    """
    rates = dict.fromkeys(params, settings.rate)
    optimizer = make_optimizer(settings, rates, settings.num_steps)
    params = jax.tree.map(jnp.array, params)  # a copy, which the first step takes over
    state = TrainState(jnp.int32(0), params, init_optimizer(optimizer, params))
    trainer = Trainer(plain_gradients(loss), optimizer, state, fixed)

    def row_of(step: int, batch: Any, result: StepResult, seconds: float, log: Log) -> dict[str, float]:
        facts = {name: float(fact) for name, fact in result.facts.items()}
        return facts | learning_rates(settings, rates, settings.num_steps, step)

    kept = LoopSettings(
        directory=directory,
        checkpoint_every=settings.checkpoint_every,
        keep_checkpoints=1,
        log_every=settings.log_every,
        eval_every=settings.eval_every,
        resume=True,
    )

    def measure() -> dict[str, float]:
        return evaluate(trainer.state.params) if evaluate else {}

    run(kept, settings.num_steps, trainer, batch_of, row_of, measure, pool)
    return trainer.state.params
