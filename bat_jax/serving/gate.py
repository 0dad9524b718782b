"""What every request passes before its body is read: stopping, keys, sizes, time to send, and the count of it.

It wraps the app as ASGI middleware of its own, because a body that is too large must be refused while it comes in.
"""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from bat_jax.serving.errors import ApiError
from bat_jax.serving.metrics import ServerMetrics

KEYED = "/v1/"
_ALWAYS = ("/healthz", "/metrics")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateLimits:
    """Most bytes of a request and of an upload (to /v1/scenes), most requests at once, seconds to send one."""

    request_bytes: int = 64 * 2**20
    upload_bytes: int = 1024 * 2**20
    open_requests: int = 64
    seconds: float = 300.0


class Gate:
    """Lets requests in, or refuses them; knows when none is left."""

    def __init__(self, app: ASGIApp, *, limits: GateLimits, metrics: ServerMetrics, api_key: str | None = None):
        """Wrap an app; with a key, whoever comes below /v1/ has to name it as a Bearer token."""
        self.app = app
        self.limits, self.metrics = limits, metrics
        self._key = api_key.encode() if api_key else None
        self.is_stopping = False
        self._num_open = 0
        self._when_empty: Callable[[], None] | None = None
        metrics.open_requests.set_function(lambda: self._num_open)

    def stop(self, when_empty: Callable[[], None]) -> None:
        """Refuse new requests, and call back when the last one that was let in has its answer."""
        self.is_stopping, self._when_empty = True, when_empty
        self._call_if_empty()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._num_open += 1
        try:
            try:
                self._check(scope)
            except ApiError as error:
                await error.response()(scope, receive, sent)
                return
            await self.app(scope, self._limited(scope, receive), sent)
        finally:
            self._num_open -= 1
            route = getattr(scope.get("route"), "path", "none")  # bounded, whatever paths clients make up
            self.metrics.requests.labels(route, status).inc()
            self.metrics.request_seconds.labels(route).observe(time.perf_counter() - start)
            self._call_if_empty()

    def _call_if_empty(self) -> None:
        if self.is_stopping and not self._num_open and self._when_empty:
            when_empty, self._when_empty = self._when_empty, None
            when_empty()

    def _check(self, scope: Scope) -> None:
        """Raise an ApiError for what can be refused by its first lines."""
        path, headers = scope["path"], dict(scope["headers"])
        if path in _ALWAYS:
            return
        if self.is_stopping:
            raise ApiError(503, "the server is stopping", code="stopping", retry_after=10)
        if self._num_open > self.limits.open_requests:
            raise ApiError(429, "too many requests at once; come again later", code="too_many_requests", retry_after=1)
        if self._key and path.startswith(KEYED):
            kind, _, key = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not secrets.compare_digest(key.strip(), self._key):
                raise ApiError(
                    401, "the API key is missing or wrong (Authorization: Bearer KEY)", code="invalid_api_key"
                )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most_bytes(scope):
            raise self._too_large(scope)

    def _most_bytes(self, scope: Scope) -> int:
        is_upload = scope["path"].rstrip("/") == "/v1/scenes"
        return self.limits.upload_bytes if is_upload else self.limits.request_bytes

    def _too_large(self, scope: Scope) -> ApiError:
        most = self._most_bytes(scope)
        return ApiError(413, f"the request is above the limit of {most:,} bytes", code="request_too_large")

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Return `receive` that ends with an ApiError when a body is too large or takes too long."""
        most, ends = self._most_bytes(scope), asyncio.get_running_loop().time() + self.limits.seconds
        num_bytes, is_whole = 0, False

        async def limited() -> MutableMapping[str, Any]:
            nonlocal num_bytes, is_whole
            if is_whole:  # what comes now says that the client has gone; it may be waited for
                return await receive()
            try:
                async with asyncio.timeout_at(ends):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "the request did not arrive in time", code="slow_request") from None
            num_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_bytes > most:
                raise self._too_large(scope)
            return message

        return limited
