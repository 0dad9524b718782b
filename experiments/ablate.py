"""Redo the paper's ablations, and ours, on a checkpoint: one grid of settings a table or figure.

    python -m experiments.ablate --checkpoint=checkpoints/uhr-bat-mini --table=7 --output_dir=results/ablate
    python -m experiments.ablate --checkpoint=checkpoints/uhr-bat-mini --figure=1 --ours=differences --output_dir=DIR
    python -m experiments.ablate --checkpoint=DIR --benchmark=xlrs --data=XLRS-Bench-lite --table=6 --output_dir=DIR

Every picture goes through the tower once for all cells of a grid, and programs are compiled once
(bat_jax/study/sweep.py). Budgets and cluster counts of the paper are scaled to the checkpoint's number of tokens
(bat_jax/study/grids.py). DIR/GRID/ holds a predictions file a cell, DIR/GRID.md, .csv and .png the results. The same
command started again goes on where the last one ended.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from bat_jax.evals import uhr_mini
from bat_jax.evals.runner import Picture, select_tasks
from bat_jax.evals.sources import SOURCES
from bat_jax.pipeline import BatModel
from bat_jax.report import sweep_tables
from bat_jax.report.run_record import differing, fingerprint, run_record, staged_file, write_json
from bat_jax.scenes.layout import generate_scene
from bat_jax.scenes.masks import instance_map
from bat_jax.scenes.render import NATIVE_PX
from bat_jax.scenes.splits import parse_seeds, seeds_of
from bat_jax.study.grids import GRIDS, Grid
from bat_jax.study.sweep import Sweep
from experiments import cli

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Directory written by experiments.convert or a training.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Results go here; an unfinished grid in it goes on.")
TABLE = flags.DEFINE_multi_enum("table", [], ["5", "6", "7", "8", "9"], "A table of the paper; may be repeated.")
FIGURE = flags.DEFINE_multi_enum("figure", [], ["1", "3", "4"], "A figure of the paper; 4 shows what Table 6 holds.")
OURS = flags.DEFINE_multi_enum("ours", [], ["differences", "selections", "layers", "kmeans"], "A grid of our own.")
BENCHMARK = flags.DEFINE_enum("benchmark", uhr_mini.NAME, list(SOURCES), "What to ask.")
SPLIT = flags.DEFINE_enum("split", None, ["test", "validation"], "Scenes of uhr_mini. Default: validation.")
SCENE_SEEDS = flags.DEFINE_string("scene_seeds", None, "Other scenes of uhr_mini as FROM:TO; TO is not among them.")
DATA = flags.DEFINE_string("data", None, "File or folder of a benchmark that comes as files.")
IMAGE_FOLDER = flags.DEFINE_string("image_folder", None, "Where the image files of --data stand. Default: beside it.")
LIMIT = flags.DEFINE_integer("limit", 300, "Questions of each cell at most.", lower_bound=1)
MAX_PIXELS = flags.DEFINE_integer("max_pixels", 300_000_000, "Refuse larger images (width x height).", lower_bound=4)

_SAME_AS = {"figure4": "table6"}
_RUN = "run.json"


def grid_names() -> tuple[str, ...]:
    """Return the grids that the flags ask for.

    Raises:
      ValueError: none is asked for.
    """
    asked = [f"table{number}" for number in TABLE.value] + [f"figure{number}" for number in FIGURE.value] + OURS.value
    if not asked:
        raise ValueError("--table, --figure, --ours: give at least one")
    return tuple(dict.fromkeys(_SAME_AS.get(name, name) for name in asked))


def settings_of_flags() -> dict[str, Any]:
    """Return what decides the answers beside the grid; a directory's answers all have the same.

    Raises:
      ValueError: a flag is missing, or does not fit the benchmark.
    """
    for flag in (CHECKPOINT, OUTPUT_DIR):
        if not flag.value:
            raise ValueError(f"--{flag.name}: give one")
    is_files = BENCHMARK.value != uhr_mini.NAME
    if is_files and not DATA.value:
        raise ValueError(f"--data: give the files of {BENCHMARK.value}")
    if DATA.value and not is_files:
        raise ValueError(f"--data: {BENCHMARK.value} has no files")
    if SPLIT.value and SCENE_SEEDS.value:
        raise ValueError("--split, --scene_seeds: give one of them")
    if is_files and (SPLIT.value or SCENE_SEEDS.value):
        raise ValueError(f"--split, --scene_seeds: are for {uhr_mini.NAME}")
    seeds = parse_seeds(SCENE_SEEDS.value) if SCENE_SEEDS.value else seeds_of(SPLIT.value or "validation")
    source = SOURCES[BENCHMARK.value]
    return {
        "benchmark": BENCHMARK.value,
        "scene_seeds": None if is_files else f"{seeds.start}:{seeds.stop}",
        "data": DATA.value,
        "image_folder": IMAGE_FOLDER.value,
        "prompt": source.prompts[0],
        "leak_hint": False,
        "max_pixels": MAX_PIXELS.value,
        "max_new_tokens": source.max_new_tokens,
        "limit": LIMIT.value,
        "checkpoint": fingerprint(pathlib.Path(CHECKPOINT.value)),
    }


def check_output(output: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Refuse a directory whose answers are of other settings.

    Raises:
      ValueError: names what differs.
    """
    if not (output / _RUN).exists():
        if output.exists() and any(output.iterdir()):
            raise ValueError(f"--output_dir={output}: is not empty and no run of this command; choose another")
        return
    changes = "; ".join(differing(json.loads((output / _RUN).read_text())["settings"], dict(settings)))
    if changes:
        raise ValueError(f"--output_dir={output}: holds grids of other settings ({changes}); choose another")


def run_grid(model: BatModel, grid: Grid, output: pathlib.Path, settings: Mapping[str, Any]) -> str:
    """Answer all cells of a grid, write its numbers, table and plot, and return the table."""
    is_scenes = settings["benchmark"] == uhr_mini.NAME
    notes = [grid.note] if grid.note else []
    if not is_scenes:
        cells = tuple(cell for cell in grid.cells if cell.settings.get("partition") != "sam")
        if len(cells) < len(grid.cells):
            grid, notes = dataclasses.replace(grid, cells=cells), ["SAM is left out: the pictures come without masks"]
    sweep = Sweep(model, grid, output / grid.name)

    def opened(px: int | None) -> tuple[Sequence[Picture], str]:
        found, description = SOURCES[settings["benchmark"]].open({**settings, "render_px": px or NATIVE_PX})
        return select_tasks(found, limit=settings["limit"]), description

    pictures, description = opened(None)
    num_questions = sum(len(picture.tasks) for picture in pictures)
    with tqdm(
        total=num_questions * len(grid.cells), unit="answer", desc=grid.name, disable=not sys.stderr.isatty()
    ) as bar:
        sweep.run(
            lambda px: opened(px)[0],
            _scene_masks if is_scenes else None,
            settings["max_new_tokens"],
            on_picture=bar.update,
        )
    results = sweep.results()
    facts = [f"{num_questions} questions; {description}", f"checkpoint {CHECKPOINT.value}"]
    table = sweep_tables.to_markdown(grid, results, [*facts, *notes])
    writers: dict[str, Callable[[pathlib.Path], Any]] = {
        "md": lambda path: path.write_text(table, encoding="utf-8"),
        "csv": lambda path: path.write_text(sweep_tables.to_csv(results), encoding="utf-8"),
        "png": lambda path: sweep_tables.plot(grid, results, path),
    }
    for suffix, write in writers.items():
        with staged_file(output / f"{grid.name}.{suffix}") as stage:
            write(stage)
    return table


def _scene_masks(picture: Picture) -> np.ndarray:
    """Return a scene's own masks: what a perfect segmentation would find."""
    return instance_map(generate_scene(int(picture.key.partition("-")[0])), NATIVE_PX)


def main(_: list[str]) -> None:
    """Run the grids."""
    names, settings = grid_names(), settings_of_flags()
    output = pathlib.Path(OUTPUT_DIR.value)
    check_output(output, settings)
    model = BatModel.load(CHECKPOINT.value)
    grids = [GRIDS[name](model.cfg) for name in names]
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / _RUN, {"settings": settings} | run_record(seed=0))
    for grid in grids:
        print(run_grid(model, grid, output, settings), flush=True)


if __name__ == "__main__":
    cli.run(main)
