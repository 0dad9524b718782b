"""Trains a few steps on meshes of 8 simulated devices and prints losses and sizes as JSON.

python -m tests.train.sharded_run --directory=DIRECTORY
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
from absl import flags

from bat_jax.config import BatConfig
from bat_jax.data.llava import LlavaFile
from bat_jax.engine.mesh import device_mesh
from bat_jax.io.params import load_params
from bat_jax.io.prompts import load_tokenizer
from bat_jax.train import sharding
from bat_jax.train.batches import BatchMaker
from bat_jax.train.finetune import FineTuning
from bat_jax.train.loss import training_config
from bat_jax.train.recipe import TrainConfig
from experiments import cli

DIRECTORY = flags.DEFINE_string("directory", None, "Of write_sft; the weights go there too.", required=True)
STEPS = 3
RECIPE = TrainConfig(
    batch_size=16, accumulation=2, compute_dtype="float32", decoder=1e-3, projector=1e-3, token_mlp=1e-3, seed=1
)


def num_bytes_per_device(tree) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def main(_: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    directory = pathlib.Path(DIRECTORY.value)
    folder = directory / "checkpoint"
    cfg = training_config(BatConfig.load(folder / "config.json"), RECIPE)
    params, tokenizer = load_params(folder), load_tokenizer(folder / "tokenizer")
    source = LlavaFile(directory / "sft.json")
    one = device_mesh(cfg, "data=1")
    eight = sharding.make_mesh(cfg)
    report = {}
    for name, mesh, mode in (
        ("single", one, "data"),
        ("data", eight, "data"),
        ("zero2", eight, "zero2"),
        ("zero3", eight, "zero3"),
        ("model", sharding.make_mesh(cfg, "data=4,model=2"), "zero2"),
    ):
        recipe = dataclasses.replace(RECIPE, sharding=mode)
        columns = sharding.local_columns(mesh, 8)
        maker = BatchMaker(cfg, recipe, tokenizer, source, directory, columns=columns)
        trainer = FineTuning(cfg, recipe, params, maker, mesh, num_steps=STEPS)
        losses = [float(trainer.step(maker(step)).loss) for step in range(STEPS)]
        weights = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(trainer.state.params)])
        np.save(directory / f"weights_{name}.npy", weights)
        report[name] = {
            "losses": losses,
            "weight_bytes": num_bytes_per_device(trainer.state.params),
            "optimizer_bytes": num_bytes_per_device(trainer.state.opt_state),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    cli.run(main)
