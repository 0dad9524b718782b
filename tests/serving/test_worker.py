"""The device's thread: what is answered together, what waits, what is dropped, and what a failure takes along."""

import threading
import types

import pytest

pytest.importorskip("fastapi")

from bat_jax.asking import NotFiniteError
from bat_jax.engine.stages import OutOfMemoryError
from bat_jax.serving.client_pictures import ClientPicture
from bat_jax.serving.errors import ApiError, api_error
from bat_jax.serving.metrics import ServerMetrics
from bat_jax.serving.scene_shelf import SceneShelf
from bat_jax.serving.worker import AnswerOptions, DeviceWorker, Job, token_room
from tests.serving.tiny_server import scraped


class Recorder:
    """Stands where the model does: notes what it is asked, and waits at the gate with the first picture."""

    def __init__(self):
        self.calls, self.encoded = [], []
        self.is_busy, self.may_go = threading.Event(), threading.Event()
        self.stages = types.SimpleNamespace(num_compiles={})

    def encode(self, picture):
        self.encoded.append(picture.id)
        if picture.id == "gate":
            self.is_busy.set()
            assert self.may_go.wait(60)
        if picture.id == "broken":
            raise ValueError("broken: truncated PNG: replace the file given to --image")
        if picture.id == "bug":
            raise ZeroDivisionError("secret")
        return types.SimpleNamespace(id=picture.id)

    def ask(self, scenes, question, **options):
        self.calls.append(([scene.id for scene in scenes], [question], options))
        if question == "too long":
            raise ValueError("question: too long")
        return f"{scenes[0].id}: {question}"

    def ask_many(self, scenes, questions, *, room, **options):
        self.calls.append(([scene.id for scene in scenes], list(questions), options | {"room": room}))
        if "too long" in questions:
            raise ValueError("question: too long")
        return [f"{scenes[0].id}: {question}" for question in questions]


class Keeping(SceneShelf):
    """Keeps anything, of no size."""

    def put(self, name, scene):
        self._scenes[name] = (scene, 0)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def worker(recorder):
    worker = DeviceWorker(recorder, recorder.encode, Keeping(1), ServerMetrics(), max_waiting=6, room=4)
    yield worker
    recorder.may_go.set()
    worker.close()


def job(question, *pictures, **options):
    made = tuple(ClientPicture(id=name, name=name, path=None) for name in pictures)
    return Job(pictures=made, question=question, options=AnswerOptions(16, **options))


def behind_the_gate(worker, recorder, *jobs):
    """Submit jobs while the device is busy, then let it go on."""
    first = worker.submit(job(None, "gate"))
    assert recorder.is_busy.wait(60)
    futures = [worker.submit(item) for item in jobs]
    recorder.may_go.set()
    assert first.result(60).answer is None
    return futures


def test_questions_that_wait_for_the_same_scene_with_the_same_options_are_answered_together(worker, recorder):
    jobs = [job("a", "x"), job("b", "y"), job("c", "x"), job("d", "x", temperature=0.5), job("e", "x"), job("f", "x")]
    futures = behind_the_gate(worker, recorder, *jobs)
    assert [future.result(60).answer for future in futures] == ["x: a", "y: b", "x: c", "x: d", "x: e", "x: f"]
    assert [(scenes, questions) for scenes, questions, _ in recorder.calls] == [
        (["x"], ["a", "c", "e", "f"]),
        (["y"], ["b"]),
        (["x"], ["d"]),
    ]
    assert recorder.calls[0][2]["room"] == 4 and "room" not in recorder.calls[1][2]
    assert recorder.encoded == ["gate", "x", "y"]


def test_no_more_than_the_room_are_answered_together(worker, recorder):
    futures = behind_the_gate(worker, recorder, *(job(str(number), "x") for number in range(6)))
    assert [future.result(60).answer for future in futures] == [f"x: {number}" for number in range(6)]
    assert [questions for _, questions, _ in recorder.calls] == [["0", "1", "2", "3"], ["4", "5"]]


def test_a_question_that_does_not_fit_takes_no_other_along(worker, recorder):
    good, bad, other = behind_the_gate(worker, recorder, job("a", "x"), job("too long", "x"), job("b", "x"))
    assert [good.result(60).answer, other.result(60).answer] == ["x: a", "x: b"]
    with pytest.raises(ValueError, match="question: too long"):
        bad.result(60)


def test_a_broken_picture_and_a_defect_fail_alone_and_the_thread_goes_on(worker, recorder):
    jobs = job("a", "broken"), job("b", "bug"), job("c", "x"), job("d", "broken")
    broken, bug, good, same = behind_the_gate(worker, recorder, *jobs)
    for future in (broken, same):
        with pytest.raises(ValueError, match="truncated"):
            future.result(60)
    assert recorder.encoded.count("broken") == 1
    with pytest.raises(ZeroDivisionError):
        bug.result(60)
    assert good.result(60).answer == "x: c" and worker.is_alive


@pytest.mark.parametrize(("kind", "code"), [(NotFiniteError, "not_finite"), (OutOfMemoryError, "out_of_memory")])
def test_what_is_the_servers_fault_is_told_as_such_and_logged(worker, recorder, caplog, kind, code):
    recorder.ask = lambda *_, **__: (_ for _ in ()).throw(kind("question: nothing comes of it"))
    (failed,) = behind_the_gate(worker, recorder, job("a", "x"))
    error = api_error(failed.exception(60))
    assert (error.status_code, error.code) == (500, code) and "a job failed" in caplog.text
    assert api_error(ValueError("question: is empty")).status_code == 400


def test_a_job_that_was_cancelled_while_it_waited_is_never_begun(worker, recorder):
    first = worker.submit(job(None, "gate"))
    assert recorder.is_busy.wait(60)
    gone, stays = worker.submit(job("gone", "x")), worker.submit(job("stays", "x"))
    assert gone.cancel()
    recorder.may_go.set()
    first.result(60)
    assert stays.result(60).answer == "x: stays"
    assert [questions for _, questions, _ in recorder.calls] == [["stays"]]


def test_a_full_queue_refuses_until_there_is_room_and_cancelled_jobs_make_room(worker, recorder):
    worker.submit(job(None, "gate"))
    assert recorder.is_busy.wait(60)
    futures = [worker.submit(job(str(number), "x")) for number in range(6)]
    with pytest.raises(ApiError) as refused:
        worker.submit(job("one more", "x"))
    assert refused.value.status_code == 429 and int(refused.value.headers["Retry-After"]) >= 1
    assert futures[3].cancel()
    late = worker.submit(job("late", "x"))
    recorder.may_go.set()
    assert late.result(60).answer == "x: late"


def test_closing_finishes_what_waits_and_takes_nothing_more(worker, recorder):
    worker.submit(job(None, "gate"))
    assert recorder.is_busy.wait(60)
    futures = [worker.submit(job(str(number), "x")) for number in range(5)]
    closing = threading.Thread(target=worker.close)
    closing.start()
    recorder.may_go.set()
    closing.join(60)
    assert [future.result(0).answer for future in futures] == [f"x: {number}" for number in range(5)]
    with pytest.raises(ApiError) as refused:
        worker.submit(job("late", "x"))
    assert refused.value.status_code == 503


def test_what_the_device_did_is_counted(recorder):
    metrics = ServerMetrics()
    worker = DeviceWorker(recorder, recorder.encode, Keeping(1), metrics, max_waiting=6, room=4)
    behind_the_gate(worker, recorder, job("a", "x"), job("b", "x"))
    worker.submit(job("c", "x")).result(60)
    worker.close()
    counts = scraped(metrics)
    assert counts["bat_jax_questions_total"] == 3 and counts["bat_jax_questions_together_count"] == 2
    assert counts["bat_jax_scenes_encoded_total"] == 2 and counts["bat_jax_scene_hits_total"] == 1
    assert counts["bat_jax_waiting"] == 0


def test_programs_have_room_for_powers_of_two_tokens_and_no_more_than_the_servers_limit():
    assert [token_room(asked, 100) for asked in (1, 16, 17, 64, 65, 5000)] == [16, 16, 32, 64, 100, 100]
