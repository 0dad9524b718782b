"""SAM's automatic masks: a stand-in that knows the truth, a tiny random SamModel, filters against brute force."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from bat_jax.io import sam_masks
from bat_jax.io.label_maps import read_label_map
from bat_jax.io.sam_masks import Mask, MaskSettings, crop_windows, generate_masks, label_map_of
from tests.command_batch import run_commands

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIDE = 64
ANY = {"iou_threshold": -99.0, "stability_threshold": -1.0, "largest_share": 1.0}


class Stencil:
    """A model that answers a point with all pixels of its red, at logits of +-5."""

    device = "cpu"
    config = types.SimpleNamespace(vision_config=types.SimpleNamespace(image_size=SIDE))

    def __init__(self, soft=None, scores=(0.9, 0.1, 0.1)):
        self.soft, self.scores, self.prompts = soft, scores, []

    def get_image_embeddings(self, pixels):
        return pixels

    def __call__(self, input_points, image_embeddings, multimask_output):
        assert multimask_output and input_points.shape[::2] == (1, 1)
        red = (image_embeddings[0, 0] * 0.229 + 0.485) * 255
        masks = []
        for x, y in input_points[0, :, 0].tolist():
            colour = red[int(y), int(x)]
            logits = torch.where((red - colour).abs() < 20, 5.0, -5.0)
            is_soft = self.soft is not None and abs(float(colour) - self.soft) < 1
            masks.append(logits * 0.1 if is_soft else logits)
        self.prompts.append(len(masks))
        scores = torch.tensor(self.scores).expand(1, len(masks), 3)
        return types.SimpleNamespace(
            iou_scores=scores, pred_masks=torch.stack(masks)[None, :, None].expand(-1, -1, 3, -1, -1)
        )


def drawn(cells):
    """Return a picture of 8 x 8 pixels a cell in greys."""
    grey = np.kron(np.asarray(cells, np.uint8), np.ones((8, 8), np.uint8))
    return np.repeat(grey[..., None], 3, axis=2)


CELLS = np.zeros((8, 8), np.uint8)
CELLS[1:4, 1:6] = 50
CELLS[2, 2] = 100
CELLS[5:8, 0:3] = 150


def centres(label_map):
    """Return the label at the middle of every cell; edges of enlarged logits are soft."""
    return label_map[4::8, 4::8]


def test_pieces_of_a_picture_become_labels_with_the_smaller_ones_on_top():
    settings = MaskSettings(points_per_side=8, points_per_batch=10, max_side_px=SIDE)
    model = Stencil()
    label_map, masks = label_map_of(model, drawn(CELLS), settings)
    assert len(masks) == 4 and [mask.area for mask in masks] == sorted((mask.area for mask in masks), reverse=True)
    np.testing.assert_array_equal(
        centres(label_map), np.select([CELLS == 50, CELLS == 150, CELLS == 100], [2, 3, 4], 1)
    )
    assert model.prompts == [10] * 6 + [4], "64 points in batches of ten"


def test_unstable_unsure_and_whole_masks_are_dropped():
    settings = MaskSettings(points_per_side=8, max_side_px=SIDE)
    soft = generate_masks(Stencil(soft=50), drawn(CELLS), settings)
    assert len(soft) == 3, "the mask of logits within +-1 is gone"
    assert generate_masks(Stencil(scores=(0.88, 0.5, 0.1)), drawn(CELLS), settings) == []
    assert generate_masks(Stencil(), drawn(np.full((8, 8), 9)), settings) == []
    label_map, masks = label_map_of(Stencil(), drawn(np.full((8, 8), 9)), settings)
    assert masks == [] and not label_map.any()


def test_a_wide_picture_is_reduced_framed_and_enlarged_again():
    cells = np.zeros((2, 8), np.uint8)
    cells[0, 1:3] = 50
    cells[:, 6:] = 150
    settings = MaskSettings(points_per_side=8, max_side_px=64)
    label_map, masks = label_map_of(Stencil(), np.kron(drawn(cells), np.ones((2, 2, 1), np.uint8)), settings)
    assert label_map.shape == (32, 128)
    assert {mask.window_area for mask in masks} == {16 * 64}
    np.testing.assert_array_equal(label_map[8::16, 8::16], np.select([cells == 50, cells == 150], [3, 2], 1))


def test_crops_add_what_the_whole_view_misses_and_drop_what_their_edges_cut():
    assert crop_windows((90, 60), 0) == [(0, 0, 90, 60)]
    assert crop_windows((90, 60), 1) == [(0, 0, 60, 40), (30, 0, 90, 40), (0, 20, 60, 60), (30, 20, 90, 60)]
    pixels = np.zeros((128, 128, 3), np.uint8)
    # windows of 86 pixels start at 0 and 42; the whole view has points at 8, 24, ..., a window at 11, 32, 54, 75
    pixels[28:36, 70:100] = 150  # only the windows' points hit it, and the left window cuts it
    pixels[100:120, 100:120] = 250  # both hit it
    settings = MaskSettings(points_per_side=8, max_side_px=128, largest_share=0.8)
    (whole,) = generate_masks(Stencil(), pixels, settings)
    np.testing.assert_allclose(whole.box, (100, 100, 120, 120), atol=2)
    square, bar = generate_masks(Stencil(), pixels, dataclasses.replace(settings, crop_layers=1))
    np.testing.assert_allclose(square.box, (100, 100, 120, 120), atol=2)
    np.testing.assert_allclose(bar.box, (70, 28, 100, 36), atol=2)
    assert square.window_area == bar.window_area == 86 * 86, "the closer view wins"


def test_suppression_equals_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner = rng.integers(0, 12, (25, 2))
        boxes = np.concatenate([corner, corner + rng.integers(1, 12, (25, 2))], axis=1).astype(float)
        scores = rng.integers(0, 6, 25).astype(float)
        cells = [
            set(np.ndindex(24, 24)) & {(x, y) for x in range(int(a), int(c)) for y in range(int(b), int(d))}
            for a, b, c, d in boxes
        ]
        kept = []
        for i in sorted(range(25), key=lambda i: (-scores[i], i)):
            if all(len(cells[i] & cells[j]) <= 0.4 * len(cells[i] | cells[j]) for j in kept):
                kept.append(i)
        assert sam_masks.non_maximum_suppression(boxes, scores, 0.4).tolist() == kept


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random SamModel of 64-pixel inputs, and the directory it is saved in."""
    size = {"hidden_size": 16, "image_size": SIDE, "patch_size": 8}
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            **size,
            output_channels=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            window_size=4,
            mlp_dim=16,
            num_pos_feats=8,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(
            **size, image_embedding_size=8, mask_input_channels=4
        ),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    torch.manual_seed(2)  # weights whose masks are neither empty nor the whole picture
    model = transformers.SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("sam")
    model.save_pretrained(folder / "model")
    return model, folder


def test_masks_are_those_of_the_model_asked_point_by_point(tiny):
    model, _ = tiny
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    masks = generate_masks(model, pixels, MaskSettings(points_per_side=3, points_per_batch=4, nms_threshold=1.0, **ANY))
    framed = np.zeros((64, 64, 3), np.float32)
    framed[:48] = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    image = torch.from_numpy(framed).permute(2, 0, 1)[None]
    found = sorted((mask.box, mask.pixels.tobytes(), mask.predicted_iou) for mask in masks)
    expected = []
    for row in range(3):
        for col in range(3):
            point = torch.tensor([[[[(col + 0.5) * 64 / 3, (row + 0.5) * 48 / 3]]]])
            with torch.no_grad():
                output = model(pixel_values=image, input_points=point)
            large = torch.nn.functional.interpolate(output.pred_masks[0], (64, 64), mode="bilinear")[0, :, :48].numpy()
            for logits, score in zip(large, output.iou_scores[0, 0].tolist(), strict=True):
                inside = logits > 0
                if not 0 < inside.sum() < inside.size:
                    continue
                rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
                box = cols[0], rows[0], cols[-1] + 1, rows[-1] + 1
                expected.append((tuple(map(int, box)), inside[box[1] : box[3], box[0] : box[2]].tobytes(), score))
    expected.sort()
    assert [mask[:2] for mask in found] == [mask[:2] for mask in expected] and len(found) > 3
    np.testing.assert_allclose([mask[2] for mask in found], [mask[2] for mask in expected], rtol=1e-4)


def test_the_cache_is_a_label_map_with_facts_about_every_label(tmp_path):
    masks = [Mask(0, 0, np.ones((2, 3), bool), 0.9, 0.97, 12), Mask(1, 1, np.ones((1, 2), bool), 0.95, 1.0, 12)]
    label_map = np.array([[1, 1, 1, 0], [1, 2, 2, 0]], np.int32)
    np.savez(tmp_path / "a.npz", **sam_masks.cache_arrays(label_map, masks))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.npz", (4, 2)), label_map)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["box"].tolist() == [[0, 0, 3, 2], [1, 1, 3, 2]] and arrays["area"].tolist() == [6, 2]
        np.testing.assert_allclose(arrays["predicted_iou"], [0.9, 0.95])
    empty = sam_masks.cache_arrays(np.zeros((2, 2), np.int32), [])
    assert empty["box"].shape == (0, 4)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"points_per_side": 0}, "points_per_side"),
        ({"nms_threshold": 0.0}, "nms_threshold"),
        ({"crop_layers": 9}, "crop_layers"),
    ],
)
def test_a_wrong_setting_is_named(settings, field):
    with pytest.raises(ValueError, match=field):
        MaskSettings(**settings)


def test_a_directory_without_a_model_and_an_unknown_device_are_named(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"--sam=.* --device=cpu: cannot be loaded"):
        sam_masks.load_sam(tmp_path)
    with pytest.raises(ValueError, match="--device=abacus"):
        sam_masks.load_sam(tiny[1] / "model", "abacus")


def test_the_command_writes_masks_once_and_names_what_is_wrong(tiny, tmp_path):
    model, folder = tiny
    pixels = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(pixels).save(tmp_path / "pictures" / name)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    out, masks = (
        tmp_path / "masks",
        ["--points_per_side=2", "--iou_threshold=-99", "--stability_threshold=-1", "--largest_share=1"],
    )
    given = [f"--sam={folder / 'model'}", f"--output_dir={out}", *masks]
    pictures = f"--image_dir={tmp_path / 'pictures'}"
    cases = [
        [*given, pictures],
        [*given, pictures],
        [*given, pictures, f"--image={tmp_path / 'a.tif'}"],
        given,
        [*given, f"--image={tmp_path / 'nowhere.png'}"],
        [*given, pictures, "--points_per_side=0"],
    ]
    first, again, same_name, none, missing, bad = run_commands("experiments.make_masks", cases)
    assert first[0] == 0, first[2]
    assert sorted(path.name for path in out.iterdir()) == ["a.npz", "b.npz"]
    settings = MaskSettings(points_per_side=2, largest_share=1.0, iou_threshold=-99.0, stability_threshold=-1.0)
    label_map, _ = label_map_of(model, pixels, settings)
    assert label_map.any()
    np.testing.assert_array_equal(read_label_map(out / "a.npz", (56, 40)), label_map)
    assert again[0] == 0 and "2 pictures, 2 of them have masks already" in again[1] and "masks on" not in again[1]
    for (code, _, err), words in [
        (same_name, "same name"),
        (none, "--image"),
        (missing, "nowhere.png"),
        (bad, "points_per_side"),
    ]:
        assert code == 1 and words in err and len(err.splitlines()) == 1, err
