"""A tiny checkpoint, images and conversations for training, and runs of experiments.finetune as a user starts them."""

import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

from bat_jax.io.params import load_params
from tests.command_batch import run_commands
from tests.tiny_model import write_tiny_checkpoint

ANSWERS = ("red", "blue", "harbour", "car")


def write_sft(directory: pathlib.Path, num_records: int = 8) -> list[dict]:
    """Write checkpoint/, sft.json and pictures of a size that pads; returns the records."""
    write_tiny_checkpoint(directory / "checkpoint")
    rng = np.random.default_rng(0)
    records = []
    for number in range(num_records):
        pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nHow many ships are there?"},
            {"from": "gpt", "value": ANSWERS[number % len(ANSWERS)]},
        ]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": turns})
    (directory / "sft.json").write_text(json.dumps(records))
    return records


def command(directory: pathlib.Path, output: str, *flags: str) -> list[str]:
    settings = {"batch_size": 4, "num_clusters": None, "compute_dtype": "float32", "decoder": 1e-2, "seed": 1}
    arguments = [f"--train={name}={value}" for name, value in settings.items()]
    arguments += [f"--checkpoint={directory / 'checkpoint'}", f"--data={directory / 'sft.json'}"]
    arguments += [f"--image_dir={directory}", f"--output_dir={directory / output}"]
    return [sys.executable, "-m", "experiments.finetune", *arguments, *flags]


def run(directory: pathlib.Path, output: str, *flags: str) -> subprocess.CompletedProcess:
    arguments = command(directory, output, *flags)[3:]
    ((code, out, err),) = run_commands("experiments.finetune", [arguments])
    return subprocess.CompletedProcess(arguments, code, out, err)


def metrics(directory: pathlib.Path, output: str) -> list[dict]:
    return [json.loads(line) for line in (directory / output / "train" / "metrics.jsonl").read_text().splitlines()]


def weights(directory: pathlib.Path, output: str) -> dict:
    return load_params(directory / output)
