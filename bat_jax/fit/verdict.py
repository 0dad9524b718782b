"""Whether a model fits a device, by how much, what would be the most that does, and what it should cost there."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from bat_jax.engine import cost
from bat_jax.engine.absent import absent_mesh
from bat_jax.engine.devices import DEVICES, DeviceFacts, find_device
from bat_jax.engine.mesh import mesh_axes, parse_axes
from bat_jax.fit import inference, training
from bat_jax.fit.abstract_run import AbstractRun, Programs, StageRow, bytes_of
from bat_jax.fit.limits import largest
from bat_jax.fit.work import QUANTITIES, FitWork, Quantity
from bat_jax.ops.on_mesh import HEADS
from bat_jax.train.recipe import TrainConfig

# What JAX takes of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
DEFAULT_MEMORY_FRACTION = 0.75
_DECODER_STAGES = ("anchor_prefix", "anchor_importance", "prefill", "generate")
# Products of these stages are exact in float32: done in float32, or as three of bfloat16 (ops/float32_product.py).
_FLOAT32_STAGES = ("region_partition", "preserve_merge")
# What the cost model counts apart and one program runs.
STAGES_OF_HALF = {
    "image": ("vision_tower", "scale_embedding", "region_partition", "anchor_prefix"),
    "question": ("anchor_importance", "preserve_merge", "token_mlp", "prefill", "generate"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitTarget:
    """Devices of one kind and how they are used.

    Attributes:
      axes: "data" and "model" (engine/mesh.py). compiled_for: another device of the architecture,
        whose programs stand for this one's.
    """

    device: str
    axes: Mapping[str, int]
    compiled_for: str | None = None

    @property
    def facts(self) -> DeviceFacts:
        return find_device(self.device)

    @property
    def num_devices(self) -> int:
        return self.axes["data"] * self.axes["model"]

    @property
    def mesh_name(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.axes.items())


class Trial(NamedTuple):
    """A number that was compiled, the stage with the highest peak then, and tiles and tokens of all views."""

    number: int
    peak: StageRow
    num_tiles: int
    num_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundLimit:
    """The most of something that fits, one of the trials. is_all: no more means anything, there may be room left."""

    number: int
    is_all: bool
    trials: tuple[Trial, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitVerdict:
    """The answer.

    Attributes:
      rows: memory by stage. weight_bytes: held throughout, a device. seconds: least time by stage, by the roofline.
      most: what was searched (`QUANTITIES`) -> the most that fits, all else as it is, and what was compiled for it.
    """

    target: FitTarget
    work: FitWork
    rows: tuple[StageRow, ...]
    weight_bytes: int
    seconds: Mapping[str, float]
    costs: Mapping[str, cost.Stage]
    most: Mapping[str, FoundLimit] = dataclasses.field(default_factory=dict)

    @property
    def peak(self) -> StageRow:
        return max(self.rows, key=lambda row: row.peak)

    @property
    def spare_bytes(self) -> int:
        """What is left of the memory that programs can have; negative where that is too little."""
        return self.target.facts.usable_bytes - self.peak.peak

    @property
    def fits(self) -> bool:
        return self.spare_bytes >= 0

    @property
    def first_question_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def further_question_s(self) -> float:
        return sum(self.seconds[name] for name in STAGES_OF_HALF["question"])

    @property
    def token_s(self) -> float:
        return self.seconds["generate"] / max(self.work.text.answer - 1, 1)

    def answer(self) -> str:
        """Return the answer in one line."""
        facts, number = self.target.facts, self.work.questions_at_once
        where = f"{self.target.device} ({self.target.mesh_name}{f', {number} questions at once' * (number > 1)})"
        peak = f"{gb(self.peak.peak)} of {gb(facts.usable_bytes)} GB a device, in {self.peak.name}"
        line = f"{where}: {'fits' if self.fits else 'DOES NOT FIT'}: {peak}; {gb(abs(self.spare_bytes))} GB "
        line += "to spare" if self.fits else "too little"
        if self.fits and facts.platform == "cuda" and self.peak.peak > DEFAULT_MEMORY_FRACTION * facts.memory_bytes:
            line += "; set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95"
        return line

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values: GB are 10^9 bytes, seconds are least times."""
        facts, work = self.target.facts, self.work
        stages = []
        for row in self.rows:
            sizes = {f"{name}_gb": getattr(row, name) / cost.GIGA for name in _SIZES}
            stage: dict[str, Any] = {"stage": row.name, "calls": row.calls, **sizes}
            parts = [name for name in STAGES_OF_HALF.get(row.name, (row.name,)) if name in self.costs]
            if parts:
                own = cost.together(row.name, (self.costs[name] for name in parts))
                stage |= {"tflop": own.flops / cost.TERA, "moved_gb": own.bytes / cost.GIGA}
                stage["least_s"] = sum(self.seconds[name] for name in parts)
            stages.append(stage)
        entry: dict[str, Any] = {
            "device": self.target.device,
            "title": facts.title,
            "compiled_for": self.target.compiled_for or self.target.device,
            "mesh": dict(self.target.axes),
            "fits": self.fits,
            "peak_gb": self.peak.peak / cost.GIGA,
            "peak_stage": self.peak.name,
            "device_gb": facts.memory_bytes / cost.GIGA,
            "usable_gb": facts.usable_bytes / cost.GIGA,
            "spare_gb": self.spare_bytes / cost.GIGA,
            "weights_gb": self.weight_bytes / cost.GIGA,
            "budgets": list(work.cfg.compressor.budgets),
            "kept_tokens": sum(work.cfg.compressor.budgets),
            "image_px": work.image_px,
            "tile_batch": work.tile_batch,
            "questions_at_once": work.questions_at_once,
            "text": dataclasses.asdict(work.text),
            "weights": work.cfg.decoder.weights,
            "stages_apart": work.stages_apart,
            "layers": work.layers,
            "stages": stages,
        }
        if work.recipe is not None:
            return entry | {"train": dataclasses.asdict(work.recipe)}
        entry["most"] = {name: _limit_json(limit) for name, limit in self.most.items()}
        if work.questions_at_once > 1:  # what they share in weights that are read, no cost model counts
            return entry
        times = {"first_question_s": self.first_question_s, "further_question_s": self.further_question_s}
        return entry | {"least": times | {"token_s": self.token_s}}


def _limit_json(limit: FoundLimit) -> dict[str, Any]:
    compiled = [
        {
            "number": trial.number,
            "peak_gb": trial.peak.peak / cost.GIGA,
            "peak_stage": trial.peak.name,
            "num_tiles": trial.num_tiles,
            "num_tokens": trial.num_tokens,
        }
        for trial in limit.trials
    ]
    return {"number": limit.number, "is_all": limit.is_all, "compiled": compiled}


_SIZES = ("arguments", "outputs", "temporaries", "held", "peak")


def gb(num_bytes: float) -> str:
    return f"{num_bytes / cost.GIGA:.1f}"


def parse_target(device: str, mesh: str | None) -> FitTarget:
    """Return what "h200", "v5e-4" (four chips that share one model) and "data=1,model=4" mean.

    Raises:
      ValueError: the device, an axis or a number is not known, or the two name different numbers of devices.
    """
    name, count = device, None
    if device not in DEVICES and "-" in device:
        name, _, digits = device.rpartition("-")
        if digits.isdigit() and int(digits):
            count = int(digits)
    if name not in DEVICES or (name != device and count is None):
        find_device(device)  # says what is known
    axes = parse_axes(mesh) if mesh else {"data": 1, "model": count or 1}
    target = FitTarget(device=name, axes=axes)
    if count not in (None, target.num_devices):
        raise ValueError(f"mesh={mesh}: has {target.num_devices} devices, device={device} has {count}")
    return target


def judge(target: FitTarget, work: FitWork, programs: Programs, search: Collection[str] = ()) -> FitVerdict:
    """Compile everything for a target and answer.

    Args:
      programs: what is compiled already. search: names of `QUANTITIES`, of which the most that fits is to be found.

    Raises:
      ValueError: work and mesh do not go together.
      NoCompilerError: the compiler for the device is not installed.
    """
    if work.recipe is not None:
        return _judge_training(target, work, work.recipe, programs)
    mesh = _mesh(target.compiled_for or target.device, tuple(mesh_axes(work.cfg, target.axes).items()))
    run, weight_bytes = _answered(mesh, work, programs)
    costs = cost.pipeline_stages(work.cfg, work.text)
    verdict = FitVerdict(
        target=target,
        work=work,
        rows=tuple(run.rows.values()),
        weight_bytes=weight_bytes,
        seconds=least_seconds(costs, target.facts, target.axes),
        costs=costs,
    )
    if not verdict.fits:
        return verdict
    most = {name: _most(QUANTITIES[name], mesh, verdict, programs) for name in search}
    return dataclasses.replace(verdict, most=most)


def _most(quantity: Quantity, mesh: Mesh, verdict: FitVerdict, programs: Programs) -> FoundLimit:
    work, target, trials = verdict.work, verdict.target, []

    def peak_of(number: int) -> int:
        changed = quantity.changed(work, target.num_devices, number)
        peak = _answered(mesh, changed, programs)[0].peak
        trials.append(Trial(number, peak, cost.num_tiles(changed.cfg), cost.total_tokens(changed.cfg)))
        return peak.peak

    known, most = quantity.number(work, target.num_devices), quantity.most(work, target.num_devices)
    number = largest(
        peak_of,
        known,
        verdict.peak.peak,
        target.facts.usable_bytes,
        base=verdict.weight_bytes,
        most=most,
        step=quantity.step(work, target.num_devices),
        power=quantity.power,
    )
    first = Trial(known, verdict.peak, cost.num_tiles(work.cfg), cost.total_tokens(work.cfg))
    return FoundLimit(number=number, is_all=most is not None and number >= most, trials=(first, *trials))


def _answered(mesh: Mesh, work: FitWork, programs: Programs) -> tuple[AbstractRun, int]:
    """Return the run of a first question, and the weights' bytes."""
    run, cfg, text = AbstractRun(mesh, programs), work.compiled_cfg, work.text
    params, of_all = (inference.abstract_params(some, mesh) for some in (cfg, work.cfg))
    params = run.hold(params)
    weight_bytes = sum(map(bytes_of, jax.tree.leaves(of_all)))
    run.hold(inference.room(weight_bytes - run.held))
    apart, questions = work.stages_apart, work.questions_at_once
    scene = inference.encode(run, cfg, params, text, work.image_px, work.tile_batch, stages_apart=apart)
    prompts = questions * (sum(cfg.compressor.budgets) + text.prompt + text.answer)
    slots = text.prefix + cost.num_tokens_of_anchor(cfg) + prompts
    run.hold(inference.room((cost.kv_bytes(work.cfg, slots) - cost.kv_bytes(cfg, slots)) // mesh.shape[HEADS]))
    inference.ask(run, cfg, params, scene, text, questions, stages_apart=apart)
    return run, weight_bytes


def _judge_training(target: FitTarget, work: FitWork, recipe: TrainConfig, programs: Programs) -> FitVerdict:
    run = AbstractRun(_mesh(target.device, tuple(mesh_axes(work.cfg, target.axes).items())), programs)
    weight_bytes = training.train(run, work.cfg, recipe, work.text)
    return FitVerdict(
        target=target, work=work, rows=tuple(run.rows.values()), weight_bytes=weight_bytes, seconds={}, costs={}
    )


@functools.cache
def _mesh(device: str, axes: tuple[tuple[str, int], ...]) -> Mesh:
    return absent_mesh(device, dict(axes))


def least_seconds(costs: Mapping[str, cost.Stage], facts: DeviceFacts, axes: Mapping[str, int]) -> dict[str, float]:
    """Return each stage's operations over the device's rate or its bytes over the bandwidth, whichever takes longer.

    Devices share both evenly where they share a stage at all (engine/mesh.py), and what they send each other is free:
    it is the least that a stage can take.
    """
    sharing = dict.fromkeys(_DECODER_STAGES, axes["model"]) | {"vision_tower": axes["data"] * axes["model"]}
    exact = max(facts.f32_flops, facts.bf16_flops / 3)
    rates = {name: exact if name in _FLOAT32_STAGES else facts.bf16_flops for name in costs}
    return {
        name: max(stage.flops / rates[name], stage.bytes / facts.bandwidth) / sharing.get(name, 1)
        for name, stage in costs.items()
    }
