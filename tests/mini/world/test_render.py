"""Pictures and masks of scenes: right place, right colour, consistent over sizes."""

import numpy as np
import pytest
from PIL import Image

from bat_jax.io import label_maps
from bat_jax.mini.world import render as render_module
from bat_jax.mini.world.layout import generate_scene, land_use_grid
from bat_jax.mini.world.masks import instance_map, label_tokens
from bat_jax.mini.world.render import render, render_signature
from bat_jax.mini.world.shapes import OBJECT_RGB, SITE_RGB, Canvas, rectangle
from bat_jax.mini.world.world import COLOURS, LAND_USES, OBJECT_KINDS, SIDE_DM, SITE_KINDS, STATES, Marker


@pytest.fixture(scope="module")
def scene():
    return generate_scene(3)


@pytest.fixture(scope="module")
def picture(scene):
    return render(scene, 1344)


def test_a_picture_repeats_and_scenes_differ(scene, picture):
    assert picture.shape == (1344, 1344, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, render(scene, 1344))
    assert np.abs(picture.astype(int) - render(generate_scene(4), 1344)).mean() > 10


@pytest.mark.parametrize("side", [223, 0, -5, 16_385])
def test_a_side_out_of_range_is_refused(scene, side):
    with pytest.raises(ValueError, match=f"side={side}: a scene is rendered at 224 to 16384"):
        render(scene, side)


@pytest.mark.parametrize("side", [224, 448, 896, 1000, 2016])
def test_every_size_shows_the_same_picture(scene, picture, side):
    ours = render(scene, side)
    assert ours.shape == (side, side, 3)
    small = [
        np.asarray(Image.fromarray(image).resize((96, 96), Image.Resampling.BOX), int) for image in (ours, picture)
    ]
    assert np.abs(small[0] - small[1]).mean() < 2


def test_strips_leave_no_seams(scene, monkeypatch):
    whole = render(scene, 2016)
    monkeypatch.setattr(render_module, "_STRIP_ROWS", 250)
    strips = render(scene, 2016)
    difference = np.abs(whole.astype(int) - strips)
    assert (difference > 1).mean() < 0.0005  # resampling may round otherwise, by one level
    assert difference.mean() < 0.02


def test_coverage_is_the_area_of_a_polygon():
    canvas = Canvas(1344)
    for side_dm in (7, 35, 180, 2000):
        left, top, mask = canvas.coverage(rectangle(5003, 6007, 5003 + side_dm, 6007 + side_dm))
        area = np.asarray(mask, float).sum() / 255
        assert area == pytest.approx((side_dm / 10) ** 2, rel=0.12, abs=0.25)
        assert (left, top) == (500, 600)
    assert canvas.coverage(rectangle(-500, -500, -10, -10)) is None


@pytest.fixture(scope="module")
def large():
    """Return six scenes with their pictures of 2688 pixels."""
    return [(scene, render(scene, 2688)) for scene in map(generate_scene, range(6))]


def test_pads_and_objects_have_their_colours_where_they_lie(large):
    for seed, (scene, picture) in enumerate(large[:4]):
        picture, ids = picture.astype(int), instance_map(scene, 2688)
        for site in scene.sites:
            corner = picture[(site.y + site.half - 40) // 5, (site.x + site.half - 40) // 5]
            edge = picture[(site.y - site.half + 35) // 5, (site.x + site.half - 35) // 5]
            nearest = min(np.abs(corner - SITE_RGB[site.kind]).max(), np.abs(edge - SITE_RGB[site.kind]).max())
            assert nearest <= 12, (seed, site.kind, corner)
        for obj in scene.objects:
            pixels = picture[ids == 200 + obj.object_id]
            distance = {name: np.abs(pixels - rgb).max(axis=1) for name, rgb in OBJECT_RGB.items()}
            shares = {name: (values <= 14).mean() for name, values in distance.items()}
            assert max(shares, key=shares.get) == obj.colour, (seed, obj, shares)


def test_an_object_is_a_smudge_in_the_anchor_and_at_least_a_token_in_the_finest_view(scene):
    coarse, fine = instance_map(scene, 224), instance_map(scene, 1344)
    for obj in scene.objects:
        assert 1 <= (coarse == 200 + obj.object_id).sum() <= 9
        assert (fine == 200 + obj.object_id).sum() >= 40


def test_a_moving_object_has_a_pale_trail_behind_it_and_a_still_one_has_not(large):
    found = {True: [], False: []}
    for scene, picture in large:
        for obj in (obj for obj in scene.objects if obj.kind in ("ship", "plane", "car")):
            cos, sin = np.cos(obj.heading * np.pi / 8), np.sin(obj.heading * np.pi / 8)
            x, y = obj.x - 1.1 * obj.length * cos, obj.y - 1.1 * obj.length * sin
            found[obj.is_moving].append(picture[int(y / 5), int(x / 5)].min())
    assert min(found[True]) > 180 > max(found[False])


def test_the_marker_is_a_red_ring_and_leaves_its_inside_alone(scene, picture):
    marker = Marker(x=6000, y=7000, radius=900)
    marked = render(scene, 1344, marker)
    row, column = np.nonzero((marked != picture).any(axis=2))
    away = np.hypot(column + 0.5 - 600, row + 0.5 - 700)
    assert away.min() > 78 and away.max() < 93
    assert np.abs(marked[700, 600 + 86].astype(int) - (255, 0, 0)).max() <= 15
    anchor = render(scene, 224, marker).astype(int)
    assert (anchor[..., 0] - anchor[..., 1:].max(axis=2) > 60).sum() > 60


def test_the_signature_tells_scenes_apart_and_not_machines(scene, monkeypatch):
    expected = render_signature(scene)
    assert render_module.signature_distance(expected, expected) == 0
    assert render_module.signature_distance(expected, render_signature(generate_scene(4))) > 20
    original = render_module.render

    def other_machine(*arguments):
        picture = original(*arguments).astype(int)
        return np.clip(picture + np.random.default_rng(0).integers(-1, 2, picture.shape), 0, 255).astype(np.uint8)

    monkeypatch.setattr(render_module, "render", other_machine)
    assert render_module.signature_distance(render_signature(scene), expected) <= 1
    with pytest.raises(ValueError, match="4 and 2 digits"):
        render_module.signature_distance("00ff", "00")


def test_the_signature_is_the_means_of_squares(scene):
    levels = np.frombuffer(bytes.fromhex(render_signature(scene)), np.uint8).reshape(8, 8, 3)
    corner = render(scene, 224)[28:56, 196:].mean(axis=(0, 1))
    assert np.abs(levels[1, 7] - corner).max() <= 0.51


def test_ids_of_the_instance_map_are_sites_objects_and_land(scene):
    ids = instance_map(scene, 1344)
    assert ids.dtype == np.int32 and ids.min() > 0
    for site in scene.sites:
        area = ((ids == 100 + site.site_id) | (ids >= 200))[
            (site.y - site.half) // 10 + 1 : (site.y + site.half) // 10 - 1,
            (site.x - site.half) // 10 + 1 : (site.x + site.half) // 10 - 1,
        ]
        assert area.all()
    for obj in scene.objects:
        row, column = np.nonzero(ids == 200 + obj.object_id)
        assert np.hypot(column + 0.5 - obj.x / 10, row + 0.5 - obj.y / 10).max() <= 0.6 * obj.length / 10 + 1
    assert set(range(1, len(scene.land.seeds) + 1)) & set(np.unique(ids))


@pytest.mark.parametrize("scale", [224, 896, 1344])
def test_token_labels_agree_with_counting_pixels(scene, scale):
    """An independent count: shares of pads and most frequent land use over 12 x 12 points of each token."""
    labels = label_tokens(scene, scale, 14)
    n = scale // 14
    pads = {100 + site.site_id: 1 + SITE_KINDS.index(site.kind) for site in scene.sites}
    for ident, number in pads.items():
        site = scene.sites[ident - 101]
        x = (np.arange(n * 12) + 0.5) * SIDE_DM / (n * 12)
        inside = (abs(x - site.x) < site.half)[None, :] & (abs(x - site.y) < site.half)[:, None]
        share = inside.reshape(n, 12, n, 12).mean(axis=(1, 3))
        clear = abs(share - 0.5) > 0.1
        assert np.array_equal((labels.site_kind == number)[clear], (share > 0.5)[clear])
    open_land = labels.site_id == 0
    assert (labels.land_use[~open_land] == 0).all() and (labels.land_use[open_land] > 0).all()
    land = land_use_grid(scene.land, scene.river, n * 12)
    truth = np.array(
        [
            np.bincount(block, minlength=7).argmax()
            for block in land.reshape(n, 12, n, 12).swapaxes(1, 2).reshape(n * n, 144)
        ]
    ).reshape(n, n)
    assert (truth == labels.land_use)[open_land].mean() > 0.97


@pytest.mark.parametrize("scale", [224, 448, 896, 1344])
def test_every_object_labels_a_token_that_it_touches(scene, scale):
    labels = label_tokens(scene, scale, 14)
    n = scale // 14
    for obj in scene.objects:
        rows, columns = np.nonzero(labels.object_id == obj.object_id)
        assert len(rows)
        assert (labels.object_kind[rows, columns] == 1 + OBJECT_KINDS.index(obj.kind)).all()
        assert (labels.colour[rows, columns] == 1 + COLOURS.index(obj.colour)).all()
        assert (labels.state[rows, columns] == 1 + STATES.index(obj.state)).all()
        middles = (np.stack([columns, rows]) + 0.5) * SIDE_DM / n
        reach = 0.75 * SIDE_DM / n + obj.length
        assert np.abs(middles - np.array([[obj.x], [obj.y]])).max() < reach
    assert (labels.event > 0).any()
    assert ((labels.object_id > 0) == (labels.object_kind > 0)).all()


def test_token_labels_want_whole_tokens(scene):
    with pytest.raises(ValueError, match="scale: got 225, want a positive multiple of the patch side 14"):
        label_tokens(scene, 225, 14)


def test_the_instance_map_serves_as_regions(scene):
    tokens = label_maps.token_labels(instance_map(scene, 448), 448, 14)
    labels = label_tokens(scene, 448, 14)
    on_pad = labels.site_id > 0
    assert (tokens[on_pad] >= 100).mean() > 0.95
    assert len(LAND_USES) == 6
