"""Run a model over a benchmark's questions, picture by picture, and keep every answer as it comes.

A benchmark is a sequence of pictures, each with its questions (tasks): one encoded picture serves them all, and several
of its questions may be asked at once. Pictures are read or painted in worker threads ahead of the model. Every answered
question is one line of a JSON-lines file, on the disk before more are asked: a run that is killed loses the questions
it was at and nothing else, and the same run started again leaves out what was answered. A picture that cannot be read
and a question that fails are lines too, with their reason; the run goes on, every new start asks them once more, and a
question's last line counts.

    {"id", "picture", "scene", "sub_task", "category", "prompt_style", "status": "answered" | "error", "output",
     "truth", "verdicts": {rule: {"letters", "is_right"}}, "is_right", "error", "facts", "tokens_kept": [one number a
     scale, over its pictures], "picture_px": [long side of the pixels that each image's views are cut from], "seconds",
     "compile_seconds", "load_seconds", "encode_seconds", "encode_compile_seconds"}

Seconds are those of the clock, an even share for questions that are asked at once; `compile_seconds` are a part of
`seconds`. What loading and encoding took is the picture's and the same in all of its lines; encode_seconds is null
where a scene cache had the picture.
"""

import collections
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from bat_jax.benchmarks import answer_readers
from bat_jax.benchmarks.record import Loaded, Picture, Task
from bat_jax.compress.budgets import share_out
from bat_jax.config import BatConfig, ScaleSpec
from bat_jax.evals.prediction_log import PredictionLog
from bat_jax.io.images import one_line
from bat_jax.progress import Progress

DEFAULT_RULE = "official"
P = TypeVar("P")  # Picture, or what `run` takes in place of it
# What encoding a picture costs beside a question, to share pictures out among processes.
_PICTURE_COST = 5


def anchor_view(cfg: BatConfig) -> BatConfig:
    """Return the config with the anchor view alone and every token of it kept: plain down-sampling, no selection.

    Pooling to as many cells as there are tokens leaves every token as it is, in raster order whatever the question.
    """
    anchor = cfg.compressor.scales[0].size_px
    num_tokens = cfg.num_tokens(anchor)
    scales = (ScaleSpec(size_px=anchor, budget=num_tokens),)
    return cfg.with_settings(scales=scales, selection="pooling", partition="one")


def select_tasks(pictures: Iterable[Picture], *, offset: int = 0, ids: Collection[str] = ()) -> tuple[Picture, ...]:
    """Return the pictures with the questions that are asked for; pictures without any are left out.

    `pictures` is read no further than needed.

    Args:
      offset: questions to leave out in front, counted among `ids` where these are given.
      ids: questions by id; all where it is empty.

    Raises:
      ValueError: an id is unknown, or no question is left.
    """
    wanted, chosen, num_seen = set(ids), [], 0
    for picture in pictures:
        left = [task for task in picture.tasks if not ids or task.id in wanted]
        wanted.difference_update(task.id for task in left)
        tasks = tuple(left[max(0, offset - num_seen) :])
        num_seen += len(left)
        if tasks:
            chosen.append(dataclasses.replace(picture, tasks=tasks))
        if ids and not wanted:
            break
    if wanted:
        raise ValueError(f"ids: {len(wanted)} belong to no question asked for, such as {min(wanted)!r}")
    if not chosen:
        raise ValueError(f"offset={offset}: no question is left of {num_seen}")
    return tuple(chosen)


def sample_tasks(pictures: Sequence[Picture], limit: int | None, seed: int = 0) -> tuple[tuple[Picture, ...], str]:
    """Return pictures with at most `limit` of their questions, and one line on the sample, "" where all are asked.

    A sub-task's share of the sample is its share of the questions, and at least one question while `limit` allows it.
    Within a sub-task every question is as likely as the others. The same questions, limit and seed give the same
    sample.
    """
    ids: dict[str, list[str]] = {}
    for picture in pictures:
        for task in picture.tasks:
            ids.setdefault(task.sub_task, []).append(task.id)
    total = sum(map(len, ids.values()))
    if limit is None or total <= limit:
        return tuple(pictures), ""
    names = sorted(ids)
    if limit < len(names):
        lucky = np.random.default_rng([seed, len(names)]).permutation(len(names))[:limit]
        counts = dict.fromkeys((names[index] for index in lucky), 1)
    else:
        counts = _quotas({name: len(ids[name]) for name in names}, limit)
    drawn: set[str] = set()
    for number, name in enumerate(names):
        order = np.random.default_rng([seed, number]).permutation(len(ids[name]))
        drawn.update(ids[name][index] for index in order[: counts.get(name, 0)])
    parts = (tuple(task for task in picture.tasks if task.id in drawn) for picture in pictures)
    chosen = tuple(
        dataclasses.replace(picture, tasks=tasks) for picture, tasks in zip(pictures, parts, strict=True) if tasks
    )
    return chosen, f"a sample of {limit} of {total} questions, stratified by sub-task, seed {seed}"


def _quotas(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Divide `limit` in proportion to sizes, at least 1 each; `limit` is at least their number."""
    singles: set[str] = set()
    while True:
        others = {name: size for name, size in sizes.items() if name not in singles}
        counts = share_out(limit - len(singles), tuple(others.values()), tuple(others.values()))
        left_out = {name for name, count in zip(others, counts, strict=True) if not count}
        if not left_out:
            return dict.fromkeys(singles, 1) | dict(zip(others, counts, strict=True))
        singles |= left_out


def shard_of(pictures: Sequence[P], index: int, num_shards: int) -> tuple[P, ...]:
    """Return part `index` (from 1) of the pictures, in about equal work; the parts together are all of them.

    Raises:
      ValueError: not 1 <= index <= num_shards.
    """
    if not 1 <= index <= num_shards:
        raise ValueError(f"shard={index}/{num_shards}: must be i/n with 1 <= i <= n")
    loads = [0] * num_shards
    own = []
    for picture in pictures:
        lightest = loads.index(min(loads))
        loads[lightest] += _PICTURE_COST + len(picture.tasks)  # type: ignore[attr-defined]
        if lightest == index - 1:
            own.append(picture)
    return tuple(own)


class Pace:
    """Says how long the rest takes, judging by all pictures but the first of this process, which compiles."""

    def __init__(self, num_tasks: int, clock: Callable[[], float] = time.perf_counter):
        self._left = num_tasks
        self._clock = clock
        self._timed = 0
        self._start: float | None = None

    def add(self, num_tasks: int) -> None:
        """Count a finished picture and its questions."""
        self._left -= num_tasks
        if self._start is None:
            self._start = self._clock()
        else:
            self._timed += num_tasks

    @property
    def seconds_left(self) -> float | None:
        """None before the second picture is done."""
        if self._start is None or not self._timed:
            return None
        return (self._clock() - self._start) / self._timed * self._left


def run(
    model: Any,
    pictures: Sequence[Any],
    log: PredictionLog,
    *,
    line: Callable[..., dict[str, Any]] | None = None,
    encode_options: Mapping[str, Any] | None = None,
    ask_options: Mapping[str, Any] | None = None,
    questions_at_once: int = 1,
    num_workers: int = 2,
    progress: bool = False,
) -> None:
    """Ask every question that the log holds no answer to, and write its line.

    Args:
      model: a BatModel, or anything with its `encode(image, **options)`, what that returns with
        `ask_many(texts, room=, **options)`, and, for pictures shown together, `ask_many(encoded, texts, ...)`.
      pictures: Picture, or others with its key, load, label_map, ask_options and tasks, which have a Task's id, text
        and shared_with.
      line: makes a question's line, as `benchmark_line` does for a benchmark's.
      encode_options, ask_options: for these.
      questions_at_once: most questions of a picture that are asked together.
      num_workers: threads that load pictures, at most one more than them ahead of the model.
      progress: show a bar on stderr.
    """
    todo = [
        dataclasses.replace(picture, tasks=left)
        for picture in pictures
        if (left := tuple(task for task in picture.tasks if task.id not in log.ids))
    ]
    num_all, num_left = (sum(len(picture.tasks) for picture in part) for part in (pictures, todo))
    pace = Pace(num_left)
    questions_at_once = min(questions_at_once, max((len(picture.tasks) for picture in todo), default=1))
    counts: collections.Counter[str] = collections.Counter()
    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    with (
        Progress(
            total=num_all,
            initial=num_all - num_left,
            unit="question",
            bar_format=layout,
            disable=not progress,
        ) as bar,
        futures.ThreadPoolExecutor(num_workers) as pool,
    ):
        for picture, loading in _load_ahead(pool, todo, num_workers + 1):
            options = (encode_options or {}, ask_options or {}, questions_at_once)
            for records in answer_picture(model, picture, loading.result, *options, line=line):
                log.append(*records)
                for record in records:
                    counts.update(asked=1, right=record.get("is_right", 0), errors=record["status"] == "error")
                seconds = pace.seconds_left
                eta = "after the first picture" if seconds is None else tqdm.format_interval(seconds)
                errors = f", {counts['errors']} errors" if counts["errors"] else ""
                has_truth = "is_right" in records[0]
                right = f"{counts['right'] / counts['asked']:.1%} right" if has_truth else f"{picture.key}"
                bar.set_postfix_str(f"{right}{errors}, ETA {eta}", refresh=False)
                bar.update(len(records))
            pace.add(len(picture.tasks))


def _load_ahead(
    pool: futures.Executor, pictures: Sequence[Any], num_ahead: int
) -> Iterator[tuple[Any, futures.Future]]:
    """Yield pictures in order while the next ones load; never more than `num_ahead` are loaded or loading."""
    rest = iter(pictures)
    waiting: collections.deque[tuple[Any, futures.Future]] = collections.deque()
    try:
        while True:
            for picture in itertools.islice(rest, num_ahead - len(waiting)):
                waiting.append((picture, pool.submit(_timed_load, picture)))
            if not waiting:
                return
            yield waiting.popleft()
    finally:
        for _, loading in waiting:
            loading.cancel()


def _timed_load(picture: Any) -> tuple[Loaded, float]:
    start = time.perf_counter()
    return picture.load(), time.perf_counter() - start


def answer_picture(
    model: Any,
    picture: Any,
    load: Callable[[], tuple[Any, float]],
    encode_options: Mapping[str, Any],
    ask_options: Mapping[str, Any],
    questions_at_once: int = 1,
    line: Callable[..., dict[str, Any]] | None = None,
) -> Iterator[tuple[dict[str, Any], ...]]:
    """Yield a line for every question of a picture, of those that are asked together at once; arguments as in `run`.

    Args:
      load: returns what the model encodes, and the seconds that loading it took.
    """
    of_picture: dict[str, Any] = dict.fromkeys(
        ("picture_px", "load_seconds", "encode_seconds", "encode_compile_seconds")
    )
    line = line or benchmark_line
    ask_options = {**ask_options, **picture.ask_options}
    try:
        loaded, of_picture["load_seconds"] = load()
        regions = {} if picture.label_map is None else {"label_map": picture.label_map()}
        start = time.perf_counter()
        images = loaded if isinstance(loaded, tuple) else (loaded,)
        scenes = [model.encode(image, **encode_options, **regions) for image in images]
        if not any(scene.from_cache for scene in scenes):
            of_picture["encode_seconds"] = time.perf_counter() - start
        of_picture["encode_compile_seconds"] = math.fsum(
            seconds for scene in scenes for seconds in scene.compile_seconds.values()
        )
        of_picture["picture_px"] = [max(scene.pixels.shape[:2]) for scene in scenes]
    except Exception as error:  # whatever a file or a picture of a benchmark makes fail
        yield tuple(line(task, picture, of_picture, error=_reason("picture", error)) for task in picture.tasks)
        return
    for tasks in _together(picture.tasks, questions_at_once):
        texts, shared = [task.text for task in tasks], [task.shared_with for task in tasks]
        outcomes = ask_together(model, scenes, texts, ask_options, questions_at_once, shared)
        answered = zip(tasks, outcomes, strict=True)
        yield tuple(line(task, picture, of_picture, **_outcome(*outcome)) for task, outcome in answered)


def in_groups(number: int, most: int) -> list[int]:
    """Return the sizes of the fewest groups of at most `most` that hold `number`, as alike as can be."""
    count = -(-number // most)
    return [number // count + (index < number % count) for index in range(count)]


def _together(tasks: Sequence[Task], most: int) -> Iterator[tuple[Task, ...]]:
    """Yield the tasks in their order, as many together as are asked at once."""
    rest = iter(tasks)
    for size in in_groups(len(tasks), most) if tasks else ():
        yield tuple(itertools.islice(rest, size))


def ask_together(
    model: Any,
    scenes: Sequence[Any],
    questions: Sequence[str],
    options: Mapping[str, Any],
    room: int,
    shared_with: Sequence[Sequence[str]] = (),
) -> Iterator[tuple[Any, float]]:
    """Yield every question's answer, or the error in its place, and its share of the seconds.

    Several that fail together are asked each alone, so that none fails for another's sake.

    Args:
      model, options: see `run`. scenes: what the questions are about. room, shared_with: see `BatModel.ask_many`.
    """
    images = () if len(scenes) == 1 else (scenes,)
    asked = scenes[0] if len(scenes) == 1 else model
    shared = {"shared_with": shared_with} if any(shared_with) else {}
    outcomes: Sequence[Any] = ()
    start = time.perf_counter()
    try:
        outcomes = asked.ask_many(*images, questions, room=room, **options, **shared)
    except Exception as error:
        outcomes = (error,) if len(questions) == 1 else ()
    if not outcomes:  # behind the `except`: the error holds on to what the questions had put on the device
        for index, question in enumerate(questions):
            yield from ask_together(model, scenes, [question], options, room, shared_with[index : index + 1])
        return
    seconds = (time.perf_counter() - start) / len(questions)
    yield from ((outcome, seconds) for outcome in outcomes)


def _outcome(answer: Any, seconds: float) -> dict[str, Any]:
    """Return what a question's line says of its answer, or of the error in its place."""
    if isinstance(answer, Exception):
        return {"error": _reason("question", answer)}
    return {
        "output": answer.text,
        "tokens_kept": [sum(kept) for kept in zip(*answer.tokens_kept, strict=True)],
        "seconds": seconds,
        "compile_seconds": math.fsum(answer.compile_seconds.values()),
    }


def _reason(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {one_line(error)}"


def benchmark_line(
    task: Task,
    picture: Picture,
    of_picture: Mapping[str, Any],
    *,
    output: str | None = None,
    tokens_kept: list[int] | None = None,
    seconds: float | None = None,
    compile_seconds: float | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """Return the line of a benchmark's question.

    Args:
      of_picture: the fields that all of the picture's lines have. The others: of the answer, or why there is none.
    """
    verdicts = answer_readers.judge(output, task.question)
    return {
        "id": task.id,
        "picture": picture.key,
        "scene": picture.scene,
        "sub_task": task.sub_task,
        "category": task.category,
        "prompt_style": task.prompt_style,
        "status": "answered" if error is None else "error",
        "output": output,
        "truth": task.question.truth,
        "verdicts": {rule: verdict._asdict() for rule, verdict in verdicts.items()},
        "is_right": verdicts[DEFAULT_RULE].is_right is True,
        "tokens_kept": tokens_kept,
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        **of_picture,
        "error": error,
        "facts": dict(task.facts),
    }
