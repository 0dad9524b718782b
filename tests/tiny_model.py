"""A model small enough to compile in seconds: tiles of 56 px (16 tokens), views of 112 and 224 px, random weights."""

import functools
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import tokenizers
from orbax.checkpoint import v1 as ocp

from bat_jax.config import (
    BatConfig,
    CompressorConfig,
    DecoderConfig,
    PromptConfig,
    ScaleEmbeddingConfig,
    ScaleSpec,
    VisionConfig,
)
from bat_jax.io.small_tokenizers import SPECIAL_TOKENS, save
from bat_jax.model import init_params
from bat_jax.pipeline import BatModel

SCALES = (ScaleSpec(size_px=112, budget=12), ScaleSpec(size_px=224, budget=30))
# What the byte-level merges are learnt from; any English about the subject will do.
_CORPUS = (
    "You are a helpful assistant. system user assistant image question answer",
    "How many ships are moored at the pier of the harbour? What colour is the car in the parking lot?",
    "Which land use covers most of the image: water, forest, farmland, built-up or industrial area?",
    "Is there a plane on the runway? Select the best answer based on the image. Answer with the option letter only.",
)


def tiny_config():
    sides = tuple(scale.size_px // 14 for scale in SCALES)
    return BatConfig(
        vision=VisionConfig(width=16, num_layers=2, num_heads=2, mlp_dim=32, image_size_px=56),
        decoder=DecoderConfig(
            width=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            mlp_dim=48,
            vocab_size=512,
            max_positions=1024,
        ),
        scale_embedding=ScaleEmbeddingConfig(
            form="residual", width=32, scales_px=tuple(scale.size_px for scale in SCALES), sides=sides
        ),
        has_token_mlp=True,
        compressor=CompressorConfig.release(scales=SCALES, num_clusters=6),
        prompt=PromptConfig.release(),
    )


def write_byte_tokenizer(directory, corpus, vocab_size):
    """Write a byte-level BPE tokenizer trained on `corpus`, with at most `vocab_size` ids."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    save(tokenizer, directory, {})


def write_tiny_checkpoint(directory):
    """Write params/, config.json and tokenizer/ of the model into a new directory and return its path."""
    directory = directory.absolute()
    shutil.copytree(_written_once().name, directory)
    return directory


@functools.cache
def _written_once():
    """Return a checkpoint's temporary folder, which this process's checkpoints are copies of."""
    cfg, folder = tiny_config(), tempfile.TemporaryDirectory()
    path = pathlib.Path(folder.name)
    params = jax.tree.map(np.asarray, jax.jit(init_params, static_argnums=0)(cfg, jax.random.key(3)))
    ocp.save(path / "params", params)
    write_byte_tokenizer(path / "tokenizer", _CORPUS, cfg.decoder.vocab_size)
    (path / "config.json").write_text(cfg.to_json())
    return folder


def load_tiny(directory, **options) -> BatModel:
    return BatModel.load(write_tiny_checkpoint(directory), **options)
