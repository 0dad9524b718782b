"""A model small enough to compile in seconds: tiles of 56 px (16 tokens), views of 112 and 224 px, random weights."""

import dataclasses

from bat_jax.config import CompressorConfig, DecoderConfig, ScaleEmbeddingConfig, ScaleSpec, VisionConfig
from bat_jax.io.random_checkpoint import small_config, write_random_checkpoint
from bat_jax.pipeline import BatModel

SCALES = (ScaleSpec(size_px=112, budget=12), ScaleSpec(size_px=224, budget=30))


def tiny_config():
    sides = tuple(scale.size_px // 14 for scale in SCALES)
    return dataclasses.replace(
        small_config(),
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
        compressor=CompressorConfig.release(scales=SCALES, num_clusters=6),
    )


def write_tiny_checkpoint(directory):
    return write_random_checkpoint(directory, tiny_config(), seed=3)


def load_tiny(directory) -> BatModel:
    return BatModel.load(write_tiny_checkpoint(directory))
