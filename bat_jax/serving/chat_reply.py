"""What goes back to the client: an answer's text within the request's limits, whole or in pieces, in OpenAI's form.

The engine writes an answer in one program, so that nothing of it is known before its end: a stream brings the text in
pieces, one a token, when all of it has been decoded.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bat_jax.asking import Answer


class Reply(NamedTuple):
    """A finished answer.

    text: what the client gets. pieces: the same, cut where each token begins. finish_reason: "stop" or "length".
    prompt_tokens, completion_tokens: as counted; the prompt's with its visual tokens.
    """

    text: str
    pieces: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def finished(tokenizer: Any, answer: Answer, max_tokens: int, stops: Sequence[str] = ()) -> Reply:
    """Cut an answer at its limit of tokens and before the first of the texts that end it."""
    ids = answer.token_ids.tolist()
    reason = "length" if len(ids) >= max_tokens else "stop"
    ids = ids[:max_tokens]
    texts = [tokenizer.decode(ids[:count], skip_special_tokens=True) for count in range(len(ids) + 1)]
    text = texts[-1]
    for count, begun in enumerate(texts):
        places = [begun.find(stop) for stop in stops if stop in begun]
        if places:
            text, texts, reason = begun[: min(places)], texts[: count + 1], "stop"
            break
    text = text.strip()
    return Reply(text, tuple(_pieces(text, texts)), reason, answer.prompt_tokens, len(texts) - 1)


def _pieces(text: str, texts: Sequence[str]) -> Iterator[str]:
    """Cut `text` where the longer and longer beginnings end; those that end inside a letter of several bytes do not."""
    done = 0
    for begun in texts:
        begun = begun.strip()
        if len(begun) > done and text.startswith(begun):
            yield text[done : len(begun)]
            done = len(begun)
    if done < len(text):
        yield text[done:]


class Completion:
    """The reply to one request as JSON objects: whole, or as chunks of a stream."""

    def __init__(self, reply: Reply, model: str, bat: dict[str, Any] | None = None):
        """Take the reply, the model's name, and what goes into the field `bat`."""
        self.reply, self.bat = reply, bat
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    @property
    def usage(self) -> dict[str, int]:
        prompt, completion = self.reply.prompt_tokens, self.reply.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def whole(self) -> dict[str, Any]:
        """Return a chat.completion."""
        message = {"role": "assistant", "content": self.reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.reply.finish_reason}
        return self._object("chat.completion", [choice]) | {"usage": self.usage} | self._extra()

    def chunks(self, with_usage: bool) -> Iterator[dict[str, Any]]:
        """Yield chat.completion.chunk objects; the one that ends the text holds `bat`, an own one the usage."""
        yield self._chunk({"role": "assistant", "content": ""}, None)
        for piece in self.reply.pieces:
            yield self._chunk({"content": piece}, None)
        yield self._chunk({}, self.reply.finish_reason) | self._extra()
        if with_usage:
            yield self._object("chat.completion.chunk", []) | {"usage": self.usage}

    def _chunk(self, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": kind, "choices": choices}

    def _extra(self) -> dict[str, Any]:
        return {} if self.bat is None else {"bat": self.bat}
