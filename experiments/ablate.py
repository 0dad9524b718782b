"""Redo the paper's ablations, and ours, on a checkpoint: one grid of settings a table or figure.

    python -m experiments.ablate --checkpoint=checkpoints/uhr-bat-mini --table=7 --output_dir=runs/ablate
    python -m experiments.ablate --checkpoint=checkpoints/uhr-bat-mini --figure=1 --ours=differences --output_dir=DIR
    python -m experiments.ablate --checkpoint=DIR --benchmark=xlrs --data=XLRS-Bench-lite --table=6 --output_dir=DIR

Every picture goes through the tower once for all cells of all grids, a setting that several grids have is answered
once, and programs are compiled once (bat_jax/study/measured/sweep.py). Budgets and cluster counts of the paper are
scaled to the checkpoint's number of tokens (bat_jax/study/measured/grids.py). Scenes are uhr_mini's development split
unless flags name others. DIR/answers/ holds a predictions file a setting, DIR/GRID.md, .csv and .png the results. The
same command started again goes on where the last one ended and asks once more what had failed.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from bat_jax.benchmarks.record import Picture
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.io.digests import checkpoint_digest, input_sizes
from bat_jax.io.views import RESAMPLING
from bat_jax.mini.world.render import NATIVE_PX
from bat_jax.pipeline import BatModel
from bat_jax.progress import Progress
from bat_jax.report import sweep_tables
from bat_jax.runs import RunDirectory
from bat_jax.study.measured import rules
from bat_jax.study.measured.grids import GRIDS, Grid, flag_of
from bat_jax.study.measured.plan import scene_masks
from bat_jax.study.measured.sweep import Sweep
from . import benchmark_flags, cli

_SAME_AS = {"figure4": "table6"}


def _values_of(flag: str) -> list[str]:
    return [value for kind, value in map(flag_of, (*GRIDS, *_SAME_AS)) if kind == flag]


CHECKPOINT = flags.DEFINE(
    cli.CheckpointParser(), "checkpoint", None, "Directory that convert or a training wrote, or uhr-bat-mini."
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Results go here; an unfinished grid in it goes on.")
TABLE = flags.DEFINE_multi_enum("table", [], _values_of("table"), "A table of the paper; may be repeated.")
FIGURE = flags.DEFINE_multi_enum("figure", [], _values_of("figure"), "A figure of the paper; 4 shows Table 6.")
OURS = flags.DEFINE_multi_enum("ours", [], _values_of("ours"), "A grid of our own.")
BENCHMARK = flags.DEFINE_string("benchmark", "uhr_mini", f"What to ask: {', '.join(BENCHMARKS.names)}.")
LIMIT = flags.DEFINE_integer(
    "limit", 300, "Questions at most, the same for each cell: a sample, stratified by sub-task.", lower_bound=1
)
MAX_PIXELS = flags.DEFINE_integer("max_pixels", 300_000_000, "Refuse larger images (width x height).", lower_bound=4)


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
    record = BENCHMARKS[BENCHMARK.value]
    return {
        "benchmark": record.name,
        **benchmark_flags.source_settings(record),
        **({} if "render_px" in record.settings else {"resampling": RESAMPLING.name.lower()}),
        "prompt": next(iter(record.prompts)),
        "leak_hint": False,
        "max_pixels": MAX_PIXELS.value,
        "max_new_tokens": record.max_new_tokens,
        "limit": LIMIT.value,
        "sample_seed": benchmark_flags.SAMPLE_SEED.value,
        "checkpoint": checkpoint_digest(pathlib.Path(CHECKPOINT.value)),
        "config": json.loads(BatModel.read_config(CHECKPOINT.value).to_json()),
    }


def without_masks(grid: Grid) -> Grid:
    """Return a grid without the cells that need SAM's masks, for pictures that come without."""
    cells = tuple(cell for cell in grid.cells if cell.settings.get("partition") != "sam")
    if len(cells) == len(grid.cells):
        return grid
    return dataclasses.replace(grid, cells=cells, note="SAM is left out: the pictures come without masks")


def sizes_of(sweep: Sweep, grid: Grid) -> Iterator[str]:
    """Yield a line for every size that a grid asks of files, with the number of pictures that were smaller."""
    by_size = {cell.picture_px: cell for cell in grid.cells if cell.picture_px is not None}
    for px, cell in by_size.items():
        shown = {line["picture"]: line["picture_px"] for line in sweep.records(cell).values() if line["picture_px"]}
        num_smaller = sum(min(sides) < px for sides in shown.values())
        smaller = f"; {num_smaller} of {len(shown)} are smaller and stay as they are" if num_smaller else ""
        yield f"pictures are down-sampled to at most {px} px a side ({RESAMPLING.name.lower()}){smaller}"


def main(_: list[str]) -> None:
    """Answer all cells of the grids, write each grid's numbers, table and plot, and print its table."""
    names, settings = grid_names(), settings_of_flags()
    places, judged_by = {"checkpoint": CHECKPOINT.value} | benchmark_flags.places(), rules.load()
    record = BENCHMARKS[settings["benchmark"]]
    is_scenes = "render_px" in record.settings

    def opened(px: int | None) -> tuple[Sequence[Picture], str]:
        size = {"render_px": px or settings.get("render_px", NATIVE_PX)} if is_scenes else {"most_px": px}
        return benchmark_flags.asked_of(*record.open(places | settings | size), settings)

    pictures, description = opened(None)
    num_questions = sum(len(picture.tasks) for picture in pictures)
    inputs = input_sizes(
        (file for picture in pictures for file in picture.files), pathlib.Path(benchmark_flags.DATA.value or ".")
    )
    with RunDirectory.open(
        pathlib.Path(OUTPUT_DIR.value),
        "ablate",
        settings,
        seed=0,
        facts={"places": places, "rules": judged_by.text},
        inputs=inputs,
    ) as directory:
        model = BatModel.load(CHECKPOINT.value, stages_apart=True)
        grids = [GRIDS[name](model.cfg) for name in names]
        sweep = Sweep(model, grids if is_scenes else [without_masks(grid) for grid in grids], directory.path)
        with Progress(total=num_questions * sweep.num_runs, unit="answer") as bar:
            num_again = sweep.run(
                lambda px: opened(px)[0],
                scene_masks if is_scenes else None,
                settings["max_new_tokens"],
                on_answers=bar.update,
            )
        if num_again:
            print(f"{num_again} answers failed before and were asked for again", flush=True)
        facts = [f"{num_questions} questions; {description}", f"checkpoint {CHECKPOINT.value}", judged_by.text]
        for grid in sweep.grids:
            sizes = () if is_scenes else sizes_of(sweep, grid)
            results = sweep.results(grid, judged_by)
            print(sweep_tables.write_grid(directory.path, grid, results, [*facts, *sizes]), flush=True)


if __name__ == "__main__":
    cli.run(main)
