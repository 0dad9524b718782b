"""A model with everything that serves it: pictures, encoded scenes, the device's thread, counters."""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from bat_jax.pipeline import BatModel, Scene
from bat_jax.serving.client_pictures import ClientPicture, ClientPictures
from bat_jax.serving.errors import ApiError
from bat_jax.serving.metrics import ServerMetrics
from bat_jax.serving.scene_shelf import SceneShelf
from bat_jax.serving.worker import DeviceWorker, Job, Served


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What a server is started with.

    Attributes:
      model_name: by which clients call the model.
      max_new_tokens: most tokens of an answer, whatever a request asks. max_images: of one request.
      max_waiting: jobs that may wait for the device. questions_at_once: most that one program answers.
      seconds: that a request may take; one that waits longer is dropped, one that runs ends unheard.
      read: options of `io.images.read_image`. encode: options of `BatModel.encode`.
    """

    model_name: str
    max_new_tokens: int = 256
    max_images: int = 4
    max_waiting: int = 32
    questions_at_once: int = 8
    seconds: float = 300.0
    read: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encode: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class AnswerService:
    """Answers jobs; `close` finishes those that wait and removes what was uploaded."""

    def __init__(self, model: BatModel, settings: ServiceSettings, *, shelf: SceneShelf, pictures: ClientPictures):
        """Start the device's thread."""
        self.model, self.settings = model, settings
        self.shelf, self.pictures = shelf, pictures
        self.metrics = ServerMetrics()
        self.worker = DeviceWorker(
            model,
            self._encode,
            shelf,
            self.metrics,
            max_waiting=settings.max_waiting,
            room=settings.questions_at_once,
        )

    def _encode(self, picture: ClientPicture) -> Scene:
        return self.model.encode(picture.read(**self.settings.read), **self.settings.encode)

    async def run(self, job: Job) -> Served:
        """Let a job wait for the device, and return what came of it.

        Who cancels this cancels the job, if it still waits.

        Raises:
          ApiError: too many wait, or the time is over. ValueError: the picture or the question is at fault.
        """
        try:
            async with asyncio.timeout(self.settings.seconds):
                return await asyncio.wrap_future(self.worker.submit(job))
        except TimeoutError:
            raise ApiError(
                504, f"no answer within {self.settings.seconds:g} s", code="timeout", retry_after=10
            ) from None

    def close(self) -> None:
        """Finish what waits, then remove what was uploaded."""
        self.worker.close()
        self.pictures.close()
