"""The class that lmms-eval drives: its requests in, a BatModel's answers out.

lmms-eval hands over all questions at once, each with a function that loads its pictures, and wants the answers in the
same order. Every picture is looked at first, so that what this model cannot do is said before anything is encoded, and
questions on the same pictures are found by what the pixels are; then each picture is encoded once and asked all of its
questions, together where they have the same options. A picture is thus loaded twice; only those of the questions at
hand are in memory.

A question that fails, as the runner's do (a damaged picture, one too long for the decoder, no memory), is logged with
its reason and answered with an empty text, which counts as wrong; where all fail, the run stops.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import Image

from bat_jax.asking import MAX_NEW_TOKENS
from bat_jax.config import BatConfig, CompressorConfig, Fidelity, PromptConfig, ScaleSpec
from bat_jax.config.fields import require, typed
from bat_jax.engine.mesh import device_mesh
from bat_jax.evals.lmms import NAME
from bat_jax.evals.runner import ask_together
from bat_jax.io.images import one_line
from bat_jax.io.prompts import IMAGE_TOKEN
from bat_jax.io.scene_cache import SceneCache
from bat_jax.pipeline import BatModel
from bat_jax.progress import Progress

Picture = str | np.ndarray

_VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
# Pillow's modes of 8 bits a band or fewer; `convert` would cut the others' values off instead of scaling them.
_PIXEL_MODES = ("1", "CMYK", "HSV", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
_GENERATION_NAMES = frozenset({"do_sample", "max_new_tokens", "num_beams", "temperature", "top_p", "until"})


class UnsupportedRequestError(ValueError):
    """A request that this model cannot answer whatever its pictures hold."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One request, checked.

    Attributes:
      name: what messages call it. text: the prompt of the user.
      load: returns its pictures. keys: one a picture, the same for the same pixels or file.
      options: of `BatModel.ask`. until: texts of which the first one ends the answer.
    """

    name: str
    text: str
    load: Callable[[], list[Picture]]
    keys: tuple[str, ...]
    options: dict[str, Any]
    until: tuple[str, ...]


class BatJax(lmms):
    """A converted checkpoint as lmms-eval's `--model bat_jax`; the arguments are its `--model_args`."""

    is_simple = True

    def __init__(
        self,
        checkpoint: Any = None,
        *,
        budgets: Any = None,
        scales: Any = None,
        fidelity: Any = None,
        seed: Any = 0,
        scene_cache: Any = None,
        scene_cache_gb: Any = 50,
        questions_at_once: Any = 8,
        mesh: Any = None,
        batch_size: Any = 1,
        max_batch_size: Any = None,
        device: Any = None,
        **settings: Any,
    ):
        """Load the checkpoint.

        Args:
          checkpoint: directory written by experiments.convert.
          budgets: tokens kept per scale, from coarse to fine, as [80,320,600,2000].
          scales: sides of the views in pixels, as [672,1344,2688,4032]; with `budgets`.
          fidelity: "paper" or "release"; the checkpoint's by default.
          seed: of the first K-means centres and of sampling; a question's repeats count on from it.
          scene_cache: folder that keeps encoded pictures, of at most `scene_cache_gb` 10^9 bytes.
          questions_at_once: most questions about the same pictures, with the same options, that are asked together.
          mesh: devices that share the work, as [data=2,model=4].
          batch_size, max_batch_size, device: what lmms-eval passes; see Raises.
          settings: any other field of the compressor or the prompt, such as selection=topk.

        Raises:
          ValueError: an argument is missing, unknown or of no use here; names it, before weights are read.
        """
        super().__init__()
        if checkpoint is None:
            raise ValueError("model_args: give checkpoint=DIR, a directory written by experiments.convert")
        if str(batch_size) != "1" or max_batch_size not in (None, 1):
            raise ValueError(
                f"batch_size={batch_size}, max_batch_size={max_batch_size}: leave both; of a picture's questions "
                "questions_at_once=8 are asked together"
            )
        if device is not None:
            raise ValueError(f"device={device}: JAX chooses it; set JAX_PLATFORMS or CUDA_VISIBLE_DEVICES instead")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("WORLD_SIZE: start one process; share the questions out with --offset and --limit")
        if type(seed) is not int or seed < 0:
            raise ValueError(f"seed={seed}: must be a whole number from 0")
        if type(questions_at_once) is not int or questions_at_once < 1:
            raise ValueError(f"questions_at_once={questions_at_once}: must be a whole number from 1")
        cfg = configure(BatModel.read_config(str(checkpoint)), fidelity, scales, budgets, settings)
        if not isinstance(scene_cache_gb, int | float):
            raise ValueError(f"scene_cache_gb={scene_cache_gb}: must be a number")
        cache = SceneCache(str(scene_cache), int(scene_cache_gb * 1e9)) if scene_cache is not None else None
        devices = device_mesh(cfg, _unbracketed(mesh)) if mesh is not None else None
        self.model = BatModel.load(str(checkpoint), cfg=cfg, scene_cache=cache, mesh=devices)
        self.seed, self.questions_at_once = seed, questions_at_once

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer questions, in their order.

        Raises:
          ValueError: a request is none that this model can answer, or all questions failed.
        """
        questions = self._read(requests)
        groups: dict[tuple, dict[tuple, list[int]]] = collections.defaultdict(lambda: collections.defaultdict(list))
        for index, question in enumerate(questions):
            groups[question.keys][tuple(sorted(question.options.items()))].append(index)
        most_alike = max((len(alike) for group in groups.values() for alike in group.values()), default=1)
        room = min(self.questions_at_once, most_alike)
        answers = [GenerationResult("")] * len(questions)
        failures = []
        with Progress(total=len(questions), desc="Answering", unit="question", disable=self.rank != 0) as bar:
            for group in groups.values():
                batches = [alike[at : at + room] for alike in group.values() for at in range(0, len(alike), room)]
                outcomes = self._answer([[questions[index] for index in batch] for batch in batches], room)
                for index, answer in zip(itertools.chain(*batches), outcomes, strict=True):
                    if isinstance(answer, GenerationResult):
                        answers[index] = answer
                    else:
                        failures.append(f"{questions[index].name}: {one_line(answer)}")
                        logger.error(f"{failures[-1]}; counts as wrong")
                    bar.update()
        if failures and len(failures) == len(questions):
            raise ValueError(f"all {len(failures)} questions failed, the first one with: {failures[0]}")
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: `BatModel` writes answers and rates none."""
        raise NotImplementedError(_refusal(requests, "loglikelihood"))

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: `BatModel` answers each question by itself."""
        raise NotImplementedError(_refusal(requests, "generate_until_multi_round"))

    def _answer(self, batches: Sequence[Sequence[Request]], room: int) -> Iterator[GenerationResult | Exception]:
        """Yield the answers to questions about the same pictures, or the reasons why there are none.

        Args:
          batches: questions with the same options, at most `room` each.
        """
        try:
            scenes = [self.model.encode(picture, seed=self.seed) for picture in batches[0][0].load()]
        except Exception as error:  # whatever a picture of a benchmark makes fail
            yield from itertools.repeat(error, sum(map(len, batches)))
            return
        for batch in batches:
            texts = [question.text for question in batch]
            outcomes = ask_together(self.model, scenes, texts, batch[0].options, room)
            for question, (answer, _) in zip(batch, outcomes, strict=True):
                if isinstance(answer, Exception):
                    yield answer
                    continue
                counts = TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=answer.token_ids.size)
                yield GenerationResult(cut(answer.text, question.until), counts)

    def _read(self, requests: Sequence[Instance]) -> list[Request]:
        """Check all requests and look at their pictures."""
        questions = []
        num_asked: collections.Counter = collections.Counter()
        unused: set[str] = set()
        for request in Progress(requests, desc="Reading pictures", unit="question", disable=self.rank != 0):
            context, generation, doc_to_visual, doc_id, task, split = request.args
            name = f"task {task}, document {doc_id}"
            options, until = read_generation(generation, name)
            unused |= set(generation) - _GENERATION_NAMES
            if options.get("temperature"):
                # lmms-eval repeats a request to get several samples of its answer.
                options["seed"] = self.seed + num_asked[task, doc_id, request.idx, context]
                num_asked[task, doc_id, request.idx, context] += 1
            load = functools.partial(load_pictures, doc_to_visual, self.task_dict[task][split], doc_id, name)
            try:
                keys = tuple(picture_key(picture) for picture in load())
            except UnsupportedRequestError:
                raise
            except Exception:  # fails again when its turn comes, and is recorded then
                keys = (f"unread {name}",)
            text = place_images(context, len(keys))
            questions.append(Request(name=name, text=text, load=load, keys=keys, options=options, until=until))
        if unused:
            logger.warning(f"generation_kwargs: {', '.join(sorted(unused))} not used by {NAME}")
        return questions


def configure(cfg: BatConfig, fidelity: Any, scales: Any, budgets: Any, settings: Mapping[str, Any]) -> BatConfig:
    """Return a checkpoint's config with what `--model_args` ask for; lmms-eval has read their values as it does.

    Raises:
      ValueError: names the argument at fault.
    """
    require(fidelity in (None, *typing.get_args(Fidelity)), "fidelity", fidelity, "must be paper or release")
    specs = cfg.compressor.scales
    if scales is not None and budgets is None:
        raise ValueError(f"scales={scales}: give budgets too, one a scale")
    if budgets is not None:
        sizes = cfg.compressor.sizes_px if scales is None else _whole_numbers("scales", scales)
        numbers = _whole_numbers("budgets", budgets)
        if len(numbers) != len(sizes):
            raise ValueError(f"budgets={budgets}: {len(numbers)} budgets for the {len(sizes)} scales {list(sizes)}")
        specs = tuple(ScaleSpec(size_px=size, budget=number) for size, number in zip(sizes, numbers, strict=True))
    kinds = typing.get_type_hints(CompressorConfig) | typing.get_type_hints(PromptConfig)
    read = {name: _setting(kinds[name], name, value) if name in kinds else value for name, value in settings.items()}
    return cfg.with_settings(fidelity, scales=specs, **read)


def read_generation(generation: Mapping[str, Any], name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of `BatModel.ask` and the texts that end an answer.

    Decoding is greedy unless `do_sample` or, where that is not given, a positive `temperature` asks for sampling.

    Args:
      generation: a task's `generation_kwargs`. name: the request's.

    Raises:
      UnsupportedRequestError: beam search.
    """
    if generation.get("num_beams") not in (None, 1):
        raise UnsupportedRequestError(
            f"{name}: num_beams={generation['num_beams']}: no beam search; --gen_kwargs num_beams=1"
        )
    options: dict[str, Any] = {"max_new_tokens": int(generation.get("max_new_tokens") or MAX_NEW_TOKENS)}
    temperature, do_sample = generation.get("temperature"), generation.get("do_sample")
    if do_sample or (do_sample is None and temperature):
        options["temperature"] = 1.0 if temperature is None else float(temperature)
        options["top_p"] = float(generation.get("top_p") or 1.0)
    until = generation.get("until") or ()
    return options, (until,) if isinstance(until, str) else tuple(until)


def cut(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first of the `until` texts in it."""
    for end in filter(None, until):
        text = text.split(end, 1)[0]
    return text.strip()


def place_images(text: str, num_images: int) -> str:
    """Take `<image>` out of a question unless it has as many as pictures; the pictures then stand in front."""
    return text if text.count(IMAGE_TOKEN) in (0, num_images) else text.replace(IMAGE_TOKEN, "")


def load_pictures(doc_to_visual: Callable[[Any], Any], documents: Any, index: int, name: str) -> list[Picture]:
    """Return what a task's `doc_to_visual` gives for a document as BatModel takes it: files, or Pillow's pixels.

    Raises:
      UnsupportedRequestError: there is no picture, or one is no still image of up to 8 bits a band.
    """
    visuals = doc_to_visual(documents[index])
    if not visuals:
        raise UnsupportedRequestError(f"{name}: has no image; {NAME} answers questions about images")
    pictures: list[Picture] = []
    for visual in visuals:
        if isinstance(visual, Image.Image) and visual.mode in _PIXEL_MODES:
            pictures.append(np.asarray(visual.convert("RGB")))
        elif isinstance(visual, str) and not visual.lower().endswith(_VIDEO_SUFFIXES):
            pictures.append(visual)
        else:
            what = type(visual).__name__
            if isinstance(visual, str):
                what = f"the video {visual}"
            elif isinstance(visual, Image.Image):
                what = f"an image of mode {visual.mode}"
            raise UnsupportedRequestError(
                f"{name}: gives {what}; {NAME} takes still images of up to 8 bits a band, no video or audio"
            )
    return pictures


def picture_key(picture: Picture) -> str:
    """Return a text that is the same for the same file, or for the same pixels."""
    if isinstance(picture, str):
        return f"file {picture}"
    digest = hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=16).hexdigest()
    return f"{picture.shape[1]} x {picture.shape[0]} pixels {digest}"


def _whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    """Read 80, [80, 320] or the text "[80,320]"."""
    try:
        return tuple(int(item) for item in _unbracketed(value).split(","))
    except ValueError:
        raise ValueError(f"{name}={value}: need whole numbers in brackets, as {name}=[80,320]") from None


def _unbracketed(value: Any) -> str:
    """Return an argument's text without the brackets or quotes that let it hold commas."""
    return str(value).strip("[]()\"' ")


def _setting(kind: Any, name: str, value: Any) -> Any:
    """Return a setting as its field's type; lmms-eval reads -1 as a float and 1 as a whole number."""
    if kind in (int, float) and type(value) in (int, float) and kind(value) == value:
        value = kind(value)
    return typed(kind, value, name)


def _refusal(requests: Sequence[Instance], output_type: str) -> str:
    tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
    return f"{tasks}: asks for {output_type}; {NAME} does generate_until alone"
