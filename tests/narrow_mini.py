"""UHR-BAT-mini's views, budgets and words with narrow networks, which run in a fraction of the time."""

import dataclasses
import pathlib

import jax

from bat_jax import model
from bat_jax.config import BatConfig
from bat_jax.mini.curriculum.export import write_checkpoint


def narrow_config() -> BatConfig:
    mini = BatConfig.mini()
    return dataclasses.replace(
        mini,
        vision=dataclasses.replace(mini.vision, width=32, num_layers=2, num_heads=2, mlp_dim=64),
        decoder=dataclasses.replace(
            mini.decoder, width=32, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=64
        ),
        scale_embedding=dataclasses.replace(mini.scale_embedding, width=32),
    )


def write_narrow_mini(directory: pathlib.Path) -> pathlib.Path:
    """Write random params/, config.json and tokenizer/ into a new directory and return it."""
    cfg = narrow_config()
    write_checkpoint(directory, cfg, model.init_params(cfg, jax.random.key(0)))
    return directory
