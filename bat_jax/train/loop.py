"""The training loop of a whole model's fine-tuning and of the curriculum's stages, on one host and on many.

    DIR/metrics.jsonl        a line every `log_every` steps: losses, gradient norm, rates, what a training adds
    DIR/skipped-00000.jsonl  one line a record that could not be used, per process
    DIR/tensorboard/         the same numbers
    DIR/checkpoints/         the state, see train/state.py

A batch is a function of its position, and the step is the position, so a run killed at any moment goes on from its
newest checkpoint as if nothing had happened.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from bat_jax.progress import Progress
from bat_jax.train.optimizer import apply_gradients
from bat_jax.train.state import Checkpoints, TrainState
from bat_jax.typing import Array, Float, Params

# (trained, fixed, batch) -> (loss, facts about it)
Loss = Callable[[Params, Any, Any], tuple[jax.Array, Any]]
# (trained, fixed, batch) -> (gradients, loss, facts)
Gradients = Callable[[Params, Any, Any], tuple[Params, jax.Array, Any]]

# Metrics that stand beside the bar.
_SHOWN = ("loss", "tokens_per_s", "left_out")
# Batches that a pool of processes is asked for before they are needed.
_BATCHES_AHEAD = 48


class NonFiniteLossError(ValueError):
    """The loss or the gradient became NaN or infinite; the message names the step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How a run is kept, as opposed to what it computes.

    Attributes:
      directory: of metrics and checkpoints. keep_checkpoints: how many stay.
      checkpoint_every, log_every, eval_every: in steps; the last step has all three. eval_every=0: it alone.
      eval_first: evaluate before the first step, too.
      resume: go on from the newest checkpoint, or begin where there is none. progress: show a bar on stderr.
    """

    directory: pathlib.Path
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    log_every: int = 1
    eval_every: int = 0
    eval_first: bool = False
    resume: bool = False
    progress: bool = True


class StepResult(NamedTuple):
    """loss (): of the batch. grad_norm (): before clipping. facts: what the loss returns beside it."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    facts: Any


def plain_gradients(loss: Loss) -> Gradients:
    """Return the gradients of a loss."""

    def gradients_of(params: Params, fixed: Any, batch: Any):
        (value, facts), gradients = jax.value_and_grad(loss, has_aux=True)(params, fixed, batch)
        return gradients, value, facts

    return gradients_of


def train_step(
    gradients_of: Gradients, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any, Any], tuple[TrainState, StepResult]]:
    """Return a step of the optimiser as a pure function of (state, fixed arrays, batch)."""

    def step(state: TrainState, fixed: Any, batch: Any) -> tuple[TrainState, StepResult]:
        gradients, loss, facts = gradients_of(state.params, fixed, batch)
        params, opt_state = apply_gradients(optimizer, gradients, state.opt_state, state.params)
        return TrainState(state.step + 1, params, opt_state), StepResult(loss, optax.tree.norm(gradients), facts)

    return step


class Trainer:
    """Weights and optimiser, and the compiled step that changes them.

    Attributes:
      state: as it is after the steps so far. fixed: arrays that the loss reads and nobody changes.
    """

    def __init__(
        self,
        gradients_of: Gradients,
        optimizer: optax.GradientTransformation,
        state: TrainState,
        fixed: Any,
        shardings: Any = None,
    ):
        """Wrap a state, whose arrays the first step takes over; `shardings` are of (TrainState, StepResult)."""
        self.state, self.fixed = state, fixed
        self._step = jax.jit(train_step(gradients_of, optimizer), donate_argnums=0, out_shardings=shardings)

    def step(self, batch: Any) -> StepResult:
        """Begin a step; results are arrays on the device."""
        self.state, result = self._step(self.state, self.fixed, batch)
        return result


def run(
    settings: LoopSettings,
    num_steps: int,
    trainer: Trainer,
    batch_of: Callable[[int], Any],
    row_of: Callable[[int, Any, StepResult, float, "Log"], dict[str, Any]],
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    pool: concurrent.futures.Executor | None = None,
) -> None:
    """Train to the last step.

    Args:
      batch_of: position -> batch on the host; called in a thread, in order, one batch ahead.
      row_of: (step, batch, result, seconds a step, log) -> metrics of a logged step beside the loop's own.
      evaluate: its numbers go into the log.
      pool: makes batches in its processes instead, several ahead; `batch_of` has to be picklable then.

    Raises:
      NonFiniteLossError: names folder and step; nothing of that step is kept, the last checkpoint is.
    """
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(settings.directory / "checkpoints", settings.keep_checkpoints))
        )
        if settings.resume and checkpoints.latest_step is not None:
            trainer.state = checkpoints.restore(trainer.state)
        start = int(trainer.state.step)
        log = stack.enter_context(contextlib.closing(Log(settings.directory, start)))
        if evaluate and settings.eval_first and start == 0:
            log.write({"step": 0, **evaluate()})
        bar = stack.enter_context(
            Progress(
                total=num_steps, initial=start, unit="step", desc=settings.directory.name, disable=not settings.progress
            )
        )
        began, since = time.perf_counter(), start
        for step, batch in _prefetched(batch_of, start, num_steps, pool):
            result = trainer.step(batch)
            is_last = step == num_steps
            if is_last or step % settings.log_every == 0:
                result = jax.tree.map(np.asarray, result)
                seconds = (time.perf_counter() - began) / (step - since)
                row = {"step": step, "loss": float(result.loss), "grad_norm": float(result.grad_norm)}
                row |= {"seconds": seconds, **row_of(step, batch, result, seconds, log)}
                if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
                    raise NonFiniteLossError(f"{settings.directory.name}, step {step}: loss {row['loss']}")
                bar.set_postfix_str(", ".join(f"{name} {row[name]:.5g}" for name in _SHOWN if name in row))
                if evaluate and (is_last or (settings.eval_every and step % settings.eval_every == 0)):
                    row |= evaluate()
                log.write(row)
                began, since = time.perf_counter(), step
            bar.update()
            if is_last or step % settings.checkpoint_every == 0:
                checkpoints.save(step, trainer.state)


def _prefetched(
    batch_of: Callable[[int], Any], start: int, num_steps: int, pool: concurrent.futures.Executor | None
) -> Iterator[tuple[int, Any]]:
    """Yield (step, batch) to the end, the next ones being made meanwhile."""
    with contextlib.ExitStack() as stack:
        ahead = _BATCHES_AHEAD
        if pool is None:
            pool, ahead = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)), 1
        jobs = (pool.submit(batch_of, position) for position in range(start, num_steps))
        waiting = collections.deque(itertools.islice(jobs, ahead))
        for step in range(start + 1, num_steps + 1):
            batch = waiting.popleft().result()
            waiting.extend(itertools.islice(jobs, 1))
            yield step, batch


class Log:
    """Metrics as JSON lines and TensorBoard events (process 0), and every process's own list of skipped records.

    Opened at a step, it drops what an interrupted run wrote behind it, so that a resumed log has no step twice.
    """

    def __init__(self, directory: pathlib.Path, start: int):
        directory.mkdir(parents=True, exist_ok=True)
        self._skipped = _reopened(directory / f"skipped-{jax.process_index():05d}.jsonl", start)
        self._metrics: Any = None
        self._board: Any = None
        if jax.process_index() == 0:
            # It imports torch where that is installed, which processes that only make batches need not wait for.
            from tensorboardX import SummaryWriter

            self._metrics = _reopened(directory / "metrics.jsonl", start)
            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the metrics of a step."""
        if self._metrics is None:
            return
        self._metrics.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self._board.add_scalar(name, value, row["step"])

    def skip(self, step: int, records: Iterable[Any]) -> None:
        """Write which records (dataclasses) of a step's batch were left out, and why."""
        for record in records:
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
