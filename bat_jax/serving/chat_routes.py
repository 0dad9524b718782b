"""The routes that OpenAI's clients know: /v1/chat/completions and /v1/models."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from bat_jax.serving.chat_reply import Completion, finished
from bat_jax.serving.chat_request import BatFields, ChatRequest, chat_job, check_model
from bat_jax.serving.errors import LOG, ApiError, api_error
from bat_jax.serving.evidence import Frame, evidence, token_layers
from bat_jax.serving.service import AnswerService
from bat_jax.serving.worker import Job, Served

# A stream's status is sent when its answer is there, or after so many seconds, from when on comments keep it open.
_QUIET_SECONDS = 10.0
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # by proxies
T = TypeVar("T")


async def gone(request: Request) -> None:
    """Return when the client has left; for requests whose body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what comes of some work, which is cancelled when the client leaves."""
    async with _watched(request, work) as (task, left):
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client has left")  # which nobody reads; it is counted
        try:
            return task.result()
        except ValueError as error:
            raise api_error(error) from error


@contextlib.asynccontextmanager
async def _watched(
    request: Request, work: Coroutine[Any, Any, T]
) -> AsyncIterator[tuple["asyncio.Task[T]", "asyncio.Task[None]"]]:
    """Give two tasks, the work and one that ends when the client leaves; both are cancelled at the end."""
    task, left = asyncio.create_task(work), asyncio.create_task(gone(request))
    try:
        yield task, left
    finally:
        task.cancel()
        left.cancel()


def chat_routes(service: AnswerService) -> APIRouter:
    """Return the routes."""
    routes, started = APIRouter(), int(time.time())
    name = service.settings.model_name
    model = {"id": name, "object": "model", "created": started, "owned_by": "bat_jax"}

    def completion(body: ChatRequest, job: Job, served: Served) -> Completion:
        assert served.answer is not None
        most = body.most_tokens(service.settings.max_new_tokens)
        reply = finished(service.model.tokenizer, served.answer, most, body.stops)
        return Completion(reply, name, None if body.bat is None else bat_fields(body.bat, job, served))

    async def answered(body: ChatRequest) -> Completion:
        job = await run_in_threadpool(chat_job, body, service)
        served = await service.run(job)
        return await run_in_threadpool(completion, body, job, served)

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @routes.get("/v1/models/{model_name:path}")
    async def one_model(model_name: str) -> dict[str, Any]:
        check_model(model_name, service)
        return model

    @routes.post("/v1/chat/completions")
    async def complete(request: Request, body: ChatRequest) -> Response:
        if not body.stream:
            return JSONResponse((await unless_gone(request, answered(body))).whole())
        events = _events(request, body, answered(body))
        first = await anext(events)  # so that a failure that comes soon has its status
        return EventSourceResponse(_chained(first, events), headers=_UNBUFFERED)

    return routes


async def _events(request: Request, body: ChatRequest, work: Coroutine[Any, Any, Completion]) -> AsyncIterator[bytes]:
    """Yield the events of a stream: comments while it is quiet, then the answer's pieces.

    Raises:
      ApiError: before the first event only; from then on an error is an event.
    """
    is_begun = False
    async with _watched(request, work) as (task, left):
        while not task.done():
            await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED, timeout=_QUIET_SECONDS)
            if left.done() and not task.done():
                if is_begun:
                    return
                raise ApiError(499, "the client has left")
            if not task.done():
                yield KEEPALIVE_COMMENT
                is_begun = True
        try:
            made = task.result()
        except Exception as error:
            if not is_begun:
                raise api_error(error) if isinstance(error, ValueError) else error from None
            if api_error(error).status_code >= 500:
                LOG.exception("a stream failed")
            yield format_sse_event(data_str=json.dumps(api_error(error).body()))
            return
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    for chunk in made.chunks(with_usage):
        yield format_sse_event(data_str=json.dumps(chunk))
    yield format_sse_event(data_str="[DONE]")


async def _chained(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in others:
        yield event


def bat_fields(asked: BatFields, job: Job, served: Served) -> dict[str, Any]:
    """Return what the reply's field `bat` says; lists have one item a picture."""
    answer, question = served.answer, job.question
    assert answer is not None and question is not None
    fields: dict[str, Any] = {
        "scenes": [picture.id for picture in job.pictures],
        "tokens_kept": answer.kept_of(served.scenes),
    }
    used = range(len(answer.selections))  # the release uses the first picture only
    if asked.evidence:
        frame: Frame = "picture" if asked.evidence == "picture" else "map"
        fields["evidence"] = [
            evidence(served.scenes[image], question, answer, image, job.pictures[image].name, frame) for image in used
        ]
    if asked.layers:
        fields["layers"] = [token_layers(served.scenes[image], answer, image) for image in used]
    return fields
