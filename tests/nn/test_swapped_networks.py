"""A tower and a decoder of one's own: a config that builds them is all the model needs."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bat_jax import model as bat
from bat_jax.config import DecoderConfig, VisionConfig
from bat_jax.nn.clip_vit import VisionOutput
from bat_jax.nn.decoder import Decoder
from tests.tiny_model import tiny_config


class MeanTower(nn.Module):
    """A patch's features are a linear map of its mean colour."""

    cfg: VisionConfig

    @nn.compact
    def __call__(self, pixels, return_hidden=False, return_attention=False):
        cfg = self.cfg
        patches = pixels.reshape(len(pixels), cfg.side, cfg.patch_size_px, cfg.side, cfg.patch_size_px, 3)
        features = nn.Dense(cfg.width, name="colour")(patches.mean(axis=(2, 4)).reshape(len(pixels), -1, 3))
        return VisionOutput(features, None, None)


class LoudDecoder(Decoder):
    """The decoder with its logits doubled."""

    def logits(self, hidden, *, after_norm=True):
        return 2 * super().logits(hidden, after_norm=after_norm)


class MeanTowerConfig(VisionConfig):
    def build(self, **fields):
        return MeanTower(self, **fields)


class LoudConfig(DecoderConfig):
    def build(self, **fields):
        return LoudDecoder(self, **fields)


def with_fields(kind, config):
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})


def test_another_tower_gives_the_model_its_features():
    cfg = tiny_config()
    cfg = dataclasses.replace(cfg, vision=with_fields(MeanTowerConfig, cfg.vision))
    params = jax.eval_shape(functools.partial(bat.init_params, cfg), jax.random.key(0))
    assert params["vision_tower"]["colour"]["kernel"].shape == (3, cfg.vision.width)
    tiles = jax.ShapeDtypeStruct((2, 56, 56, 3), jnp.uint8)
    table = jax.ShapeDtypeStruct((256, 3), jnp.float32)
    features = jax.eval_shape(functools.partial(bat.encode_tiles, cfg), params, tiles, table)
    assert features.vision.shape == (2, 16, cfg.vision.width) and features.projected.shape == (2, 16, 32)


def test_another_decoder_speaks_in_answering_and_in_training():
    cfg = tiny_config()
    loud = dataclasses.replace(cfg, decoder=with_fields(LoudConfig, cfg.decoder))
    params = bat.init_params(cfg, jax.random.key(0))
    hidden = jnp.ones((3, cfg.decoder.width))
    assert (bat.logits(loud, params, hidden) == 2 * bat.logits(cfg, params, hidden)).all()
    assert type(bat.modules(loud)["decoder"]) is LoudDecoder
