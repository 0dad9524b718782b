"""The one thread that uses the device: jobs wait in a bounded queue, questions about the same scenes go together.

    worker = DeviceWorker(model, read, shelf, metrics, max_waiting=32, room=8)
    served = worker.submit(Job(pictures=(picture,), question="Any ships?")).result()

A job whose future is cancelled while it waits is never begun. The oldest job goes first; with it go all that wait for
the same scenes with the same options, up to `room`, in the one program of `BatModel.ask_many`, which is compiled for
that many. One question alone takes the program of `BatModel.ask`. Neither compiles anew for another number of
questions, another budget or another limit of tokens: there are programs for 16, 32, 64, ... tokens, and what is beyond
a request's limit is cut off from the answer.
"""

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from bat_jax.asking import Answer
from bat_jax.io.prompts import Question, bucket
from bat_jax.pipeline import BatModel, Scene
from bat_jax.serving.client_pictures import ClientPicture
from bat_jax.serving.errors import LOG, ApiError, api_error
from bat_jax.serving.metrics import ServerMetrics
from bat_jax.serving.scene_shelf import SceneShelf

_FEWEST_TOKENS = 16
_LONGEST_WAIT = 60


class AnswerOptions(NamedTuple):
    """How an answer is made; jobs that share all of it may be answered together.

    token_room: tokens that the program can write. temperature, top_p, seed, budgets: as `BatModel.answer_prompt`.
    """

    token_room: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    budgets: tuple[int, ...] | None = None


_DEFAULTS = AnswerOptions(_FEWEST_TOKENS)


def token_room(max_tokens: int, most: int) -> int:
    """Return the tokens of the program that answers with up to `max_tokens`, which are at most `most`."""
    return min(bucket(max_tokens, _FEWEST_TOKENS), most)


class Served(NamedTuple):
    """What came of a job; `answer` is None where nothing was asked."""

    scenes: tuple[Scene, ...]
    answer: Answer | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Pictures to encode and, unless it is None, a question about them."""

    pictures: tuple[ClientPicture, ...]
    question: Question | None = None
    options: AnswerOptions = _DEFAULTS
    done: "Future[Served]" = dataclasses.field(default_factory=Future)

    def goes_with(self, other: "Job") -> bool:
        """Return whether both are questions that one program answers."""
        if self.question is None or other.question is None or self.options != other.options:
            return False
        return [picture.id for picture in self.pictures] == [picture.id for picture in other.pictures]


class DeviceWorker:
    """Runs jobs in a thread of its own, until `close`."""

    def __init__(
        self,
        model: BatModel,
        encode: Callable[[ClientPicture], Scene],
        shelf: SceneShelf,
        metrics: ServerMetrics,
        *,
        max_waiting: int,
        room: int,
    ):
        """Start the thread.

        Args:
          encode: reads and encodes a picture; called in the thread.
          max_waiting: jobs that may wait. room: most questions that are answered together.
        """
        self.model, self.shelf = model, shelf
        self.max_waiting, self.room = max_waiting, room
        self._encode, self._metrics = encode, metrics
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._seconds = 1.0  # of the last work, by which clients are told when to come again
        metrics.waiting.set_function(lambda: len(self._waiting))
        metrics.scenes.set_function(lambda: len(shelf.names))
        metrics.scene_bytes.set_function(lambda: shelf.num_bytes)
        metrics.programs.set_function(lambda: sum(model.stages.num_compiles.values()))
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> "Future[Served]":
        """Let a job wait for the device.

        Raises:
          ApiError: too many wait, or the worker has been closed.
        """
        with self._changed:
            if self._is_closed:
                raise ApiError(503, "the server is stopping", code="stopping", retry_after=_LONGEST_WAIT)
            if len(self._waiting) >= self.max_waiting:
                self._waiting = collections.deque(item for item in self._waiting if not item.done.cancelled())
            if len(self._waiting) >= self.max_waiting:
                raise self.full()
            self._waiting.append(job)
            self._changed.notify()
        return job.done

    def full(self) -> ApiError:
        """Return what a client is told that comes when too many wait."""
        seconds = math.ceil(self._seconds * len(self._waiting) / self.room)
        return ApiError(
            429,
            f"{len(self._waiting)} requests wait already; come again later",
            code="queue_full",
            retry_after=min(max(seconds, 1), _LONGEST_WAIT),
        )

    def close(self) -> None:
        """Finish what waits, take nothing more, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            start = time.perf_counter()
            self._serve(jobs)
            self._seconds = time.perf_counter() - start
            self._metrics.device_seconds.labels("encode" if jobs[0].question is None else "answer").inc(self._seconds)

    def _next(self) -> list[Job]:
        """Wait for jobs, and take the oldest with those that go with it; none when the worker is to end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return []
                first = self._waiting.popleft()
                others = [job for job in self._waiting if job.goes_with(first)][: self.room - 1]
                for job in others:
                    self._waiting.remove(job)
            # Whoever cancelled meanwhile is left out; from here on nobody can.
            jobs = [job for job in (first, *others) if job.done.set_running_or_notify_cancel()]
            if jobs:
                return jobs

    def _serve(self, jobs: list[Job]) -> None:
        """Give jobs their results, or an exception."""
        scenes: tuple[Scene, ...] | None = None
        try:
            scenes = tuple(self._scene(picture) for picture in jobs[0].pictures)
            answers = self._answers(scenes, jobs)
        except Exception as error:
            if scenes is not None and len(jobs) > 1:  # one question that does not fit takes no other along
                for job in jobs:
                    self._serve([job])
                return
            if api_error(error).status_code >= 500:
                LOG.exception("a job failed")
            for job in jobs:
                job.done.set_exception(error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.done.set_result(Served(scenes, answer))

    def _answers(self, scenes: tuple[Scene, ...], jobs: list[Job]) -> tuple[Answer | None, ...]:
        if jobs[0].question is None:
            return (None,)
        settings = jobs[0].options
        options: dict[str, Any] = {
            "max_new_tokens": settings.token_room,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed,
            "budgets": settings.budgets,
        }
        questions = [job.question for job in jobs if job.question is not None]
        if len(questions) == 1:
            answers: tuple[Answer, ...] = (self.model.ask(scenes, questions[0], **options),)
        else:
            answers = self.model.ask_many(scenes, questions, room=self.room, **options)
        self._metrics.questions.inc(len(answers))
        self._metrics.together.observe(len(answers))
        return answers

    def _scene(self, picture: ClientPicture) -> Scene:
        """Return a picture's scene, encoded unless it is kept."""
        kept = self.shelf.get(picture.id)
        if kept is not None:
            self._metrics.scene_hits.inc()
            return kept
        scene = self._encode(picture)
        self._metrics.scenes_encoded.inc()
        self.shelf.put(picture.id, scene)
        return scene
