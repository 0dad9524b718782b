"""The benchmarks that can be run, by name: where their pictures come from, how they ask, what their tables show.

A run's settings (what JSON holds of it) are all that a source needs, so that a run can be gone on with and merged from
its directory alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bat_jax.benchmarks.samples import KEYS, BenchmarkData
from bat_jax.evals import benchmark_files, uhr_mini
from bat_jax.evals.results import Breakdowns
from bat_jax.evals.runner import Picture
from bat_jax.mini.world.splits import parse_seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A benchmark.

    Attributes:
      prompts: ways of asking, the default first.
      max_new_tokens: most tokens of an answer, by default.
      averaging: of the headline; one of aggregate.AVERAGINGS.
      breakdowns: see results.
      open: settings -> (pictures, one line on what they are).
    """

    prompts: tuple[str, ...]
    max_new_tokens: int
    averaging: str
    breakdowns: Breakdowns
    open: Callable[[Mapping[str, Any]], tuple[Iterable[Picture], str]]


def _open_scenes(settings: Mapping[str, Any]) -> tuple[Iterable[Picture], str]:
    seeds = parse_seeds(settings["scene_seeds"])
    found = uhr_mini.pictures(seeds, settings["render_px"], settings["prompt"])
    return found, f"{uhr_mini.describe_seeds(seeds)}, painted at {settings['render_px']} px"


def _open_files(key: str, settings: Mapping[str, Any]) -> tuple[Iterable[Picture], str]:
    data = BenchmarkData(key, settings["data"], settings["image_folder"])
    found, num_questions = benchmark_files.pictures(
        data, settings["prompt"], leak_hint=settings["leak_hint"], max_pixels=settings["max_pixels"]
    )
    left_out = "".join(f", {number} rows left out ({reason})" for reason, number in data.left_out.items())
    hint = ", with the release's hint on the number of answers" if settings["leak_hint"] else ""
    return found, f"{settings['data']}: {num_questions} questions{left_out}{hint}"


def _files(key: str, max_new_tokens: int) -> Source:
    return Source(
        prompts=benchmark_files.PROMPTS[key],
        max_new_tokens=max_new_tokens,
        averaging="paper",
        breakdowns=benchmark_files.BREAKDOWNS[key],
        open=functools.partial(_open_files, key),
    )


# The official scripts of XLRS and MME write 64 tokens at most, the release's for RSHR 512.
_MAX_NEW_TOKENS = {"xlrs": 64, "mme_realworld": 64, "rshr": 512, "llava": 64}

SOURCES: Mapping[str, Source] = {
    uhr_mini.NAME: Source(
        prompts=("release", "xlrs", "word"),
        max_new_tokens=8,
        averaging="micro",
        breakdowns=uhr_mini.BREAKDOWNS,
        open=_open_scenes,
    ),
    **{key: _files(key, _MAX_NEW_TOKENS[key]) for key in KEYS},
}
