"""Run the whole study in miniature: the paper's claims, tables and figures on a small trained model's made-up world.

    python -m experiments.study                                  # what `make study` runs, into runs/study
    python -m experiments.study --full                           # every cell, more scenes: hours; into runs/study-full
    python -m experiments.study --scenes=methods=120 --scenes=ablations=16
    python -m experiments.study --checkpoint=DIR --scene_seeds=3000000:3000200 --output_dir=DIR2
    python -m experiments.study --rebuild=DIR/archive --output_dir=DIR2    # the tables once more, from kept answers

Parts (bat_jax/study/measured/plan.py): regions and merging against top-K, selections at equal budgets, the paper's
ablations and ours, token coverage, the paper's figures drawn anew (experiments.figures). DIR/report.html holds
all of it in one file; DIR/claims.md, comparison.md, coverage.md and a GRID.md for every grid are its tables,
DIR/archive the answers behind them (bat_jax/study/measured/archive.py). The same command started again goes on where
the last one ended.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags
from tqdm import tqdm

from bat_jax.benchmarks.records.uhr_mini import describe_seeds
from bat_jax.config import BatConfig
from bat_jax.evals.runner import PredictionLog, read_predictions
from bat_jax.io.digests import checkpoint_digest
from bat_jax.io.output_files import check_output_dir
from bat_jax.mini.world.splits import parse_seeds, seeds_of
from bat_jax.pipeline import BatModel
from bat_jax.report import study_page, study_tables
from bat_jax.report.figures.figure import Figure
from bat_jax.runs import RunDirectory
from bat_jax.study.measured import coverage, plan, reproduction, rules
from bat_jax.study.measured.archive import PLANS, Archive, pack, unpack
from bat_jax.study.measured.comparison import Records
from bat_jax.study.measured.plan import Plan
from bat_jax.study.measured.sweep import Sweep
from experiments import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "checkpoints" / "uhr-bat-mini"
CHECKPOINT = flags.DEFINE_string("checkpoint", str(SHIPPED), "Directory of a model trained on UHR-Mini.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Results go here; an unfinished study in it goes on. Default: runs/study, runs/study-full."
)
FULL = flags.DEFINE_bool("full", False, "All cells of all grids, on more scenes.")
SPLIT = flags.DEFINE_enum(
    "split", "development", ["development", "validation"], "Scenes of UHR-Mini; the first ones are taken."
)
SCENE_SEEDS = flags.DEFINE_string("scene_seeds", None, "Other scenes as FROM:TO, instead of --split.")
SCENES = flags.DEFINE_multi_string(
    "scenes", [], "PART=N: other numbers of scenes than the plan's, for a part or coverage; may be repeated."
)
FIGURES = flags.DEFINE_bool("figures", True, "Also draw the paper's figures (experiments.figures).")
REBUILD = flags.DEFINE_string("rebuild", None, "Folder of kept answers (DIR/archive): write their tables, ask nothing.")

_FIGURES = "figures"
_ARCHIVE = "archive"


def default_output(is_full: bool) -> pathlib.Path:
    """Return where a study goes: into a folder that git ignores, below the one it is started in."""
    return pathlib.Path("runs") / ("study-full" if is_full else "study")


def seeds_of_flags() -> range:
    """Return the scenes that the flags ask for."""
    return parse_seeds(SCENE_SEEDS.value) if SCENE_SEEDS.value else seeds_of(SPLIT.value)


def plan_of_flags(cfg: BatConfig) -> Plan:
    """Return what the flags ask for.

    Raises:
      ValueError: --scenes is not PART=N.
    """
    counts = {}
    for item in SCENES.value:
        part, _, num = item.partition("=")
        if not num.isdecimal():
            raise ValueError(f"--scenes={item}: want PART=N")
        counts[part] = int(num)
    return PLANS[_plan_name()](cfg).with_scenes(counts)


def _plan_name() -> str:
    return "full" if FULL.value else "reduced"


def answer(model: BatModel, what: Plan, seeds: range, output: pathlib.Path) -> dict[str, Sweep]:
    """Answer all parts' questions, with a bar over all of them, and return the sweeps by name."""
    sweeps = {part.name: Sweep(model, part.grids, output / part.name) for part in what.parts}
    totals = {
        part.name: sweeps[part.name].num_runs * sum(len(picture.tasks) for picture in part.pictures(seeds, None))
        for part in what.parts
    }
    with tqdm(total=sum(totals.values()), unit="answer", disable=not sys.stderr.isatty()) as bar:
        num_again = 0
        for part in what.parts:
            bar.set_description(part.name)
            num_again += sweeps[part.name].run(
                lambda px, part=part: part.pictures(seeds, px), plan.scene_masks, on_answers=bar.update
            )
    if num_again:
        print(f"{num_again} answers failed before and were asked for again", flush=True)
    return sweeps


def cover(model: BatModel, seeds: range, output: pathlib.Path) -> Records:
    """Follow the targets of every scene and return a line a scene."""
    folder = output / plan.COVERAGE
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(seeds), unit="scene", desc=plan.COVERAGE, disable=not sys.stderr.isatty()) as bar:
        with PredictionLog(folder / "predictions.jsonl") as log:
            coverage.measure(model, seeds, log, bar.update)
    return read_predictions(folder)


def draw_figures(output: pathlib.Path, seed: int) -> tuple[Figure, ...]:
    """Run experiments.figures on a scene, unless its pictures are there, and return them.

    Raises:
      ValueError: it failed.
    """
    folder = output / _FIGURES
    if not (folder / study_page.FIGURES_FILE).exists():
        command = [sys.executable, "-m", "experiments.figures", f"--checkpoint={CHECKPOINT.value}"]
        code = subprocess.run([*command, f"--output_dir={folder}", f"--scene_seed={seed}"], check=False).returncode
        if code:
            raise ValueError(f"--figures: experiments.figures ended with code {code}; --nofigures leaves them out")
    return study_page.read_figures(folder)


def facts_of(settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return the lines at the top of every table."""
    seeds = parse_seeds(settings["scene_seeds"])
    counts = {name: min(most, len(seeds)) for name, most in settings["scenes"].items()}
    return [
        f"{settings['plan']} plan; {describe_seeds(seeds[: max(counts.values())])}; scenes of each part: "
        + ", ".join(f"{name} {count}" for name, count in counts.items()),
        settings["rules"],
        f"checkpoint {record['checkpoint']} {settings['checkpoint'][:12]}",
        f"bat_jax {record['bat_jax']}, jax {record['packages']['jax']}, {record['device']}, {record['date'][:10]}",
    ]


def write(found: Archive, output: pathlib.Path, pictures: tuple[Figure, ...] = ()) -> None:
    """Judge a study and write its tables and its page."""
    results = found.results()
    judged = reproduction.claims(results)
    study_page.write_study(judged, results, facts_of(found.settings, found.record), output, pictures, found.record)
    print(f"{study_tables.count_verdicts(judged)}\nwrote {output / study_page.REPORT}")


def study(what: Plan, seeds: range, directory: RunDirectory) -> None:
    """Answer what is left, follow the targets, draw, judge and write."""
    output = directory.path
    model = BatModel.load(CHECKPOINT.value)
    sweeps = answer(model, what, seeds, output)
    lines = cover(model, seeds[: what.coverage_scenes], output)
    # What the user typed and where files stand stays with the run.
    record = {name: value for name, value in directory.starts[-1].items() if name not in ("flags", "checkpoint")}
    found = Archive(
        settings=directory.settings,
        record={"checkpoint": pathlib.Path(CHECKPOINT.value).name} | record,
        answers={name: sweep.runs() for name, sweep in sweeps.items()},
        coverage=lines,
    )
    pack(found, output / _ARCHIVE)
    write(unpack(output / _ARCHIVE), output, draw_figures(output, seeds[0]) if FIGURES.value else ())


def main(_: list[str]) -> None:
    """Run what is left of the study and write its results."""
    if REBUILD.value:
        if not OUTPUT_DIR.value:
            raise ValueError("--output_dir: give a new folder for the tables of --rebuild")
        folder = pathlib.Path(OUTPUT_DIR.value)
        check_output_dir(folder, overwrite=False)
        found = unpack(pathlib.Path(REBUILD.value))
        if found.settings["rules"] != rules.load().text:
            raise ValueError(f"--rebuild={REBUILD.value}: {found.settings['rules']}; here are {rules.load().text}")
        folder.mkdir(parents=True, exist_ok=True)
        write(found, folder)
        return
    seeds = seeds_of_flags()
    checkpoint = pathlib.Path(CHECKPOINT.value)
    output = pathlib.Path(OUTPUT_DIR.value) if OUTPUT_DIR.value else default_output(FULL.value)
    what = plan_of_flags(BatModel.read_config(checkpoint))
    settings = {
        "plan": _plan_name(),
        "rules": rules.load().text,
        "scenes": what.scenes,
        "scene_seeds": f"{seeds.start}:{seeds.stop}",
        "checkpoint": checkpoint_digest(checkpoint),
        "config": json.loads(BatModel.read_config(checkpoint).to_json()),
    }
    with RunDirectory.open(output, "study", settings, seed=0, facts={"checkpoint": str(checkpoint)}) as directory:
        study(what, seeds, directory)


if __name__ == "__main__":
    cli.run(main)
