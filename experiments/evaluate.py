"""Measure a checkpoint on a benchmark: accuracy per sub-task with intervals, resumable, one JSON line a question.

    python -m experiments.evaluate --checkpoint=DIR --benchmark=uhr_mini --split=test --output_dir=DIR
    python -m experiments.evaluate --checkpoint=DIR --benchmark=uhr_mini --scene_seeds=3000000:3000010 --output_dir=DIR
    python -m experiments.evaluate --checkpoint=DIR --benchmark=xlrs --data=XLRS-Bench-lite --output_dir=DIR

Benchmarks that come as files: xlrs, mme_realworld, rshr and llava (any LLaVA conversations); docs/benchmarks.md says
how to get each one and which forms are read.

The results directory holds config.json (the model's), run.json (settings, versions, device), predictions.jsonl,
metrics.json and table.md. The same command started again goes on where the last one ended, however it ended. Several
processes share a run with --shard=1/4 ... --shard=4/4 and one directory; --merge makes the metrics from what is there.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from bat_jax.benchmarks.containers import data_files
from bat_jax.benchmarks.record import Benchmark, Picture
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.config import BatConfig
from bat_jax.evals import results
from bat_jax.evals.runner import (
    PREDICTIONS,
    PredictionLog,
    anchor_view,
    claim,
    read_predictions,
    run,
    select_tasks,
    shard_file,
    shard_of,
)
from bat_jax.io.label_maps import SUFFIXES, read_label_map
from bat_jax.mini.world.render import MAX_SIDE_PX, MIN_SIDE_PX, NATIVE_PX
from bat_jax.mini.world.splits import parse_seeds, seeds_of
from bat_jax.pipeline import BatModel
from bat_jax.report.run_record import differing, fingerprint, run_record, staged_file, write_json
from experiments import cli
from experiments import compressor_flags as compressor

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Directory written by experiments.convert or a training.")
BENCHMARK = flags.DEFINE_string("benchmark", None, f"What to measure on: {', '.join(BENCHMARKS.names)}.")
SPLIT = flags.DEFINE_enum("split", None, ["test", "validation"], "Fixed scenes of uhr_mini.")
SCENE_SEEDS = flags.DEFINE_string("scene_seeds", None, "Other scenes of uhr_mini as FROM:TO; TO is not among them.")
DATA = flags.DEFINE_string(
    "data", None, "File or folder of a benchmark that comes as files, in any of the forms it is distributed in."
)
IMAGE_FOLDER = flags.DEFINE_string(
    "image_folder", None, "Where the image files of --data stand. Default: beside it, also in images/, imgs/ or data/."
)
LEAK_HINT = flags.DEFINE_bool(
    "leak_hint",
    False,
    "Add the release's sentence that several answers are right where they are: it tells the model about the truth.",
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Results directory; an unfinished run in it goes on.")
VIEWS = flags.DEFINE_enum(
    "views", "all", ["all", "anchor"], "anchor: the coarsest view alone, with all of its tokens and no selection."
)
LABEL_MAPS = flags.DEFINE_string(
    "label_maps",
    None,
    "For --partition=sam: folder with a label map a picture of uhr_mini, SEED.npz, .png, .tif or .json, as "
    "experiments.make_masks and experiments.export_uhr_mini write them; of the size of --render_px.",
)
PROMPT = flags.DEFINE_enum(
    "prompt",
    None,
    sorted({style for record in BENCHMARKS for style in record.prompts}),
    "How to ask: as the authors' script (release), the benchmark's own (official) or VLMEvalKit; uhr_mini also as "
    "XLRS-Bench's harness (xlrs) or for the option's text instead of its letter (word). Default: "
    + ", ".join(f"{record.name} {next(iter(record.prompts))}" for record in BENCHMARKS),
)
RENDER_PX = flags.DEFINE_integer(
    "render_px",
    NATIVE_PX,
    "Side of the painted pictures in pixels; below the finest view it would be enlarged.",
    lower_bound=MIN_SIDE_PX,
    upper_bound=MAX_SIDE_PX,
)
MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens",
    None,
    "Most tokens of an answer. Default: "
    + ", ".join(f"{record.name} {record.max_new_tokens}" for record in BENCHMARKS),
    lower_bound=1,
)
OFFSET = flags.DEFINE_integer("offset", 0, "Leave out so many questions in front.", lower_bound=0)
LIMIT = flags.DEFINE_integer("limit", None, "Ask so many questions at most.", lower_bound=1)
IDS = flags.DEFINE_list("ids", [], "Ask these questions only, by id.")
SHARD = flags.DEFINE_string("shard", None, "i/n: part i of n (from 1) of the pictures, for n processes on one run.")
MERGE = flags.DEFINE_bool("merge", False, "Only make metrics.json and table.md from what is in --output_dir.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Start anew: remove the run in --output_dir first.")
NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 2, "Threads that paint or read pictures ahead of the model.", lower_bound=1
)

_RUN, _CONFIG, _METRICS, _TABLE = "run", "config.json", "metrics.json", "table.md"


def seeds_of_flags() -> range:
    """Return the scenes that --split or --scene_seeds names.

    Raises:
      ValueError: neither or both are given, or the text is no range.
    """
    if bool(SPLIT.value) == bool(SCENE_SEEDS.value):
        raise ValueError("--split, --scene_seeds: give one of them")
    return seeds_of(SPLIT.value) if SPLIT.value else parse_seeds(SCENE_SEEDS.value)


def scene_settings() -> dict[str, Any]:
    """Return the settings of uhr_mini."""
    seeds = seeds_of_flags()
    return {"scene_seeds": f"{seeds.start}:{seeds.stop}", "render_px": RENDER_PX.value}


def file_settings(record: Benchmark) -> dict[str, Any]:
    """Return the settings of a benchmark that comes as files.

    Raises:
      ValueError: --data is missing or none of the forms that can be read.
    """
    if not DATA.value:
        raise ValueError(f"--data: name the file or folder of {record.name}")
    path = pathlib.Path(DATA.value).absolute()
    return {
        "data": str(path),
        "file_bytes": {file.name: file.stat().st_size for file in data_files(path)},
        "image_folder": str(pathlib.Path(IMAGE_FOLDER.value).absolute()) if IMAGE_FOLDER.value else None,
        "leak_hint": LEAK_HINT.value,
        "max_pixels": compressor.MAX_PIXELS.value,
    }


_SCENE_FLAGS = (SPLIT, SCENE_SEEDS, RENDER_PX, LABEL_MAPS)
_FILE_FLAGS = (DATA, IMAGE_FOLDER, LEAK_HINT)


def source_settings(record: Benchmark) -> dict[str, Any]:
    """Return what a benchmark's flags say about where its pictures come from and how they are asked.

    Raises:
      ValueError: the benchmark has no such prompt, or a flag is missing or belongs to other benchmarks.
    """
    is_scenes = "scene_seeds" in record.settings
    for flag in _FILE_FLAGS if is_scenes else _SCENE_FLAGS:
        if flag.present:
            raise ValueError(f"--{flag.name}: is not for --benchmark={record.name}; leave it out")
    if PROMPT.value not in (None, *record.prompts):
        raise ValueError(f"--prompt={PROMPT.value}: {record.name} offers {', '.join(record.prompts)}")
    prompt = PROMPT.value or next(iter(record.prompts))
    return {"prompt": prompt, **(scene_settings() if is_scenes else file_settings(record))}


def config_of_flags() -> BatConfig:
    """Return the checkpoint's config with the flags' settings and views.

    Raises:
      ValueError: a flag does not fit the checkpoint or the others.
    """
    for flag in (compressor.LABEL_MAP, compressor.BANDS):
        if flag.value:
            raise ValueError(f"--{flag.name}: is for single images; leave it out with --benchmark={BENCHMARK.value}")
    cfg = BatModel.read_config(CHECKPOINT.value)
    if VIEWS.value == "all":
        return compressor.configure(cfg, LABEL_MAPS)
    for flag in (compressor.BUDGETS, LABEL_MAPS):
        if flag.value:
            raise ValueError(f"--{flag.name}: --views=anchor keeps all tokens of the anchor view; leave it out")
    return anchor_view(compressor.configure(cfg))


def with_label_maps(pictures: tuple[Picture, ...], folder: pathlib.Path) -> tuple[Picture, ...]:
    """Give every picture its label map's file in `folder`; a picture with a red circle has the map of its scene.

    Raises:
      ValueError: a picture has none; names it.
    """
    found = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES}
    placed = []
    for picture in pictures:
        path = found.get(picture.key) or found.get(picture.key.partition("-")[0])
        if path is None:
            raise ValueError(f"--label_maps={folder}: holds no label map {picture.key}.npz, .png, .tif or .json")
        read = functools.partial(read_label_map, path, (RENDER_PX.value, RENDER_PX.value))
        placed.append(dataclasses.replace(picture, label_map=read))
    return tuple(placed)


def shard_of_flag() -> tuple[int, int]:
    """Return --shard as (i, n), (1, 1) without one.

    Raises:
      ValueError: it is not i/n with 1 <= i <= n.
    """
    first, _, second = (SHARD.value or "1/1").partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise ValueError(f"--shard={SHARD.value}: write i/n with 1 <= i <= n")
    return int(first), int(second)


def settings_of_flags(num_shards: int) -> dict[str, Any]:
    """Return everything beside the config that the lines of one run have in common, ready for JSON."""
    record = BENCHMARKS[BENCHMARK.value]
    init = compressor.KMEANS_INIT.value
    return {
        "benchmark": record.name,
        **source_settings(record),
        "views": VIEWS.value,
        "offset": OFFSET.value,
        "limit": LIMIT.value,
        "ids": IDS.value,
        "max_new_tokens": MAX_NEW_TOKENS.value or record.max_new_tokens,
        "seed": compressor.SEED.value,
        "kmeans_init": hashlib.sha256(pathlib.Path(init).read_bytes()).hexdigest() if init else None,
        "label_maps": LABEL_MAPS.value and str(pathlib.Path(LABEL_MAPS.value).absolute()),
        "num_shards": num_shards,
        "checkpoint": fingerprint(pathlib.Path(CHECKPOINT.value)),
    }


def pictures_of(settings: Mapping[str, Any]) -> tuple[tuple[Picture, ...], str]:
    """Return all pictures with the questions that a run's settings ask for, and one line on where they come from."""
    found, description = BENCHMARKS[settings["benchmark"]].open(settings)
    chosen = select_tasks(found, offset=settings["offset"], limit=settings["limit"], ids=settings["ids"])
    return chosen, description


def stored_runs(output: pathlib.Path) -> list[dict[str, Any]]:
    """Return what the processes of a run wrote about it; empty where there is no run."""
    return [json.loads(path.read_text()) for path in sorted(output.glob(f"{_RUN}*.json"))]


def prepare_output(output: pathlib.Path, settings: Mapping[str, Any], cfg: BatConfig, run_file: str) -> None:
    """Make the results directory and say in it what the run is, or check that the run in it is this one.

    Raises:
      ValueError: it holds something else or a run with other settings; names what differs.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output_dir={output}: is a file")
    runs = stored_runs(output)
    # Hidden files are what a killed process had not finished.
    if output.exists() and not runs and any(not path.name.startswith(".") for path in output.iterdir()):
        raise ValueError(f"--output_dir={output}: is not empty and no run of this command; choose another")
    if OVERWRITE.value and runs:
        remove_run(output)
        runs = []
    if runs:
        changes = [text for earlier in runs for text in differing(earlier["settings"], dict(settings))]
        if (output / _CONFIG).exists():
            changes += differing(json.loads((output / _CONFIG).read_text()), json.loads(cfg.to_json()))
        if changes:
            raise ValueError(
                f"--output_dir={output}: holds a run with other settings ({'; '.join(dict.fromkeys(changes))}); "
                "choose another directory, or give --overwrite"
            )
    output.mkdir(parents=True, exist_ok=True)
    # First of all files, so that a run killed at any moment is known again.
    if not (output / run_file).exists():
        write_json(output / run_file, {"settings": dict(settings), "starts": []})
    if not (output / _CONFIG).exists():
        with staged_file(output / _CONFIG) as stage:
            stage.write_text(cfg.to_json())


def remove_run(output: pathlib.Path) -> None:
    """Remove a run's files, unless a process is writing them."""
    predictions = sorted(output.glob(f"{PREDICTIONS}*.jsonl"))
    for path in predictions:
        with path.open("rb") as file:
            claim(file, path)
    for path in (*predictions, *output.glob(f"{_RUN}*.json"), *(output / name for name in (_CONFIG, _METRICS, _TABLE))):
        path.unlink(missing_ok=True)


def add_start(path: pathlib.Path) -> None:
    """Add this start of the process to its run file."""
    content = json.loads(path.read_text())
    start = {"flags": sys.argv[1:], "checkpoint": CHECKPOINT.value} | run_record(compressor.SEED.value)
    write_json(path, content | {"starts": [*content["starts"], start]})


def write_metrics(
    output: pathlib.Path, settings: Mapping[str, Any], pictures: tuple[Picture, ...], description: str
) -> results.Summary:
    """Write metrics.json and table.md from all predictions of a results directory, and print the table."""
    cfg = BatConfig.load(output / _CONFIG)
    records = read_predictions(output)
    summary = results.summarise(BENCHMARKS[settings["benchmark"]], pictures, records)
    starts = [start for stored in stored_runs(output) for start in stored["starts"]]
    scales = zip(cfg.compressor.sizes_px, cfg.compressor.budgets, strict=True)
    table = results.to_markdown(
        summary,
        [
            *dict.fromkeys(f"checkpoint {start['checkpoint']}, {start['device']}" for start in starts),
            f"{description}; prompt {settings['prompt']}",
            f"views {settings['views']}, at most {', '.join(f'{budget} of {size} px' for size, budget in scales)}",
        ],
    )
    write_json(output / _METRICS, summary.as_dict())
    with staged_file(output / _TABLE) as stage:
        stage.write_text(table, encoding="utf-8")
    print(table)
    return summary


def merge() -> results.Summary:
    """Make the metrics of a results directory from what is in it.

    Raises:
      ValueError: there is no run in it.
    """
    output = pathlib.Path(OUTPUT_DIR.value)
    runs = stored_runs(output)
    if not runs or not (output / _CONFIG).is_file():
        raise ValueError(f"--output_dir={output}: holds no run of this command")
    return write_metrics(output, runs[0]["settings"], *pictures_of(runs[0]["settings"]))


def evaluate() -> results.Summary:
    """Do what the flags ask: check everything, ask what is left, write the metrics."""
    if not OUTPUT_DIR.value:
        raise ValueError("--output_dir: name the results directory")
    if MERGE.value:
        return merge()
    for flag in (CHECKPOINT, BENCHMARK):
        if not flag.value:
            raise ValueError(f"--{flag.name}: give one")
    index, num_shards = shard_of_flag()
    if OVERWRITE.value and num_shards > 1:
        raise ValueError("--overwrite: would remove what the other shards write; remove the directory by hand")
    output = pathlib.Path(OUTPUT_DIR.value)
    cfg = config_of_flags()
    settings = settings_of_flags(num_shards)
    encode_options = {"kmeans_init": compressor.read_kmeans_init(), "seed": compressor.SEED.value}
    pictures, description = pictures_of(settings)
    if LABEL_MAPS.value:
        pictures = with_label_maps(pictures, pathlib.Path(LABEL_MAPS.value))
    own = shard_of(pictures, index, num_shards)
    run_file = shard_file(_RUN, ".json", index, num_shards)
    prepare_output(output, settings, cfg, run_file)
    with PredictionLog(output / shard_file(PREDICTIONS, ".jsonl", index, num_shards)) as log:
        add_start(output / run_file)
        num_done = sum(task.id in log.ids for picture in own for task in picture.tasks)
        num_asked = sum(len(picture.tasks) for picture in own)
        print(f"{num_asked} questions about {len(own)} pictures, {num_done} of them answered before", flush=True)
        if num_done < num_asked:
            run(
                BatModel.load(CHECKPOINT.value, cfg=cfg),
                own,
                log,
                encode_options=encode_options,
                ask_options={"max_new_tokens": settings["max_new_tokens"]},
                num_workers=NUM_WORKERS.value,
                progress=sys.stderr.isatty(),
            )
    return write_metrics(output, settings, pictures, description)


def main(_: list[str]) -> None:
    """Measure what the flags ask."""
    evaluate()


if __name__ == "__main__":
    cli.run(main)
