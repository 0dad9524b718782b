"""A small random checkpoint with a small tokenizer of its own, in the layout that `experiments.convert` writes.

For the demo and for tests that need a whole directory: real geometry, random weights, so its answers mean nothing.
"""

import pathlib

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bat_jax.config import (
    DEFAULT_SCALES_PX,
    BatConfig,
    CompressorConfig,
    DecoderConfig,
    PromptConfig,
    ScaleEmbeddingConfig,
    VisionConfig,
)
from bat_jax.io.small_tokenizers import write_byte_tokenizer
from bat_jax.model import init_params

# What the byte-level merges are learnt from; any English about the subject will do.
_CORPUS = (
    "You are a helpful assistant. system user assistant image question answer",
    "How many ships are moored at the pier of the harbour? What colour is the car in the parking lot?",
    "Which land use covers most of the image: water, forest, farmland, built-up or industrial area?",
    "Is there a plane on the runway? Select the best answer based on the image. Answer with the option letter only.",
)
_VOCAB_SIZE = 512


def small_config(scales_px: tuple[int, ...] = DEFAULT_SCALES_PX, width: int = 64) -> BatConfig:
    """Return a config with the real geometry (tiles of 336 px, patches of 14 px) and narrow networks."""
    sides = tuple(min(size // 14, 64) for size in scales_px)
    compressor = CompressorConfig.release()
    scales = tuple(scale for scale in compressor.scales if scale.size_px in scales_px)
    return BatConfig(
        vision=VisionConfig(width=width // 2, num_layers=3, num_heads=4, mlp_dim=width),
        decoder=DecoderConfig(
            width=width,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            head_dim=width // 4,
            mlp_dim=2 * width,
            vocab_size=_VOCAB_SIZE,
        ),
        scale_embedding=ScaleEmbeddingConfig(form="residual", width=width, scales_px=scales_px, sides=sides),
        has_token_mlp=True,
        compressor=CompressorConfig.release(scales=scales),
        prompt=PromptConfig.release(),
    )


def write_random_checkpoint(directory: str | pathlib.Path, cfg: BatConfig | None = None, seed: int = 0) -> pathlib.Path:
    """Write params/, config.json and tokenizer/ of a random model into a new directory and return its path."""
    path = pathlib.Path(directory).absolute()
    cfg = small_config() if cfg is None else cfg
    params = jax.tree.map(np.asarray, jax.jit(init_params, static_argnums=0)(cfg, jax.random.key(seed)))
    path.mkdir(parents=True)
    ocp.save(path / "params", params)
    write_byte_tokenizer(path / "tokenizer", _CORPUS, _VOCAB_SIZE)
    (path / "config.json").write_text(cfg.to_json())
    return path
