"""The HTTP application: routes, errors, health, metrics."""

import contextlib
import pathlib
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bat_jax import __version__
from bat_jax.serving.chat_routes import chat_routes
from bat_jax.serving.errors import handle_errors
from bat_jax.serving.gate import Gate, GateLimits
from bat_jax.serving.scene_routes import scene_routes
from bat_jax.serving.service import AnswerService

_PAGE = pathlib.Path(__file__).parent / "page"
# The page takes nothing from elsewhere; OpenSeadragon sets styles, and layers are data: URLs.
_POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"


def make_app(
    service: AnswerService, limits: GateLimits, api_key: str | None = None, hosts: Sequence[str] = ("*",)
) -> Gate:
    """Return the application in its gate; when it ends, it closes the service.

    Args:
      hosts: names that requests may call the server by. Of one that is for this machine alone, without a key, a page
        from elsewhere could else have its own name lead here, and read what the browser's user may.
    """

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    # FastAPI's own pages of documentation load scripts from the network.
    app = FastAPI(title="bat_jax", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    handle_errors(app)
    app.include_router(chat_routes(service))
    app.include_router(scene_routes(service))
    gate = Gate(app, limits=limits, metrics=service.metrics, api_key=api_key)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": _POLICY})

    app.mount("/page", StaticFiles(directory=_PAGE), name="page")

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """Say whether questions are taken: 200, or 503 where the server is stopping or its device failed."""
        status = "stopping" if gate.is_stopping else "ok" if service.worker.is_alive else "failed"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return gate
