"""Training pictures: labels lie on the tiles they describe, circles are where they are drawn, runs go on."""

import numpy as np
import pytest

from bat_jax.config import BatConfig
from bat_jax.io.views import make_tiles
from bat_jax.mini.curriculum import picture_store
from bat_jax.mini.curriculum.picture_store import PictureStore, TokenTruth
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.masks import label_tokens
from bat_jax.mini.world.render import render
from bat_jax.mini.world.world import SIDE_DM, Marker

CFG = BatConfig.mini()


def test_every_second_picture_has_one_of_its_own_questions_circles():
    assert picture_store.picture(4).marker is None
    assert picture_store.picture(5).marker is not None
    assert {picture_store.picture(index).side_px for index in range(4)} == {1344, 2688}


def test_tiles_and_labels_are_those_of_the_views():
    item = picture_store.LabelledPicture(generate_scene(3), None, 1344)
    tiles, labels = picture_store.picture_arrays(CFG, item)
    views = make_tiles(render(item.scene, 1344), CFG.compressor.sizes_px, CFG.vision)
    np.testing.assert_array_equal(tiles, np.concatenate(views))
    truth = TokenTruth.of(labels)
    assert labels.shape == (14592, 9) and not truth.ring.any()
    finest = label_tokens(item.scene, 1344, 14)
    # Tile 5 of the finest view is the sixth of its first row: token rows 0-7, columns 40-47.
    tile = truth.site_kind[256 + 1024 + 4096 :].reshape(144, 8, 8)[5]
    np.testing.assert_array_equal(tile, finest.site_kind[:8, 40:48])


def test_ring_tokens_are_those_that_points_on_the_line_fall_into():
    marker, side = Marker(x=5000, y=7000, radius=900), 96
    found = picture_store.ring_tokens(marker, side)
    angle = np.linspace(0, 2 * np.pi, 20000)
    cell = SIDE_DM / side
    column = (marker.x + (marker.radius - 1) * np.cos(angle)) // cell
    row = (marker.y + (marker.radius - 1) * np.sin(angle)) // cell
    assert np.all(found[row.astype(int), column.astype(int)] == 1)
    centre = found[int(marker.y // cell), int(marker.x // cell)]
    assert centre == 0 and 0 < found.sum() < 200
    assert not picture_store.ring_tokens(None, side).any()


def test_a_store_makes_what_is_missing_and_refuses_another_config(tmp_path):
    store = PictureStore(tmp_path, CFG, 2)
    store.tiles[0], store.labels[0], store.done[0] = 7, 1, 1
    picture_store._make((tmp_path, CFG, 2, 1))
    again = PictureStore(tmp_path, CFG, 2)
    assert again.done.tolist() == [1, 1] and int(again.tiles[0].max()) == 7
    tiles, labels = picture_store.picture_arrays(CFG, picture_store.picture(1))
    np.testing.assert_array_equal(again.tiles[1], tiles)
    np.testing.assert_array_equal(again.labels[1], labels)
    with pytest.raises(ValueError, match="num_pictures"):
        PictureStore(tmp_path, CFG, 3)


def test_an_event_shows_under_its_own_id_where_no_object_stands():
    labels = np.zeros((3, 9), np.uint8)
    event, object_id = TokenTruth._fields.index("event"), TokenTruth._fields.index("object_id")
    labels[:2, event] = 4
    labels[1:, object_id] = 7
    assert TokenTruth.of(labels).shown_id().tolist() == [picture_store.EVENT_ID, 7, 7]
