"""Questions about many pictures, or about the cells of one: `answer --images` and `answer --grid`.

The output directory holds answers.jsonl, answers.csv and answers.geojson (evals/scenes.py says what is in them),
config.json and run.json. The same command started again goes on where the last one ended, however it ended, and asks
once more what had failed. Several hosts share a run with --coordinator, --num_processes and --process_id and one
directory that all of them see; the first makes the last two files when all are done.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from bat_jax.compress.budgets import image_shares
from bat_jax.config import BatConfig
from bat_jax.evals import scenes
from bat_jax.evals.prediction_log import PredictionLog, read_predictions
from bat_jax.evals.runner import run, shard_of
from bat_jax.evals.scenes import ANSWERS, QuestionRow, ScenePart
from bat_jax.io.digests import checkpoint_digest, input_sizes
from bat_jax.io.output_files import staged_file
from bat_jax.io.sources import source_digest
from bat_jax.pipeline import BatModel
from bat_jax.runs import INPUTS_FILE, RUN, RunDirectory, shard_file
from . import area_flags, host_flags
from . import compressor_flags as compressor
from .mesh_flags import mesh_of_flags
from .path_flags import ALLOW_OUTSIDE_PATHS
from .scene_cache_flags import scene_cache

IMAGES = flags.DEFINE_string(
    "images", None, "Many pictures: a folder, a glob in quotes, or a CSV with the column image (and question, id)."
)
QUESTIONS = flags.DEFINE_string(
    "questions", None, "CSV with the column question, and where it has them image and id; for --images and --grid."
)
QUESTIONS_AT_ONCE = flags.DEFINE_integer(
    "questions_at_once", 8, "Most questions about a picture of several that are answered together.", lower_bound=1
)

_STATUS_WORDS = {"answered": "answered", "no_data": "without data", "error": "failed"}
_PRINTED_AT_MOST = 100
_COMMAND, _CONFIG = "answer", "config.json"
_OWN = (f"{RUN}*.json", f"{ANSWERS}*", INPUTS_FILE, _CONFIG)


def is_asked() -> bool:
    """Return whether the flags ask about many pictures, or about cells."""
    return any(flag.value is not None for flag in (IMAGES, QUESTIONS, area_flags.GRID))


def parts_of_flags(cfg: BatConfig, images: Sequence[str], questions: Sequence[str]) -> tuple[ScenePart, ...]:
    """Return all pictures, or their cells, with their questions.

    Raises:
      ValueError: a flag, a table, or the only picture is at fault.
    """
    if IMAGES.value is not None and images:
        raise ValueError("--image, --images: give one of them")
    if len(images) > 1:
        raise ValueError("--image: --grid and --questions are about one picture; for several give --images")
    if IMAGES.value is None and not images:
        raise ValueError("--images: name the pictures")
    rows = scenes.read_rows(pathlib.Path(QUESTIONS.value)) if QUESTIONS.value else ()
    if IMAGES.value is None:
        files, listed = {pathlib.Path(images[0]).name: pathlib.Path(images[0])}, ()
    else:
        files, listed = scenes.named_images(IMAGES.value, allow_outside_paths=ALLOW_OUTSIDE_PATHS.value)
    asked = scenes.questions_of(files, [*(QuestionRow("", text) for text in questions), *listed, *rows])
    area, parts = area_flags.area_of_flags(), []
    for name, path in files.items():
        about = {"name": name, "path": path, "page": compressor.PAGE.value}
        whole = functools.partial(area_flags.read_part, str(path), cfg, area)
        if area_flags.GRID.value is None:
            parts.append(ScenePart(**about, load=whole, tasks=scenes.scene_questions(name, asked[name], True)))
            continue
        try:
            cells = area_flags.cells_of_flags(str(path), cfg, area)
        except ValueError:
            if len(files) == 1:
                raise
            # It fails once more when it is read, and is recorded then.
            parts.append(ScenePart(**about, load=whole, tasks=scenes.scene_questions(name, asked[name], True)))
            continue
        for (cell, (window, load)), shares in zip(cells.items(), _cell_budgets(cfg, len(cells)), strict=True):
            part = ScenePart(**about, load=load, tasks=(), cell=cell, window=window, ask_options={"budgets": shares})
            tasks = scenes.scene_questions(part.key, asked[name], False)
            parts.append(dataclasses.replace(part, tasks=tasks))
    return tuple(part for part in parts if part.tasks)


def _cell_budgets(cfg: BatConfig, num_cells: int) -> tuple[tuple[int, ...], ...]:
    """Return every cell's part of one picture's budgets: each scale's in equal parts, the rest to the first ones."""
    budgets = cfg.compressor.budgets
    shares = image_shares(cfg, budgets, num_cells)
    if not any(shares[-1]):
        raise ValueError(
            f"--grid: {num_cells} cells share budgets of {list(budgets)}; raise --budgets or take fewer cells"
        )
    return shares


def settings_of_flags(cfg: BatConfig, parts: Sequence[ScenePart], drawing: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that decides the answers, ready for JSON."""
    asked = [[part.key, [[task.id, task.text] for task in part.tasks]] for part in parts]
    init = compressor.KMEANS_INIT.value
    reading = compressor.read_options(cfg)
    return {
        "asked": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        "num_questions": sum(len(part.tasks) for part in parts),
        **area_flags.settings_of_flags(),
        **reading,
        **drawing,
        "questions_at_once": QUESTIONS_AT_ONCE.value,
        "kmeans_init": hashlib.sha256(pathlib.Path(init).read_bytes()).hexdigest() if init else None,
        "config": json.loads(cfg.to_json()),
    }


def answer_many(
    checkpoint: str,
    images: Sequence[str],
    questions: Sequence[str],
    output_dir: str | None,
    overwrite: bool,
    drawing: Mapping[str, Any],
) -> None:
    """Ask what is left of the questions that the flags ask, and write the files.

    Args:
      drawing: options of `BatModel.ask`.

    Raises:
      ValueError: a flag, a table or the checkpoint is at fault; before weights are read.
    """
    if output_dir is None:
        raise ValueError("--output_dir: name the directory of the answers")
    if compressor.LABEL_MAP.value:
        raise ValueError("--label_map: is for single images; leave it out")
    if overwrite and host_flags.has_hosts():
        raise ValueError("--overwrite: would remove what the other hosts write; remove the directory by hand")
    cfg, cache = compressor.configure(BatModel.read_config(checkpoint)), scene_cache()
    parts = parts_of_flags(cfg, images, questions)
    settings = settings_of_flags(cfg, parts, drawing) | {"checkpoint": checkpoint_digest(pathlib.Path(checkpoint))}
    encode_options = {"kmeans_init": compressor.read_kmeans_init(), "seed": compressor.SEED.value}
    sizes = input_sizes({part.path: None for part in parts}, pathlib.Path(parts[0].path).parent)
    share = host_flags.host_share(settings | {"bat_jax": source_digest(), "inputs": sizes})
    mesh = mesh_of_flags(cfg)  # behind the meeting, which may say which devices are this process's
    own = shard_of(parts, share.index, share.num_hosts)
    with (
        RunDirectory.open(
            pathlib.Path(output_dir),
            _COMMAND,
            settings | {"num_shards": share.num_hosts},
            seed=compressor.SEED.value,
            facts={"places": {"checkpoint": checkpoint, "images": IMAGES.value or images[0]}},
            inputs=sizes,
            shard=(share.index, share.num_hosts),
            overwrite=overwrite,
            own=_OWN,
        ) as directory,
        host_flags.host_sign(directory.path, share) as sign,
    ):
        with staged_file(directory.path / _CONFIG) as stage:
            stage.write_text(cfg.to_json())
        with PredictionLog(directory.path / shard_file(ANSWERS, ".jsonl", share.index, share.num_hosts)) as log:
            num_asked, num_left = sum(len(part.tasks) for part in own), _num_left(own, log)
            failed = f", {len(log.failed)} failed before and are asked again" if log.failed else ""
            what = "pictures" if area_flags.GRID.value is None else "cells"
            print(
                f"{num_asked} questions about {len(own)} {what}, {num_asked - num_left} of them answered before{failed}"
            )
            sys.stdout.flush()
            if num_left:
                run(
                    BatModel.load(checkpoint, cfg=cfg, scene_cache=cache, mesh=mesh),
                    own,
                    log,
                    line=scenes.answer_line,
                    encode_options=encode_options,
                    ask_options=drawing,
                    questions_at_once=QUESTIONS_AT_ONCE.value,
                    progress=True,
                )
        if sign is not None:
            sign.wait_for_others()
            if share.index > 1:
                print(f"host {share.index} of {share.num_hosts} is done; host 1 writes {ANSWERS}.csv and .geojson")
                return
        _finish(directory.path, parts, pathlib.Path(output_dir))


def _num_left(parts: Sequence[ScenePart], log: PredictionLog) -> int:
    return sum(task.id not in log.ids for part in parts for task in part.tasks)


def _finish(directory: pathlib.Path, parts: Sequence[ScenePart], output: pathlib.Path) -> None:
    """Make the table and the map of all answers, and say what came."""
    found = read_predictions(directory, ANSWERS)
    lines = [found[task.id] for part in parts for task in part.tasks]
    words = scenes.write_answers(directory, lines)
    for line in lines[:_PRINTED_AT_MOST]:
        place = line["image"] if line["cell"] is None else "{} row {} column {}".format(line["image"], *line["cell"])
        print(f"{place}: {line['question']}\n  {line['answer'] if line['error'] is None else line['error']}")
    counts = collections.Counter(line["status"] for line in lines)
    said = ", ".join(f"{counts[status]} {word}" for status, word in _STATUS_WORDS.items() if counts[status])
    print(f"\n{said}; wrote {ANSWERS}.jsonl, .csv and .geojson ({words}) to {output}")
