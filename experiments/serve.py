"""Answer questions about images over HTTP, as OpenAI's clients ask them, and on a page for the browser.

    python -m experiments.serve --checkpoint=DIR
    python -m experiments.serve --checkpoint=DIR --port=8000 --scene_root=/data/scenes --api_key=SECRET

A picture is encoded once and kept; questions that wait for the same picture are answered together. docs/serve.md has
the routes. Needs the extra `serve`. It stops on SIGTERM or Ctrl-C when everything that it took is answered.
"""

import contextlib
import os
import pathlib
import sys

from absl import flags

from bat_jax.pipeline import BatModel
from . import cli
from . import compressor_flags as compressor
from .mesh_flags import mesh_of_flags
from .scene_cache_flags import scene_cache

API_KEY = "BAT_JAX_API_KEY"
CHECKPOINT = flags.DEFINE(cli.CheckpointParser(), "checkpoint", None, "Directory that convert wrote, or uhr-bat-mini.")
HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for every network of this machine.")
PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0 for any free one.", lower_bound=0, upper_bound=65535)
KEY = flags.DEFINE_string("api_key", None, f"Clients have to name this key; else what the variable {API_KEY} holds.")
MODEL_NAME = flags.DEFINE_string("model_name", None, "By which clients call the model. Default: the folder's name.")
SCENE_ROOT = flags.DEFINE_string("scene_root", None, "Clients may name pictures below this folder. Default: none.")
SCENE_MEMORY = flags.DEFINE_float(
    "scene_memory", 4.0, "Encoded pictures to keep, in 10^9 bytes; the least recently used go.", lower_bound=0
)
UPLOADS_GB = flags.DEFINE_float(
    "uploads_gb", 10.0, "Uploaded files to keep on the disk, in 10^9 bytes; the least recently used go.", lower_bound=0
)
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "Most tokens of an answer.", lower_bound=1)
MAX_IMAGES = flags.DEFINE_integer("max_images", 4, "Most pictures of a question.", lower_bound=1)
MAX_WAITING = flags.DEFINE_integer("max_waiting", 32, "Requests that may wait; more are refused (429).", lower_bound=1)
QUESTIONS_AT_ONCE = flags.DEFINE_integer(
    "questions_at_once", 8, "Most questions about one picture that are answered together.", lower_bound=1
)
TIMEOUT_S = flags.DEFINE_float("timeout_s", 300.0, "Seconds that a request may take (504).", lower_bound=0.01)
MAX_REQUEST_MB = flags.DEFINE_float("max_request_mb", 64.0, "Largest request, in 10^6 bytes (413).", lower_bound=0.001)
MAX_UPLOAD_MB = flags.DEFINE_float("max_upload_mb", 2000.0, "Largest upload, in 10^6 bytes (413).", lower_bound=0.001)
_LOOPBACK = ("127.0.0.1", "localhost")


def main(_: list[str]) -> None:
    """Load the model and serve it until a signal comes."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error.name}: is not installed; pip install 'bat_jax[serve]'") from None
    # They need the extra.
    from bat_jax.serving.app import make_app
    from bat_jax.serving.client_pictures import ClientPictures
    from bat_jax.serving.gate import GateLimits
    from bat_jax.serving.scene_shelf import SceneShelf
    from bat_jax.serving.server import DrainingServer, bound_socket, url_of
    from bat_jax.serving.service import AnswerService, ServiceSettings

    if not CHECKPOINT.value:
        raise ValueError("--checkpoint: give a directory written by experiments.convert")
    if compressor.LABEL_MAP.value:
        raise ValueError("--label_map: belongs to one picture, a server has many")
    cfg = compressor.configure(BatModel.read_config(CHECKPOINT.value))
    root = pathlib.Path(SCENE_ROOT.value) if SCENE_ROOT.value else None
    bound = bound_socket(HOST.value, PORT.value)
    settings = ServiceSettings(
        model_name=MODEL_NAME.value or pathlib.Path(CHECKPOINT.value).resolve().name,
        max_new_tokens=MAX_NEW_TOKENS.value,
        max_images=MAX_IMAGES.value,
        max_waiting=MAX_WAITING.value,
        questions_at_once=QUESTIONS_AT_ONCE.value,
        seconds=TIMEOUT_S.value,
        read=compressor.read_options(cfg),
        encode={"kmeans_init": compressor.read_kmeans_init(), "seed": compressor.SEED.value},
    )
    limits = GateLimits(
        request_bytes=int(MAX_REQUEST_MB.value * 1e6),
        upload_bytes=int(MAX_UPLOAD_MB.value * 1e6),
        open_requests=2 * MAX_WAITING.value,
        seconds=TIMEOUT_S.value,
    )
    pictures = ClientPictures(max_bytes=int(UPLOADS_GB.value * 1e9), root=root)
    model = BatModel.load(CHECKPOINT.value, cfg=cfg, scene_cache=scene_cache(), mesh=mesh_of_flags(cfg))
    service = AnswerService(model, settings, shelf=SceneShelf(int(SCENE_MEMORY.value * 1e9)), pictures=pictures)
    key = KEY.value or os.environ.get(API_KEY)
    hosts = _LOOPBACK if not key and HOST.value in _LOOPBACK else ("*",)
    if not key and HOST.value not in _LOOPBACK:
        print(f"warning: --host={HOST.value} without --api_key: whoever reaches it may ask", file=sys.stderr)
    bound.listen()  # from here on who comes waits, but is not turned away
    print(f"{settings.model_name}: {url_of(bound)} (OpenAI's base URL: {url_of(bound)}/v1)", flush=True)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn raises the signal anew when it has ended
        DrainingServer(make_app(service, limits, key, hosts)).run(sockets=[bound])
    print("stopped; everything that was taken is answered", flush=True)


if __name__ == "__main__":
    cli.run(main)
