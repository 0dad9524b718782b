"""Train the mini model that ships with the project, from nothing.

    python -m experiments.train_mini --work_dir=results/mini --output_dir=checkpoints/uhr-bat-mini [--stage=...]

Without --stage all stages run, one after another (bat_jax/train/mini/run.py lists them). Started again after it was
stopped, at any moment, the command goes on where it was. The work folder grows to 27 GB.
"""

import dataclasses
import pathlib

from absl import flags

from bat_jax.report.run_record import run_record, write_json
from bat_jax.train.mini.run import STAGES, MiniRecipe, MiniTraining
from experiments import cli

WORK_DIR = flags.DEFINE_string("work_dir", "results/mini", "Pictures, features, states and metrics go here.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the finished checkpoint; the stage export needs it.")
STAGE = flags.DEFINE_multi_enum("stage", [], STAGES, "Only this stage; several times for several.")
EXPORTED = flags.DEFINE_enum(
    "exported", "mixed", ["given", "selected", "mixed"], "Stage whose decoder goes into the checkpoint."
)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that render pictures and tokenise questions.", lower_bound=1)


def main(_: list[str]) -> None:
    """Run what is asked for."""
    stages = STAGE.value or STAGES
    if "export" in stages and not OUTPUT_DIR.value:
        raise ValueError("--output_dir: give the folder of the checkpoint")
    work = pathlib.Path(WORK_DIR.value)
    recipe = MiniRecipe()
    training = MiniTraining(work, recipe, workers=WORKERS.value)
    write_json(work / "run.json", {"stages": list(stages), "recipe": dataclasses.asdict(recipe)} | run_record(seed=0))
    for stage in stages:
        print(f"stage {stage}", flush=True)
        training.run(stage, pathlib.Path(OUTPUT_DIR.value) if OUTPUT_DIR.value else None, EXPORTED.value)


if __name__ == "__main__":
    cli.run(main)
