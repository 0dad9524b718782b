"""Measure a checkpoint on a benchmark: accuracy per sub-task with intervals, resumable, one JSON line a question.

    python -m experiments.evaluate --checkpoint=DIR --benchmark=uhr_mini --split=test --output_dir=DIR
    python -m experiments.evaluate --checkpoint=DIR --benchmark=uhr_mini --scene_seeds=3000000:3000010 --output_dir=DIR
    python -m experiments.evaluate --checkpoint=DIR --benchmark=xlrs --data=XLRS-Bench-lite --output_dir=DIR
    python -m experiments.evaluate --checkpoint=DIR --benchmark=xlrs --data=tfds --output_dir=DIR

Benchmarks that come as files: xlrs, mme_realworld, rshr and llava (any LLaVA conversations); docs/benchmarks.md says
how to get each one and which forms are read. tfds is what experiments.prepare_tfds made of them.

The results directory holds config.json (the model's), run.json (settings; every start's versions, device and date),
predictions.jsonl, metrics.json and table.md. The same command started again goes on where the last one ended, however
it ended, and asks once more what had failed. Several hosts share a run with --coordinator, --num_processes and
--process_id and one directory that all of them see; the first makes the metrics when all are done. Several processes
that need not know of each other do so with --shard=1/4 ... --shard=4/4; --merge makes the metrics from what is there.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from bat_jax.benchmarks.record import Benchmark, Picture
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.config import BatConfig
from bat_jax.evals import results
from bat_jax.evals.prediction_log import PREDICTIONS, PredictionLog, read_predictions
from bat_jax.evals.runner import anchor_view, run, shard_of
from bat_jax.hosts import HostShare
from bat_jax.io.digests import checkpoint_digest, input_sizes
from bat_jax.io.label_maps import SUFFIXES, read_label_map
from bat_jax.io.output_files import staged_file, write_json
from bat_jax.io.sources import source_digest
from bat_jax.mini.world.render import MAX_SIDE_PX, MIN_SIDE_PX, NATIVE_PX
from bat_jax.pipeline import BatModel
from bat_jax.runs import INPUTS_FILE, RUN, RunDirectory, shard_file, stored_runs
from . import benchmark_flags, cli, host_flags
from . import compressor_flags as compressor
from .mesh_flags import mesh_of_flags
from .scene_cache_flags import scene_cache

CHECKPOINT = flags.DEFINE(
    cli.CheckpointParser(), "checkpoint", None, "Directory that convert or a training wrote, or uhr-bat-mini."
)
BENCHMARK = flags.DEFINE_string("benchmark", None, f"What to measure on: {', '.join(BENCHMARKS.names)}.")
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
QUESTIONS_AT_ONCE = flags.DEFINE_integer(
    "questions_at_once", 8, "Most questions about a picture that are answered together.", lower_bound=1
)
OFFSET = flags.DEFINE_integer("offset", 0, "Leave out so many questions in front.", lower_bound=0)
LIMIT = flags.DEFINE_integer(
    "limit", None, "Ask so many questions at most: a sample, stratified by sub-task.", lower_bound=1
)
IDS = flags.DEFINE_list("ids", [], "Ask these questions only, by id.")
SHARD = flags.DEFINE_string("shard", None, "i/n: part i of n (from 1) of the pictures, for n processes on one run.")
MERGE = flags.DEFINE_bool("merge", False, "Only make metrics.json and table.md from what is in --output_dir.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Start anew; replaces the run in --output_dir once it is complete.")
NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 2, "Threads that paint or read pictures ahead of the model.", lower_bound=1
)

_COMMAND = "evaluate"
_CONFIG, _METRICS, _TABLE = "config.json", "metrics.json", "table.md"
_OWN = (f"{RUN}*.json", f"{PREDICTIONS}*.jsonl", INPUTS_FILE, _CONFIG, _METRICS, _TABLE)


def source_settings(record: Benchmark) -> dict[str, Any]:
    """Return what a benchmark's flags say about where its pictures come from and how they are asked.

    Raises:
      ValueError: the benchmark has no such prompt, or a flag is missing or belongs to other benchmarks.
    """
    is_scenes = "render_px" in record.settings
    for flag in (LEAK_HINT,) if is_scenes else (RENDER_PX, LABEL_MAPS):
        if flag.present:
            raise ValueError(f"--{flag.name}: is not for --benchmark={record.name}; leave it out")
    if PROMPT.value not in (None, *record.prompts):
        raise ValueError(f"--prompt={PROMPT.value}: {record.name} offers {', '.join(record.prompts)}")
    settings = {"prompt": PROMPT.value or next(iter(record.prompts)), **benchmark_flags.source_settings(record)}
    if not is_scenes:
        return settings | {"leak_hint": LEAK_HINT.value, "max_pixels": compressor.MAX_PIXELS.value}
    # Pictures that are stored have a size of their own.
    return {"render_px": RENDER_PX.value} | settings | ({"render_px": RENDER_PX.value} if RENDER_PX.present else {})


def config_of_flags() -> BatConfig:
    """Return the checkpoint's config with the flags' settings and views.

    Raises:
      ValueError: a flag does not fit the checkpoint or the others.
    """
    for flag in (compressor.LABEL_MAP, compressor.BANDS, compressor.PAGE, compressor.NODATA):
        if flag.value != flag.default:
            raise ValueError(f"--{flag.name}: is for single images; leave it out with --benchmark={BENCHMARK.value}")
    cfg = BatModel.read_config(CHECKPOINT.value)
    if VIEWS.value == "all":
        return compressor.configure(cfg, LABEL_MAPS)
    for flag in (compressor.BUDGETS, LABEL_MAPS):
        if flag.value:
            raise ValueError(f"--{flag.name}: --views=anchor keeps all tokens of the anchor view; leave it out")
    if any(item.startswith("selection=") for item in compressor.SET.value):
        raise ValueError("--set=selection: --views=anchor keeps all tokens of the anchor view; leave it out")
    return anchor_view(compressor.configure(cfg))


def with_label_maps(pictures: tuple[Picture, ...], folder: pathlib.Path, side: int) -> tuple[Picture, ...]:
    """Give every picture its label map's file in `folder`; a picture with a red circle has the map of its scene.

    Args:
      side: of pictures and maps in pixels.

    Raises:
      ValueError: a picture has none; names it.
    """
    # The map becomes one of the picture's files, which a run is known by.
    found = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES}
    placed = []
    for picture in pictures:
        path = found.get(picture.key) or found.get(picture.key.partition("-")[0])
        if path is None:
            raise ValueError(f"--label_maps={folder}: holds no label map {picture.key}.npz, .png, .tif or .json")
        read = functools.partial(read_label_map, path, (side, side))
        placed.append(dataclasses.replace(picture, label_map=read, files=(*picture.files, path)))
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


def settings_of_flags(cfg: BatConfig) -> dict[str, Any]:
    """Return everything that the lines of one run have in common but the number of its parts, ready for JSON."""
    record = BENCHMARKS[BENCHMARK.value]
    init = compressor.KMEANS_INIT.value
    return {
        "benchmark": record.name,
        **source_settings(record),
        "views": VIEWS.value,
        "offset": OFFSET.value,
        "limit": LIMIT.value,
        "sample_seed": benchmark_flags.SAMPLE_SEED.value,
        "ids": IDS.value,
        "max_new_tokens": MAX_NEW_TOKENS.value or record.max_new_tokens,
        "questions_at_once": QUESTIONS_AT_ONCE.value,
        "seed": compressor.SEED.value,
        "kmeans_init": hashlib.sha256(pathlib.Path(init).read_bytes()).hexdigest() if init else None,
        "checkpoint": checkpoint_digest(pathlib.Path(CHECKPOINT.value)),
        "config": json.loads(cfg.to_json()),
    }


def places_of_flags() -> dict[str, Any]:
    """Return where checkpoint and data stand; a run goes on after they were moved."""
    maps = LABEL_MAPS.value and str(pathlib.Path(LABEL_MAPS.value).absolute())
    return benchmark_flags.places() | {"label_maps": maps, "checkpoint": CHECKPOINT.value}


def pictures_of(settings: Mapping[str, Any]) -> tuple[tuple[Picture, ...], str]:
    """Return all pictures with the questions that settings and places ask for, and one line on where they come from."""
    return benchmark_flags.asked_of(*BENCHMARKS[settings["benchmark"]].open(settings), settings)


def write_metrics(
    output: pathlib.Path, settings: Mapping[str, Any], pictures: tuple[Picture, ...], description: str
) -> results.Summary:
    """Write metrics.json and table.md from all predictions of a results directory, and print the table."""
    cfg = BatConfig.load(output / _CONFIG)
    records = read_predictions(output)
    summary = results.summarise(BENCHMARKS[settings["benchmark"]], pictures, records)
    starts = [start for stored in stored_runs(output, _COMMAND) for start in stored["starts"]]
    scales = zip(cfg.compressor.sizes_px, cfg.compressor.budgets, strict=True)
    table = results.to_markdown(
        summary,
        [
            *dict.fromkeys(f"checkpoint {start['places']['checkpoint']}, {start['device']}" for start in starts),
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
    runs = stored_runs(output, _COMMAND)
    if not runs or not (output / _CONFIG).is_file():
        raise ValueError(f"--output_dir={output}: holds no run of this command")
    settings = runs[0]["settings"]
    return write_metrics(output, settings, *pictures_of(runs[0]["starts"][-1]["places"] | settings))


def share_of_flags(facts: Mapping[str, Any]) -> HostShare:
    """Return which part of the pictures this process asks about; where there are other hosts, wait for them.

    Raises:
      ValueError: flags do not fit each other, a host does not come, or one was started with other facts.
    """
    if SHARD.value:
        index, num_shards = shard_of_flag()
        return HostShare(index=index, num_hosts=num_shards, meeting="")
    return host_flags.host_share(facts)


def evaluate() -> results.Summary | None:
    """Do what the flags ask: check everything, ask what is left, write the metrics; None if another host does."""
    if not OUTPUT_DIR.value:
        raise ValueError("--output_dir: name the results directory")
    if MERGE.value:
        return merge()
    for flag in (CHECKPOINT, BENCHMARK):
        if not flag.value:
            raise ValueError(f"--{flag.name}: give one")
    if host_flags.has_hosts() and SHARD.value:
        raise ValueError("--shard: with --coordinator every host takes its part; leave it out")
    if OVERWRITE.value and (host_flags.has_hosts() or shard_of_flag()[1] > 1):
        raise ValueError("--overwrite: would remove what the other shards write; remove the directory by hand")
    cfg, cache = config_of_flags(), scene_cache()
    settings, places = settings_of_flags(cfg), places_of_flags()
    encode_options = {"kmeans_init": compressor.read_kmeans_init(), "seed": compressor.SEED.value}
    pictures, description = pictures_of(places | settings)
    if LABEL_MAPS.value:
        pictures = with_label_maps(pictures, pathlib.Path(LABEL_MAPS.value), settings["render_px"])
    sizes = input_sizes(
        (file for picture in pictures for file in picture.files),
        pathlib.Path(benchmark_flags.DATA.value or LABEL_MAPS.value or "."),
    )
    share = share_of_flags(settings | {"bat_jax": source_digest(), "inputs": sizes})
    mesh = mesh_of_flags(cfg)  # behind the meeting, which may say which devices are this process's
    index, num_shards = share.index, share.num_hosts
    own = shard_of(pictures, index, num_shards)
    with (
        RunDirectory.open(
            pathlib.Path(OUTPUT_DIR.value),
            _COMMAND,
            settings | {"num_shards": num_shards},
            seed=compressor.SEED.value,
            facts={"places": places},
            inputs=sizes,
            shard=(index, num_shards),
            overwrite=OVERWRITE.value,
            own=_OWN,
        ) as directory,
        host_flags.host_sign(directory.path, share) as sign,
    ):
        with staged_file(directory.path / _CONFIG) as stage:
            stage.write_text(cfg.to_json())
        with PredictionLog(directory.path / shard_file(PREDICTIONS, ".jsonl", index, num_shards)) as log:
            num_asked = sum(len(picture.tasks) for picture in own)
            num_done = sum(task.id in log.ids for picture in own for task in picture.tasks)
            failed = f", {len(log.failed)} failed before and are asked again" if log.failed else ""
            print(
                f"{num_asked} questions about {len(own)} pictures, {num_done} of them answered before{failed}",
                flush=True,
            )
            if num_done < num_asked:
                run(
                    BatModel.load(CHECKPOINT.value, cfg=cfg, scene_cache=cache, mesh=mesh),
                    own,
                    log,
                    encode_options=encode_options,
                    ask_options={"max_new_tokens": settings["max_new_tokens"]},
                    questions_at_once=settings["questions_at_once"],
                    num_workers=NUM_WORKERS.value,
                    progress=True,
                )
        if sign is not None:
            sign.wait_for_others()
            if index > 1:
                print(f"host {index} of {num_shards} is done; host 1 writes the metrics")
                return None
        return write_metrics(directory.path, settings, pictures, description)


def main(_: list[str]) -> None:
    """Measure what the flags ask."""
    evaluate()


if __name__ == "__main__":
    cli.run(main)
