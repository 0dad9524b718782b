"""Pictures that are sent or named once, and what answers about them show: footprints, GeoJSON, layers."""

import base64
import io
import json

import httpx
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

pytest.importorskip("fastapi")

from bat_jax.report.answer_page import Ask, Asked
from bat_jax.report.map_files import write_map_files
from tests.serving.tiny_server import make_service, running, scraped

QUESTION = "How many ships are moored?"


@pytest.fixture(scope="module")
def root(root):
    pixels = np.random.default_rng(5).integers(0, 256, (3, 150, 230), dtype=np.uint8)
    place = {"crs": "EPSG:32617", "transform": from_origin(400_000, 3_300_000, 10, 10)}
    shape = {"width": 230, "height": 150, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(root / "map.tif", "w", driver="GTiff", **shape, **place) as raster:
        raster.write(pixels)
    (root / "broken.png").write_bytes((root / "harbour.png").read_bytes()[:200])
    return root


@pytest.fixture(scope="module")
def service(model, root):
    return make_service(model, root)


@pytest.fixture(scope="module")
def api(service):
    with running(service) as url, httpx.Client(base_url=f"{url}/v1", timeout=120) as client:
        yield client


def sent(api, path):
    return api.post("/scenes", files={"file": (path.name, path.read_bytes())})


def asked(api, picture, **bat):
    parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": picture}}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "bat": bat}
    reply = api.post("/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_an_upload_is_encoded_once_and_asked_by_its_id(api, service, model, root):
    record = sent(api, root / "harbour.png")
    assert record.status_code == 201
    scene = record.json()
    assert (scene["name"], scene["width"], scene["height"], scene["footprint"]) == ("harbour.png", 230, 150, None)
    assert scene["bytes"] == (root / "harbour.png").stat().st_size and scene["url"] == f"scene://{scene['id']}"
    encoded = scraped(service.metrics)["bat_jax_scenes_encoded_total"]
    reply = asked(api, scene["url"])
    assert (
        reply["choices"][0]["message"]["content"]
        == model.encode(root / "harbour.png").ask(QUESTION, max_new_tokens=16).text
    )
    assert scraped(service.metrics)["bat_jax_scenes_encoded_total"] == encoded
    assert api.get(f"/scenes/{scene['id']}").json() == scene and scene in api.get("/scenes").json()["data"]


def test_a_file_of_the_root_is_named_once_and_its_footprint_is_in_degrees(api):
    reply = api.post("/scenes", json={"file": "map.tif"})
    scene = reply.json()
    assert reply.status_code == 201 and scene["name"] == "map.tif"
    west, south, east, north = transform_bounds(
        "EPSG:32617", "EPSG:4326", 400_000, 3_300_000 - 1500, 402_300, 3_300_000, densify_pts=9
    )
    ring = np.array(scene["footprint"]["coordinates"][0])
    np.testing.assert_allclose([*ring.min(axis=0), *ring.max(axis=0)], [west, south, east, north], atol=1e-6)
    assert ring[0].tolist() == ring[-1].tolist()
    turns = np.sum((ring[1:, 0] - ring[:-1, 0]) * (ring[1:, 1] + ring[:-1, 1]))
    assert turns < 0  # against the clock, as RFC 7946 asks


def test_a_scene_that_is_removed_is_not_known_any_more(api, service, root):
    scene = sent(api, root / "airport.png").json()
    assert (service.pictures.folder / scene["id"]).exists() and scene["id"] in service.shelf.names
    assert api.delete(f"/scenes/{scene['id']}").json()["deleted"]
    assert not (service.pictures.folder / scene["id"]).exists() and scene["id"] not in service.shelf.names
    for reply in (api.get(f"/scenes/{scene['id']}"), api.delete(f"/scenes/{scene['id']}")):
        assert reply.status_code == 404 and reply.json()["error"]["code"] == "scene_not_found"


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"files": {"file": ("a.png", b"no picture")}}, 400, "not an image"),
        ({"files": {"file": ("a.png", b"")}}, 400, "empty"),
        ({"files": {"other": ("a.png", b"abc")}}, 400, "no file of this name"),
        ({"json": {"file": "../scenes/../x.png"}}, 400, "outside"),
        ({"json": {"file": "none.png"}}, 400, "no such file"),
        ({"json": {"file": "broken.png"}}, 400, "broken.png: broken or truncated"),
        ({"json": {"file": 5}}, 400, "send a form"),
        ({"json": []}, 400, "send a form"),
        ({"content": b"\xff"}, 400, "send a form"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": {"file": ("a.png", bytes(2**21))}}, 413, "above the limit"),
    ],
)
def test_what_is_no_picture_is_refused_and_leaves_nothing(api, service, request_, status, message):
    before = sorted(service.pictures.folder.iterdir()), service.pictures.pictures
    reply = api.post("/scenes", **request_)
    assert reply.status_code == status and message in reply.json()["error"]["message"]
    assert (sorted(service.pictures.folder.iterdir()), service.pictures.pictures) == before


@pytest.mark.parametrize("name", ["map.tif", "harbour.png"])
def test_evidence_is_the_geojson_that_answer_writes(api, model, root, tmp_path, name):
    scene = model.encode(root / name)
    write_map_files(tmp_path, name, scene, [Asked(ask=Ask(QUESTION), answer=scene.ask(QUESTION, max_new_tokens=16))])
    expected = json.loads((tmp_path / "tokens.geojson").read_text())
    (found,) = asked(api, name, evidence=True)["bat"]["evidence"]
    assert found == expected and len(found["features"]) == sum(
        row["kept"] for row in asked(api, name)["bat"]["tokens_kept"][0]
    )


def test_evidence_in_the_pictures_pixels_lies_within_the_picture(api):
    (found,) = asked(api, "map.tif", evidence="picture")["bat"]["evidence"]
    kept = [feature for feature in found["features"] if feature["properties"]["fate"] == "kept"]
    points = np.array([feature["geometry"]["coordinates"][0] for feature in kept])
    widths = points[:, :, 0].max(axis=1) - points[:, :, 0].min(axis=1)
    sides = np.array([230 / (feature["properties"]["scale"] / 14) for feature in kept])
    np.testing.assert_allclose(widths, sides, rtol=1e-6)  # a token is a square of the long side's share
    assert points[:, :, 0].min() >= 0 and points[:, :, 0].max() <= 230


def test_layers_show_each_tokens_fate_at_its_place(api, model, root):
    (found,) = asked(api, "harbour.png", layers=True)["bat"]["layers"]
    np.testing.assert_allclose(found["square"], [0, -40, 230, 230])
    assert [(layer["kind"], layer["scale_px"]) for layer in found["layers"]] == [
        (kind, size) for size in (112, 224) for kind in ("importance", "fate")
    ]
    answer = model.encode(root / "harbour.png").ask(QUESTION, max_new_tokens=16)
    for scale, layer in enumerate(found["layers"][1::2]):
        side = layer["scale_px"] // 14
        with Image.open(io.BytesIO(base64.b64decode(layer["png"].partition(",")[2]))) as picture:
            colours = np.asarray(picture)
        assert colours.shape == (side, side, 4)
        is_kept = np.all(np.abs(colours[..., :3] / 255 - (0.16, 0.86, 0.42)) < 0.01, axis=2)
        index = answer.selections[0][scale].keep_index
        assert is_kept.sum() == layer["counts"]["kept"] == np.sum(index >= 0)


def tile(api, scene, level, x, y):
    reply = api.get(f"/scenes/{scene['id']}/tiles/{level}/{x}/{y}")
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(reply.content)) as picture:
        return np.asarray(picture).astype(int)


@pytest.fixture(scope="module")
def large(api, tmp_path_factory):
    """A picture of 3 x 1 tiles, smooth as JPEG wants it, and its record."""
    x, y = np.meshgrid(np.arange(1100), np.arange(180))
    pixels = np.stack([x % 256 // 4 * 2, y % 256, (x + y) // 8 % 256], axis=2).astype(np.uint8)
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.fromarray(pixels).save(path)
    return pixels, sent(api, path).json()


def test_tiles_show_the_picture_at_full_resolution_and_smaller(api, large):
    pixels, scene = large
    plan = api.get(f"/scenes/{scene['id']}/tiles").json()
    assert plan == {"width": 1100, "height": 180, "tile_size": 512, "max_level": 2}
    row = np.concatenate([tile(api, scene, 2, x, 0) for x in range(3)], axis=1)
    assert row.shape == (180, 1100, 3)
    assert np.abs(row - pixels).mean() < 4
    whole = tile(api, scene, 0, 0, 0)
    assert whole.shape == (45, 275, 3)
    means = pixels.reshape(45, 4, 275, 4, 3).mean(axis=(1, 3))
    assert np.abs(whole - means).mean() < 4


@pytest.mark.parametrize("place", ["3/0/0", "2/3/0", "2/0/1", "0/1/0", "-1/0/0", "0/-1/0"])
def test_there_are_no_tiles_beyond_the_picture(api, large, place):
    reply = api.get(f"/scenes/{large[1]['id']}/tiles/{place}")
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "no_such_tile"


def test_tiles_of_a_file_of_the_root_stand_with_the_uploads_and_go_with_them(api, service, root):
    scene = api.post("/scenes", json={"file": "airport.png"}).json()
    with Image.open(root / "airport.png") as picture:
        assert np.abs(tile(api, scene, 0, 0, 0) - np.asarray(picture)).mean() < 60  # noise, which JPEG keeps badly
    made = service.pictures.folder / f"{scene['id']}.tif"
    assert made.exists()
    api.delete(f"/scenes/{scene['id']}")
    assert not made.exists() and (root / "airport.png").exists()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_raster_that_is_too_large_to_be_read_in_full_has_tiles_of_its_own_pixels(api, root, dtype):
    """Of 600,000 pixels, where 200,000 may be read; where values are stretched, what the model was given is shown."""
    x, y = np.meshgrid(np.arange(1000), np.arange(600))
    stripes = (x // 3 % 2 * 120 + y // 100 * 20 + 10).astype(dtype)
    shape = {"width": 1000, "height": 600, "count": 3, "dtype": dtype, "photometric": "RGB"}
    with rasterio.open(root / f"{dtype}.tif", "w", driver="GTiff", **shape) as raster:
        raster.write(np.stack([stripes] * 3))
    scene = api.post("/scenes", json={"file": f"{dtype}.tif"}).json()
    plan = api.get(f"/scenes/{scene['id']}/tiles").json()
    assert (plan["width"], plan["height"], plan["max_level"]) == (1000, 600, 1)
    assert tile(api, scene, 0, 0, 0).shape == (300, 500, 3)
    edge = tile(api, scene, 1, 1, 1)
    assert edge.shape == (88, 488, 3)
    if dtype == "uint8":
        assert np.abs(edge[..., 0] - stripes[512:, 512:].astype(int)).mean() < 4
