"""Pictures of a benchmark made smaller: the pixels of Pillow, the sizes asked for, and label maps that still fit."""

import numpy as np
import pytest
from PIL import Image

from bat_jax.benchmarks.pictures import down_sampled
from bat_jax.io.images import SourceImage
from bat_jax.io.label_maps import read_label_map, token_labels


def source_of(pixels, valid=None):
    height, width = pixels.shape[:2]
    return SourceImage(pixels=pixels, valid=valid, full_size=(width, height), note="bands 3,2,1")


@pytest.mark.parametrize(("size", "expected"), [((48, 40), (24, 20)), ((40, 48), (20, 24)), ((300, 3), (24, 2))])
def test_the_long_side_becomes_the_asked_one_by_bicubic_resampling(size, expected):
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    made = down_sampled(source_of(pixels), 24)
    assert np.array_equal(made.pixels, Image.fromarray(pixels).resize(expected, Image.Resampling.BICUBIC))
    assert made.full_size == size and made.valid is None
    sizes = f"{expected[0]} x {expected[1]} of {size[0]} x {size[1]} pixels"
    assert made.note == f"bands 3,2,1; down-sampled to {sizes} (bicubic)"


@pytest.mark.parametrize("most_px", [48, 49, 4096])
def test_a_picture_that_is_no_larger_is_left_as_it_is(most_px):
    image = source_of(np.zeros((40, 48, 3), np.uint8))
    assert down_sampled(image, most_px) is image


def test_pixels_without_data_stay_where_they_are():
    valid = np.ones((40, 48), bool)
    valid[:, 24:] = False
    made = down_sampled(source_of(np.zeros((40, 48, 3), np.uint8), valid), 24)
    assert made.valid.tolist() == [[True] * 12 + [False] * 12] * 20


def test_a_single_row_with_data_stays():
    valid = np.zeros((401, 480), bool)
    valid[133] = True
    made = down_sampled(source_of(np.zeros((401, 480, 3), np.uint8), valid), 24)
    assert np.flatnonzero(made.valid.any(axis=1)).tolist() == [133 * 20 // 401] and made.valid[6].all()


def test_a_label_map_of_the_file_fits_the_smaller_picture_and_names_the_same_tokens(tmp_path):
    labels = np.repeat(np.repeat(np.arange(16, dtype=np.int32).reshape(4, 4), 28, axis=0), 28, axis=1)
    np.savez(tmp_path / "map.npz", label_map=labels)
    pixels = np.repeat(labels.astype(np.uint8)[:, :, None] * 16, 3, axis=2)
    made = down_sampled(source_of(pixels), 56)
    assert made.pixels.shape == (56, 56, 3)
    label_map = read_label_map(tmp_path / "map.npz", made.full_size)
    of_the_small = np.asarray(made.pixels)[7::14, 7::14, 0] // 16
    assert np.array_equal(token_labels(label_map, 56, 14), of_the_small)
