"""Views, tiles and token orders against the release's vectors, Pillow and brute force."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bat_jax.config import VisionConfig
from bat_jax.io import images, views
from bat_jax.ops.token_grid import TokenGrid

GOLDEN = Path(__file__).parents[1] / "golden" / "dev"
SCALES = (672, 1344)
CLIP = VisionConfig()
SMALL = VisionConfig(image_size_px=16, patch_size_px=4)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "golden.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("pixels.")}


@pytest.fixture(scope="module")
def normalised():
    """scale -> (I, 3, 336, 336) float32, as the release stores it."""
    pixels = images.read_image(GOLDEN / "image.png").pixels
    table = views.normalisation_table(CLIP)
    tiles = views.make_tiles(pixels, SCALES, CLIP)
    return {
        s: np.ascontiguousarray(table[t, np.arange(3)].transpose(0, 3, 1, 2))
        for s, t in zip(SCALES, tiles, strict=True)
    }


@pytest.mark.parametrize("scale", SCALES)
def test_normalised_tiles_have_the_bits_of_the_release(normalised, golden, scale):
    expected = json.loads((GOLDEN / "meta.json").read_text())["kmeans"]["pixels"][str(scale)]
    tiles = normalised[scale]
    assert tiles.dtype == np.float32
    assert list(tiles.shape) == expected["shape"]
    np.testing.assert_array_equal(tiles[:, :, ::16, ::16], golden[f"pixels.s{scale}.strided16"])
    assert hashlib.sha256(tiles.tobytes()).hexdigest() == expected["sha256_float32_C_order"]


@pytest.mark.parametrize("scale", SCALES)
def test_tile_statistics_equal_those_of_the_release(normalised, golden, scale):
    tiles = normalised[scale].astype(np.float64)
    np.testing.assert_allclose(tiles.mean(axis=(2, 3)), golden[f"pixels.s{scale}.tile_channel_mean"], rtol=1e-9)
    np.testing.assert_allclose((tiles**2).mean(axis=(2, 3)), golden[f"pixels.s{scale}.tile_channel_sq"], rtol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_tiles_are_row_major_as_the_coordinates_of_the_release_say(golden, scale):
    grid = scale // 336
    expected = [(row, col) for row in range(grid) for col in range(grid)]
    assert golden[f"pixels.s{scale}.coords"].tolist() == [list(pair) for pair in expected]
    labels = np.repeat(np.repeat(np.arange(grid * grid).reshape(grid, grid), 24, 0), 24, 1)
    np.testing.assert_array_equal(TokenGrid(grid, 24).to_tiles(labels), np.repeat(np.arange(grid * grid), 576))


def test_normalisation_table_equals_the_arithmetic_for_every_byte():
    table = views.normalisation_table(CLIP)
    assert table.shape == (256, 3) and table.dtype == np.float32
    for value in range(256):
        for channel in range(3):
            rescaled = np.float32(np.float64(value) * (1 / 255))
            mean, std = np.float32(CLIP.pixel_mean[channel]), np.float32(CLIP.pixel_std[channel])
            assert table[value, channel] == (rescaled - mean) / std


def test_other_preprocessing_changes_the_table_and_the_margins_exactly():
    """Half and half as SigLIP has it, from levels that were divided by 127.5, and a red margin."""
    other = VisionConfig(
        image_size_px=16,
        patch_size_px=4,
        pixel_mean=(0.5, 0.25, 0.125),
        pixel_std=(0.5, 0.3, 0.2),
        rescale=1 / 127.5,
        pad_colour=(200, 3, 4),
    )
    levels = (np.arange(256) * (1 / 127.5)).astype(np.float32)
    expected = (levels[:, None] - np.float32([0.5, 0.25, 0.125])) / np.float32([0.5, 0.3, 0.2])
    np.testing.assert_array_equal(views.normalisation_table(other), expected)
    (tiles,) = views.make_tiles(np.zeros((8, 32, 3), np.uint8), [32], other)
    assert (tiles[:2, :8] == (200, 3, 4)).all() and (tiles[2:, 8:] == (200, 3, 4)).all()
    (narrow,) = views.make_tiles(np.zeros((4, 64, 3), np.uint8), [64], other)
    assert views.is_padding_tile(narrow, other.pad_colour).sum() == 8
    assert not views.is_padding_tile(narrow, CLIP.pad_colour).any()


def test_pad_colour_is_the_truncated_mean():
    assert tuple(int(255 * mean) for mean in CLIP.pixel_mean) == CLIP.pad_colour


def test_padding_is_centred_with_the_smaller_margin_first():
    image = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 9]], np.uint8)
    expected = [[0] * 5, [1, 2, 3, 4, 5], [6, 7, 8, 9, 9], [0] * 5, [0] * 5]
    np.testing.assert_array_equal(views.pad_to_square(image, 0), expected)
    np.testing.assert_array_equal(views.pad_to_square(image.T, 0), np.transpose(expected))


def test_padding_fills_every_channel_with_its_own_value():
    square = views.pad_to_square(np.zeros((1, 2, 3), np.uint8), (7, 8, 9))
    assert square[1].tolist() == [[7, 8, 9], [7, 8, 9]]
    assert square[0].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_square_image_is_not_copied_by_padding():
    image = np.zeros((4, 4, 3), np.uint8)
    assert views.pad_to_square(image, 0) is image


@pytest.mark.parametrize("size", [(50, 50), (61, 40), (40, 61), (3, 2)])
def test_every_scale_is_resized_from_the_full_image_by_pillow(size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    square = Image.new("RGB", (max(size), max(size)), CLIP.pad_colour)
    square.paste(Image.fromarray(pixels), ((max(size) - size[0]) // 2, (max(size) - size[1]) // 2))
    for scale, tiles in zip((16, 32, 96), views.make_tiles(pixels, [16, 32, 96], SMALL), strict=True):
        resized = square.resize((scale, scale))
        grid = scale // 16
        assert tiles.shape == (grid * grid, 16, 16, 3) and tiles.dtype == np.uint8
        for index, tile in enumerate(tiles):
            left, top = index % grid * 16, index // grid * 16
            np.testing.assert_array_equal(tile, np.asarray(resized.crop((left, top, left + 16, top + 16))))


def test_scales_keep_their_order_and_may_repeat():
    tiles = views.make_tiles(np.zeros((5, 5, 3), np.uint8), (32, 16, 32), SMALL)
    assert [len(t) for t in tiles] == [4, 1, 4]


def test_views_of_a_strided_array_equal_those_of_its_copy():
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    turned = pixels[::-1, ::2]
    for a, b in zip(views.make_tiles(turned, [16], SMALL), views.make_tiles(turned.copy(), [16], SMALL), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("pixels", "scales", "named"),
    [
        (np.zeros((4, 4), np.uint8), (16,), "pixels"),
        (np.zeros((4, 4, 4), np.uint8), (16,), "pixels"),
        (np.zeros((4, 4, 3), np.float32), (16,), "pixels"),
        (np.zeros((0, 4, 3), np.uint8), (16,), "pixels"),
        (np.zeros((4, 4, 3), np.uint8), (16, 24), "scales: got 24"),
        (np.zeros((4, 4, 3), np.uint8), (0,), "scales: got 0"),
    ],
)
def test_wrong_arguments_of_make_tiles_are_named_in_one_line(pixels, scales, named):
    with pytest.raises(ValueError, match=named) as caught:
        views.make_tiles(pixels, scales, SMALL)
    assert "\n" not in str(caught.value)


def test_only_tiles_of_nothing_but_padding_are_marked():
    tiles = np.empty((5, 4, 4, 3), np.uint8)
    tiles[:] = CLIP.pad_colour
    tiles[1, 2, 2, 0] += 1
    tiles[3, 0, 0, 1] += 1
    tiles[4] = 122
    assert views.is_padding_tile(tiles, CLIP.pad_colour).tolist() == [True, False, True, False, False]


def test_a_flat_image_has_padding_tiles_above_and_below():
    (tiles,) = views.make_tiles(np.zeros((10, 64, 3), np.uint8), [64], SMALL)
    marked = views.is_padding_tile(tiles, CLIP.pad_colour).reshape(4, 4)
    assert marked.tolist() == [[True] * 4, [False] * 4, [False] * 4, [True] * 4]


def _brute_force_valid(size, scale, patch):
    """The definition in exact fractions of the resized square's pixels, token by token."""
    from fractions import Fraction

    long, side = max(size), scale // patch
    mask = np.zeros((side, side), bool)
    for row in range(side):
        for col in range(side):
            overlaps = []
            for token, extent in ((col, size[0]), (row, size[1])):
                start = Fraction((long - extent) // 2 * scale, long)
                end = start + Fraction(extent * scale, long)
                overlaps.append(min(end, (token + 1) * patch) > max(start, token * patch))
            mask[row, col] = all(overlaps)
    return mask


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 8), st.sampled_from([1, 2, 7, 14]))
def test_token_validity_equals_the_exact_definition(width, height, side, patch):
    scale = side * patch
    expected = _brute_force_valid((width, height), scale, patch)
    np.testing.assert_array_equal(views.token_valid_mask((width, height), scale, patch), expected)
    assert expected.any()


def test_token_validity_of_a_flat_image_is_a_band():
    expected = [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    assert views.token_valid_mask((4, 2), 8, 2).tolist() == expected
    assert views.token_valid_mask((2, 4), 8, 2).T.tolist() == expected
    assert views.token_valid_mask((5, 5), 8, 2).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 6), st.integers(1, 15), st.sampled_from([0.002, 0.02, 0.5])
)
def test_a_token_is_valid_where_any_of_its_area_is(height, width, side, patch, share):
    valid = np.random.default_rng(3).random((height, width)) < share
    long, scale = max(height, width), side * patch
    square = np.zeros((long, long), bool)
    top, left = (long - height) // 2, (long - width) // 2
    square[top : top + height, left : left + width] = valid
    # Every pixel in scale x scale pieces, so that tokens' edges and pixels' edges both lie between pieces.
    pieces = square.repeat(side, axis=0).repeat(side, axis=1)
    starts = range(0, long * side, long)
    expected = [[pieces[r : r + long, c : c + long].any() for c in starts] for r in starts]
    assert views.token_valid_mask((width, height), scale, patch, valid).tolist() == expected


@pytest.mark.parametrize(("height", "width"), [(3000, 3000), (1000, 3000)])
@pytest.mark.parametrize("scale", [336, 672, 4032])
def test_one_valid_row_keeps_its_tokens(height, width, scale):
    valid = np.zeros((height, width), bool)
    valid[700] = True
    mask = views.token_valid_mask((width, height), scale, 14, valid)
    row = (700 + (3000 - height) // 2) * (scale // 14) // 3000
    assert mask.any(axis=1).nonzero()[0].tolist() == [row] and mask[row].all()


def test_nodata_quarter_invalidates_its_tokens():
    valid = np.ones((8, 8), bool)
    valid[:4, :4] = False
    assert views.token_valid_mask((8, 8), 4, 2, valid).tolist() == [[False, True], [True, True]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_nearest_index_equals_pillow_on_a_whole_picture(source, target):
    ramp = np.repeat(np.arange(source, dtype=np.int32)[:, None], 3, axis=1)
    resized = Image.fromarray(ramp).resize((3, target), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(views.nearest_index(source, target), np.asarray(resized)[:, 0])


def test_scales_that_are_not_whole_patches_are_refused():
    with pytest.raises(ValueError, match="change scales"):
        views.token_valid_mask((4, 4), 10, 4)
