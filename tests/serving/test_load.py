"""Many clients at once, a third of them bad; and a server that is told to stop in the middle of its work."""

import base64
import concurrent.futures
import contextlib
import gc
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import httpx
import jax
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("fastapi")

from bat_jax.serving.gate import GateLimits
from tests.serving.tiny_server import make_service, running, scraped
from tests.tiny_model import write_tiny_checkpoint

QUESTIONS = ("How many ships?", "Any plane?", "What colour is the car?", "Which land use covers most?")
NUM_CLIENTS, NUM_REQUESTS = 20, 200


def body(question, url, **fields):
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}]} | fields


def left_midway(url):
    """Send a request, and close the connection before the answer, or in the middle of the body."""
    host, port = url.removeprefix("http://").split(":")
    text = json.dumps(body(QUESTIONS[0], "harbour.png")).encode()
    for content in (text, text[:40]):
        with socket.create_connection((host, int(port))) as connection:
            head = ("POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json")
            lines = [*head, f"Content-Length: {len(text)}", "", ""]
            connection.sendall("\r\n".join(lines).encode() + content)


BAD = (
    (lambda api: api.post("/v1/chat/completions", json=body("Any?", "data:image/png;base64,@@@")), 400),
    (lambda api: api.post("/v1/chat/completions", json=body("x" * 2**20, "harbour.png")), 413),
    (lambda api: api.post("/v1/chat/completions", json=body("Any?", 5)), 400),
    (lambda api: api.post("/v1/chat/completions", json={"messages": {"a": []}}), 400),
    (lambda api: api.post("/v1/scenes", files={"file": ("a.png", b"no picture")}), 400),
    (lambda api: left_midway(str(api.base_url).rstrip("/")), None),
)


def good(api, number, pictures):
    question, (name, url) = QUESTIONS[number % len(QUESTIONS)], pictures[number // 3 % len(pictures)]
    fields = {"max_tokens": 16 - number % 3, "stream": number % 5 == 0}
    reply = api.post("/v1/chat/completions", json=body(question, url, **fields))
    assert reply.status_code == 200, reply.text
    if fields["stream"]:
        lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line.startswith("data: {")]
        deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
        text = "".join(delta.get("content", "") for delta in deltas)
    else:
        text = reply.json()["choices"][0]["message"]["content"]
    return name, question, fields["max_tokens"], text


def test_under_load_every_good_request_is_answered_as_alone_and_nothing_stays_behind(
    model, root, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other tests have servers, too
    scenes = {name: model.encode(root / name) for name in ("harbour.png", "airport.png")}
    encoded = base64.b64encode((root / "harbour.png").read_bytes()).decode()
    pictures = [(name, name) for name in scenes] + [("harbour.png", f"data:image/png;base64,{encoded}")]
    service = make_service(model, root, max_waiting=2 * NUM_CLIENTS)

    def client(url, numbers):
        results = []
        with httpx.Client(base_url=url, timeout=300) as api:
            for number in numbers:
                if number % 3 == 2:
                    send, status = BAD[number // 3 % len(BAD)]
                    try:
                        reply = send(api)
                        assert status is None or reply.status_code == status
                    except httpx.TransportError:  # refused before everything was sent
                        assert status == 413
                else:
                    results.append(good(api, number, pictures))
        return results

    limits = GateLimits(request_bytes=2**20, upload_bytes=2**20, open_requests=4 * NUM_CLIENTS)
    with running(service, limits) as url:
        client(url, range(12))  # what is compiled, encoded and imported once
        gc.collect()
        num_arrays, num_threads = len(jax.live_arrays()), threading.active_count()
        compiles, files = sum(model.stages.num_compiles.values()), set(os.listdir(tmp_path))
        with concurrent.futures.ThreadPoolExecutor(NUM_CLIENTS) as pool:
            shares = [range(start, NUM_REQUESTS, NUM_CLIENTS) for start in range(NUM_CLIENTS)]
            results = [item for part in pool.map(lambda share: client(url, share), shares) for item in part]
        counts = scraped(service.metrics)
        while counts["bat_jax_waiting"]:  # those whose clients left
            counts = scraped(service.metrics)
        gc.collect()
        assert len(jax.live_arrays()) <= num_arrays
        assert threading.active_count() <= num_threads + 40  # starlette's pool of threads, which has this many at most
        assert sum(model.stages.num_compiles.values()) - compiles <= 1  # several questions in one program
        assert list(service.pictures.folder.iterdir()) == [] and service.worker.is_alive
        assert set(os.listdir(tmp_path)) == files
    assert len(results) == sum(number % 3 != 2 for number in range(NUM_REQUESTS))
    assert counts["bat_jax_scenes_encoded_total"] == 3
    assert counts["bat_jax_questions_together_count"] < counts["bat_jax_questions_total"]
    whole = {
        (name, question): scene.ask(question, max_new_tokens=16).token_ids.tolist()
        for name, scene in scenes.items()
        for question in QUESTIONS
    }
    expected = [whole[name, question][:most] for name, question, most, _ in results]
    texts = [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    assert [text for *_, text in results] == texts


@contextlib.contextmanager
def started(checkpoint: pathlib.Path, *flags):
    """Start the command, and give the process and its address."""
    command = [sys.executable, "-m", "experiments.serve", f"--checkpoint={checkpoint}", "--port=0", *flags]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        try:
            line = process.stdout.readline()
            assert "http://" in line, process.stderr.read()
            yield process, line.split()[1]
        finally:
            process.kill()


def open_requests(api):
    """Return how many requests the server is at, but for this one."""
    families = text_string_to_metric_families(api.get("/metrics").text)
    return next(family.samples[0].value for family in families if family.name == "bat_jax_open_requests") - 1


def test_a_server_that_is_told_to_stop_loses_no_request_that_it_took(root, model, tmp_path):
    """Its first programs are compiled meanwhile, so that the others wait."""
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    scene, num = model.encode(root / "harbour.png"), 12
    flags = [f"--scene_root={root}", "--max_new_tokens=8", "--nocompile_cache"]
    with started(checkpoint, *flags) as (process, url), httpx.Client(base_url=url, timeout=300) as api:
        with concurrent.futures.ThreadPoolExecutor(num) as pool:
            asked = [body(QUESTIONS[number % 4], "harbour.png", stream=number == 5) for number in range(num)]
            replies = [pool.submit(api.post, "/v1/chat/completions", json=item) for item in asked]
            while open_requests(api) < num:
                assert [reply.result().text for reply in replies if reply.done()] == []
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            while api.get("/healthz").json()["status"] != "stopping":
                time.sleep(0.05)
            late = api.post("/v1/chat/completions", json=asked[0])
            assert late.status_code == 503 and late.json()["error"]["code"] == "stopping"
            results = [reply.result() for reply in replies]
        assert process.wait(60) == 0
        out, err = process.communicate()
    assert "everything that was taken is answered" in out and "Traceback" not in err
    assert [reply.status_code for reply in results] == [200] * num
    for number, reply in enumerate(results):
        if number != 5:
            text = reply.json()["choices"][0]["message"]["content"]
            assert text == scene.ask(QUESTIONS[number % 4], max_new_tokens=8).text
    assert results[5].text.endswith("data: [DONE]\n\n")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz")
