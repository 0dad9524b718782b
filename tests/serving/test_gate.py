"""What is refused before a body is read, how large a body may become, and how a server empties."""

import asyncio
import types

import httpx
import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI, Request

from bat_jax.serving.errors import ApiError, handle_errors
from bat_jax.serving.gate import Gate, GateLimits
from bat_jax.serving.metrics import ServerMetrics


def made(**limits):
    """Return a gate before an app that counts bytes, and waits where it is told to."""
    app = FastAPI()
    handle_errors(app)
    gates = types.SimpleNamespace(may_go=asyncio.Event())

    @app.post("/v1/count")
    async def count(request: Request):
        return len(await request.body())

    @app.post("/v1/wait")
    async def wait():
        await gates.may_go.wait()
        return "done"

    @app.get("/v1/bug")
    async def bug():
        raise ZeroDivisionError("secret")

    @app.get("/healthz")
    async def health():
        return "ok"

    settings = GateLimits(**({"request_bytes": 1000, "open_requests": 3, "seconds": 60} | limits))
    return Gate(app, limits=settings, metrics=ServerMetrics(), api_key="key"), gates


def client(gate, key="key"):
    transport = httpx.ASGITransport(gate, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers={"Authorization": f"Bearer {key}"})


async def pieces(*sizes):
    for size in sizes:
        yield bytes(size)


def test_a_body_is_refused_by_its_length_and_by_what_comes():
    async def check():
        gate, _ = made()
        async with client(gate) as api:
            assert (await api.post("/v1/count", content=bytes(1000))).json() == 1000
            assert (await api.post("/v1/count", content=pieces(500, 500))).json() == 1000
            for content in (bytes(1001), pieces(500, 501)):
                reply = await api.post("/v1/count", content=content)
                assert reply.status_code == 413 and reply.json()["error"]["code"] == "request_too_large"
            reply = await api.post("/v1/count", content=b"", headers={"Content-Length": "-5"})
            assert reply.status_code == 413

    asyncio.run(check())


def test_a_body_that_does_not_arrive_in_time_is_given_up():
    async def never():
        yield b"a"
        await asyncio.Event().wait()

    async def check():
        gate, _ = made(seconds=0.05)
        async with client(gate) as api:
            reply = await api.post("/v1/count", content=never())
            assert reply.status_code == 408 and reply.json()["error"]["code"] == "slow_request"

    asyncio.run(check())


def test_without_the_key_nothing_below_v1_is_read():
    async def check():
        gate, _ = made()
        async with client(gate, "other") as api:
            for headers in (
                {},
                {"Authorization": "Basic key"},
                {"Authorization": ""},
                {"Authorization": b"Bearer k\xe9y"},
            ):
                reply = await api.post("/v1/count", content=pieces(1), headers=headers)
                assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
            assert (await api.get("/healthz")).status_code == 200

    asyncio.run(check())


def test_requests_beyond_the_limit_are_refused_while_others_are_open():
    async def check():
        gate, gates = made()
        async with client(gate) as api:
            waiting = [asyncio.create_task(api.post("/v1/wait")) for _ in range(3)]
            await asyncio.sleep(0)
            while gate._num_open < 3:
                await asyncio.sleep(0.001)
            reply = await api.post("/v1/count")
            assert reply.status_code == 429 and reply.headers["Retry-After"] == "1"
            gates.may_go.set()
            assert [task.json() for task in await asyncio.gather(*waiting)] == ["done"] * 3
            assert (await api.post("/v1/count")).status_code == 200

    asyncio.run(check())


def test_a_stopping_server_answers_what_it_took_and_refuses_what_is_new():
    async def check():
        gate, gates = made()
        empty = []
        async with client(gate) as api:
            waiting = asyncio.create_task(api.post("/v1/wait"))
            while not gate._num_open:
                await asyncio.sleep(0.001)
            gate.stop(lambda: empty.append(True))
            reply = await api.post("/v1/count")
            assert reply.status_code == 503 and "Retry-After" in reply.headers and not empty
            assert (await api.get("/healthz")).status_code == 200
            gates.may_go.set()
            assert (await waiting).json() == "done" and empty == [True]

    asyncio.run(check())


def test_an_empty_server_stops_at_once():
    gate, empty = made()[0], []
    gate.stop(lambda: empty.append(True))
    assert empty == [True]


def test_a_defect_reaches_the_client_as_a_number_and_a_sentence(capsys):
    async def check():
        gate, _ = made()
        async with client(gate) as api:
            reply = await api.get("/v1/bug")
            assert reply.status_code == 500 and "secret" not in reply.text and "Traceback" not in reply.text
            assert reply.json()["error"] == {
                "message": "internal error; the server's log says more",
                "type": "server_error",
                "param": None,
                "code": "internal_error",
            }
            for path, status in (("/v1/none", 404), ("/v1/count", 405)):
                reply = await api.get(path)
                assert reply.status_code == status and reply.json()["error"]["type"] == "invalid_request_error"

    asyncio.run(check())


def test_long_messages_are_cut():
    assert len(ApiError(400, "x" * 10_000).body()["error"]["message"]) < 1100
