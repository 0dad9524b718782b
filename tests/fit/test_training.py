"""What a training step finds in memory, by numbers of parameters: on one device, and cut over several."""

import jax
import pytest

from bat_jax.engine.absent import absent_mesh
from bat_jax.engine.cost import Text
from bat_jax.fit.abstract_run import AbstractRun
from bat_jax.fit.training import train
from bat_jax.model import init_params
from bat_jax.train.recipe import TrainConfig
from tests.absent_compiler import needs_gpu_compiler
from tests.fit.shapes_alone import NothingRuns
from tests.tiny_model import tiny_config

pytestmark = needs_gpu_compiler  # for a mesh of four
BATCH = 8
# 20 tiles of 56 x 56 pixels a sample; text, masks and numbers besides.
TILE_BYTES = BATCH * 20 * 56 * 56 * 3
SMALL = 40_000


@pytest.fixture(scope="module")
def counts():
    """Return the numbers of trained and of frozen parameters."""
    parts = jax.eval_shape(lambda: init_params(tiny_config(), jax.random.key(0)))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in parts.items()}
    frozen = sizes.pop("vision_tower")
    return sum(sizes.values()), frozen


def held_by(num_devices, **settings):
    """Return the bytes a device of (weights, everything before the step)."""
    run = AbstractRun(absent_mesh("h200", {"data": num_devices, "heads": 1, "copies": 1}), NothingRuns())
    recipe = TrainConfig.release_7b(num_clusters=6, batch_size=BATCH, **settings)
    weights = train(run, tiny_config(), recipe, Text())
    return weights, run.rows["training step"].held


def test_one_device_holds_master_weights_two_moments_the_frozen_tower_and_the_batch(counts):
    trained, frozen = counts
    weights, held = held_by(1)
    assert weights == 4 * trained + 4 * frozen, "the tiny checkpoint is float32"
    assert 0 <= held - (12 * trained + 4 * frozen + TILE_BYTES) < SMALL


@pytest.mark.parametrize(
    ("sharding", "weight_parts", "moment_parts"), [("data", 1, 1), ("zero2", 1, 4), ("zero3", 4, 4)]
)
def test_a_recipe_says_what_several_devices_share(counts, sharding, weight_parts, moment_parts):
    """A leaf that four do not divide stays whole: those are small."""
    trained, frozen = counts
    weights, held = held_by(4, sharding=sharding)
    assert weights == pytest.approx(4 * (trained + frozen) / weight_parts, rel=0.02)
    moments = held - weights - TILE_BYTES / 4
    assert moments == pytest.approx(8 * trained / moment_parts, rel=0.02, abs=SMALL / 4)


def test_weights_without_masters_keep_the_checkpoints_type(counts):
    trained, frozen = counts
    assert held_by(1, master_weights=False)[0] == 4 * (trained + frozen)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size / accumulation=1: must be a multiple of the mesh's data=4"):
        held_by(4, accumulation=BATCH)
