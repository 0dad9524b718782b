"""Measure the conversion of a full-size UHR-BAT-7B checkpoint: peak anonymous memory and time.

    python -m experiments.benchmark_convert --scratch=benchmark_convert
    python -m experiments.benchmark_convert --scratch=/data/benchmark_convert --limit_gb=6

Writes a checkpoint of the real sizes (16 GB in bfloat16, sharded, random values) under --scratch, converts it, loads
the result and converts it back, each in a process of its own whose RssAnon is sampled, prints the figures and removes
the scratch. About 36 GB of disk are needed, and memory for the weights.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import ml_dtypes
import numpy as np
from absl import flags

from bat_jax.config import BatConfig
from bat_jax.io import conversion_table as table
from bat_jax.io import hf_config, safetensors
from . import cli
from .convert import AnonymousMemory

FLAGS = flags.FLAGS
_SCRATCH = flags.DEFINE_string("scratch", None, "Folder to make and to remove; must not exist.")
_LIMIT_GB = flags.DEFINE_float("limit_gb", 8.0, "Exit with 1 if the peak of anonymous memory is above this.")
# One block of random values is tiled over all tensors: the figures depend on bytes, not on values.
_BLOCK_SIZE = 2**20 + 7  # odd, so that rows and layers differ


def write_checkpoint(folder: pathlib.Path, config: BatConfig) -> int:
    """Write a random bfloat16 checkpoint of the config's sizes in the release's layout; return its bytes."""
    specs: list[safetensors.TensorSpec] = []
    dtype = np.dtype(ml_dtypes.bfloat16)
    for path, shape in table.expected_shapes(config).items():
        if path != "unused/image_newline":  # LongVA's image layout has none
            tensors = table.tensors_of(path, shape, config.vision.num_run_layers)
            specs += [safetensors.TensorSpec(name, wanted, dtype) for name, _, wanted, _ in tensors]
    # The order of a real checkpoint: layer after layer, so that a stacked leaf is gathered from many shards.
    specs.sort(key=lambda spec: [int(part) if part.isdecimal() else -1 for part in spec.name.split(".")])
    folder.mkdir(parents=True)
    safetensors.write_folder(folder, specs, _random_arrays(specs))
    values, clip_values = hf_config.config_to_hf(config)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "vision_tower").mkdir()
    (folder / "vision_tower" / "config.json").write_text(json.dumps(clip_values))
    return sum(spec.num_bytes for spec in specs)


def _random_arrays(specs: list[safetensors.TensorSpec]) -> Iterator[np.ndarray]:
    block = (np.random.default_rng(0).standard_normal(_BLOCK_SIZE) * 0.02).astype(ml_dtypes.bfloat16)
    for number, spec in enumerate(specs):
        yield np.resize(np.roll(block, number), spec.shape)


def measure(title: str, arguments: list[str]) -> int:
    """Run a Python process, print its seconds and peak anonymous memory, and return that peak in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments])
    with AnonymousMemory(process.pid) as memory:
        code = process.wait()
    if code:
        raise ValueError(f"{title} failed with exit code {code}")
    seconds = time.perf_counter() - start
    print(f"{title + ':':<18} {seconds:.0f} s, peak RssAnon {memory.peak_bytes / 1e9:.2f} GB", flush=True)
    return memory.peak_bytes


def main(argv: list[str]) -> int:
    """Write, convert, convert back, load; exit with 1 if a conversion is over the limit."""
    del argv
    scratch = pathlib.Path(_SCRATCH.value).absolute()
    if scratch.exists():
        raise ValueError(f"--scratch={scratch} exists; name a folder that can be made and removed")
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("orbax-checkpoint", "jax", "numpy"))
    print(f"versions:          Python {platform.python_version()}, {', '.join(versions)}; {os.cpu_count()} CPUs")
    source, output, back = scratch / "source", scratch / "output", scratch / "back"
    convert = ["-m", f"{__package__}.convert"]
    try:
        start = time.perf_counter()
        num_bytes = write_checkpoint(source, BatConfig.uhr_bat_7b())
        print(f"source:            {num_bytes / 1e9:.2f} GB written in {time.perf_counter() - start:.0f} s", flush=True)
        peaks = [measure("convert", [*convert, f"--source={source}", f"--output={output}"])]
        shutil.rmtree(source)
        load = f"from bat_jax.pipeline import load_device_params; load_device_params({str(output)!r})"
        measure("load", ["-c", load])
        peaks.append(measure("convert --to_hf", [*convert, f"--source={output}", f"--output={back}", "--to_hf"]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"limit of converting: {_LIMIT_GB.value:g} GB")
    return int(max(peaks) > _LIMIT_GB.value * 1e9)


if __name__ == "__main__":
    flags.mark_flag_as_required("scratch")
    cli.run(main)
