"""Train the mini model that ships with the project, from nothing.

    python -m experiments.train_mini --work_dir=runs/train_mini --output_dir=checkpoints/uhr-bat-mini
    python -m experiments.train_mini --work_dir=runs/train_mini --stage=pictures --set=num_pictures=500

Without --stage all stages run, one after another (bat_jax/mini/curriculum/run.py lists them). Started again after it
was stopped, at any moment, the command goes on where it was. A stage that was made with other settings, or from one
that was made anew since, is named and refused; --remake makes it anew. The work folder grows to 27 GB.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence

from absl import flags

from bat_jax.config import BatConfig
from bat_jax.io.output_files import check_output_dir
from bat_jax.mini.curriculum.recipe import MiniRecipe
from bat_jax.mini.curriculum.run import STAGES, MiniTraining, exported_stages, worker_pool
from bat_jax.mini.curriculum.stage import StageSettings
from bat_jax.runs import RunDirectory
from . import cli

WORK_DIR = flags.DEFINE_string("work_dir", "runs/train_mini", "Pictures, features, states and metrics go here.")
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
REMAKE = flags.DEFINE_bool("remake", False, "Make stages anew that are stale or were made with other settings.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the checkpoint in --output_dir.")
WORKERS = flags.DEFINE_integer(
    "workers", 2, "Processes that render pictures, tokenise questions and make batches; 0: none.", lower_bound=0
)


def main(_: list[str]) -> None:
    """Run what is asked for."""
    stages = STAGE.value or STAGES
    if "export" in stages and not OUTPUT_DIR.value:
        raise ValueError("--output_dir: give the folder of the checkpoint")
    work, output = pathlib.Path(WORK_DIR.value), pathlib.Path(OUTPUT_DIR.value) if OUTPUT_DIR.value else None
    recipe = recipe_of_flags()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(worker_pool(WORKERS.value)) if WORKERS.value else None
        training = MiniTraining(work, recipe, pool=pool)
        check(training, stages, output)
        # The recipe is each stage's (stages.json), and this start's.
        start = {"stages": list(stages), "recipe": dataclasses.asdict(recipe)}
        settings = {"config": json.loads(BatConfig.mini().to_json())}
        stack.enter_context(RunDirectory.open(work, "train_mini", settings, seed=0, facts=start))
        for stage in stages:
            began = time.perf_counter()
            training.run(stage, output, EXPORTED.value, REMAKE.value)
            print(f"stage {stage}: {time.perf_counter() - began:.0f} s", flush=True)


def check(training: MiniTraining, stages: Sequence[str], output: pathlib.Path | None) -> None:
    """Refuse what must not be gone on with or replaced, before anything is touched.

    Raises:
      ValueError: a stage is stale or was made with other settings, or --output_dir holds another checkpoint.
    """
    if not REMAKE.value:
        problems = [text for stage in stages if stage != "export" for text in training.provenance.problems(stage)]
        if problems:
            raise ValueError(f"--work_dir={WORK_DIR.value}: {problems[0]}; give --remake, or another folder")
    is_ours = output and training.provenance.has_exported(output, exported_stages(EXPORTED.value))
    if output and "export" in stages and not is_ours:
        check_output_dir(output, OVERWRITE.value)


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
