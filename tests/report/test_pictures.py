"""What pictures show, against the selection and boxes they are drawn from; and files written whole or not at all."""

import io

import numpy as np
import pytest
from PIL import Image

from bat_jax.compress.compressor import ScaleTokens
from bat_jax.compress.groups import merge_groups
from bat_jax.compress.preserve_merge import preserve_merge
from bat_jax.io.output_files import check_output_dir, staged_dir, staged_file
from bat_jax.report.layers import DROPPED, KEPT, MERGED, PADDING, Backdrop, draw_frames, token_fate
from bat_jax.report.pictures import (
    Panel,
    evidence_boxes,
    evidence_frame,
    evidence_window,
    fate_panels,
    fates_in_boxes,
    region_panels,
    sheet,
    zoom_panels,
)
from tests.tiny_model import load_tiny

OBJECT, SITE = (0.70, 0.20, 0.71, 0.21), (0.6, 0.1, 0.8, 0.3)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A square scene of noise with a black object, the same cut to 2 : 1, and an answer to a question on each."""
    model = load_tiny(tmp_path_factory.mktemp("pictures") / "checkpoint", stages_apart=True)
    pixels = np.random.default_rng(0).integers(120, 256, (600, 600, 3), dtype=np.uint8)
    pixels[120:126, 420:426] = 0
    scenes = model.encode(pixels), model.encode(pixels[:300])
    return [(scene, scene.ask("ships", max_new_tokens=1)) for scene in scenes]


def test_every_token_is_kept_merged_dropped_or_padding_as_the_selection_says():
    # regions 0 and 1, a token alone (-1), a padding token; with a budget of 4 region 1's merged row is cut off
    region_id = np.array([0, 0, 0, -1, 1, 1, 0], np.int32)
    importance = np.array([9, 1, 2, 8, 3, 1, 50], np.float32)
    valid = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    selection = preserve_merge(
        np.eye(7, dtype=np.float32), importance, region_id, valid, 4, num_regions=2, max_budget=5
    )
    fate = token_fate(ScaleTokens(np.eye(7, dtype=np.float32), region_id, valid), selection)
    assert fate.fate.tolist() == [KEPT, MERGED, MERGED, KEPT, KEPT, DROPPED, PADDING]
    assert fate.counts == (3, 2, 1, 1)
    assert fate.num_merged_rows == 1


def test_a_selection_with_groups_of_its_own_says_what_it_merged():
    group = np.array([0, 0, 1, -1, -1, 0], np.int32)
    valid = np.array([1, 1, 1, 1, 0, 1], bool)
    tokens = np.eye(6, dtype=np.float32)
    fate = token_fate(ScaleTokens(tokens, np.zeros(6, np.int32), valid), merge_groups(tokens, np.ones(6), group, 3))
    assert fate.fate.tolist() == [MERGED, MERGED, KEPT, DROPPED, PADDING, MERGED]
    assert fate.num_merged_rows == 1


def test_layers_are_painted_where_their_tokens_are(asked):
    for (scene, _), shape in zip(asked, [(576, 576), (288 * 2, 576 * 2)], strict=True):
        backdrop = Backdrop(scene)
        layer = np.zeros((16, 16, 4))
        layer[6, 4] = (1, 0, 0, 1)
        painted = backdrop.paint(layer)
        assert painted.shape[:2] == shape
        is_red = (painted == (255, 0, 0)).all(axis=-1)
        rows, columns = np.nonzero(is_red)
        cell = shape[1] // 16
        # of the padded square's 16 rows a 2 : 1 image holds rows 4 to 11
        first_row = 6 if shape[0] == shape[1] else 2
        assert (rows.min(), rows.max() + 1) == (first_row * cell, (first_row + 1) * cell)
        assert (columns.min(), columns.max() + 1) == (4 * cell, 5 * cell)
        np.testing.assert_array_equal(painted[~is_red], backdrop.picture()[~is_red])


def test_fates_are_the_selection_s_in_captions_and_on_the_evidence(asked):
    scene, answer = asked[0]
    panels = fate_panels(scene, Backdrop(scene), answer.selections[0])
    for scale, panel in enumerate(panels):
        fate = token_fate(scene.scales[scale], answer.selections[0][scale])
        assert panel.caption.startswith(f"{scene.scales_px[scale]} px view: {fate.counts[KEPT]} tokens kept")
        assert fate.counts[KEPT] + fate.num_merged_rows == answer.tokens_kept[0][scale]
    # the box touches 2 x 1 tokens of the 8 x 8 grid and 3 x 1 of the 16 x 16 grid
    box = (0.26, 0.51, 0.40, 0.55)
    expected = []
    for scale, columns in enumerate((slice(2, 4), slice(4, 7))):
        grid = scene.grids[scale].to_grid(token_fate(scene.scales[scale], answer.selections[0][scale]).fate)
        expected.append(grid[len(grid) // 2, columns].tolist())
    words = fates_in_boxes(scene, Backdrop(scene), answer.selections[0], [box])
    for part, fates in zip(words.split("; "), expected, strict=True):
        counts = {name: int(num) for num, name in (item.split() for item in part.split(": ")[1].split(", "))}
        names = [("kept", "merged", "dropped", "padding")[fate] for fate in fates]
        assert counts == {name: names.count(name) for name in set(names)}


def test_evidence_is_the_smallest_boxes_in_a_window_inside_the_picture():
    near = (0.75, 0.25, 0.76, 0.26)
    assert evidence_boxes([OBJECT, near, SITE]) == (OBJECT, near)
    assert evidence_boxes([SITE]) == (SITE,)
    assert evidence_boxes([]) == ()
    np.testing.assert_allclose(evidence_window([OBJECT]), (0.69, 0.19, 0.72, 0.22))
    np.testing.assert_allclose(evidence_frame([OBJECT]), (0.685, 0.185, 0.725, 0.225))
    np.testing.assert_allclose(evidence_window([(0.0, 0.99, 0.01, 1.0)]), (0, 0.97, 0.03, 1), atol=1e-9)
    np.testing.assert_allclose(evidence_window([(0.0, 0.0, 1.0, 1.0)]), (0, 0, 1, 1))


def test_zoom_shows_the_framed_place_in_coarsest_view_finest_view_and_file(asked):
    scene, _ = asked[0]
    panels = zoom_panels(scene, Backdrop(scene), [OBJECT])
    assert [panel.caption for panel in panels] == [
        "Coarsest view, 112 px: the frame is 1.1 px wide",
        "Finest view, 224 px: the frame is 2.2 px wide",
        "The picture itself, 600 px: the frame is 6.0 px wide",
    ]
    middle = panels[-1].pixels[150:270, 150:270]
    assert middle.mean() < 10 < 100 < panels[-1].pixels[:100].mean()


def test_frames_stand_around_their_boxes():
    framed = draw_frames(np.full((100, 100, 3), 80, np.uint8), [(0.2, 0.3, 0.6, 0.7)], ["1"])
    assert (framed[31:69, 21:59] == 80).all()
    assert (framed[50, 18:20] == 255).all() and (framed[50, [17, 20]] == 0).all()
    assert (framed[50, :17] == 80).all()


def test_a_sheet_holds_every_panel_as_it_is(asked):
    scene, _ = asked[1]
    panels = region_panels(scene, Backdrop(scene))
    image = np.asarray(sheet("A title\nof two lines", [*panels, Panel(panels[0].pixels, "again " * 60)], 2))
    windows = np.lib.stride_tricks.sliding_window_view(image[:, :, 0], (8, 8))
    for panel in panels:
        assert (windows == panel.pixels[:8, :8, 0]).all(axis=(-1, -2)).any()
    with Image.open(io.BytesIO(panels[0].jpeg(80))) as picture:
        assert picture.size == panels[0].pixels.shape[1::-1]


def test_a_failed_run_leaves_no_file_and_no_folder(tmp_path):
    with pytest.raises(RuntimeError), staged_dir(tmp_path / "report") as stage:
        (stage / "answer.json").write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), staged_file(tmp_path / "trace.npz") as stage:
        stage.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_report_replaces_its_own_files_and_keeps_others(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "answer.json").write_text("old")
    with staged_dir(tmp_path) as stage:
        (stage / "answer.json").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"notes.txt": "mine", "answer.json": "new"}


def test_output_directories_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_output_dir(tmp_path / "file", overwrite=False)
    with pytest.raises(ValueError, match="cannot be written"):
        check_output_dir(tmp_path / "file" / "below", overwrite=False)
    with pytest.raises(ValueError, match="--overwrite"):
        check_output_dir(tmp_path, overwrite=False)
    check_output_dir(tmp_path, overwrite=True)
    check_output_dir(tmp_path / "new" / "deep", overwrite=False)
