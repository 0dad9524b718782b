"""A request to /v1/chat/completions, as OpenAI's clients write it, and the job that it stands for.

What the model's prompt can hold decides how messages are read:
  system, developer   the model was trained, and scenes are encoded, behind one system message: theirs stand in front of
                      the first question instead
  pictures            stand in front of the first question, in the order of the messages, whichever turn they came with
  <image> in a text   falls away: it would be a picture's place
"""

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bat_jax.io.prompts import IMAGE_TOKEN, Dialogue
from bat_jax.serving.client_pictures import ClientPicture
from bat_jax.serving.errors import ApiError
from bat_jax.serving.evidence import Frame
from bat_jax.serving.service import AnswerService
from bat_jax.serving.worker import AnswerOptions, Job, token_room

# Fields that would change the answer and cannot be followed, with the values that ask for nothing.
_NOT_FOLLOWED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
}
_MOST_MESSAGES, _MOST_PARTS, _MOST_STOPS, _LONGEST_STOP = 1000, 100, 4, 200
# Longer texts than so many letters a position of the decoder are not even tokenised.
_LETTERS_A_POSITION = 32


class ImageUrl(BaseModel):
    url: str


class ImagePart(BaseModel):
    """A picture among a message's parts; `detail` is not looked at: the budgets decide."""

    type: Literal["image_url"]
    image_url: ImageUrl | str

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=_MOST_PARTS)] | None = None

    @property
    def text(self) -> str:
        """Its texts, without places for pictures."""
        if isinstance(self.content, str):
            texts = [self.content]
        else:
            texts = [part.text for part in self.content or () if isinstance(part, TextPart)]
        return "\n".join(texts).replace(IMAGE_TOKEN, "").strip()

    @property
    def urls(self) -> list[str]:
        if isinstance(self.content, str):
            return []
        return [part.url for part in self.content or () if isinstance(part, ImagePart)]


class BatFields(BaseModel):
    """What only this server knows, in the field `bat`; naming it puts the same field into the reply.

    budgets: tokens kept a scale, at most the server's. evidence: GeoJSON of what was kept and merged, on the map (True,
    "map") or in the picture's pixels ("picture"). layers: importance and fate of every token as pictures.
    """

    budgets: list[int] | None = None
    evidence: bool | Frame = False
    layers: bool = False


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body; temperature is 0 (greedy) unless it is given."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MOST_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=_MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    bat: BatFields | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which the answer ends."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return tuple(stop[:_LONGEST_STOP] for stop in stops if stop)

    def most_tokens(self, limit: int) -> int:
        """Return the tokens that the answer may have: what is asked, within the server's limit."""
        return min(self.max_completion_tokens or self.max_tokens or limit, limit)


def chat_job(request: ChatRequest, service: AnswerService) -> Job:
    """Return the job of a request; reads files' names and base64, no pixels.

    Raises:
      ApiError: names the field at fault.
    """
    settings = service.settings
    check_model(request.model, service)
    for name, neutral in _NOT_FOLLOWED.items():
        value = (request.model_extra or {}).get(name)
        if value is not None and value not in neutral:
            raise ApiError(400, f"{name}: is not supported", param=name, code="unsupported_parameter")
    dialogue = _dialogue(request.messages)
    _check_length(dialogue, service)
    urls = [url for message in request.messages for url in message.urls]
    if not urls:
        raise ApiError(400, "messages: show no picture; add an image_url", param="messages", code="no_image")
    if len(urls) > settings.max_images:
        raise ApiError(400, f"messages: {len(urls)} pictures, at most {settings.max_images}", param="messages")
    temperature = request.temperature or 0.0
    options = AnswerOptions(
        token_room(request.most_tokens(settings.max_new_tokens), settings.max_new_tokens),
        temperature=temperature,
        # Greedy answers do not depend on these; requests that differ in them are answered together.
        top_p=1.0 if not temperature or request.top_p is None else request.top_p,
        seed=_seed(request) if temperature else 0,
        budgets=tuple(request.bat.budgets) if request.bat and request.bat.budgets is not None else None,
    )
    pictures: tuple[ClientPicture, ...] = tuple(service.pictures.resolve(url) for url in urls)
    return Job(pictures=pictures, question=dialogue, options=options)


def check_model(name: str, service: AnswerService) -> None:
    """Raise an ApiError for any other model than the one that is served."""
    served = service.settings.model_name
    if name != served:
        raise ApiError(
            404, f"model {name[:100]!r}: is not served here, {served!r} is", param="model", code="model_not_found"
        )


def _seed(request: ChatRequest) -> int:
    """Return the request's seed, or one of the moment, modulo 2**32 as the sampling takes it."""
    return (time.time_ns() if request.seed is None else request.seed) % 2**32


def _dialogue(messages: list[ChatMessage]) -> Dialogue:
    """Return the turns, system messages before the first question, several of the user's in a row as one."""
    system = [message.text for message in messages if message.role in ("system", "developer")]
    asked: list[list[str]] = []
    answered: list[list[str]] = []
    for message in messages:
        if message.role == "user":
            if len(asked) == len(answered):
                asked.append([])
            asked[-1].append(message.text)
        elif message.role == "assistant":
            if not asked:
                raise ApiError(400, "messages: an answer stands before the first question", param="messages")
            if len(answered) < len(asked):
                answered.append([])
            answered[-1].append(message.text)
    if len(asked) <= len(answered):
        raise ApiError(400, "messages: the last one must be the user's", param="messages")
    questions = ["\n".join(text for text in texts if text) for texts in asked]
    for number, question in enumerate(questions):
        if not question:
            raise ApiError(400, f"messages: the user's turn {number + 1} has no text", param="messages", code="empty")
    questions[0] = "\n".join(text for text in (*system, questions[0]) if text)
    answers = ["\n".join(texts) for texts in answered]
    return Dialogue(questions[-1], tuple(zip(questions, answers, strict=False)))


def _check_length(dialogue: Dialogue, service: AnswerService) -> None:
    positions = service.model.cfg.decoder.max_positions
    letters = len(dialogue.question) + sum(len(asked) + len(answer) for asked, answer in dialogue.earlier)
    if letters > _LETTERS_A_POSITION * positions:
        raise ApiError(
            400,
            f"messages: {letters:,} letters are more than the model's {positions:,} positions hold",
            param="messages",
            code="context_length_exceeded",
        )
