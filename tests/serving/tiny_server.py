"""A server around the tiny model, in this process, on a port of its own."""

import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bat_jax.pipeline import BatModel
from bat_jax.serving.app import make_app
from bat_jax.serving.client_pictures import ClientPictures
from bat_jax.serving.gate import GateLimits
from bat_jax.serving.metrics import ServerMetrics
from bat_jax.serving.scene_shelf import SceneShelf
from bat_jax.serving.server import DrainingServer, bound_socket, url_of
from bat_jax.serving.service import AnswerService, ServiceSettings

MAX_PIXELS = 200_000


def write_pictures(folder: pathlib.Path) -> pathlib.Path:
    """Write two pictures and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("harbour.png", "airport.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (150, 230, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def scraped(metrics: ServerMetrics) -> dict[str, float]:
    """Return what Prometheus would read, values without labels or summed over them."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0) + sample.value
    return values


def make_service(model: BatModel, root: pathlib.Path | None = None, **settings) -> AnswerService:
    cfg = model.cfg
    read = {"max_pixels": MAX_PIXELS, "largest_view": max(cfg.compressor.sizes_px)}
    given = ServiceSettings(**({"model_name": "tiny", "max_new_tokens": 16, "read": read} | settings))
    return AnswerService(model, given, shelf=SceneShelf(10**9), pictures=ClientPictures(max_bytes=10**7, root=root))


@contextlib.contextmanager
def running(
    service: AnswerService, limits: GateLimits | None = None, api_key: str | None = None, hosts=("127.0.0.1",)
) -> Iterator[str]:
    """Serve, and give the address; at the end the server stops as it does on a signal."""
    bound = bound_socket("127.0.0.1", 0)
    gate = make_app(service, limits or GateLimits(request_bytes=2**20, upload_bytes=2**21), api_key, hosts)
    server = DrainingServer(gate)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    url = url_of(bound)
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join()
