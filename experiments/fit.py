"""Say whether a model fits devices that need not be here, by how much, and what it should cost there at least.

    python -m experiments.fit --config=7b --device=a6000
    python -m experiments.fit --checkpoint=DIR --device=v5e-4,rtx4090 --budgets=80,320,600,2000 --output=fit.json
    python -m experiments.fit --config=7b --device=a6000 --train=release_7b --train=accumulation=16
    python -m experiments.fit --config=7b --device=h200 --stages_apart
    python -m experiments.fit --config=7b --device=h100 --mesh=data=2 --search=picture
    python -m experiments.fit --config=7b --device=rtx4090 --questions_at_once=8 --search=questions

Every program is compiled by XLA for the device (extras `fit` for GPUs, `fit-tpu` for TPUs; no device, no weights
needed) and its memory added to what is held meanwhile. Seconds are a roofline, not a forecast: docs/fit.md. A device is
one of those that a wrong name lists; NAME-4 are four that share the model, as --mesh=model=4. Devices of one
architecture in one command are compiled for once, and so the same but for memory and rates. Exits with 0 if all fit,
else with 3.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Any

import jax
from absl import flags

from bat_jax.config import BatConfig
from bat_jax.engine import cost
from bat_jax.engine.image import default_tile_batch
from bat_jax.engine.mesh import mesh_axes
from bat_jax.fit.abstract_run import Programs
from bat_jax.fit.verdict import FitTarget, judge, parse_target
from bat_jax.fit.work import QUANTITIES, FitWork
from bat_jax.io.output_files import write_json, write_text
from bat_jax.io.params import read_config
from bat_jax.report.fit_page import page, stage_lines
from bat_jax.runs import run_record
from bat_jax.text_files import read_json, read_text
from bat_jax.train.recipe import TrainConfig
from . import cli
from . import compressor_flags as compressor
from .recipe_flags import with_fields

CONFIG = flags.DEFINE_enum("config", None, ["7b", "mini"], "Sizes of the model: UHR-BAT-7B or the small one.")
CHECKPOINT = flags.DEFINE(
    cli.CheckpointParser(), "checkpoint", None, "Instead: the config of a converted directory, or of uhr-bat-mini."
)
DEVICE = flags.DEFINE_list("device", [], "Devices, as h200,a6000,v5e-4; NAME-N are N that share one model.")
MESH = flags.DEFINE_string(
    "mesh", None, "Devices along each axis, as data=1,model=4: that of answer, evaluate and finetune."
)
TRAIN = flags.DEFINE_multi_string(
    "train",
    [],
    "A step of training instead of answering: release_7b or a recipe's JSON file; then its fields, name=value.",
)
IMAGE_PX = flags.DEFINE_integer("image_px", 8192, "Side of the picture, in pixels.", lower_bound=64)
TILE_BATCH = flags.DEFINE_integer(
    "tile_batch", None, "Tiles that go through the tower at once. Default: as BatModel chooses.", lower_bound=1
)
PREFIX = flags.DEFINE_integer("prefix_tokens", 14, "Text tokens before the image.", lower_bound=1)
QUESTION = flags.DEFINE_integer("question_tokens", 64, "Text tokens after the image.", lower_bound=1)
ANSWER = flags.DEFINE_integer("answer_tokens", 8, "Tokens of the answer.", lower_bound=2)
STAGES_APART = flags.DEFINE_bool("stages_apart", False, "Compile and count every stage apart, not an image's in one.")
QUESTIONS_AT_ONCE = flags.DEFINE_string(
    "questions_at_once",
    "1",
    "Questions about the picture in one program, as evaluate asks them; an answer each, as 1,8.",
)
LAYERS = flags.DEFINE_integer(
    "layers",
    None,
    "Compile so few layers of tower and decoder, which is faster, and add what the others hold: weights and key-value "
    "caches. Default: all.",
    lower_bound=1,
)
SEARCH = flags.DEFINE_list(
    "search",
    ["kept", "tiles"],
    "Also find the most that fits, by a few more compilations each: kept (tokens), tiles (at once on a device), "
    "picture (the largest view's side), questions (at once). --search= for none.",
)
OUTPUT = flags.DEFINE_string("output", None, "Write the answer here as JSON, a list for several devices.")
JOIN = flags.DEFINE_list("join", [], "Earlier --output files, whose answers are shown and written again.")
WRITE_DOCS = flags.DEFINE_string("write_docs", None, "Write all answers as a page (docs/fit.md).")

DOES_NOT_FIT = 3


def config_of_flags() -> BatConfig:
    """Return the model that the flags name, with their settings.

    Raises:
      ValueError: none or two are named, or a setting does not fit.
    """
    if (CONFIG.value is None) == (CHECKPOINT.value is None):
        raise ValueError("--config: give this or --checkpoint")
    if CHECKPOINT.value:
        cfg = read_config(pathlib.Path(CHECKPOINT.value))
    else:
        cfg = BatConfig.uhr_bat_7b() if CONFIG.value == "7b" else BatConfig.mini()
    return compressor.configure(cfg)


def recipe_of_flags() -> TrainConfig | None:
    """Return the recipe of --train, None without one.

    Raises:
      ValueError: names the flag.
    """
    if not TRAIN.value:
        return None
    name, *fields = TRAIN.value
    if name == "release_7b":
        recipe = TrainConfig.release_7b()
    elif "=" in name:
        raise ValueError(f"--train={name}: name release_7b or a recipe's JSON file first")
    else:
        recipe = TrainConfig.from_json(read_text(name))
    return with_fields(recipe, fields, "train")


def targets_of_flags() -> list[FitTarget]:
    """Return what --device and --mesh name; devices of one architecture share the programs of the first.

    Raises:
      ValueError: a name is not known, or nothing is asked for.
    """
    targets: list[FitTarget] = []
    for name in DEVICE.value:
        try:
            target = parse_target(name, MESH.value)
        except ValueError as error:  # which begins with "device=" or "mesh="
            raise ValueError(f"--{error}") from error
        same = [other.device for other in targets if other.facts.architecture == target.facts.architecture]
        targets.append(dataclasses.replace(target, compiled_for=same[0] if same and not TRAIN.value else None))
    if not targets and not JOIN.value:
        raise ValueError("--device: name at least one")
    return targets


def questions_of_flags() -> list[tuple[int, list[str]]]:
    """Return the numbers of questions at once, and what is searched with each: their most with the last of them.

    Raises:
      ValueError: names the flag.
    """
    numbers = compressor.whole_numbers(QUESTIONS_AT_ONCE.value, "questions_at_once")
    if min(numbers) < 1:
        raise ValueError(f"--questions_at_once={QUESTIONS_AT_ONCE.value}: must be at least 1")
    for name in SEARCH.value:
        if name not in QUANTITIES:
            raise ValueError(f"--search={name}: is not known; known are {', '.join(QUANTITIES)}")
    if STAGES_APART.value and (max(numbers) > 1 or "questions" in SEARCH.value):
        raise ValueError("--stages_apart: takes one question at a time")
    last = len(numbers) - 1
    searched_with = {name: last if name == "questions" else 0 for name in SEARCH.value}
    return [
        (number, [name for name, place in searched_with.items() if place == index])
        for index, number in enumerate(numbers)
    ]


def judge_flags() -> list[dict[str, Any]]:
    """Answer for every device of the flags, and print each answer as it is known."""
    targets, found = targets_of_flags(), []
    if not targets:
        return []
    cfg, questions = config_of_flags(), questions_of_flags()
    work = functools.partial(
        FitWork,
        cfg=cfg,
        text=cost.Text(prefix=PREFIX.value, question=QUESTION.value, answer=ANSWER.value),
        image_px=IMAGE_PX.value,
        layers=LAYERS.value,
        recipe=recipe_of_flags(),
        stages_apart=STAGES_APART.value,
    )
    try:
        for target in targets:
            mesh_axes(cfg, target.axes)
    except ValueError as error:  # which begins with "mesh"
        raise ValueError(f"--{error}") from error
    programs = Programs(lambda name: print(f"compiling {name}", file=sys.stderr, flush=True))
    for target in targets:
        tiles = TILE_BATCH.value or default_tile_batch(cfg, "accelerator", target.num_devices)
        for number, search in questions:
            verdict = judge(target, work(tile_batch=tiles, questions_at_once=number), programs, search)
            found.append({**verdict.to_json(), "answer": verdict.answer(), "config": CONFIG.value or CHECKPOINT.value})
            print("\n".join([verdict.answer(), *stage_lines(found[-1]), ""]), flush=True)
    record = run_record(compressor.SEED.value)
    return [{**entry, "run": record} for entry in found]


def main(_: list[str]) -> int:
    """Answer, print, write."""
    # Nothing is computed, and looking for devices that are here would only warn of the compilers' missing drivers.
    jax.config.update("jax_platforms", "cpu")
    earlier = [read_json(name) for name in JOIN.value]
    entries = [entry for part in earlier for entry in (part if isinstance(part, list) else [part])]
    for entry in entries:
        print(entry["answer"])
    entries += judge_flags()
    if OUTPUT.value:
        write_json(pathlib.Path(OUTPUT.value), entries[0] if len(entries) == 1 else entries)
    if WRITE_DOCS.value:
        write_text(pathlib.Path(WRITE_DOCS.value), page(entries))
    return 0 if all(entry["fits"] for entry in entries) else DOES_NOT_FIT


if __name__ == "__main__":
    cli.run(main)
