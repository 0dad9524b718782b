"""Redo the paper's ablations, and ours, on a checkpoint: one grid of settings a table or figure.

    python -m experiments.ablate --checkpoint=checkpoints/uhr-bat-mini --table=7 --output_dir=results/ablate
    python -m experiments.ablate --checkpoint=checkpoints/uhr-bat-mini --figure=1 --ours=differences --output_dir=DIR

Every picture goes through the tower once for all cells of a grid, and programs are compiled once
(bat_jax/study/sweep.py). Budgets and cluster counts of the paper are scaled to the checkpoint's number of tokens
(bat_jax/study/grids.py). DIR/GRID/ holds a predictions file a cell, DIR/GRID.md, .csv and .png the results. The same
command started again goes on where the last one ended.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from bat_jax.evals import uhr_mini
from bat_jax.evals.runner import Picture, select_tasks
from bat_jax.pipeline import BatModel
from bat_jax.report import sweep_tables
from bat_jax.report.run_record import run_record, staged_file, write_json
from bat_jax.scenes.layout import generate_scene
from bat_jax.scenes.masks import instance_map
from bat_jax.scenes.render import NATIVE_PX
from bat_jax.scenes.splits import parse_seeds, seeds_of
from bat_jax.study.grids import GRIDS, Grid
from bat_jax.study.sweep import CellResult, Sweep
from experiments import cli

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Directory written by experiments.convert or a training.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Results go here; an unfinished grid in it goes on.")
TABLE = flags.DEFINE_multi_enum("table", [], ["5", "6", "7", "8", "9"], "A table of the paper; may be repeated.")
FIGURE = flags.DEFINE_multi_enum("figure", [], ["1", "3", "4"], "A figure of the paper; 4 shows what Table 6 holds.")
OURS = flags.DEFINE_multi_enum("ours", [], ["differences", "layers", "kmeans"], "A grid of our own.")
SPLIT = flags.DEFINE_enum("split", None, ["test", "validation"], "Fixed scenes of uhr_mini.")
SCENE_SEEDS = flags.DEFINE_string("scene_seeds", None, "Other scenes of uhr_mini as FROM:TO; TO is not among them.")
LIMIT = flags.DEFINE_integer("limit", 300, "Questions of each cell at most.", lower_bound=1)

_SAME_AS = {"figure4": "table6"}


def grid_names() -> tuple[str, ...]:
    """Return the grids that the flags ask for.

    Raises:
      ValueError: none is asked for.
    """
    asked = [f"table{number}" for number in TABLE.value] + [f"figure{number}" for number in FIGURE.value] + OURS.value
    if not asked:
        raise ValueError("--table, --figure, --ours: give at least one")
    return tuple(dict.fromkeys(_SAME_AS.get(name, name) for name in asked))


def scene_seeds() -> range:
    """Return the scenes that are asked about; the validation split where no flag names any."""
    if SPLIT.value and SCENE_SEEDS.value:
        raise ValueError("--split, --scene_seeds: give one of them")
    return parse_seeds(SCENE_SEEDS.value) if SCENE_SEEDS.value else seeds_of(SPLIT.value or "validation")


def run_grid(model: BatModel, grid: Grid, output: pathlib.Path, seeds: range, limit: int) -> tuple[CellResult, ...]:
    """Answer all cells of a grid and write its table, figure and numbers."""
    sweep = Sweep(model, grid, output / grid.name)

    def pictures_of(px: int | None) -> Sequence[Picture]:
        return select_tasks(uhr_mini.pictures(seeds, px or NATIVE_PX), limit=limit)

    num_questions = sum(len(picture.tasks) for picture in pictures_of(None))
    with tqdm(
        total=num_questions * len(grid.cells), unit="answer", desc=grid.name, disable=not sys.stderr.isatty()
    ) as bar:
        sweep.run(pictures_of, label_map_of, on_picture=bar.update)
    results = sweep.results()
    facts = [
        f"{num_questions} questions of {uhr_mini.describe_seeds(seeds)}; checkpoint {CHECKPOINT.value}",
        *([grid.note] if grid.note else []),
    ]
    with staged_file(output / f"{grid.name}.md") as stage:
        stage.write_text(sweep_tables.to_markdown(grid, results, facts), encoding="utf-8")
    with staged_file(output / f"{grid.name}.csv") as stage:
        stage.write_text(sweep_tables.to_csv(results), encoding="utf-8")
    with staged_file(output / f"{grid.name}.png") as stage:
        sweep_tables.plot(grid, results, stage)
    return results


def label_map_of(picture: Picture):
    """Return a scene's own masks: what SAM would ideally find."""
    return instance_map(generate_scene(int(picture.key.partition("-")[0])), NATIVE_PX)


def main(_: list[str]) -> None:
    """Run the grids."""
    for flag in (CHECKPOINT, OUTPUT_DIR):
        if not flag.value:
            raise ValueError(f"--{flag.name}: give one")
    names, seeds = grid_names(), scene_seeds()
    output = pathlib.Path(OUTPUT_DIR.value)
    model = BatModel.load(CHECKPOINT.value)
    grids = [GRIDS[name](model.cfg) for name in names]
    output.mkdir(parents=True, exist_ok=True)
    settings = {"seeds": [seeds.start, seeds.stop], "limit": LIMIT.value, "checkpoint": CHECKPOINT.value}
    write_json(output / "run.json", settings | run_record(seed=0))
    for grid in grids:
        run_grid(model, grid, output, seeds, LIMIT.value)
        print((output / f"{grid.name}.md").read_text(), flush=True)


if __name__ == "__main__":
    cli.run(main)
