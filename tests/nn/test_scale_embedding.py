"""Scale embedding: both forms of weights under both extents, against a loop over Eq. 5 and Eq. 16."""

import dataclasses

import jax
import numpy as np
import pytest

from bat_jax import model as bat
from bat_jax.config import CompressorConfig, ScaleEmbeddingConfig
from bat_jax.nn.scale_embedding import ScaleEmbedding
from tests.tiny_model import SCALES, tiny_config

WIDTH, TILE_SIDE = 32, 4
FORMS = {
    "residual": ScaleEmbeddingConfig(form="residual", width=WIDTH, scales_px=(112, 224), sides=(8, 11)),
    "base": ScaleEmbeddingConfig(form="base", width=WIDTH, scales_px=(112, 224), base_side=6),
}


def sample(grid, centre):
    """Read a grid at a continuous place, bilinear, clamped to its edge (Eq. 16)."""
    y, x = np.clip(centre, 0, grid.shape[0] - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[0] - 1)
    upper = (1 - (x - left)) * grid[top, left] + (x - left) * grid[top, right]
    lower = (1 - (x - left)) * grid[bottom, left] + (x - left) * grid[bottom, right]
    return (1 - (y - top)) * upper + (y - top) * lower


def config(form, extent, repeats=1):
    compressor = CompressorConfig.release(
        scales=SCALES,
        num_clusters=6,
        scale_embedding=True,
        scale_embedding_extent=extent,
        scale_embedding_repeats=repeats,
    )
    return dataclasses.replace(tiny_config(), scale_embedding=FORMS[form], compressor=compressor)


def weights(form):
    shapes = jax.eval_shape(lambda: ScaleEmbedding(FORMS[form]).init(jax.random.key(0), method="all_scales"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"])
    return {"scale_embedding": params}


@pytest.mark.parametrize("extent", ["scale", "tile"])
@pytest.mark.parametrize("form", FORMS)
def test_every_token_gets_the_grid_at_its_centre_and_the_scales_vector(form, extent):
    cfg, params = config(form, extent), weights(form)
    for index, size in enumerate((112, 224)):
        tiles = size // 56
        side = TILE_SIDE * tiles if extent == "scale" else TILE_SIDE
        held = params["scale_embedding"]
        grid = held["base"] if form == "base" else held[f"residual_{size}"]
        vector = held["scale"][index] if form == "base" else 0
        rows = []
        for tile in range(tiles**2 if extent == "scale" else 1):
            for token in range(TILE_SIDE**2):
                row = (tile // tiles if extent == "scale" else 0) * TILE_SIDE + token // TILE_SIDE
                col = (tile % tiles if extent == "scale" else 0) * TILE_SIDE + token % TILE_SIDE
                centre = (np.array([row, col]) + 0.5) * grid.shape[0] / side - 0.5
                rows.append(sample(grid, centre) + vector)
        np.testing.assert_allclose(bat.scale_embedding(cfg, size, params), np.array(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extent", ["scale", "tile"])
def test_it_is_added_as_often_as_asked_and_alike_to_every_tile_under_extent_tile(extent):
    cfg, params = config("residual", extent), weights("residual")
    projected = np.random.default_rng(1).normal(size=(256, WIDTH)).astype(np.float32)
    embedding = np.asarray(bat.scale_embedding(cfg, 224, params))
    added = np.asarray(bat.with_scale_embedding(cfg, 224, 2, params, projected)) - projected
    expected = 2 * (np.tile(embedding, (16, 1)) if extent == "tile" else embedding)
    np.testing.assert_allclose(added, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(bat.with_scale_embedding(cfg, 224, 0, params, projected), projected)


def test_an_unknown_scale_is_named():
    with pytest.raises(ValueError, match="scales=448"):
        ScaleEmbedding(FORMS["base"]).apply({"params": weights("base")["scale_embedding"]}, 448, 4)


@pytest.mark.parametrize(
    ("settings", "answer", "attention"),
    [
        ({"scale_embedding": True}, 2, 1),
        ({"scale_embedding": False}, 0, 1),
        ({"scale_embedding": True, "scale_embedding_in_attention": "as_set"}, 2, 1),
        ({"scale_embedding": False, "scale_embedding_in_attention": "as_set"}, 0, 0),
    ],
)
def test_repeats_of_the_two_paths(settings, answer, attention):
    cfg = CompressorConfig.release(**settings)
    assert (cfg.embedding_repeats("answer"), cfg.embedding_repeats("attention")) == (answer, attention)
