"""K-means of the small model's real features: every label is the nearest centre, in the CPU's way and in the other."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model as bat
from bat_jax.compress import partition
from bat_jax.compress.partition import cluster_rows, scaled_rows
from bat_jax.io.views import make_tiles, normalisation_table
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.render import render
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.pipeline import BatModel

MINI = pathlib.Path(__file__).parents[2] / "checkpoints" / "uhr-bat-mini"
GRID = TokenGrid(4, 8)
NUM_SETS, NUM_CLUSTERS, NUM_STEPS = 10, 64, 6
# Of the larger of |u|^2 and |c|^2. The largest over ten pictures, views of 256 to 9,216 tokens, ten steps, was 2^-21.4
# written out, and 2^-21.3 in factors.
TIE = 2.0**-20
WAYS = {"written out": partition._written_out, "factors": partition._factored}


@pytest.fixture(scope="module")
def model():
    return BatModel.load(MINI)


@pytest.fixture(scope="module")
def feature_sets(model):
    """The tower's features of ten generated pictures, (10, 1024, 128)."""
    cfg = model.cfg
    pictures = [make_tiles(render(generate_scene(seed), 448), [448], cfg.vision)[0] for seed in range(NUM_SETS)]
    encode = jax.jit(bat.encode_tiles, static_argnums=0)
    features = encode(cfg.networks, model.params, np.concatenate(pictures), normalisation_table(cfg.vision))
    return features.vision.reshape(NUM_SETS, GRID.num_tokens, -1)


@functools.cache
def program(way, cfg):
    return jax.jit(functools.partial(WAYS[way], cfg))


def worst_tie(run, rows, valid, init):
    """Return how much nearer than its own a row's nearest centre ever was, following the run's clusters in float64."""
    centres, worst = rows[init], 0.0
    for num_steps in range(1, NUM_STEPS + 1):
        label = np.asarray(run(num_steps))
        assert np.array_equal(label >= 0, valid)
        score = rows @ centres.T - 0.5 * np.sum(centres**2, axis=1)
        missed = score.max(axis=1) - np.take_along_axis(score, np.maximum(label, 0)[:, None], axis=1)[:, 0]
        size = np.maximum(np.sum(rows**2, axis=1), np.sum(centres**2, axis=1).max())
        worst = max(worst, float((missed / size)[valid].max()))
        member = (label == np.arange(NUM_CLUSTERS)[:, None]).astype(np.float64)
        count = member.sum(axis=1, keepdims=True)
        centres = np.where(count > 0, member @ rows / np.maximum(count, 1), centres)
    return worst


@pytest.mark.parametrize(
    ("way", "dtype"), [("written out", jnp.float32), ("factors", jnp.float32), ("factors", jnp.bfloat16)]
)
def test_every_label_of_every_step_is_the_nearest_centre_but_for_ties(model, feature_sets, way, dtype):
    cfg, coordinates = model.cfg.compressor, GRID.coordinates("scale")
    rng = np.random.default_rng(0)
    for features in feature_sets.astype(dtype):
        valid = rng.random(GRID.num_tokens) < 0.9
        init = rng.choice(np.flatnonzero(valid), NUM_CLUSTERS, replace=False).astype(np.int32)
        unit = np.asarray(features, np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        rows = np.concatenate([cfg.feature_scale * unit, cfg.coord_scale * coordinates], axis=1)
        fixed = functools.partial(program(way, cfg), features, coordinates, valid, init, NUM_CLUSTERS)
        assert worst_tie(fixed, rows, valid, init) < TIE


def test_rows_held_as_factors_are_the_rows_written_out(feature_sets):
    features, coordinates = feature_sets[0], GRID.coordinates("scale")
    factors = scaled_rows(features, coordinates, 0.7, 0.3)
    product = np.concatenate([factors.features * factors.scale[:, None], factors.coordinates], axis=1)
    np.testing.assert_allclose(product, cluster_rows(features, coordinates, 0.7, 0.3), rtol=3e-7)
    expected = np.concatenate([0.7 * features / np.linalg.norm(features, axis=1)[:, None], 0.3 * coordinates], axis=1)
    np.testing.assert_allclose(product, expected, rtol=1e-6, atol=1e-7)
