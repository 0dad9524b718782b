"""Run the whole study in miniature: the paper's claims, tables and figures on a small trained model's made-up world.

    python -m experiments.study                                  # what `make study` runs, into runs/study
    python -m experiments.study --full                           # every cell, more scenes: hours; into runs/study-full
    python -m experiments.study --scenes=methods=120 --scenes=ablations=16
    python -m experiments.study --checkpoint=DIR --scene_seeds=3000000:3000200 --output_dir=DIR2
    python -m experiments.study --rebuild=results/mini/answers --output_dir=DIR    # tables, from kept answers
    python -m experiments.study --release                        # the shipped checkpoint's one run on the test split

Parts (bat_jax/study/measured/plan.py): regions and merging against top-K, selections at equal budgets, the paper's
ablations and ours, token coverage, the paper's figures drawn anew (experiments.figures). DIR/report.html holds
all of it in one file; DIR/claims.md, comparison.md, coverage.md and a GRID.md for every grid are its tables,
DIR/archive the answers behind them (bat_jax/study/measured/archive.py). The same command started again goes on where
the last one ended.

`--release` asks the test split, which a checkpoint is asked once, when it is released: it writes results/mini (tables
and answers) and docs/reproduction.md, and a line to results/test_split.jsonl, which holds who was asked when.
"""

import collections
import gc
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from bat_jax.benchmarks.records.uhr_mini import describe_seeds
from bat_jax.config import BatConfig
from bat_jax.evals.prediction_log import PredictionLog, read_predictions
from bat_jax.io.digests import checkpoint_digest, tree_digest, weights_digest
from bat_jax.io.output_files import check_output_dir, write_text
from bat_jax.io.shipped import MINI, checkpoint_folder
from bat_jax.mini.world.splits import parse_seeds, seeds_of
from bat_jax.pipeline import BatModel
from bat_jax.progress import Progress
from bat_jax.report import study_page, study_tables
from bat_jax.report.figures.figure import Figure
from bat_jax.runs import RunDirectory, stored_runs
from bat_jax.study.measured import coverage, plan, reproduction, rules, split_log
from bat_jax.study.measured.archive import PLANS, Archive, pack, unpack
from bat_jax.study.measured.comparison import Records
from bat_jax.study.measured.plan import Plan
from bat_jax.study.measured.sweep import Sweep
from bat_jax.study.measured.verdicts import Judged
from . import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = checkpoint_folder(MINI)
# What --release writes, and where its run is.
TABLES = ROOT / "results" / "mini"
SPLIT_LOG = ROOT / "results" / "test_split.jsonl"
DOCS = ROOT / "docs" / "reproduction.md"
RELEASE_RUN = ROOT / "runs" / "release"
CHECKPOINT = flags.DEFINE(cli.CheckpointParser(), "checkpoint", MINI, "Directory of a model trained on UHR-Mini.")
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
REBUILD = flags.DEFINE_string(
    "rebuild", None, "Folder of kept answers (results/mini/answers, DIR/archive): write their tables, ask nothing."
)
RELEASE = flags.DEFINE_bool(
    "release", False, "Ask the shipped checkpoint the test split, once, and write results/ and docs/reproduction.md."
)

_FIGURES = "figures"
_ARCHIVE = "archive"


def default_output(is_full: bool) -> pathlib.Path:
    """Return where a study goes: into a folder that git ignores, below the one it is started in."""
    return pathlib.Path("runs") / ("study-full" if is_full else "study")


def seeds_of_flags() -> range:
    """Return the scenes that the flags ask for."""
    if RELEASE.value:
        return seeds_of(rules.load().split)
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
    with Progress(total=sum(totals.values()), unit="answer") as bar:
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
    with Progress(total=len(seeds), unit="scene", desc=plan.COVERAGE) as bar:
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
        command = [sys.executable, "-m", f"{__package__}.figures", f"--checkpoint={CHECKPOINT.value}"]
        code = subprocess.run([*command, f"--output_dir={folder}", f"--scene_seed={seed}"], check=False).returncode
        if code:
            raise ValueError(f"--figures: experiments.figures ended with code {code}; --nofigures leaves them out")
    return study_page.read_figures(folder)


def departures_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in what a study is none under the rules."""
    return rules.load().departures(settings["plan"], settings["scenes"], parse_seeds(settings["scene_seeds"]))


def facts_of(settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return the lines at the top of every table."""
    seeds, departures = parse_seeds(settings["scene_seeds"]), departures_of(settings)
    counts = {name: min(most, len(seeds)) for name, most in settings["scenes"].items()}
    commit = f" ({record['commit'][:12]})" if record["commit"] else ""
    return [
        f"{settings['plan']} plan; {describe_seeds(seeds[: max(counts.values())])}; scenes of each part: "
        + ", ".join(f"{name} {count}" for name, count in counts.items()),
        settings["rules"] + (f"; what is not under them: {'; '.join(departures)}" if departures else ""),
        f"checkpoint {record['checkpoint']} {settings['checkpoint'][:12]}",
        f"bat_jax {record['bat_jax']}{commit}, jax {record['packages']['jax']}, {record['device']}, "
        f"{record['date'][:10]}",
    ]


def write(found: Archive, output: pathlib.Path, pictures: tuple[Figure, ...] = ()) -> Sequence[Judged]:
    """Judge a study, write its tables and its page, and return the verdicts."""
    results = found.results()
    gc.freeze()  # statsmodels collects garbage at each of its calls, a second beside all answers and a model
    judged = reproduction.claims(results)
    study_page.write_study(judged, results, facts_of(found.settings, found.record), output, pictures, found.record)
    print(f"{study_tables.count_verdicts(judged)}\nwrote {output / study_page.REPORT}")
    return judged


def document(found: Archive, judged: Sequence[Judged]) -> str:
    """Return docs/reproduction.md."""
    command = "python -m experiments.study" + ("" if departures_of(found.settings) else " --release")
    return study_tables.reproduction_markdown(judged, facts_of(found.settings, found.record), command)


def publish(
    found: Archive, judged: Sequence[Judged], output: pathlib.Path, starts: Sequence[Mapping[str, Any]]
) -> None:
    """Write a run's tables and answers and docs/reproduction.md into the repository, then the line of the log."""
    tables = {path.name: path.read_text(encoding="utf-8") for path in output.glob("*.md")}
    pack(found, TABLES / "answers")
    for name, text in tables.items():
        write_text(TABLES / name, text)
    for path in TABLES.glob("*.md"):
        if path.name not in tables:
            path.unlink()
    write_text(DOCS, document(found, judged))
    numbers = {
        "checkpoint": found.settings["checkpoint"],
        **{name: found.record[name] for name in ("bat_jax", "commit", "packages", "device")},
        "sources": list(dict.fromkeys(start["source"] for start in starts)),
        **{name: found.settings[name] for name in ("rules", "plan", "scenes", "scene_seeds")},
        "answers": tree_digest(TABLES, (TABLES / "answers").iterdir()),
        "accuracy": split_log.accuracy(found.results()),
        "failed": sum(
            line["status"] == "error"
            for runs in found.answers.values()
            for records in runs.values()
            for line in records.values()
        ),
        "verdicts": collections.Counter(one.verdict for one in judged),
    }
    split_log.append(SPLIT_LOG, "finished", starts[0]["date"], weights_digest(SHIPPED), **numbers)
    print(f"wrote {TABLES}, {DOCS} and {SPLIT_LOG}")


def study(what: Plan, seeds: range, directory: RunDirectory) -> None:
    """Answer what is left, follow the targets, draw, judge and write."""
    output = directory.path
    model = BatModel.load(CHECKPOINT.value, stages_apart=True)
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
    found = unpack(output / _ARCHIVE)
    judged = write(found, output, draw_figures(output, seeds[0]) if FIGURES.value and not RELEASE.value else ())
    if RELEASE.value:
        publish(found, judged, output, directory.starts)


def check_flags() -> None:
    """Refuse flags that do not fit each other.

    Raises:
      ValueError: names the flag.
    """
    if RELEASE.value:
        if not DOCS.parent.is_dir():
            raise ValueError("--release: writes the project's own files; run it in a checkout")
        for flag in (CHECKPOINT, OUTPUT_DIR, FULL, SPLIT, SCENE_SEEDS, SCENES, FIGURES, REBUILD):
            if flag.present:
                raise ValueError(f"--{flag.name}: --release decides it; leave it out")
    if REBUILD.value and not OUTPUT_DIR.value:
        raise ValueError("--output_dir: give a new folder for the tables of --rebuild")


def main(_: list[str]) -> None:
    """Run what is left of the study and write its results."""
    check_flags()
    if REBUILD.value:
        folder = pathlib.Path(OUTPUT_DIR.value)
        check_output_dir(folder, overwrite=False)
        found = unpack(pathlib.Path(REBUILD.value))
        if found.settings["rules"] != rules.load().text:
            raise ValueError(f"--rebuild={REBUILD.value}: {found.settings['rules']}; here are {rules.load().text}")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DOCS.name, document(found, write(found, folder)))
        return
    seeds = seeds_of_flags()
    checkpoint = pathlib.Path(CHECKPOINT.value)
    output = pathlib.Path(OUTPUT_DIR.value) if OUTPUT_DIR.value else default_output(FULL.value)
    if RELEASE.value:
        output = RELEASE_RUN
    what = plan_of_flags(BatModel.read_config(checkpoint))
    settings = {
        "plan": _plan_name(),
        "rules": rules.load().text,
        "scenes": what.scenes,
        "scene_seeds": f"{seeds.start}:{seeds.stop}",
        "checkpoint": checkpoint_digest(checkpoint),
        "config": json.loads(BatModel.read_config(checkpoint).to_json()),
    }
    if RELEASE.value:
        begun = [run["starts"][0]["date"] for run in stored_runs(output, "study")]
        split_log.check_unasked(SPLIT_LOG, weights_digest(SHIPPED), *begun)
    with RunDirectory.open(output, "study", settings, seed=0, facts={"checkpoint": str(checkpoint)}) as directory:
        if RELEASE.value:
            asked = {"weights": weights_digest(SHIPPED), "checkpoint": settings["checkpoint"]}
            split_log.append(SPLIT_LOG, "begun", directory.starts[0]["date"], **asked)
        study(what, seeds, directory)


if __name__ == "__main__":
    cli.run(main)
