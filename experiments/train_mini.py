"""Train the mini model that ships with the project, from nothing.

    python -m experiments.train_mini --work_dir=results/train_mini --output_dir=checkpoints/uhr-bat-mini [--stage=...]

Without --stage all stages run, one after another (bat_jax/mini/curriculum/run.py lists them). Started again after it
was stopped, at any moment, the command goes on where it was. The work folder grows to 27 GB.
"""

import contextlib
import dataclasses
import pathlib
import time

from absl import flags

from bat_jax.io.output_files import write_json
from bat_jax.mini.curriculum.recipe import MiniRecipe
from bat_jax.mini.curriculum.run import STAGES, MiniTraining, batch_pool
from bat_jax.mini.curriculum.stage import StageSettings
from bat_jax.runs import run_record
from experiments import cli

WORK_DIR = flags.DEFINE_string("work_dir", "results/train_mini", "Pictures, features, states and metrics go here.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the finished checkpoint; the stage export needs it.")
STAGE = flags.DEFINE_multi_enum("stage", [], STAGES, "Only this stage; several times for several.")
EXPORTED = flags.DEFINE_enum(
    "exported", "mixed", ["given", "selected", "mixed"], "Stage whose decoder goes into the checkpoint."
)
RECIPE = flags.DEFINE_enum("recipe", "cpu", ["cpu", "gpu"], "Hours on two cores, or minutes on a GPU with 16 cores.")
STEPS = flags.DEFINE_multi_string("steps", [], "STAGE=N: other steps than the recipe's; may be repeated.")
SET = flags.DEFINE_multi_string(
    "set", [], "NAME=N: another number of the recipe, such as num_pictures=500; may be repeated."
)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that render pictures and tokenise questions.", lower_bound=1)
LOADERS = flags.DEFINE_integer("loaders", 0, "Processes that make batches; 0: a thread does.", lower_bound=0)


def main(_: list[str]) -> None:
    """Run what is asked for."""
    stages = STAGE.value or STAGES
    if "export" in stages and not OUTPUT_DIR.value:
        raise ValueError("--output_dir: give the folder of the checkpoint")
    work = pathlib.Path(WORK_DIR.value)
    recipe = recipe_of_flags()
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / "run.json", {"stages": list(stages), "recipe": dataclasses.asdict(recipe)} | run_record(seed=0))
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(batch_pool(LOADERS.value)) if LOADERS.value else None
        training = MiniTraining(work, recipe, workers=WORKERS.value, pool=pool)
        for stage in stages:
            began = time.perf_counter()
            training.run(stage, pathlib.Path(OUTPUT_DIR.value) if OUTPUT_DIR.value else None, EXPORTED.value)
            print(f"stage {stage}: {time.perf_counter() - began:.0f} s", flush=True)


def recipe_of_flags() -> MiniRecipe:
    """Return the recipe with the numbers and steps that were asked for.

    Raises:
      ValueError: names the flag.
    """
    recipe = MiniRecipe.gpu() if RECIPE.value == "gpu" else MiniRecipe()
    numbers = {}
    for item in SET.value:
        name, _, num = item.partition("=")
        if type(getattr(recipe, name, None)) is not int or not num.isdecimal():
            raise ValueError(f"--set={item}: want NAME=N with a whole number of the recipe")
        numbers[name] = int(num)
    recipe = dataclasses.replace(recipe, **numbers)
    for item in STEPS.value:
        stage, _, num = item.partition("=")
        settings = getattr(recipe, stage, None)
        if not isinstance(settings, StageSettings) or not num.isdecimal() or int(num) < 1:
            raise ValueError(f"--steps={item}: want STAGE=N with a stage that is trained and N at least 1")
        recipe = dataclasses.replace(recipe, **{stage: dataclasses.replace(settings, num_steps=int(num))})
    return recipe


if __name__ == "__main__":
    cli.run(main)
