"""The resize in whole numbers against Pillow, bit for bit, and the tiles of all views against the host's."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bat_jax.config import VisionConfig
from bat_jax.io import images, views
from bat_jax.ops import bicubic

GOLDEN = Path(__file__).parents[1] / "golden" / "dev"
RED = VisionConfig(image_size_px=16, patch_size_px=4, pad_colour=(200, 3, 4))
# Up to 65 taps in several passes, and 13 in one; the largest view is also larger than most pictures.
SCALES = (16, 32, 96)
run = jax.jit(bicubic.view_tiles, static_argnums=0)


def same_views(pixels, scales, cfg):
    made = run(cfg.image_size_px, *views.view_arguments(pixels, scales, cfg))
    for view, tiles in zip(made, views.make_tiles(pixels, scales, cfg), strict=True):
        np.testing.assert_array_equal(view.tiles, tiles)
        np.testing.assert_array_equal(view.is_padding, views.is_padding_tile(tiles, cfg.pad_colour))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 256), st.integers(1, 256), st.integers(0, 2**32 - 1), st.booleans())
@example(1, 256, 0, True)
@example(256, 1, 0, False)
@example(96, 96, 0, True)
@example(95, 97, 0, True)
def test_tiles_equal_pillows_for_every_size_and_shape(height, width, seed, is_harsh):
    """Black and white pixels overshoot on both sides and are clipped after each pass."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    same_views(np.where(pixels > 127, 255, 0).astype(np.uint8) if is_harsh else pixels, SCALES, RED)


def test_pictures_of_nearly_one_size_share_a_program():
    before = run._cache_size()
    for height, width in ((257, 1), (300, 200), (512, 256)):
        same_views(np.full((height, width, 3), 7, np.uint8), SCALES, RED)
    assert run._cache_size() == before + 1


def test_golden_pixels_of_the_release_come_from_the_program():
    cfg = VisionConfig()
    expected = json.loads((GOLDEN / "meta.json").read_text())["kmeans"]["pixels"]
    pixels = images.read_image(GOLDEN / "image.png").pixels
    made = run(cfg.image_size_px, *views.view_arguments(pixels, (672, 1344), cfg))
    for scale, view in zip((672, 1344), made, strict=True):
        normalised = views.normalisation_table(cfg)[np.asarray(view.tiles), np.arange(3)].transpose(0, 3, 1, 2)
        digest = hashlib.sha256(np.ascontiguousarray(normalised).tobytes()).hexdigest()
        assert digest == expected[str(scale)]["sha256_float32_C_order"]


def test_what_lies_behind_the_pictures_edges_is_never_read():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    picture, *rest = views.view_arguments(pixels, SCALES, RED)
    assert picture.shape == (256, 256, 3)
    results = []
    for value in (0, 255):
        other = np.full_like(picture, value)
        other[:40, :70] = pixels
        results.append(run(16, other, *rest))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_picture_of_a_rounded_size_is_passed_uncopied():
    for shape in ((256, 768, 3), (1280, 1024, 3), (5120, 8192, 3)):
        pixels = np.broadcast_to(np.uint8(0), shape)
        assert views.view_arguments(pixels, SCALES, RED)[0] is pixels
    assert views.view_arguments(np.zeros((1025, 8, 3), np.uint8), SCALES, RED)[0].shape == (1280, 256, 3)


@pytest.mark.parametrize(("side", "target"), [(8192, 672), (8192, 4032), (16128, 224), (3, 4032), (4032, 4032), (1, 1)])
def test_no_sum_leaves_int32_and_margins_keep_their_colour(side, target):
    taps = bicubic.bicubic_taps(side, side, target, bicubic.num_taps(side, target))
    half = 1 << (bicubic.FRACTION_BITS - 1)
    assert 255 * np.abs(taps.weight.astype(np.int64)).sum(axis=0).max() + half < 2**31
    assert 255 * np.abs(taps.weight.sum(axis=0) - 2 * half).max() < half
    assert not taps.margin.any()


@pytest.mark.parametrize(("shape", "named"), [((4, 4), "pixels"), ((0, 4, 3), "pixels"), ((4, 4, 3), "scales: got 24")])
def test_wrong_arguments_are_named(shape, named):
    with pytest.raises(ValueError, match=named):
        views.view_arguments(np.zeros(shape, np.uint8), (16, 24), RED)
