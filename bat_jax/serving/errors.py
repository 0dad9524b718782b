"""What a client is told when a request fails, in OpenAI's form: {"error": {message, type, param, code}}.

Only words of ours reach a client: an exception that nobody expected is logged and becomes "internal error".
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bat_jax.asking import NotFiniteError
from bat_jax.engine.stages import OutOfMemoryError
from bat_jax.io.bands import ImageError

LOG = logging.getLogger("bat_jax.serving")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 504: "timeout_error"}
_SERVERS_FAULTS: dict[type, str] = {NotFiniteError: "not_finite", OutOfMemoryError: "out_of_memory"}
_LONGEST = 1000


class ApiError(HTTPException):
    """A request that is refused; `param` names the field at fault, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        """Take the HTTP status and what to say; `retry_after` is in seconds."""
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the answer's JSON."""
        kind = _TYPES.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        message = self.detail if len(self.detail) <= _LONGEST else f"{self.detail[:_LONGEST]} ..."
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status_code, self.headers)


def api_error(error: BaseException) -> ApiError:
    """Return what a client is told about an exception.

    Library code says what is wrong with an input in a ValueError of one line; flags that it names are the server's.
    Weights that give no numbers, and a device that is too small, are no fault of the client.
    """
    if isinstance(error, ApiError):
        return error
    if type(error) in _SERVERS_FAULTS:
        return ApiError(500, str(error), code=_SERVERS_FAULTS[type(error)])
    if isinstance(error, ValueError):
        message, _, hint = str(error).rpartition(": ")
        return ApiError(400, message if message and "--" in hint else str(error), code="invalid_value")
    return ApiError(500, "internal error; the server's log says more", code="internal_error")


def handle_errors(app: FastAPI) -> None:
    """Let an app answer every failure in OpenAI's form."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        known = error if isinstance(error, ApiError) else ApiError(error.status_code, error.detail)
        known.headers = error.headers
        return known.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        message = f"{param or 'request'}: {first['msg']}"
        return ApiError(400, message, param=param, code=first["type"]).response()

    @app.exception_handler(ImageError)
    async def unusable(_: Request, error: ImageError) -> JSONResponse:
        return api_error(error).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return api_error(error).response()  # Starlette raises it once more, for the server's log
