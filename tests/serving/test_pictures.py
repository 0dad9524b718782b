"""Which pictures requests may name, and what becomes of uploads."""

import base64
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from bat_jax.io.bands import ImageError
from bat_jax.serving.client_pictures import ClientPictures
from bat_jax.serving.errors import ApiError, api_error
from tests.serving.tiny_server import write_pictures


@pytest.fixture
def store(tmp_path):
    store = ClientPictures(max_bytes=1000, root=write_pictures(tmp_path / "scenes"))
    yield store
    store.close()


def data_url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_a_data_url_is_the_picture_that_it_holds(store):
    content = (store.root / "harbour.png").read_bytes()
    picture = store.resolve(data_url(content))
    np.testing.assert_array_equal(picture.read().pixels, np.asarray(Image.open(io.BytesIO(content))))
    assert store.resolve(data_url(content, "application/octet-stream")).id == picture.id
    assert store.resolve(data_url((store.root / "airport.png").read_bytes())).id != picture.id


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,@@@", "data:image/png;base64,", "data:image/png,abc", "data:", "data:x;base64,QUJ"]
)
def test_a_broken_data_url_is_refused(store, url):
    with pytest.raises(ApiError) as refused:
        store.resolve(url)
    assert refused.value.status_code == 400 and "\n" not in refused.value.detail


@pytest.mark.parametrize("form", ["harbour.png", "./harbour.png", "FILE", "file://localhostROOT/harbour.png"])
def test_a_file_below_the_root_is_found_by_name_and_by_url(store, form):
    picture = store.resolve(form.replace("FILE", "file://ROOT/harbour.png").replace("ROOT", str(store.root)))
    assert picture.name == "harbour.png" and picture.read().full_size == (230, 150)


@pytest.mark.parametrize(
    "name", ["../secret.png", "FOLDER/secret.png", "file://FOLDER/secret.png", "link.png", "links/secret.png", "/"]
)
def test_no_name_and_no_link_leads_out_of_the_root(store, tmp_path, name):
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", store.root / "link.png")
    os.symlink(tmp_path, store.root / "links")
    with pytest.raises(ApiError) as refused:
        store.resolve(name.replace("FOLDER", str(tmp_path)))
    assert refused.value.code == "outside_root" and refused.value.status_code == 400


@pytest.mark.parametrize("name", ["none.png", "", ".", "x" * 5000, "a\0b", "file://other-host/harbour.png", "file://["])
def test_a_file_that_is_not_there_is_refused(store, name):
    with pytest.raises(ApiError) as refused:
        store.resolve(name)
    assert refused.value.code == "no_such_file"


def test_without_a_root_no_file_is_opened(tmp_path):
    store = ClientPictures(max_bytes=1000)
    with pytest.raises(ApiError) as refused:
        store.resolve(str(write_pictures(tmp_path) / "harbour.png"))
    assert refused.value.code == "files_not_served"
    store.close()


@pytest.mark.parametrize("url", ["http://example.org/a.png", "https://example.org/a.png"])
def test_nothing_is_fetched_from_the_network(store, url):
    with pytest.raises(ApiError, match="fetches nothing"):
        store.resolve(url)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_by_its_header(store):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="60000 x 60000"):
        store.resolve(data_url(bomb)).read(max_pixels=10**8)


def test_messages_name_a_picture_as_the_client_does_and_no_flag_of_the_server(store):
    (store.root / "broken.png").write_bytes((store.root / "harbour.png").read_bytes()[:300])
    with pytest.raises(ImageError) as found:
        store.resolve("broken.png").read()
    message = api_error(found.value).detail
    assert message.startswith("broken.png: broken or truncated PNG") and str(store.root) not in message
    assert "--image" in str(found.value) and "--" not in message


def test_uploads_are_known_by_content_and_the_least_recently_used_go(store):
    def upload(number, name):
        picture = store.upload(io.BytesIO(bytes([number]) * 400), name)
        store.remember(picture)
        return picture

    first, second = upload(1, "1.png"), upload(2, "2.png")
    assert upload(1, "again.png").id == first.id
    third = upload(3, "3.png")
    assert [picture.id for picture in store.pictures] == [first.id, third.id]
    assert {path.name for path in store.folder.iterdir()} == {first.id, third.id}
    with pytest.raises(ApiError) as gone:
        store.resolve(f"scene://{second.id}")
    assert gone.value.status_code == 404


def test_an_upload_above_the_limit_or_without_a_byte_leaves_nothing(store):
    for content in (bytes(2000), b""):
        with pytest.raises(ApiError):
            store.upload(io.BytesIO(content), "a.png")
    assert list(store.folder.iterdir()) == []


def test_an_uploads_name_is_for_reading_only(store):
    picture = store.upload(io.BytesIO(b"abc"), "../../etc/\0passwd")
    assert picture.name == "passwd" and picture.path == store.folder / picture.id


def test_a_picture_that_is_removed_takes_its_file_along_but_no_file_of_the_root(store):
    upload, named = store.upload(io.BytesIO(b"abc"), "a.png"), store.file("harbour.png")
    for picture in (upload, named):
        store.remember(picture)
        store.discard(picture)  # which is for those that nobody knows
        assert picture.path.exists()
        store.remove(picture.id)
        with pytest.raises(ApiError):
            store.get(picture.id)
    assert not upload.path.exists() and named.path.exists()


def test_an_upload_that_cannot_be_used_is_discarded(store):
    picture = store.upload(io.BytesIO(b"abc"), "a.png")
    store.discard(picture)
    assert not picture.path.exists() and store.pictures == ()
