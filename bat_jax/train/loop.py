"""The training loop: batches in, checkpoints, JSONL and TensorBoard metrics out; the same on one host and on many.

    DIR/metrics.jsonl        one line a step: losses, gradient norm, rates, tokens/s, memory, samples left out
    DIR/skipped-00000.jsonl  one line a record that could not be used, per process
    DIR/tensorboard/         the same numbers
    DIR/checkpoints/         the state, see train/state.py

A step of the optimiser: gradients of the sum of the samples' losses, micro-batch after micro-batch, divided by the
weight of the whole batch; so accumulation changes nothing but memory.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tensorboardX import SummaryWriter
from tqdm import tqdm

from bat_jax.config import BatConfig
from bat_jax.data.llava import RecordSource
from bat_jax.engine.stages import peak_device_bytes
from bat_jax.io.views import normalisation_table
from bat_jax.train import sharding as shard
from bat_jax.train.batches import BatchMaker, HostBatch
from bat_jax.train.loss import SampleLoss, TrainingSample, batch_loss, training_config
from bat_jax.train.optimizer import apply_gradients, init_optimizer, learning_rates, make_optimizer, split_params
from bat_jax.train.recipe import TrainConfig
from bat_jax.train.state import Checkpoints, TrainState, new_state
from bat_jax.typing import Array, Float, Params


class NonFiniteLossError(ValueError):
    """The loss or the gradient became NaN or infinite; the message names the step and the samples."""


class StepResult(NamedTuple):
    """loss (): weighted mean over the batch. grad_norm (): before clipping. samples: losses (accumulation, samples).

    weight (accumulation, samples): 0 for empty slots and records left out, on whichever host.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    samples: SampleLoss
    weight: Float[Array, "A B"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How a run is kept, as opposed to what it computes.

    Attributes:
      directory: of metrics and checkpoints. checkpoint_every: steps between checkpoints; the last step has one.
      keep_checkpoints: how many stay. resume: go on from the newest checkpoint, or begin where there is none.
      progress: show a bar on stderr.
    """

    directory: pathlib.Path
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    resume: bool = False
    progress: bool = True


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


def train_step(
    cfg: BatConfig,
    recipe: TrainConfig,
    optimizer: optax.GradientTransformation,
    constrain: Callable[[Any], Any],
    table: Float[Array, "256 3"],
    frozen: Params,
    state: TrainState,
    batch: TrainingSample,
) -> tuple[TrainState, StepResult]:
    """Do one step of the optimiser.

    Args:
      constrain: puts gradients into their shards (`sharding.optimizer_sharding`).
      batch: leaves (accumulation, samples, ...).
    """

    def loss_of(trained, samples):
        return batch_loss(cfg, recipe, table, frozen | trained, state.key, samples)

    def gradient(samples):
        (total, losses), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params, samples)
        return constrain(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradients)), total, losses

    def add(sums, samples):
        gradients, total, losses = gradient(samples)
        return jax.tree.map(jnp.add, sums, (gradients, total)), losses

    if recipe.accumulation == 1:
        gradients, total, losses = gradient(jax.tree.map(lambda leaf: leaf[0], batch))
        losses = jax.tree.map(lambda leaf: leaf[None], losses)
    else:
        zeros = constrain(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), state.params))
        (gradients, total), losses = jax.lax.scan(add, (zeros, jnp.float32(0)), batch)
    weight = jnp.maximum(jnp.sum(batch.weight), 1.0)
    gradients = jax.tree.map(lambda leaf: leaf / weight, gradients)
    params, opt_state = apply_gradients(optimizer, gradients, state.opt_state, state.params)
    state = TrainState(state.step + 1, params, opt_state, state.key, state.position + 1)
    return state, StepResult(total / weight, optax.global_norm(gradients), losses, batch.weight)


def held_out_losses(
    cfg: BatConfig,
    recipe: TrainConfig,
    table: Float[Array, "256 3"],
    frozen: Params,
    state: TrainState,
    batch: TrainingSample,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return (sum of the answers' losses over the samples of weight 1, how many these are); nothing is learnt."""

    def losses_of(samples):
        return batch_loss(cfg, recipe, table, frozen | state.params, state.key, samples)[1].answer

    answer = jax.lax.map(losses_of, batch)
    return jnp.sum(jnp.where(batch.weight > 0, answer, 0.0)), jnp.sum(batch.weight)


class Trainer:
    """Holds a model in training: placed weights, compiled step, checkpoints."""

    def __init__(
        self, cfg: BatConfig, recipe: TrainConfig, params: Params, maker: BatchMaker, mesh: Mesh, num_steps: int
    ):
        """Place weights and optimiser on the mesh.

        Args:
          cfg: from `loss.training_config`. params: host arrays of all parts. maker: of this process's columns.
          num_steps: of the whole training, for the schedule.
        """
        self.cfg, self.recipe, self.mesh, self.maker, self.num_steps = cfg, recipe, mesh, maker, num_steps
        trained, frozen = split_params(recipe, params)
        if recipe.master_weights:
            trained = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained)
        self.optimizer = make_optimizer(recipe, num_steps)
        opt_abstract = jax.eval_shape(functools.partial(init_optimizer, self.optimizer), trained)
        opt_shards = shard.optimizer_sharding(recipe, mesh, opt_abstract)
        trained = shard.put(trained, shard.weights_sharding(recipe, mesh, trained))
        self.frozen = shard.put(frozen, shard.weights_sharding(recipe, mesh, frozen))
        opt_state = jax.jit(functools.partial(init_optimizer, self.optimizer), out_shardings=opt_shards)(trained)
        whole = shard.replicated(mesh)
        state = new_state(trained, opt_state, recipe.seed)
        small = {"step": state.step, "key": state.key, "position": state.position}
        self.state = state._replace(**jax.jit(lambda tree: tree, out_shardings=whole)(small))
        table = normalisation_table(cfg.vision)
        self._table = jax.device_put(table, whole) if jax.process_count() == 1 else table
        gradient_shards = shard.optimizer_sharding(recipe, mesh, trained)
        self._step = jax.jit(
            functools.partial(
                train_step,
                cfg,
                recipe,
                self.optimizer,
                lambda gradients: jax.lax.with_sharding_constraint(gradients, gradient_shards),
            ),
            out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, self.state), whole),
            donate_argnums=(2,),
        )

        self._losses = jax.jit(functools.partial(held_out_losses, cfg, recipe), out_shardings=whole)

    @property
    def params(self) -> dict[str, Any]:
        """All parts, trained and frozen."""
        return self.frozen | self.state.params

    def step(self, batch: HostBatch) -> StepResult:
        """Do one step and wait for it; results are host arrays.

        Raises:
          NonFiniteLossError: the loss or the gradient is not finite. The state is then spoilt.
        """
        samples = shard.global_batch(self.mesh, batch.samples, self.maker.columns, self.maker.num_columns)
        self.state, result = self._step(self._table, self.frozen, self.state, samples)
        result = jax.tree.map(np.asarray, result)
        self._check_finite(batch, result)
        return result

    def held_out_loss(self, maker: BatchMaker) -> float:
        """Return the mean answer loss over every record of a source that can be used, nan where there is none.

        Args:
          maker: of this process's columns, as the trainer's own.
        """
        total = num_used = 0.0
        for position in range(math.ceil(len(maker.source) / self.recipe.batch_size)):
            batch = shard.global_batch(self.mesh, maker(position).samples, maker.columns, maker.num_columns)
            losses = self._losses(self._table, self.frozen, self.state, batch)
            loss, num = jax.tree.map(float, losses)
            total, num_used = total + loss, num_used + num
        return total / num_used if num_used else math.nan

    def _check_finite(self, batch: HostBatch, result: StepResult) -> None:
        totals = np.where(result.weight > 0, result.samples.total, 0).reshape(-1)
        guilty = [batch.ids[slot] for slot in np.flatnonzero(~np.isfinite(totals))]
        if not guilty and np.isfinite(result.loss) and np.isfinite(result.grad_norm):
            return
        what = "loss" if guilty else "gradient"
        ids = guilty or [name for name, weight in zip(batch.ids, result.weight.reshape(-1), strict=True) if weight]
        raise NonFiniteLossError(
            f"step {int(self.state.step)}: the {what} is not finite; samples {', '.join(ids)}; nothing of this step is "
            "kept, the last checkpoint is"
        )


def train(
    cfg: BatConfig,
    recipe: TrainConfig,
    params: Params,
    tokenizer: Any,
    source: Any,
    image_dir: str | pathlib.Path,
    settings: LoopSettings,
    mesh: Mesh | None = None,
    budgets: Callable[[int], Any] | None = None,
    held_out: RecordSource | None = None,
) -> TrainResult:
    """Train a model to the end of its recipe.

    Args:
      cfg: the model's config as loaded. params: its weights. source: records (`data.llava.RecordSource`).
      mesh: `sharding.make_mesh()` by default. budgets: see BatchMaker. held_out: records to measure the loss on before
        and after; their images are in the same folder.

    Raises:
      ValueError: the recipe does not fit model, mesh or data; no sample of the first batch can be used.
      NonFiniteLossError: names the step and the samples.
    """
    cfg = training_config(cfg, recipe)
    mesh = shard.make_mesh() if mesh is None else mesh
    num_steps = recipe.num_steps(len(source))
    columns = shard.local_columns(mesh, recipe.batch_size // recipe.accumulation)
    maker = BatchMaker(cfg, recipe, tokenizer, source, image_dir, columns=columns, budgets=budgets)
    trainer = Trainer(cfg, recipe, params, maker, mesh, num_steps)
    held_out_maker = held_out and BatchMaker(cfg, recipe, tokenizer, held_out, image_dir, columns=columns)
    num_skipped, loss, held_out_rows = 0, None, []
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(settings.directory / "checkpoints", settings.keep_checkpoints)
        stack.callback(checkpoints.close)
        if settings.resume and checkpoints.latest_step is not None:
            trainer.state = checkpoints.restore(trainer.state)
        start = int(trainer.state.step)
        log = stack.enter_context(contextlib.closing(Log(settings.directory, start)))

        def measure(step: int) -> None:
            if held_out_maker:
                held_out_rows.append((step, trainer.held_out_loss(held_out_maker)))
                log.write({"step": step, "held_out_loss": held_out_rows[-1][1]})

        if start == 0:
            measure(0)
        bar = tqdm(total=num_steps, initial=start, unit="step", disable=not settings.progress, file=sys.stderr)
        stack.callback(bar.close)
        began = time.perf_counter()
        for step, batch in _prefetched(maker, int(trainer.state.position), start, num_steps):
            log.skip(step, batch)
            result = trainer.step(batch)
            num_used = int(np.sum(result.weight))
            if not num_used and loss is None:
                first = batch.skipped[0].reason if batch.skipped else "see the other hosts' skipped-*.jsonl"
                raise ValueError(f"step {step}: no record of the first batch can be used; the first one: {first}")
            num_skipped += batch.num_records - num_used
            seconds, began = time.perf_counter() - began, time.perf_counter()
            row = _metrics(recipe, num_steps, step, maker.epoch_of(step), batch, result, seconds, num_skipped)
            loss = row["loss"]
            log.write(row)
            memory = row["memory_bytes"] / 2**30
            bar.set_postfix_str(
                f"loss {loss:.4f}, {row['tokens_per_s']:.0f} tokens/s, {memory:.1f} GiB, {num_skipped} left out"
            )
            bar.update()
            if step == num_steps or step % settings.checkpoint_every == 0:
                checkpoints.save(step, trainer.state)
        measure(num_steps)
    return TrainResult(
        params=trainer.params,
        num_steps=num_steps,
        num_skipped=num_skipped,
        last_loss=loss,
        held_out=tuple(held_out_rows),
    )


def _prefetched(maker: BatchMaker, position: int, start: int, num_steps: int) -> Iterator[tuple[int, HostBatch]]:
    """Yield (step, batch) to the end; the next batch is read while this one trains."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = collections.deque()
        for step in range(start + 1, num_steps + 1):
            if not waiting:
                waiting.append(pool.submit(maker, position))
            if step < num_steps:
                waiting.append(pool.submit(maker, position + 1))
            position += 1
            yield step, waiting.popleft().result()


def _metrics(
    recipe: TrainConfig,
    num_steps: int,
    step: int,
    epoch: float,
    batch: HostBatch,
    result: StepResult,
    seconds: float,
    num_skipped: int,
) -> dict[str, Any]:
    used = result.weight > 0
    count = max(int(np.sum(used)), 1)
    num_tokens = float(np.sum(result.samples.num_rows[used]))
    with_target = used & (result.samples.importance_mass > 0)
    row = {
        "step": step,
        "epoch": round(epoch, 6),
        "loss": float(result.loss),
        "answer_loss": float(np.sum(result.samples.answer[used])) / count,
        "grad_norm": float(result.grad_norm),
        "samples": int(np.sum(used)),
        "targets": int(np.sum(result.samples.num_targets[used])),
        "tokens": int(num_tokens),
        "seconds": seconds,
        "tokens_per_s": num_tokens / seconds,
        "memory_bytes": peak_device_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "left_out": num_skipped,
    }
    if np.any(with_target):
        row["importance_mass"] = float(np.mean(result.samples.importance_mass[with_target]))
        row["importance_loss"] = float(np.mean(result.samples.importance[with_target]))
    # The rate that this step used: the schedule counts from 0.
    return row | {f"rate_{part}": rate for part, rate in learning_rates(recipe, num_steps, step - 1).items()}


class Log:
    """Metrics as JSON lines and TensorBoard events (process 0), and every process's own list of skipped records.

    Opened at a step, it drops what an interrupted run wrote behind it, so that a resumed log has no step twice.
    """

    def __init__(self, directory: pathlib.Path, start: int):
        directory.mkdir(parents=True, exist_ok=True)
        self._skipped = _reopened(directory / f"skipped-{jax.process_index():05d}.jsonl", start)
        self._metrics = self._board = None
        if jax.process_index() == 0:
            self._metrics = _reopened(directory / "metrics.jsonl", start)
            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, row: dict[str, Any]) -> None:
        """Write the metrics of a step."""
        if self._metrics is None:
            return
        self._metrics.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self._board.add_scalar(name, value, row["step"])

    def skip(self, step: int, batch: HostBatch) -> None:
        """Write which records of a step's batch were left out, and why."""
        for record in batch.skipped:
            self._skipped.write(json.dumps({"step": step} | dataclasses.asdict(record)) + "\n")

    def close(self) -> None:
        """Close the files."""
        self._skipped.close()
        if self._metrics is not None:
            self._metrics.close()
            self._board.close()


def _reopened(path: pathlib.Path, start: int) -> Any:
    """Open a JSONL file to append behind the lines of steps up to `start`; half a line of a killed run is dropped."""
    kept = []
    if start and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                is_past = json.loads(line)["step"] <= start
            except (ValueError, KeyError):
                is_past = False
            kept += [line + "\n"] if is_past else []
    stage = path.with_suffix(".partial")
    stage.write_text("".join(kept), encoding="utf-8")
    os.replace(stage, path)
    return open(path, "a", encoding="utf-8", buffering=1)
