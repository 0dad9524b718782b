"""Measure UHR-BAT-7B's real shapes with random weights on this device: seconds, TFLOP/s and peak memory, beside floors.

    python -m experiments.benchmark_7b --output=benchmark_7b.json --write_docs=docs/gpu.md
    python -m experiments.benchmark_7b --config=mini --image_px=1344 --max_seconds=60

No checkpoint is needed: weights are made on the device in the config's dtype (16 GB in bfloat16), and a made-up picture
goes through the same `BatModel` that users load. The machine's own rates come first; a floor is the time that a stage's
operations (engine/cost.py; K-means counts all its steps) or bytes take at these rates. Then the whole, an image and a
question as one program each, then stage by stage. Seconds are medians of warm runs, compiling apart. Steps stand in the
order of their worth. Each is printed and written to --output when it ends; a step that fails leaves its reason there
and the next one runs; at --max_seconds the run ends with what it has. Compiling is short where an earlier run left its
programs in the cache (`JAX_COMPILATION_CACHE_DIR`). From the step on int8 on, the decoder's matrices are int8.
"""

import dataclasses
import functools
import math
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from bat_jax.config import PAPER_BUDGETS, BatConfig
from bat_jax.engine import cost
from bat_jax.engine.attention_choice import (
    choose_attention,
    fastest,
    measure_decoder_attention,
    measure_tower_attention,
    reason,
)
from bat_jax.engine.devices import DeviceFacts
from bat_jax.engine.generate import generate
from bat_jax.engine.image import default_tile_batch
from bat_jax.engine.mesh import AXES
from bat_jax.engine.stages import Stages
from bat_jax.fit.verdict import STAGES_OF_HALF, least_seconds
from bat_jax.io.output_files import write_json, write_text
from bat_jax.io.prompts import SHORTEST_TEXT, load_tokenizer
from bat_jax.io.small_tokenizers import write_word_tokenizer
from bat_jax.model import Spliced, init_params, prefill
from bat_jax.nn.decoder import layers_apart
from bat_jax.nn.int8 import held_params
from bat_jax.pipeline import BatModel, Scene
from bat_jax.report.gpu_page import page
from bat_jax.runs import run_record
from bat_jax.text_files import read_json
from bat_jax.typing import Params
from . import cli

CONFIG = flags.DEFINE_enum("config", "7b", ["7b", "mini"], "Sizes to measure; mini is for trying the command.")
IMAGE_PX = flags.DEFINE_integer("image_px", 8192, "Side of the made-up picture, in pixels.", lower_bound=64)
ANSWER = flags.DEFINE_integer("answer_tokens", 32, "Tokens written in every answer.", lower_bound=2)
MAX_SECONDS = flags.DEFINE_float("max_seconds", 420.0, "End after this time, whatever is left.", lower_bound=1.0)
OUTPUT = flags.DEFINE_string("output", None, "Write the measurements here as JSON, anew after each step.")
WRITE_DOCS = flags.DEFINE_string("write_docs", None, "Write the measurements as a page (docs/gpu.md).")
MEASURED = flags.DEFINE_string("measured", None, "An earlier --output to write the page of, instead of measuring.")
SEED = flags.DEFINE_integer("random_seed", 0, "Of weights, picture and first centres.", lower_bound=0)

QUESTIONS = ("How many ships are moored at the northern pier?", "Is the runway longer than the harbour's pier?")
# The paper's largest budgets (Table 4's 11k), and twice the small model's own.
LARGER = {"7b": PAPER_BUDGETS["xlrs"], "mini": (40, 140, 380, 898)}
PAPER_GB = {"inference": 30, "training": 48}
FEW_TILES = 8
TOGETHER = (1, 2, 4, 8, 16)  # questions answered in one program, which has room for the most
_REPEATS = 5
_SIDE = {"cpu": 512}  # of the matrices that rates are measured with
_COPIED_BYTES = {"cpu": 2**26}


def random_params(cfg: BatConfig, seed: int) -> Params:
    """Make weights of the config's sizes on the device, without a copy of them in float32 or on the host.

    Matrices are uniform with standard deviation 0.02, norms one and biases zero.
    """
    shapes = jax.eval_shape(lambda key: layers_apart(init_params(cfg, key)), jax.random.key(0))
    dtype = jnp.dtype(cfg.compute_dtype)

    def fill(path, leaf, salt):
        if path[-1].key in ("scale", "bias"):
            return jnp.full(leaf.shape, path[-1].key == "scale", dtype)
        # A hash of the index is one kernel that writes the leaf; jax.random would first hold 4 bytes for every weight,
        # which the peak of device memory would show for good.
        bits = (jax.lax.iota(jnp.uint32, leaf.size) ^ (salt + hash_of(path))) * jnp.uint32(2654435761)
        bits = (bits ^ (bits >> 15)) * jnp.uint32(2246822519)
        unit = (bits ^ (bits >> 13)).astype(jnp.float32) * 2.0**-32 - 0.5
        return (0.02 * 12**0.5 * unit).astype(dtype).reshape(leaf.shape)

    def hash_of(path):
        return jnp.uint32(zlib.crc32(jax.tree_util.keystr(path).encode()))

    make = jax.jit(lambda salt: jax.tree_util.tree_map_with_path(functools.partial(fill, salt=salt), shapes))
    return jax.block_until_ready(make(jnp.uint32(seed)))


def picture(side: int, seed: int) -> np.ndarray:
    """Make an (H, W, 3) picture of smooth coloured blots."""
    coarse = np.random.default_rng(seed).integers(0, 256, (side // 64 + 1, side // 64 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR))


def memory_gb() -> dict[str, float | None]:
    """Return the device's memory in use now and its peak since the start; None where it is not counted (CPU)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {"held_gb": "bytes_in_use", "peak_gb": "peak_bytes_in_use"}
    return {name: stats[key] / cost.GIGA if key in stats else None for name, key in names.items()}


def gigabytes(arrays: Any) -> float:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) / cost.GIGA


class MeasuredStages(Stages):
    """Stages that also keep a row for every call: stage, compile_s, run_s and the memory after it."""

    def __init__(self):
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self._programs: dict[str, Any] = {}

    def compile(self, name, function, static, *args):
        self._programs[name] = super().compile(name, function, static, *args)
        return self._programs[name]

    def program_gb(self, name: str) -> float:
        """Return what the stage's last program holds besides its arguments: temporaries and outputs, as compiled."""
        memory = self._programs[name].memory_analysis()
        return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / cost.GIGA

    def run(self, name, function, static, *args):
        before = self.compile_seconds[name], self.run_seconds[name]
        result = super().run(name, function, static, *args)
        seconds = {"compile_s": self.compile_seconds[name] - before[0], "run_s": self.run_seconds[name] - before[1]}
        self.rows.append({"stage": name, **seconds, **memory_gb()})
        return result

    def since(self, start: int, costs: dict[str, cost.Stage], floors: dict[str, float]) -> list[dict[str, Any]]:
        """Return the rows from number `start` on, one a stage, with the cost model's TFLOP, and the floor."""
        stages: dict[str, dict[str, Any]] = {}
        for row in self.rows[start:]:
            total = stages.setdefault(row["stage"], {"stage": row["stage"], "calls": 0, "compile_s": 0.0, "run_s": 0.0})
            total["calls"] += 1
            total |= {key: total[key] + row[key] for key in ("compile_s", "run_s")}
            total |= {key: row[key] for key in ("held_gb", "peak_gb")}
        for name, total in stages.items():
            if name in costs and costs[name].flops:
                tflop, floor = costs[name].flops / cost.TERA, floors[name]
                total |= {"tflop": tflop, "tflop_per_s": tflop / total["run_s"]}
                total |= {"floor_s": floor, "ratio": total["run_s"] / floor}
        return list(stages.values())


def median_seconds(action: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Return the median time of a warm action, which is run once before."""
    jax.block_until_ready(action())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(action())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class ShapesBenchmark:
    """The steps, and what they leave for one another: weights, model, an encoded scene."""

    def __init__(
        self,
        cfg: BatConfig,
        larger_budgets: tuple[int, ...],
        *,
        image_px: int,
        answer_tokens: int,
        seed: int,
        max_seconds: float,
        output: pathlib.Path | None,
    ):
        """Take what is measured; `larger_budgets` are asked for besides the config's."""
        self._start, self._max_seconds, self._output = time.perf_counter(), max_seconds, output
        self._lock, self._step = threading.Lock(), "start"
        scales = zip(cfg.compressor.scales, larger_budgets, strict=True)
        self.cfg = cfg
        self.larger = cfg.with_settings(scales=tuple(dataclasses.replace(scale, budget=b) for scale, b in scales))
        self.answer_tokens, self.seed = answer_tokens, seed
        self.stages = MeasuredStages()
        self.pixels = picture(image_px, seed)
        self.model: BatModel | None = None
        self.scene: Scene | None = None
        # Until they are measured; a failure of that step must not cost the others.
        self.rates = {"product_flops": math.nan, "float32_flops": math.nan, "bytes_per_s": math.nan}
        self.record: dict[str, Any] = {
            "command": " ".join(["python -m experiments.benchmark_7b", *sys.argv[1:]]),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            **run_record(seed),
            "model": f"{cfg.decoder.num_layers} decoder layers of width {cfg.decoder.width}, {cfg.compute_dtype}",
            "image_px": image_px,
            "calls": self.stages.rows,
            "steps": {},
        }

    def run(self) -> int:
        """Run all steps; return the exit code, 1 if one failed."""
        timer = threading.Timer(self._max_seconds - (time.perf_counter() - self._start), self._stop)
        timer.daemon = True
        timer.start()
        rows = [sum(cfg.compressor.budgets) + SHORTEST_TEXT + 14 for cfg in (self.cfg, self.larger)]
        larger = f"{sum(self.larger.compressor.budgets)} kept tokens"
        steps = {
            "machine": self.machine,
            "weights": self.make_weights,
            "first question, compiling": self.compiling,
            "questions": self.questions,
            "stages, compiling": self.by_stage,
            "stages": self.by_stage,
            "decoding": self.decoding,
            "questions together": self.together,
            f"attention of the decoder, {rows[0]} rows": functools.partial(self.decoder_attention, rows[0]),
            "attention of the tower": self.tower_attention,
            larger: self.larger_question,
            "int8 weights": self.int8_weights,
            f"attention of the decoder, {rows[1]} rows": functools.partial(self.decoder_attention, rows[1]),
            f"tower, {FEW_TILES} tiles at once": self.fewer_tiles,
        }
        for name, step in steps.items():
            self._run_step(name, step)
        timer.cancel()
        return int(any("failed" in entry for entry in self.record["steps"].values()))

    def _run_step(self, name: str, step: Callable[[], dict[str, Any]]) -> None:
        self._step, start = name, time.perf_counter()
        try:
            entry = step()
        except Exception as error:  # recorded, so that one step costs nothing but itself
            entry = {"failed": reason(error)}
        self.record["steps"][name] = {"seconds": time.perf_counter() - start, **entry, **memory_gb()}
        print_step(name, self.record["steps"][name])
        self._write()

    def _write(self) -> None:
        with self._lock:
            self.record["seconds"] = time.perf_counter() - self._start
            if self._output:
                write_json(self._output, self.record)

    def _stop(self) -> None:
        """End the process in the middle of a step; compiling cannot be interrupted otherwise."""
        try:
            self.record["stopped"] = f"at {self._max_seconds:g} s, in {self._step!r}"
            self._write()
            print(f"stopped {self.record['stopped']}", flush=True)
        finally:
            os._exit(1)

    # ---- the steps

    def machine(self) -> dict[str, Any]:
        """Measure the device's rates: products in the config's dtype and in float32, copying, uploading."""
        platform = jax.default_backend()
        side, num_bytes = _SIDE.get(platform, 8192), _COPIED_BYTES.get(platform, 2**30)

        def product_rate(dtype, precision):
            a, b = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in range(2))
            multiply = jax.jit(functools.partial(jnp.matmul, precision=precision))
            return 2 * side**3 / median_seconds(lambda: multiply(a, b))

        block = jnp.zeros(num_bytes // 4, jnp.float32)
        copy = jax.jit(lambda x: x + 1)
        upload_s = median_seconds(lambda: jax.device_put(self.pixels))
        self.rates = {
            "product_flops": product_rate(jnp.dtype(self.cfg.compute_dtype), None),
            "float32_flops": product_rate(jnp.float32, "highest"),
            "bytes_per_s": 2 * num_bytes / median_seconds(lambda: copy(block)),
        }
        return self.rates | {"upload_s": upload_s, "uploaded_gb": self.pixels.nbytes / cost.GIGA}

    def make_weights(self) -> dict[str, Any]:
        params = random_params(self.cfg, self.seed)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "tokenizer"
            write_word_tokenizer(path, " ".join(QUESTIONS).replace("?", " ?").split())
            tokenizer = load_tokenizer(path)
        kernels = choose_attention(self.cfg, default_tile_batch(self.cfg, jax.default_backend()))
        self.cfg = dataclasses.replace(self.cfg, attention=kernels)
        self.model = BatModel(self.cfg, params, tokenizer, stages=self.stages)
        model_gb = self._memory_model(self.cfg)["weights"]
        return {"weights_gb": gigabytes(params), "model_gb": model_gb, **dataclasses.asdict(kernels)}

    def compiling(self) -> dict[str, Any]:
        """Encode the picture and ask, for the first time."""
        return self._timed(self.cfg, lambda: self._ask(self._encode(), QUESTIONS[0]))

    def questions(self) -> dict[str, Any]:
        """Ask a first question and further ones, warm; the floor is the sum of all stages' floors."""
        cfg = self.model.cfg
        first = median_seconds(lambda: self._ask(self._encode(), QUESTIONS[0]), 3)
        further = median_seconds(lambda: self._ask(self.scene, QUESTIONS[1]))
        upload = self.record["steps"].get("machine", {}).get("upload_s", 0.0)
        entry = {
            "first_s": first,
            "first_floor_s": sum(self._floors(cfg).values()) + upload,
            "further_s": further,
            "further_floor_s": self._question_floor(cfg),
        }
        ratios = {f"{name}_ratio": entry[f"{name}_s"] / entry[f"{name}_floor_s"] for name in ("first", "further")}
        model = self._memory_model(cfg)
        held = gigabytes(self.model.params)
        question_gb = held + gigabytes(self.scene.arrays) + self.stages.program_gb("question")
        compiled_gb = max(held + self.stages.program_gb("image"), question_gb)
        memory = {"memory_model_gb": model | {"sum": sum(model.values())}, "paper_gb": PAPER_GB}
        return entry | ratios | {"compiled_peak_gb": compiled_gb} | memory

    def by_stage(self) -> dict[str, Any]:
        """Encode and ask, stage by stage."""
        apart = BatModel(self.cfg, self.model.params, self.model.tokenizer, stages=self.stages, stages_apart=True)

        def once():
            self._ask(apart.encode(self.pixels, seed=self.seed), QUESTIONS[0], apart)

        return self._timed(self.cfg, once)

    def decoding(self) -> dict[str, Any]:
        """Time the token loop under what a compiler may make of products with one row."""
        options: dict[str, dict[str, Any]] = {"default": {}}
        if jax.default_backend() == "gpu":
            options |= {f"triton_gemm={on}": {"xla_gpu_enable_triton_gemm": on} for on in (False, True)}
        return {"choices": self._token_loop(options)}

    def int8_weights(self) -> dict[str, Any]:
        """Hold the decoder's matrices in int8, for this step and those after it, and measure what differs.

        Each layer takes the place of its floats, so that the floats' peak is not passed.
        """
        params, cfg = cast(dict[str, Any], self.model.params), self.cfg.with_weights("int8")
        floats, held = params.pop("decoder"), {}
        while floats:
            name, part = floats.popitem()
            held |= held_params("int8", {"decoder": {name: part}})["decoder"]
        shared = (self.model.tokenizer, self.model.encoder.tile_batch, self.stages)
        self.model = BatModel(cfg, params | {"decoder": held}, *shared)
        compiling = self._timed(cfg, lambda: self._ask(self._encode(), QUESTIONS[0]))
        (loop,) = self._token_loop({"default": {}}).values()
        entry = {"weights_gb": gigabytes(self.model.params), "model_gb": self._memory_model(cfg)["weights"]}
        entry["compile_s"] = compiling["compile_s"]
        return entry | self.questions() | {"token_loop": loop}

    def together(self) -> dict[str, Any]:
        """Ask several questions in one program, the same one for every number of them."""
        texts = [QUESTIONS[index % len(QUESTIONS)] for index in range(max(TOGETHER))]
        options = {"room": len(texts), "max_new_tokens": self.answer_tokens, "stop": False}

        def ask(count):
            return self.model.ask_many([self.scene], texts[:count], **options)

        compiling = self._timed(self.cfg, lambda: ask(1))
        seconds = {count: median_seconds(functools.partial(ask, count), 3) for count in TOGETHER}
        choices = {str(n): {"all_s": s, "question_s": s / n, "per_s": n / s} for n, s in seconds.items()}
        return {"compile_s": compiling["compile_s"], "choices": choices}

    def decoder_attention(self, rows: int) -> dict[str, Any]:
        found = measure_decoder_attention(self.cfg, rows)
        return {"choices": found, "taken": fastest(found), "layers": self.cfg.decoder.num_layers}

    def tower_attention(self) -> dict[str, Any]:
        found = measure_tower_attention(self.cfg, self.model.encoder.tile_batch)
        return {"choices": found, "taken": fastest(found), "layers": self.cfg.vision.num_run_layers}

    def larger_question(self) -> dict[str, Any]:
        model = self.model.configured(self.larger)
        first = self._timed(self.larger, lambda: self._ask(self.scene, QUESTIONS[1], model))
        further = median_seconds(lambda: self._ask(self.scene, QUESTIONS[1], model), 3)
        return {"compile_s": first["compile_s"], "further_s": further, "floor_s": self._question_floor(self.larger)}

    def fewer_tiles(self) -> dict[str, Any]:
        """Encode the views with few tiles at once; the first time compiles."""
        shared = (self.model.params, self.model.tokenizer, FEW_TILES, self.stages)
        model = BatModel(self.cfg, *shared, stages_apart=True)
        model.encode_views(self.pixels)
        return self._timed(self.cfg, lambda: model.encode_views(self.pixels))

    # ---- what steps share

    def _encode(self) -> Scene:
        self.scene = self.model.encode(self.pixels, seed=self.seed)
        return self.scene

    def _token_loop(self, options: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Return the time of a token with the model's weights, under each of the compiler's options."""
        cfg, steps = self.model.cfg.networks, self.answer_tokens
        rows = sum(self.cfg.compressor.budgets) + SHORTEST_TEXT + 14
        shapes = jax.eval_shape(
            functools.partial(prefill, cfg, steps),
            self.model.params,
            Spliced(
                jax.ShapeDtypeStruct((1, rows, cfg.decoder.width), cfg.compute_dtype),
                jax.ShapeDtypeStruct((1,), jnp.int32),
            ),
        )
        logits, cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        cache = cache._replace(length=jnp.full(1, rows, jnp.int32))
        drawing = (jnp.full(2, -1), jnp.float32(0), jnp.float32(1), jax.random.key(0))
        lowered = jax.jit(generate, static_argnums=(0, 1)).lower(cfg, steps, self.model.params, logits, cache, *drawing)
        floor = self._floors(self.model.cfg)["generate"] / (steps - 1)
        found: dict[str, Any] = {}
        for name, settings in options.items():
            start = time.perf_counter()
            program = lowered.compile(compiler_options=settings)
            compile_s = time.perf_counter() - start
            run = functools.partial(program, self.model.params, logits, cache, *drawing)
            token_s = median_seconds(run, 3) / (steps - 1)
            found[name] = {"compile_s": compile_s, "token_s": token_s, "floor_s": floor, "ratio": token_s / floor}
        return found

    def _floors(self, cfg: BatConfig) -> dict[str, float]:
        """Return the least seconds of every stage at the machine's measured rates."""
        facts = DeviceFacts(
            title="this one",
            platform="cuda",
            architecture="",
            memory_bytes=0,
            reserved_bytes=0,
            bandwidth=self.rates["bytes_per_s"],
            bf16_flops=self.rates["product_flops"],
            f32_flops=self.rates["float32_flops"],
        )
        return least_seconds(self._costs(cfg), facts, dict.fromkeys(AXES, 1))

    def _costs(self, cfg: BatConfig) -> dict[str, cost.Stage]:
        return cost.pipeline_stages(cfg, self._text(), "scatter" if jax.default_backend() == "cpu" else "product")

    def _question_floor(self, cfg: BatConfig) -> float:
        floors = self._floors(cfg)
        return sum(floors[name] for name in STAGES_OF_HALF["question"])

    def _ask(self, scene: Scene, question: str, model: BatModel | None = None) -> None:
        (model or self.model).ask([scene], question, max_new_tokens=self.answer_tokens, stop=False)

    def _text(self) -> cost.Text:
        prefix = 14 if self.scene is None else self.scene.prefix_ids.size
        return cost.Text(prefix=prefix, question=SHORTEST_TEXT, answer=self.answer_tokens)

    def _memory_model(self, cfg: BatConfig) -> dict[str, float]:
        parts = cost.inference_memory(cfg, sum(cfg.compressor.budgets), self._text())
        return {name: num_bytes / cost.GIGA for name, num_bytes in parts.items()}

    def _timed(self, cfg: BatConfig, action: Callable[[], object]) -> dict[str, Any]:
        """Return wall seconds, the stages' rows and the memory model; outside the stages lies the host's work."""
        first_row, start = len(self.stages.rows), time.perf_counter()
        action()
        wall = time.perf_counter() - start
        stages = self.stages.since(first_row, self._costs(cfg), self._floors(cfg))
        total = {key: sum(row[key] for row in stages) for key in ("compile_s", "run_s")}
        entry = {"wall_s": wall, **total, "outside_s": wall - sum(total.values()), "stages": stages}
        decode = [row["run_s"] / (self.answer_tokens - 1) for row in stages if row["stage"] == "generate"]
        return entry | ({"decode_s_per_token": decode[0]} if decode else {})


def print_step(name: str, entry: dict[str, Any]) -> None:
    """Print what a step measured: a line of its numbers, and tables of stages and attention choices."""

    def words(values: dict[str, Any]) -> str:
        plain = {key: value for key, value in values.items() if not isinstance(value, dict | list)}
        return ", ".join(f"{key} {v:.5g}" if isinstance(v, float) else f"{key} {v}" for key, v in plain.items())

    print(f"\n{name}: {words(entry)}")
    columns = ("calls", "compile_s", "run_s", "floor_s", "ratio", "tflop", "tflop_per_s", "held_gb", "peak_gb")
    if "stages" in entry:
        print(f"  {'stage':<18}" + "".join(f"{column:>12}" for column in columns))
    for row in entry.get("stages", ()):
        cells = (row.get(column) for column in columns)
        print(f"  {row['stage']:<18}" + "".join(f"{'' if cell is None else format(cell, '.4g'):>12}" for cell in cells))
    for choice, value in entry.get("choices", {}).items():
        print(f"  {choice}: {words(value) if isinstance(value, dict) else value}")
    if "memory_model_gb" in entry:
        print(f"  memory, GB: {words(entry['memory_model_gb'])}; the paper: {words(entry['paper_gb'])}")
    sys.stdout.flush()


def main(_: list[str]) -> int:
    """Measure all steps; exit with 1 if one failed or the time was over."""
    for flag in (OUTPUT, WRITE_DOCS):
        if flag.value and pathlib.Path(flag.value).is_dir():
            raise ValueError(f"--{flag.name}={flag.value}: is a folder; name a file")
    if MEASURED.value:
        if not WRITE_DOCS.value:
            raise ValueError("--measured: goes with --write_docs")
        write_text(pathlib.Path(WRITE_DOCS.value), page(read_json(MEASURED.value)))
        return 0
    cfg = BatConfig.uhr_bat_7b() if CONFIG.value == "7b" else BatConfig.mini()
    benchmark = ShapesBenchmark(
        cfg,
        LARGER[CONFIG.value],
        image_px=IMAGE_PX.value,
        answer_tokens=ANSWER.value,
        seed=SEED.value,
        max_seconds=MAX_SECONDS.value,
        output=pathlib.Path(OUTPUT.value) if OUTPUT.value else None,
    )
    print({key: value for key, value in benchmark.record.items() if key not in ("calls", "steps")}, flush=True)
    code = benchmark.run()
    if WRITE_DOCS.value:
        write_text(pathlib.Path(WRITE_DOCS.value), page(benchmark.record))
    return code


if __name__ == "__main__":
    cli.run(main)
