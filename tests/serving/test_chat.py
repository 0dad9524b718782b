"""The routes that OpenAI's clients know, asked by the real `openai` package over a socket."""

import base64
import concurrent.futures
import json
import threading
import time

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from bat_jax.io.prompts import Dialogue
from bat_jax.serving.gate import GateLimits
from bat_jax.serving.worker import DeviceWorker
from tests.serving.tiny_server import MAX_PIXELS, make_service, running, scraped

QUESTIONS = ("How many ships are moored?", "Is there a plane on the runway?", "What colour is the car?")


@pytest.fixture(scope="module")
def service(model, root):
    return make_service(model, root)


@pytest.fixture(scope="module")
def url(service):
    with running(service, GateLimits(request_bytes=2**20), api_key="key") as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0)


@pytest.fixture(scope="module")
def scene(model, root):
    return model.encode(root / "harbour.png")


def data_url(path):
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def user(text, *urls):
    """One user's message as geoai's and GeoAgent's clients write it."""
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "high"}} for url in urls]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


def test_a_base64_picture_is_answered_as_by_the_model_itself(client, scene, root):
    for question in QUESTIONS:
        reply = client.chat.completions.create(model="tiny", messages=[user(question, data_url(root / "harbour.png"))])
        expected = scene.ask(question, max_new_tokens=16)
        assert reply.choices[0].message.content == expected.text and reply.object == "chat.completion"
        assert reply.choices[0].finish_reason == ("stop" if expected.token_ids.size < 16 else "length")
        tokens = expected.token_ids.size
        assert reply.usage.model_dump(exclude_none=True) == {
            "prompt_tokens": expected.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": expected.prompt_tokens + tokens,
        }


def test_a_stream_brings_the_same_text_in_pieces_and_ends_with_the_reason_and_the_usage(client, scene, root):
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[user(QUESTIONS[0], data_url(root / "harbour.png"))],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    expected = scene.ask(QUESTIONS[0], max_new_tokens=16)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected.text and sum(map(bool, pieces)) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == expected.token_ids.size and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def test_limits_of_tokens_cut_the_answer_and_compile_nothing_new(client, model, scene):
    messages = [user(QUESTIONS[1], "harbour.png")]
    client.chat.completions.create(model="tiny", messages=messages)
    compiles = sum(model.stages.num_compiles.values())
    replies = [
        client.chat.completions.create(model="tiny", messages=messages, **{name: number})
        for name, number in (("max_tokens", 1), ("max_tokens", 5), ("max_completion_tokens", 7), ("max_tokens", 9999))
    ]
    assert sum(model.stages.num_compiles.values()) == compiles
    whole = scene.ask(QUESTIONS[1], max_new_tokens=16).token_ids
    for reply, number in zip(replies, (1, 5, 7, 16), strict=True):
        assert (
            reply.choices[0].message.content
            == model.tokenizer.decode(whole[:number].tolist(), skip_special_tokens=True).strip()
        )
        assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", number)


def test_a_stop_text_ends_the_answer_before_it(client, scene):
    whole = scene.ask(QUESTIONS[2], max_new_tokens=16).text
    stop = whole[len(whole) // 2 :][:2]
    for given in (stop, ["never", stop]):
        for stream in (False, True):
            reply = client.chat.completions.create(
                model="tiny", messages=[user(QUESTIONS[2], "harbour.png")], stop=given, stream=stream
            )
            texts = [chunk.choices[0].delta.content or "" for chunk in reply] if stream else None
            text = "".join(texts) if stream else reply.choices[0].message.content
            assert text == whole[: whole.index(stop)].strip()
            assert stream or reply.choices[0].finish_reason == "stop"


def test_drawn_answers_follow_the_seed(client, scene):
    drawing = {"temperature": 1.5, "top_p": 0.9, "seed": 7}
    reply = client.chat.completions.create(model="tiny", messages=[user(QUESTIONS[0], "harbour.png")], **drawing)
    assert reply.choices[0].message.content == scene.ask(QUESTIONS[0], max_new_tokens=16, **drawing).text


def test_earlier_turns_are_kept(client, scene):
    messages = [
        {"role": "system", "content": "Be brief."},
        user("Any boats?", "harbour.png"),
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Which <image> colour?"},
    ]
    reply = client.chat.completions.create(model="tiny", messages=messages)
    dialogue = Dialogue("Which  colour?", (("Be brief.\nAny boats?", "Two."),))
    assert reply.choices[0].message.content == scene.ask(dialogue, max_new_tokens=16).text
    assert reply.usage.prompt_tokens == scene.ask(dialogue, max_new_tokens=16).prompt_tokens


def test_several_pictures_stand_in_front_whichever_turn_they_came_with(client, model, scene, root):
    other = model.encode(root / "airport.png")
    expected = model.ask([scene, other], Dialogue("And here?", (("Any boats?", "Two."),)), max_new_tokens=16).text
    first, answer = user("Any boats?", "harbour.png"), {"role": "assistant", "content": "Two."}
    messages = [first, answer, user("And here?", f"file://{root}/airport.png")]
    reply = client.chat.completions.create(model="tiny", messages=messages)
    assert reply.choices[0].message.content == expected


def test_requests_that_name_bat_get_scenes_and_tokens_and_may_set_budgets(client, scene, service):
    def kept(budgets):
        reply = client.chat.completions.create(
            model="tiny", messages=[user(QUESTIONS[0], "harbour.png")], extra_body={"bat": {"budgets": budgets}}
        )
        return reply.bat

    whole, less = kept(None), kept([3, 5])
    assert whole["scenes"] == [service.pictures.file("harbour.png").id] == less["scenes"]
    assert [[row["kept"] for row in rows] for rows in less["tokens_kept"]] == [[3, 5]]
    expected = scene.ask(QUESTIONS[0], max_new_tokens=16).tokens_kept
    assert tuple(tuple(row["kept"] for row in rows) for rows in whole["tokens_kept"]) == expected
    with pytest.raises(openai.BadRequestError, match="budgets"):
        kept([1000, 5])


def test_a_scene_is_encoded_once_whatever_is_asked(service, client):
    client.chat.completions.create(model="tiny", messages=[user("Any boats?", "harbour.png")])
    before = scraped(service.metrics)["bat_jax_scenes_encoded_total"]
    for question in QUESTIONS:
        client.chat.completions.create(model="tiny", messages=[user(question, "harbour.png")])
    assert scraped(service.metrics)["bat_jax_scenes_encoded_total"] == before


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "bat_jax"
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.models.retrieve("gpt-4o")


GOOD = {"model": "tiny", "messages": [user("Any boats?", "harbour.png")]}


def changed(**fields):
    return GOOD | fields


BAD = {
    "model": (changed(model="gpt-4o"), 404, "model"),
    "no model": ({"messages": GOOD["messages"]}, 400, "model"),
    "no messages": (changed(messages=[]), 400, "messages"),
    "messages no list": (changed(messages="hello"), 400, "messages"),
    "role": (changed(messages=[{"role": "tool", "content": "x"}]), 400, "messages.0.role"),
    "part": (changed(messages=[{"role": "user", "content": [{"type": "audio"}]}]), 400, "messages.0.content"),
    "no picture": (changed(messages=[user("Any boats?")]), 400, "messages"),
    "no text": (changed(messages=[user(" <image> ", "harbour.png")]), 400, "messages"),
    "answer last": (changed(messages=[*GOOD["messages"], {"role": "assistant", "content": "x"}]), 400, "messages"),
    "answer first": (changed(messages=[{"role": "assistant", "content": "x"}, *GOOD["messages"]]), 400, "messages"),
    "too many pictures": (changed(messages=[user("Compare", *["harbour.png"] * 5)]), 400, "messages"),
    "base64": (changed(messages=[user("Any boats?", "data:image/png;base64,@@")]), 400, "messages"),
    "no image": (changed(messages=[user("Any boats?", "data:image/png;base64,QUJDRA==")]), 400, None),
    "network": (changed(messages=[user("Any boats?", "https://example.org/a.png")]), 400, "messages"),
    "outside": (changed(messages=[user("Any boats?", "../checkpoint/config.json")]), 400, "messages"),
    "absolute": (changed(messages=[user("Any boats?", "file:///etc/passwd")]), 400, "messages"),
    "scene": (changed(messages=[user("Any boats?", "scene://none")]), 404, None),
    "n": (changed(n=2), 400, "n"),
    "tools": (changed(tools=[{"type": "function"}]), 400, "tools"),
    "temperature": (changed(temperature=-1), 400, "temperature"),
    "temperature no number": (changed(temperature="hot"), 400, "temperature"),
    "top_p": (changed(top_p=0), 400, "top_p"),
    "max_tokens": (changed(max_tokens=0), 400, "max_tokens"),
    "stop": (changed(stop=["a"] * 5), 400, "stop"),
    "too long": (changed(messages=[user("boat " * 20_000, "harbour.png")]), 400, "messages"),
    "longer than the decoder": (changed(messages=[user("boat " * 900, "harbour.png")]), 400, None),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_one_line_in_openais_form(url, name, stream):
    body, status, param = BAD[name]
    reply = httpx.post(
        f"{url}/v1/chat/completions", json=body | {"stream": stream}, headers={"Authorization": "Bearer key"}
    )
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert error["message"] and "\n" not in error["message"] and "Traceback" not in error["message"]
    assert (error["param"] or "").startswith(param or "")


def test_a_name_that_leads_here_from_elsewhere_is_no_name_of_the_server(url):
    headers = {"Authorization": "Bearer key"}
    assert httpx.get(f"{url}/v1/models", headers=headers | {"Host": "evil.example"}).status_code == 400
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(url, content):
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    reply = httpx.post(f"{url}/v1/chat/completions", content=content, headers=headers)
    assert reply.status_code == 400 and set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_picture_of_too_many_pixels_is_refused_by_its_size(client, tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(openai.BadRequestError, match=f"{side} x {side}"):
        client.chat.completions.create(model="tiny", messages=[user("Any boats?", data_url(tmp_path / "large.png"))])


def test_a_wrong_key_and_a_large_request_are_refused_as_the_package_expects(url, root):
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="API key"):
        other.models.list()
    client = other.with_options(api_key="key")
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="tiny", messages=[user("x" * (2**20 + 1), "harbour.png")])
    assert refused.value.status_code == 413


def test_what_takes_too_long_is_a_timeout(model, root):
    service = make_service(model, root, seconds=0.001)
    with running(service) as url:
        reply = httpx.post(f"{url}/v1/chat/completions", json=GOOD)
    assert reply.status_code == 504 and reply.json()["error"]["type"] == "timeout_error"


@pytest.fixture
def held(model, root, monkeypatch):
    """A server whose device does nothing until it may: its service, its address, and the event."""
    is_busy, may_go, serve = threading.Event(), threading.Event(), DeviceWorker._serve
    monkeypatch.setattr(DeviceWorker, "_serve", lambda self, jobs: (is_busy.set(), may_go.wait(60), serve(self, jobs)))
    service = make_service(model, root, max_waiting=1)
    with running(service) as url, concurrent.futures.ThreadPoolExecutor() as pool:
        busy = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=GOOD, timeout=60)
        assert is_busy.wait(60)
        yield service, url, may_go
        may_go.set()
        assert busy.result().status_code == 200


def until(condition):
    while not condition():
        time.sleep(0.005)


def test_a_full_queue_is_a_rate_limit_to_openais_package(held):
    _, url, may_go = held
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        others = [pool.submit(client.chat.completions.create, **GOOD) for _ in range(3)]
        refused = next(concurrent.futures.as_completed(others)).exception()
        assert isinstance(refused, openai.RateLimitError) and refused.code == "queue_full"
        assert int(refused.response.headers["retry-after"]) >= 1
        may_go.set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_waiting_job_along(held, stream):
    service, url, may_go = held
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/chat/completions", json=GOOD | {"stream": stream}, timeout=0.3)
    until(lambda: all(job.done.cancelled() for job in service.worker._waiting))
    may_go.set()
    until(lambda: not service.worker._waiting)
    until(lambda: scraped(service.metrics)["bat_jax_questions_total"] == 1)


def test_a_slow_answers_stream_is_kept_open_and_a_late_error_is_an_event(model, root, monkeypatch):
    monkeypatch.setattr("bat_jax.serving.chat_routes._QUIET_SECONDS", 0.01)
    serve = DeviceWorker._serve

    def late(self, jobs):
        time.sleep(0.2)
        serve(self, jobs)

    monkeypatch.setattr(DeviceWorker, "_serve", late)
    with running(make_service(model, root)) as url:
        good = httpx.post(f"{url}/v1/chat/completions", json=GOOD | {"stream": True})
        body = changed(messages=BAD["longer than the decoder"][0]["messages"], stream=True)
        bad = httpx.post(f"{url}/v1/chat/completions", json=body)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
        with pytest.raises(openai.APIError, match="positions"):
            list(client.chat.completions.create(**body))
    assert good.text.startswith(": ping") and good.text.endswith("data: [DONE]\n\n")
    assert bad.status_code == 200 and bad.text.startswith(": ping")
    assert "positions" in json.loads(bad.text.split("data: ")[1])["error"]["message"]
