"""Fine-tuning of a whole model on records: what `train.loop` runs, over a mesh of devices.

A step of the optimiser: gradients of the sum of the samples' losses, micro-batch after micro-batch, divided by the
weight of the whole batch; so accumulation changes nothing but memory.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from bat_jax.benchmarks.stored_images import StoredImage
from bat_jax.config import BatConfig
from bat_jax.data.llava import RecordSource
from bat_jax.engine.stages import peak_device_bytes, peak_host_bytes
from bat_jax.io.views import normalisation_table
from bat_jax.train import sharding as shard
from bat_jax.train.batches import BatchMaker, HostBatch
from bat_jax.train.loop import Gradients, Log, LoopSettings, NonFiniteLossError, StepResult, Trainer, run
from bat_jax.train.loss import SampleLoss, TrainingSample, batch_loss, training_config
from bat_jax.train.optimizer import init_optimizer, learning_rates, make_optimizer, split_params
from bat_jax.train.recipe import TrainConfig
from bat_jax.train.state import TrainState
from bat_jax.typing import Array, Float, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """params: trained and frozen parts, on the device. num_steps: done in all. num_skipped: records left out since the
    (re)start, on all hosts. last_loss: of the last step, None where there was none left to do. held_out: (step, loss)
    on records that are not trained on, before the first step and behind the last, as far as this (re)start came by.
    """

    params: Params
    num_steps: int
    num_skipped: int
    last_loss: float | None
    held_out: tuple[tuple[int, float], ...] = ()


def batch_gradients(
    losses_of: Callable[[Params, Any, TrainingSample], tuple[Float[Array, ""], SampleLoss]],
    accumulation: int,
    constrain: Callable[[Any], Any],
) -> Gradients:
    """Return the gradients of the mean loss of a batch with leaves (accumulation, samples, ...), weighted.

    Facts are the losses of every sample, leaves (accumulation, samples). `losses_of` gives (weighted sum, losses) of a
    micro-batch, `constrain` puts gradients into their shards.
    """

    def gradients_of(params: Params, fixed: Any, batch: TrainingSample):
        def gradient(samples):
            (total, losses), gradients = jax.value_and_grad(losses_of, has_aux=True)(params, fixed, samples)
            return constrain(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradients)), total, losses

        def add(sums, samples):
            gradients, total, losses = gradient(samples)
            return jax.tree.map(jnp.add, sums, (gradients, total)), losses

        if accumulation == 1:
            gradients, total, losses = gradient(jax.tree.map(lambda leaf: leaf[0], batch))
            losses = jax.tree.map(lambda leaf: leaf[None], losses)
        else:
            zeros = constrain(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params))
            (gradients, total), losses = jax.lax.scan(add, (zeros, jnp.float32(0)), batch)
        weight = jnp.maximum(jnp.sum(batch.weight), 1.0)
        return jax.tree.map(lambda leaf: leaf / weight, gradients), total / weight, (losses, batch.weight)

    return gradients_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLayout:
    """A fine-tuning's step, and where everything lives on a mesh.

    Attributes:
      losses_of: (trained, fixed, samples) -> (weighted sum, losses). gradients_of: of a batch. init: trained weights ->
        the optimiser's state. state: the shardings of a TrainState. fixed: those of the arrays that nobody changes.
      whole: the sharding of what every device holds whole.
    """

    losses_of: Callable[[Params, Any, TrainingSample], tuple[Float[Array, ""], SampleLoss]]
    gradients_of: Gradients
    optimizer: optax.GradientTransformation
    init: Callable[[Params], Any]
    state: TrainState
    fixed: dict[str, Any]
    whole: NamedSharding


def step_layout(
    cfg: BatConfig, recipe: TrainConfig, trained: Params, frozen: Params, mesh: Mesh, num_steps: int
) -> StepLayout:
    """Return the step of a training of `num_steps`; of the weights only shapes are read."""
    optimizer, whole = make_optimizer(recipe, recipe.rates, num_steps), shard.replicated(mesh)
    init = functools.partial(init_optimizer, optimizer)
    weights_shards = shard.weights_sharding(recipe, mesh, trained)
    opt_shards = shard.optimizer_sharding(recipe, mesh, jax.eval_shape(init, trained))

    def losses_of(trained: Params, fixed: dict[str, Any], samples: TrainingSample):
        key = jax.random.key(recipe.seed)
        return batch_loss(cfg, recipe, fixed["table"], fixed["frozen"] | trained, key, samples)

    gradient_shards = shard.optimizer_sharding(recipe, mesh, trained)
    constrain = functools.partial(jax.lax.with_sharding_constraint, shardings=gradient_shards)
    return StepLayout(
        losses_of=losses_of,
        gradients_of=batch_gradients(losses_of, recipe.accumulation, constrain),
        optimizer=optimizer,
        init=init,
        state=TrainState._make([whole, weights_shards, opt_shards]),
        fixed={"frozen": shard.weights_sharding(recipe, mesh, frozen), "table": whole},
        whole=whole,
    )


class FineTuning(Trainer):
    """A model in training: weights placed on a mesh, and what is measured on the way.

    Attributes:
      num_skipped: records left out since the (re)start, on all hosts. last_loss: of the last step, None before it.
    """

    def __init__(
        self, cfg: BatConfig, recipe: TrainConfig, params: Params, maker: BatchMaker, mesh: Mesh, num_steps: int
    ):
        """Place weights (host arrays of all parts) and optimiser on the mesh; `num_steps` of the whole training."""
        self.recipe, self.mesh, self.maker, self.num_steps = recipe, mesh, maker, num_steps
        self.num_skipped = 0
        self.last_loss: float | None = None
        trained, frozen = split_params(recipe, params)
        if recipe.master_weights:
            trained = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained)
        layout = step_layout(cfg, recipe, trained, frozen, mesh, num_steps)
        trained = shard.put(trained, layout.state.params)
        opt_state = jax.jit(layout.init, out_shardings=layout.state.opt_state)(trained)
        fixed = shard.put({"frozen": frozen, "table": normalisation_table(cfg.vision)}, layout.fixed)

        def held_out_losses(trained: Params, fixed: dict[str, Any], batch: TrainingSample):
            """Return (sum of the answers' losses over the samples of weight 1, how many these are)."""
            answer = jax.lax.map(lambda samples: layout.losses_of(trained, fixed, samples)[1].answer, batch)
            return jnp.sum(jnp.where(batch.weight > 0, answer, 0.0)), jnp.sum(batch.weight)

        super().__init__(
            layout.gradients_of,
            layout.optimizer,
            TrainState(shard.put(np.int32(0), layout.whole), trained, opt_state),
            fixed,
            (layout.state, layout.whole),
        )
        self._held_out_losses = jax.jit(held_out_losses, out_shardings=layout.whole)

    @property
    def params(self) -> dict[str, Any]:
        """All parts, trained and frozen."""
        return self.fixed["frozen"] | self.state.params

    def step(self, batch: HostBatch) -> StepResult:
        """Do a step on the samples of all processes."""
        return super().step(self._placed(self.maker, batch))

    def held_out_loss(self, maker: BatchMaker) -> float:
        """Return the mean answer loss over every record of a source that can be used, nan where there is none."""
        total = num_used = 0.0
        for position in range(math.ceil(len(maker.source) / self.recipe.batch_size)):
            batch = self._placed(maker, maker(position))
            loss, num = jax.tree.map(float, self._held_out_losses(self.state.params, self.fixed, batch))
            total, num_used = total + loss, num_used + num
        return total / num_used if num_used else math.nan

    def row(self, step: int, batch: HostBatch, result: StepResult, seconds: float, log: Log) -> dict[str, Any]:
        """Return a step's metrics, and log what was left out.

        Raises:
          NonFiniteLossError: the loss or the gradient is not finite; names the samples.
          ValueError: no record of the first batch can be used.
        """
        losses, weight = result.facts
        used = weight > 0
        num_used = int(np.sum(used))
        log.skip(step, batch.skipped)
        _check_finite(step, batch, result)
        if not num_used and self.last_loss is None:
            first = batch.skipped[0].reason if batch.skipped else "see the other hosts' skipped-*.jsonl"
            raise ValueError(f"step {step}: no record of the first batch can be used; the first one: {first}")
        self.num_skipped += batch.num_records - num_used
        self.last_loss = float(result.loss)
        num_tokens = float(np.sum(losses.num_rows[used]))
        with_target = used & (losses.importance_mass > 0)
        row = {
            "epoch": round(self.maker.epoch_of(step), 6),
            "answer_loss": float(np.sum(losses.answer[used])) / max(num_used, 1),
            "samples": num_used,
            "targets": int(np.sum(losses.num_targets[used])),
            "tokens": int(num_tokens),
            "tokens_per_s": num_tokens / seconds,
            "memory_bytes": peak_device_bytes() or peak_host_bytes(),
            "left_out": self.num_skipped,
        }
        if np.any(with_target):
            row["importance_mass"] = float(np.mean(losses.importance_mass[with_target]))
            row["importance_loss"] = float(np.mean(losses.importance[with_target]))
        return row | learning_rates(self.recipe, self.recipe.rates, self.num_steps, step)

    def _placed(self, maker: BatchMaker, batch: HostBatch) -> TrainingSample:
        return shard.global_batch(self.mesh, batch.samples, maker.columns, maker.num_columns)


def _check_finite(step: int, batch: HostBatch, result: StepResult) -> None:
    losses, weight = result.facts
    totals = np.where(weight > 0, losses.total, 0).reshape(-1)
    guilty = [batch.ids[slot] for slot in np.flatnonzero(~np.isfinite(totals))]
    if not guilty and np.isfinite(result.loss) and np.isfinite(result.grad_norm):
        return
    what = "loss" if guilty else "gradient"
    ids = guilty or [name for name, is_used in zip(batch.ids, weight.reshape(-1), strict=True) if is_used]
    raise NonFiniteLossError(
        f"step {step}: the {what} is not finite; samples {', '.join(ids)}; nothing of this step is kept, the last "
        "checkpoint is"
    )


def train(
    cfg: BatConfig,
    recipe: TrainConfig,
    params: Params,
    tokenizer: Any,
    source: RecordSource,
    images: str | pathlib.Path | Callable[[str], StoredImage],
    settings: LoopSettings,
    mesh: Mesh | None = None,
    budgets: Callable[[int], Any] | None = None,
    held_out: RecordSource | None = None,
) -> TrainResult:
    """Train a model to the end of its recipe.

    Args:
      cfg: the model's config as loaded. params: its weights. mesh: `sharding.make_mesh(cfg)` by default.
      images, budgets: see BatchMaker. held_out: records to measure the loss on before and after.

    Raises:
      ValueError: the recipe does not fit model, mesh or data; no sample of the first batch can be used.
      NonFiniteLossError: names the step and the samples.
    """
    cfg = training_config(cfg, recipe)
    mesh = shard.make_mesh(cfg) if mesh is None else mesh
    num_steps = recipe.num_steps(len(source))
    columns = shard.local_columns(mesh, recipe.batch_size // recipe.accumulation)
    maker = BatchMaker(cfg, recipe, tokenizer, source, images, columns=columns, budgets=budgets)
    trainer = FineTuning(cfg, recipe, params, maker, mesh, num_steps)
    evaluate, held_out_losses = None, []
    if held_out:
        held_out_maker = BatchMaker(cfg, recipe, tokenizer, held_out, images, columns=columns)

        def evaluate() -> dict[str, float]:
            loss = trainer.held_out_loss(held_out_maker)
            held_out_losses.append((int(trainer.state.step), loss))
            return {"held_out_loss": loss}

    run(dataclasses.replace(settings, eval_first=True), num_steps, trainer, maker, trainer.row, evaluate)
    return TrainResult(
        params=trainer.params,
        num_steps=num_steps,
        num_skipped=trainer.num_skipped,
        last_loss=trainer.last_loss,
        held_out=tuple(held_out_losses),
    )
