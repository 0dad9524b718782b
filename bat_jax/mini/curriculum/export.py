"""Write the mini model as a checkpoint folder that `BatModel.load` reads: params/, config.json, tokenizer/."""

import pathlib
import shutil

import jax
import numpy as np
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from bat_jax.config import BatConfig
from bat_jax.io.conversion_plan import DTYPES
from bat_jax.io.output_files import beside, replace_dir
from bat_jax.io.params import CHECKSUMS_NAME, PARAMS_FOLDER, orbax_context, write_checksums
from bat_jax.io.small_tokenizers import write_word_tokenizer
from bat_jax.mini.world.questions import vocabulary
from bat_jax.typing import Params

CONFIG_NAME = "config.json"
TOKENIZER_FOLDER = "tokenizer"


def write_tokenizer(directory: pathlib.Path, vocab_size: int) -> None:
    """Write the tokenizer of the UHR-Mini world's words.

    Raises:
      ValueError: the decoder's vocabulary is too small for them.
    """
    num_ids = write_word_tokenizer(directory, vocabulary())
    if num_ids > vocab_size:
        raise ValueError(f"decoder.vocab_size={vocab_size}: the world's words need {num_ids} ids")


def write_checkpoint(directory: pathlib.Path, cfg: BatConfig, params: Params, dtype: str = "bfloat16") -> None:
    """Write a checkpoint folder beside its name, then swap it in whole; other files of the folder stay."""
    directory = directory.absolute()
    stage = beside(directory, "unfinished")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    write_tokenizer(stage / TOKENIZER_FOLDER, cfg.decoder.vocab_size)
    (stage / CONFIG_NAME).write_text(cfg.to_json())
    leaves = traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")
    leaves = {path: leaf.astype(DTYPES[dtype]) for path, leaf in leaves.items()}
    with orbax_context():
        ocp.save(stage / PARAMS_FOLDER, traverse_util.unflatten_dict(leaves, sep="/"))
    write_checksums(stage)
    replace_dir(stage, directory, (TOKENIZER_FOLDER, CONFIG_NAME, PARAMS_FOLDER, CHECKSUMS_NAME))
