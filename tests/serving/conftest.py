"""What the server's tests share: the tiny model, and a folder of pictures."""

import pytest

from tests.tiny_model import load_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from tests.serving.tiny_server import write_pictures  # which imports the extra `serve`

    return write_pictures(tmp_path_factory.mktemp("files") / "scenes")
