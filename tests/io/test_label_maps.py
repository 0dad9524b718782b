"""Region labels against the release's vectors, Pillow and brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bat_jax.io import label_maps
from bat_jax.ops.token_grid import TokenGrid

GOLDEN = Path(__file__).parents[1] / "golden" / "dev"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "golden.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("mask.")}


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Column-major run lengths that begin with the zeros."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if bool(pixel) != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return counts


def _annotation(mask: np.ndarray, **more) -> dict:
    return {"segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)}, **more}


def _write_json(path: Path, annotations) -> Path:
    path.write_text(json.dumps({"annotations": annotations}))
    return path


def test_annotations_are_painted_as_in_the_release(golden):
    label_map = label_maps.read_label_map(GOLDEN / "annotations.json", (900, 620))
    assert label_map.dtype == np.int32
    np.testing.assert_array_equal(label_map, golden["mask.label_map"])


@pytest.mark.parametrize("scale", [672, 1344])
def test_token_labels_equal_those_of_the_release(golden, scale):
    labels = label_maps.token_labels(golden["mask.label_map"], scale, 14)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, golden[f"mask.token_map.s{scale}"])
    tiles = TokenGrid(scale // 336, 24).to_tiles(labels).reshape(-1, 24, 24)
    np.testing.assert_array_equal(tiles, golden[f"mask.tiles.s{scale}"])


def _painted(masks, areas):
    return label_maps.paint_windows(masks[0].shape, [(0, 0, mask) for mask in masks], areas)


def test_smaller_masks_win_and_ids_follow_descending_area():
    small, large = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    small[1, 1] = True
    expected = [[1, 1, 1], [1, 2, 1], [1, 1, 1]]
    assert _painted([small, large], [1, 9]).tolist() == expected
    assert _painted([large, small], [9, 1]).tolist() == expected


def test_equal_areas_keep_their_order():
    masks = np.zeros((2, 1, 3), bool)
    masks[0, 0, :2] = masks[1, 0, 1:] = True
    assert _painted(list(masks), [2, 2]).tolist() == [[1, 2, 2]]


def test_the_given_area_orders_and_not_the_mask_itself():
    masks = np.zeros((2, 1, 3), bool)
    masks[0, 0, 0] = masks[1, 0, :] = True
    assert _painted(list(masks), [100, 3]).tolist() == [[2, 2, 2]]


def test_annotation_file_equals_painting_its_masks(tmp_path):
    rng = np.random.default_rng(0)
    masks = [rng.random((13, 17)) < density for density in (0.7, 0.3, 0.5, 0.0, 1.0, 0.2)]
    areas = [int(mask.sum()) for mask in masks]
    expected = _painted(masks, areas)
    with_areas = [_annotation(mask, area=area) for mask, area in zip(masks, areas, strict=True)]
    path = _write_json(tmp_path / "with.json", with_areas)
    np.testing.assert_array_equal(label_maps.read_label_map(path, (17, 13)), expected)
    path = _write_json(tmp_path / "without.json", [_annotation(mask) for mask in masks])
    np.testing.assert_array_equal(label_maps.read_label_map(path, (17, 13)), expected)


def test_annotation_of_another_size_is_resized_by_pillows_nearest(tmp_path):
    mask = np.random.default_rng(1).random((7, 5)) < 0.4
    path = _write_json(tmp_path / "small.json", [_annotation(mask, area=9.5)])
    resized = Image.fromarray(mask.astype(np.uint8)).resize((23, 18), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(label_maps.read_label_map(path, (23, 18)), np.asarray(resized))


LABELS = np.array([[0, 1, 2], [250, 250, 7]])


@pytest.mark.parametrize(("dtype", "factor"), [(np.uint8, 1), (np.uint16, 261)])
def test_grey_png_of_8_and_16_bits_holds_labels(tmp_path, dtype, factor):
    labels = (LABELS * factor).astype(dtype)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    read = label_maps.read_label_map(tmp_path / "labels.png", (3, 2))
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)


def test_palette_png_gives_its_indices_and_not_its_colours(tmp_path):
    image = Image.fromarray(LABELS.astype(np.uint8)).convert("P")
    image.putdata(LABELS.reshape(-1).tolist())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(label_maps.read_label_map(tmp_path / "palette.png", (3, 2)), LABELS)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32"])
def test_tiff_holds_labels_up_to_32_bits(tmp_path, dtype):
    labels = LABELS.astype(dtype) * (1 if dtype == "uint8" else 200)
    options = {"driver": "GTiff", "width": 3, "height": 2, "count": 1, "dtype": dtype}
    with rasterio.open(tmp_path / "labels.tif", "w", **options) as raster:
        raster.write(labels, 1)
    np.testing.assert_array_equal(label_maps.read_label_map(tmp_path / "labels.tif", (3, 2)), labels)


def test_npz_holds_labels(tmp_path):
    np.savez(tmp_path / "labels.npz", label_map=LABELS.astype(np.int64) * 1_000_000)
    read = label_maps.read_label_map(tmp_path / "labels.npz", (3, 2))
    np.testing.assert_array_equal(read, LABELS * 1_000_000)


def _brute_force_labels(label_map, scale, patch):
    height, width = label_map.shape
    side = max(height, width)
    square = np.zeros((side, side), np.int32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = label_map
    resized = np.asarray(Image.fromarray(square).resize((scale, scale), Image.Resampling.NEAREST))
    labels = np.zeros((scale // patch, scale // patch), np.int32)
    for row in range(scale // patch):
        for col in range(scale // patch):
            block = resized[row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
            values, counts = np.unique(block, return_counts=True)
            labels[row, col] = values[counts.argmax()]
    return labels


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 6),
    st.sampled_from([1, 2, 3, 14]),
    st.sampled_from([1, 3, 100_000]),
    st.integers(0, 2**32 - 1),
)
def test_token_labels_equal_brute_force(width, height, side, patch, num_labels, seed):
    label_map = np.random.default_rng(seed).integers(0, num_labels + 1, (height, width), dtype=np.int32)
    expected = _brute_force_labels(label_map, side * patch, patch)
    np.testing.assert_array_equal(label_maps.token_labels(label_map, side * patch, patch), expected)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64])
def test_the_type_of_the_map_does_not_change_the_labels(dtype):
    label_map = np.random.default_rng(0).integers(0, 2, (31, 20)).astype(dtype)
    np.testing.assert_array_equal(
        label_maps.token_labels(label_map, 28, 7), _brute_force_labels(label_map.astype(np.int32), 28, 7)
    )


def test_ties_go_to_the_smallest_label():
    label_map = np.array([[0, 0, 2, 2], [0, 2, 2, 1], [5, 5, 1, 3], [5, 0, 3, 1]])
    assert label_maps.token_labels(label_map, 4, 2).tolist() == [[0, 2], [5, 1]]
    assert label_maps.token_labels(np.array([[9, 0], [0, 9]]), 2, 2).tolist() == [[0]]
    assert label_maps.token_labels(np.array([[9, 9], [0, 0]]), 2, 2).tolist() == [[0]]


def test_padding_is_background():
    labels = label_maps.token_labels(np.full((2, 6), 4), 6, 2)
    assert labels.tolist() == [[0, 0, 0], [4, 4, 4], [0, 0, 0]]


def test_more_than_a_chunk_of_mixed_blocks_is_counted():
    label_map = np.random.default_rng(0).integers(0, 3, (300, 300), dtype=np.int32)
    assert 2 * label_maps._BLOCK_CHUNK < 150 * 150
    np.testing.assert_array_equal(label_maps.token_labels(label_map, 300, 2), _brute_force_labels(label_map, 300, 2))


def test_token_labels_refuse_other_maps():
    with pytest.raises(ValueError, match="whole numbers"):
        label_maps.token_labels(np.zeros((4, 4), np.float32), 4, 2)
    with pytest.raises(ValueError, match="change scales"):
        label_maps.token_labels(np.zeros((4, 4), np.int32), 5, 2)


def test_compressed_run_lengths_of_coco_are_read():
    """The string is what pycocotools 2.0.11 writes for this mask."""
    mask = np.zeros((40, 50), bool)
    mask[3:9, 4:20] = mask[8:30, 15:17] = mask[39, 49] = True
    text = "S56R100000000000000000000e0[O00[Oe0000\\U1K"
    assert label_maps.decode_run_lengths(text) == _run_lengths(mask)


def test_a_coco_file_of_one_image_gives_the_label_map_of_its_masks(tmp_path):
    plain = {"segmentation": {"size": [2, 3], "counts": [1, 2, 3]}, "image_id": 7}
    packed = {"segmentation": {"size": [2, 3], "counts": "123"}, "image_id": 7}
    first, second = (_write_json(tmp_path / f"{i}.json", [one]) for i, one in enumerate((plain, packed)))
    expected = [[0, 1, 0], [1, 0, 0]]
    assert label_maps.read_label_map(first, (3, 2)).tolist() == expected
    assert label_maps.read_label_map(second, (3, 2)).tolist() == expected


def _bad_files(folder: Path) -> dict[str, Path]:
    good = {"segmentation": {"size": [2, 3], "counts": [1, 2, 3]}, "area": 2}

    def changed(name, **changes):
        return _write_json(folder / name, [good | {"segmentation": good["segmentation"] | changes}])

    def npz(name, **arrays):
        np.savez(folder / name, **arrays)
        return folder / name

    def saved(name, image):
        image.save(folder / name)
        return folder / name

    (folder / "text.png").write_text("hello")
    (folder / "text.tif").write_text("hello")
    (folder / "text.npz").write_text("hello")
    (folder / "broken.json").write_text("{")
    (folder / "list.json").write_text("[]")
    (folder / "labels.txt").write_text("1 2 3")
    saved("whole.png", Image.fromarray(np.random.default_rng(0).integers(0, 255, (2, 3), dtype=np.uint8)))
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:45])
    return {
        "does not exist": folder / "missing.png",
        "is a folder": folder,
        "suffix '.txt'": folder / "labels.txt",
        "not a readable PNG": folder / "text.png",
        "not a readable PNG ": folder / "cut.png",
        "not a readable TIFF": folder / "text.tif",
        "not a readable .npz": folder / "text.npz",
        "PNG of 3 bands": saved("rgb.png", Image.new("RGB", (3, 2))),
        "2 x 3 pixels, the image is 3 x 2": saved("turned.png", Image.new("L", (2, 3))),
        "none is label_map": npz("other.npz", labels=LABELS),
        "run from -1 to 0": npz("negative.npz", label_map=np.array([[0, -1, 0], [0, 0, 0]])),
        f"run from 0 to {2**31}": npz("large.npz", label_map=np.array([[0, 2**31, 0], [0, 0, 0]])),
        "labels are float64": npz("float.npz", label_map=LABELS * 1.0),
        r"shape \(1, 2, 3\)": npz("deep.npz", label_map=LABELS[None]),
        "no valid JSON": folder / "broken.json",
        'no list "annotations"': folder / "list.json",
        'no list "annotations" ': _write_json(folder / "none.json", []),
        "annotation 0: want": _write_json(folder / "bare.json", [{"area": 3}]),
        "no compressed run lengths": changed("string.json", counts="a c"),
        "no compressed run lengths ": changed("unfinished.json", counts="12P"),
        "counts sum to 3, size": changed("short.json", counts="12"),
        "annotations of 2 images": _write_json(folder / "two.json", [good | {"image_id": 1}, good | {"image_id": 2}]),
        "counts sum to 6": changed("sum.json", size=[3, 3]),
        "size is": changed("size.json", size=[2]),
        "at most 1000000000": changed("huge.json", size=[10**9, 10**9]),
        "counts are not": changed("negative.json", counts=[1, -2, 7]),
        "area is 'x'": _write_json(folder / "area.json", [good | {"area": "x"}]),
    }


def test_unusable_files_are_refused_in_one_line_that_names_file_and_flag(tmp_path):
    for expected, path in _bad_files(tmp_path).items():
        with pytest.raises(label_maps.LabelMapError, match=expected.strip()) as caught:
            label_maps.read_label_map(path, (3, 2))
        message = str(caught.value)
        assert str(path) in message and "--label_map" in message and "\n" not in message


def test_a_pickled_array_is_never_loaded(tmp_path):
    np.savez(tmp_path / "object.npz", label_map=np.array([{"a": 1}], dtype=object))
    with pytest.raises(label_maps.LabelMapError, match="readable"):
        label_maps.read_label_map(tmp_path / "object.npz", (1, 1))
