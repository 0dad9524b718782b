"""The half that depends on the question: prompt, suffix and budgets on the host, importance to answer on the device.

`Asker` is what `BatModel` (pipeline.py) asks with; encoding.py makes the scenes that it is given, engine/question.py
says what programs compute. A question is one program, several at once are one, or their stages are.

    question --build_prompt--> pieces, suffix --> QuestionArrays --engine.question--> AnswerArrays --> Answer
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from bat_jax import model as bat
from bat_jax.compress.budgets import image_shares
from bat_jax.compress.importance import reads_one_row, suffix_row_weight
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import BatConfig
from bat_jax.encoding import SceneData
from bat_jax.engine.question import (
    AnswerArrays,
    Compression,
    QuestionArrays,
    Suffix,
    answer,
    answer_by_stage,
    answer_in_one,
    answer_many,
    compress,
    importance_of,
    importance_rows,
)
from bat_jax.engine.stages import Stages, memory_advice
from bat_jax.io.prompts import (
    IMAGE_TOKEN,
    Dialogue,
    Prompt,
    Question,
    bucket,
    build_prompt,
    end_of_turn_id,
    padded,
)
from bat_jax.nn.decoder import SLOT_MULTIPLE
from bat_jax.typing import Params

MAX_NEW_TOKENS = 64
# Text behind an image -> (L, M1) of each image: every decoder layer's importance of the anchor's tokens.
ImportanceRows = dict[Question, tuple[np.ndarray, ...]]


class NotFiniteError(ValueError):
    """The decoder's logits are no numbers: the weights are at fault, or how they are held, not the question."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one question.

    Attributes:
      text: the decoded answer. token_ids: its ids, without the stop token.
      tokens_kept: per image and scale, rows in the prompt. prompt_tokens: valid rows of the whole prompt.
      run_seconds, compile_seconds: per stage, of this question alone; of questions asked together an even share.
      arrays: everything else, on the device; the properties below copy from there when they are first read.
      index: this question's place in `arrays` where it was asked with others.
    """

    text: str
    token_ids: np.ndarray
    tokens_kept: tuple[tuple[int, ...], ...]
    prompt_tokens: int
    run_seconds: dict[str, float]
    compile_seconds: dict[str, float]
    arrays: AnswerArrays = dataclasses.field(repr=False)
    index: int | None = None

    def _read(self, part: Any) -> Any:
        """Copy a part of `arrays` to the host, of this question alone."""
        return jax.device_get(part if self.index is None else jax.tree.map(lambda leaf: leaf[self.index], part))

    def kept_of(self, scenes: Sequence[SceneData]) -> list[list[dict[str, int]]]:
        """Return, per image and scale, how many of how many tokens were kept, for files and replies."""
        per_image = []
        for scene, kept in zip(scenes, self.tokens_kept, strict=False):
            rows = zip(scene.scales_px, kept, scene.grids, strict=True)
            per_image.append([{"scale_px": size, "kept": count, "of": grid.num_tokens} for size, count, grid in rows])
        return per_image

    @functools.cached_property
    def selections(self) -> tuple[tuple[Selection, ...], ...]:
        """Per image and scale, the rows kept (NumPy arrays)."""
        return self._read(tuple(item.selections for item in self.arrays.compressions))

    @functools.cached_property
    def anchor_importance(self) -> tuple[np.ndarray, ...]:
        """Per image, (M,) of the anchor."""
        return self._read(tuple(item.anchor_importance for item in self.arrays.compressions))

    @functools.cached_property
    def importance(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Per image and scale, (M,) tile-major."""
        return self._read(tuple(item.importance for item in self.arrays.compressions))

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """(V,) after the prompt."""
        return self._read(self.arrays.logits)[0]


class Asker:
    """Asks a model's decoder about encoded images."""

    def __init__(self, cfg: BatConfig, params: Params, tokenizer: Any, stages: Stages, stages_apart: bool = False):
        """Wrap loaded parts; see `BatModel`."""
        self.cfg = cfg
        self.params = params
        self.tokenizer = tokenizer
        self.stages = stages
        self.stages_apart = stages_apart

    def ask(
        self, scenes: Sequence[SceneData], question: Question, *, shared_with: Sequence[str] = (), **options: Any
    ) -> Answer:
        """Answer a question about one or more encoded images.

        Several images share each scale's budget, the first ones get the remainder. Under the release's prompt setting
        only the first image's tokens are used.

        Args:
          question: the text, or a Dialogue with earlier turns; importance is the last question's, which sees them.
          shared_with: other questions that the same tokens have to serve: importance is the mean over all of them.
          options: see `answer_prompt`.

        Raises:
          ValueError: a question is empty, too long for the decoder, or an option is out of range.
        """
        prompt = build_prompt(self.tokenizer, question, len(scenes), self.cfg.prompt)
        suffixes = [self._suffix(text) for text in (question, *shared_with)]
        starts = [suffix.question_at for suffix in suffixes]
        return self.answer_prompt(
            scenes, prompt, [suffix.pieces[-1] for suffix in suffixes], question_at=starts, **options
        )

    def _suffix(self, question: Question) -> Prompt:
        """Return a prompt whose last piece is the text behind the image on the attention path."""
        # Importance is read on each image alone, behind the template's prefix; placeholders inside a question would
        # put other text there.
        if self.cfg.prompt.images == "all":
            if isinstance(question, Dialogue):
                question = question.with_first(_without_places(question.first))
            else:
                question = _without_places(question)
        return build_prompt(self.tokenizer, question, 1, self.cfg.prompt)

    def answer_prompt(
        self,
        scenes: Sequence[SceneData],
        prompt: Prompt,
        suffixes: Sequence[np.ndarray] | None = None,
        *,
        question_at: Sequence[int] | None = None,
        budgets: Sequence[int] | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: bool = True,
    ) -> Answer:
        """Answer a tokenised prompt.

        Args:
          suffixes: texts behind the image on the attention path, whose importance is averaged; by default the prompt's
            last piece alone. question_at: where in each the question begins, behind earlier turns; by default where the
            prompt says.
          budgets: tokens per scale, at most the config's, of which some may be 0; these are traced, so no value
            compiles anew.
          temperature: 0 is greedy. top_p: in (0, 1]. seed: of the sampling.
          stop: end at the end-of-turn token; False always writes `max_new_tokens`.

        Raises:
          ValueError: the prompt is too long for the decoder, or an option is out of range.
        """
        if suffixes is None:
            suffixes, question_at = prompt.pieces[-1:], [prompt.question_at]
        shares = self._shares(budgets, len(scenes))
        num_text = sum(piece.size for piece in prompt.pieces)
        self._check_length(num_text + max_new_tokens)
        used = scenes[: len(prompt.pieces) - 1]  # the release's prompt has a place for the first image alone
        texts, text_valid = _padded_pieces(prompt)
        question = QuestionArrays(
            suffixes=self._suffixes(scenes, suffixes, question_at),
            shares=shares[: len(used)],
            texts=texts,
            text_valid=text_valid,
            **self._drawing(max_new_tokens, temperature, top_p, seed, stop),
        )
        static = (self.cfg, tuple(scene.layout for scene in used), max_new_tokens)
        self.stages.reset_clocks()
        with advised(self.cfg, num_text):
            moved = (self.params, tuple(scene.arrays for scene in used), self.stages.put(question))
            if self.stages_apart:
                arrays = answer(self.stages.run, *static, *moved)
            else:
                arrays = self.stages.run("question", answer_in_one, static, *moved)
            ids, length, is_finite, rows, kept = jax.device_get(arrays.outcome)
        self._check_finite(is_finite)
        return self._answer(arrays, None, ids[0], length.item(), rows.item(), kept, max_new_tokens)

    def ask_many(
        self,
        scenes: Sequence[SceneData],
        questions: Sequence[Question],
        *,
        shared_with: Sequence[Sequence[str]] = (),
        room: int | None = None,
        importance: ImportanceRows | None = None,
        budgets: Sequence[int] | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **drawing: Any,
    ) -> tuple[Answer, ...]:
        """Answer several questions about the same images, each as `ask` alone would, at once.

        They share the images' cache; each has one of its own for its prompt, which the device has to hold. It is one
        program, or three where stages run apart. Questions are asked one by one where one of them says itself where an
        image stands, and, in one program, where one shares its tokens.

        Args:
          shared_with: for each question, as in `ask`; none by default.
          room: questions that the program can take, by default the power of two that holds these; any number up to it
            compiles nothing new.
          importance: rows that were read before, to which those of other texts are added; for stages that run apart.
            All that ask with it have the same anchors, and read attention of the same rows of a text.
          budgets, max_new_tokens, drawing: see `answer_prompt`; every question draws by the same seed.

        Raises:
          ValueError: as `ask`, for any of the questions; they are more than `room`; or importance is given to a model
            whose questions are one program.
        """
        if importance is not None and not self.stages_apart:
            raise ValueError("importance: is handed to questions only where stages run apart (stages_apart=True)")
        room = bucket(len(questions), 1) if room is None else room
        if len(questions) > room:
            raise ValueError(f"room={room}: is less than the {len(questions)} questions")
        shared = tuple(tuple(texts) for texts in shared_with) or ((),) * len(questions)
        prompts = [build_prompt(self.tokenizer, question, len(scenes), self.cfg.prompt) for question in questions]
        in_front = {tuple(piece.size for piece in prompt.pieces[:-1]) for prompt in prompts}
        if len(in_front) > 1 or (not self.stages_apart and (room < 2 or any(shared))):
            options = {"budgets": budgets, "max_new_tokens": max_new_tokens, **drawing}
            asked = zip(questions, shared, strict=True)
            return tuple(self.ask(scenes, question, shared_with=texts, **options) for question, texts in asked)
        num_text = max(sum(piece.size for piece in prompt.pieces) for prompt in prompts)
        self._check_length(num_text + max_new_tokens)
        used = scenes[: len(prompts[0].pieces) - 1]
        longest = max(prompt.pieces[-1].size for prompt in prompts)
        pieces, valid = _stacked([_padded_pieces(prompt, longest) for prompt in prompts], room)
        shares = self._shares(budgets, len(scenes))[: len(used)]
        batch = QuestionArrays(
            suffixes=() if self.stages_apart else self._stacked_suffixes(scenes, questions, room),
            shares=shares,
            texts=pieces,
            text_valid=valid,
            **self._drawing(max_new_tokens, **drawing),
        )
        static = (self.cfg, tuple(scene.layout for scene in used), max_new_tokens)
        self.stages.reset_clocks()
        with advised(self.cfg, num_text, len(questions)):
            put = self.stages.put((batch, np.int32(len(questions))))
            moved = (self.params, tuple(scene.arrays for scene in used))
            if self.stages_apart:
                texts = [(question, *others) for question, others in zip(questions, shared, strict=True)]
                rows = self._importance(used, texts, room, {} if importance is None else importance)
                # As caches are made, so that many budgets share a program.
                most_rows = sum(map(np.sum, shares)) + sum(piece.shape[1] for piece in pieces)
                most_rows += -most_rows % SLOT_MULTIPLE
                arrays = answer_by_stage(self.stages.run, *static, int(most_rows), *moved, self.stages.put(rows), *put)
            else:
                arrays = self.stages.run("questions", answer_many, static, *moved, *put)
            ids, lengths, is_finite, rows, kept = jax.device_get(arrays.outcome)
        self._check_finite(is_finite[: len(questions)])
        return tuple(
            self._answer(
                arrays, i, ids[i, 0], lengths[i].item(), rows[i].item(), kept[i], max_new_tokens, len(questions)
            )
            for i in range(len(questions))
        )

    def _importance(
        self, scenes: Sequence[SceneData], texts: Sequence[Sequence[Question]], room: int, known: ImportanceRows
    ) -> tuple[np.ndarray, ...]:
        """Return each image's (room, M1) importance, the mean over the texts of each question; read what is not known.

        `known` gets what is read, `room` texts at a time.
        """
        unread = [text for text in dict.fromkeys(itertools.chain(*texts)) if text not in known]
        static = (self.cfg.networks, reads_one_row(self.cfg.compressor.attention_query))
        for start in range(0, len(unread), room):
            some = unread[start : start + room]
            suffixes = self.stages.put(self._stacked_suffixes(scenes, some, room)[0])
            of_images = [
                self.stages.run(
                    "anchor_importance",
                    importance_rows,
                    static,
                    self.params,
                    scene.cache,
                    scene.scales[0].valid,
                    suffixes,
                )
                for scene in scenes
            ]
            for text, *rows in zip(some, *jax.device_get(of_images), strict=False):
                known[text] = tuple(rows)
        layer = self.cfg.compressor.attention_layer
        means = [
            [np.mean([known[text][image][layer] for text in of_question], axis=0) for of_question in texts]
            for image in range(len(scenes))
        ]
        return tuple(_filled(np.stack(rows), room) for rows in means)

    def _stacked_suffixes(
        self, scenes: Sequence[SceneData], questions: Sequence[Question], room: int
    ) -> tuple[Suffix, ...]:
        """Return `_suffixes` of every question alone, its arrays beginning with `room`."""
        texts = [self._suffix(question) for question in questions]
        longest = max(text.pieces[-1].size for text in texts)
        return _stacked([self._suffixes(scenes, text.pieces[-1:], [text.question_at], longest) for text in texts], room)

    def _answer(
        self,
        arrays: AnswerArrays,
        index: int | None,
        ids: np.ndarray,
        length: int,
        num_rows: int,
        kept: np.ndarray,
        max_new_tokens: int,
        num_questions: int = 1,
    ) -> Answer:
        """Return the answer that `arrays` holds, of several at `index`, when its prompt is seen to have fitted."""
        self._check_length(num_rows + max_new_tokens)
        token_ids = ids[:length].astype(np.int32)
        return Answer(
            text=self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True).strip(),
            token_ids=token_ids,
            tokens_kept=tuple(map(tuple, kept.tolist())),
            prompt_tokens=num_rows,
            run_seconds={name: seconds / num_questions for name, seconds in self.stages.run_seconds.items()},
            compile_seconds={name: seconds / num_questions for name, seconds in self.stages.compile_seconds.items()},
            arrays=arrays,
            index=index,
        )

    def _drawing(
        self, max_new_tokens: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, stop: bool = True
    ) -> dict[str, np.ndarray]:
        """Return how an answer's tokens are drawn, as QuestionArrays has it.

        Raises:
          ValueError: an option is out of range.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: must be at least 1")
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: must be 0 (greedy) or positive")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p}: must be in (0, 1]")
        ids = sorted({end_of_turn_id(self.tokenizer), self.tokenizer.eos_token_id}) if stop else [-1, -1]
        return {
            "stop_ids": np.array((ids * 2)[:2], np.int32),
            "temperature": np.array(temperature, np.float32),
            "top_p": np.array(top_p, np.float32),
            "seed": np.array(seed % 2**32, np.uint32),
        }

    def compress(
        self, scenes: Sequence[SceneData], suffixes: Sequence[np.ndarray], budgets: Sequence[int] | None = None
    ) -> tuple[Compression, ...]:
        """Choose each image's tokens for the questions in `suffixes` (token ids after the image) together."""
        shares = self._shares(budgets, len(scenes))
        rows, run = self.stages.put(self._suffixes(scenes, suffixes)), self.stages.run
        made = []
        for scene, share in zip(scenes, shares, strict=True):
            importance = importance_of(run, self.cfg, self.params, scene.arrays, rows)
            args = (self.params, scene.arrays, importance, share)
            made.append(compress(run, self.cfg, scene.layout, *args))
        return tuple(made)

    def _suffixes(
        self,
        scenes: Sequence[SceneData],
        suffixes: Sequence[np.ndarray],
        question_at: Sequence[int] | None = None,
        padded_for: int = 0,
    ) -> tuple[Suffix, ...]:
        """Return the texts that importance is read at, padded (for `padded_for` tokens), with their rows' weight.

        `question_at`: where each one's question begins; rows before it have none.
        """
        longest = max(suffix.size for suffix in suffixes)
        self._check_length(max(scene.cache.num_slots for scene in scenes) + longest)
        made = []
        for suffix, start in zip(suffixes, question_at or [0] * len(suffixes), strict=True):
            ids, valid = _padded_text(suffix, padded_for)
            weight = np.zeros(ids.size, np.float32)
            weight[start : suffix.size] = suffix_row_weight(
                self.cfg.compressor.attention_query,
                suffix[start:].tolist(),
                pad_id=self.tokenizer.pad_token_id,
                end_of_turn_id=end_of_turn_id(self.tokenizer),
                is_space=lambda token: self.tokenizer.decode([token]).isspace(),
            )
            made.append(Suffix(ids, valid, weight))
        return tuple(made)

    def splice(self, prompt: Prompt, compressions: Sequence[Compression]) -> bat.Spliced:
        """Put the compressed images into the prompt."""
        texts, valid = _padded_pieces(prompt)
        if len(compressions) != len(texts) - 1:
            raise ValueError(f"prompt: has {len(texts) - 1} places for {len(compressions)} images")
        tokens = tuple(item.tokens for item in compressions)
        masks = tuple(item.mask for item in compressions)
        return self.stages.run("splice", bat.splice, (self.cfg.networks,), self.params, texts, valid, tokens, masks)

    def _shares(self, budgets: Sequence[int] | None, num_images: int) -> tuple[np.ndarray, ...]:
        """Return every image's budgets."""
        if not num_images:
            raise ValueError("scenes: need at least one encoded image")
        limits = self.cfg.compressor.budgets
        budgets = limits if budgets is None else tuple(budgets)
        is_allowed = all(0 <= budget <= limit for budget, limit in zip(budgets, limits, strict=False))
        if len(budgets) != len(limits) or not is_allowed or not any(budgets):
            raise ValueError(
                f"budgets={list(budgets)}: need {len(limits)} values, each from 0 to {list(limits)}, not all 0"
            )
        return tuple(np.array(share, np.int32) for share in image_shares(self.cfg, budgets, num_images))

    def _check_finite(self, is_finite: np.ndarray) -> None:
        if not is_finite.all():
            which = "" if is_finite.size == 1 else f" number {int(np.argmin(is_finite.ravel())) + 1}"
            raise NotFiniteError(
                f"question{which}: the decoder's logits are not finite, so there is no answer; its weights do not suit "
                f"compute_dtype={self.cfg.compute_dtype} or weights={self.cfg.decoder.weights}, or are no numbers"
            )

    def _check_length(self, num_rows: int) -> None:
        limit = self.cfg.decoder.max_positions
        if num_rows > limit:
            raise ValueError(
                f"question: the prompt with its visual tokens and the answer needs {num_rows} positions, "
                f"the decoder has {limit}; shorten the question, the budgets or max_new_tokens"
            )


def _without_places(question: str) -> str:
    return question.replace(IMAGE_TOKEN, "").strip() if IMAGE_TOKEN in question else question


def advised(cfg: BatConfig, num_text: int = 0, num_questions: int = 1) -> AbstractContextManager[None]:
    """Say of memory that does not suffice what these settings, and questions of so many tokens, ask for."""
    settings = cfg.compressor
    budgets, scales = (",".join(map(str, part)) for part in (settings.budgets, settings.sizes_px))
    held = (
        f"--budgets={budgets} of --scales={scales}, compute_dtype={cfg.compute_dtype}, --weights={cfg.decoder.weights}"
    )
    together = f"{num_questions} prompts" if num_questions > 1 else "a prompt"
    asks = f"{together} of {num_text:,} tokens of text, {held}" if num_text else held
    advice = "smaller budgets or scales, or --weights=int8, need less"
    if num_questions > 1:
        advice = f"ask fewer questions at once; {advice}"
    return memory_advice(asks, f"shorten the question; {advice}" if num_text > sum(settings.budgets) else advice)


def _stacked(items: Sequence[Any], room: int) -> Any:
    """Stack the arrays of questions, the last one's filling up the room."""
    return jax.tree.map(lambda *leaves: _filled(np.stack(leaves), room), *items)


def _filled(rows: np.ndarray, room: int) -> np.ndarray:
    return rows[np.minimum(np.arange(room), len(rows) - 1)]


def _padded_text(ids: np.ndarray, padded_for: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pad ids to their bucket, or to that of `padded_for` ids: (ids, is_text)."""
    length = bucket(max(ids.size, padded_for))
    return padded(np.asarray(ids, np.int32), length), np.arange(length) < ids.size


def _padded_pieces(prompt: Prompt, padded_for: int = 0) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Return the prompt's texts and which ids are text; the last one is padded so that questions share a program."""
    last, last_valid = _padded_text(prompt.pieces[-1], padded_for)
    whole = tuple(np.ones(piece.shape, bool) for piece in prompt.pieces[:-1])
    return (*prompt.pieces[:-1], last), (*whole, last_valid)
