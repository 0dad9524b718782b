"""The answers behind a study's tables in few bytes, so that every table can be made again without the model.

    FOLDER/study.json          {"settings": what decided the answers, "record": of the run's last start}
    FOLDER/PART.jsonl.xz       a line a question: what all runs have in common, and "answers": run -> what differs
    FOLDER/coverage.jsonl.xz   the lines of `coverage.measure`

Seconds are those of answers, in whole milliseconds. Those of pictures, and the verdicts of other rules than the
official one, are left out: no table shows them. A run's own tables are made from its archive, too.
"""

import dataclasses
import functools
import json
import lzma
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bat_jax.config import BatConfig
from bat_jax.io.output_files import staged_dir
from bat_jax.mini.world.splits import parse_seeds
from bat_jax.study.measured import plan
from bat_jax.study.measured.comparison import Record, Records
from bat_jax.study.measured.plan import COVERAGE, Plan
from bat_jax.study.measured.study_results import Results
from bat_jax.study.measured.sweep import GridAnswers

PLANS = {"reduced": plan.reduced, "full": plan.full}
STUDY_FILE = "study.json"
_SUFFIX = ".jsonl.xz"
_SECONDS = ("seconds", "compile_seconds")
_DIFFERS = ("status", "output", "is_right", "tokens_kept", *_SECONDS, "error")
_LEFT_OUT = ("verdicts", "load_seconds", "encode_seconds", "encode_compile_seconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """What a study asked and was answered.

    Attributes:
      settings: of its run directory. record: of its last start.
      answers: part -> run -> answers by question. coverage: lines by scene.
    """

    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    answers: Mapping[str, Mapping[str, Records]]
    coverage: Records

    def results(self) -> Results:
        """Return what the study found: its answers by the grids of its plan, and the chance of every question."""
        cfg, asked = _config(self.settings), _asked(self.settings)
        seeds = parse_seeds(self.settings["scene_seeds"])
        sweeps = {
            part.name: GridAnswers(cfg, part.grids, functools.partial(_of_run, self.answers.get(part.name, {})))
            for part in asked.parts
        }
        tasks = (task for part in asked.parts for picture in part.pictures(seeds, None) for task in picture.tasks)
        chance = {task.id: task.chance for task in tasks if task.chance is not None}
        return Results(cfg=cfg, sweeps=sweeps, coverage=self.coverage, chance=chance)


def _config(settings: Mapping[str, Any]) -> BatConfig:
    return BatConfig.from_json(json.dumps(settings["config"]))


def _asked(settings: Mapping[str, Any]) -> Plan:
    return PLANS[settings["plan"]](_config(settings)).with_scenes(settings["scenes"])


def _of_run(answers: Mapping[str, Records], name: str) -> Records:
    return answers.get(name, {})


def pack(archive: Archive, folder: pathlib.Path) -> None:
    """Write an archive's files into a folder, each whole or not at all."""
    with staged_dir(folder) as stage:
        for part, runs in archive.answers.items():
            _write_lines(stage / f"{part}{_SUFFIX}", _questions(runs))
        _write_lines(stage / f"{COVERAGE}{_SUFFIX}", archive.coverage.values())
        study = {"settings": archive.settings, "record": archive.record}
        (stage / STUDY_FILE).write_text(json.dumps(study, indent=2) + "\n", encoding="utf-8")


def unpack(folder: pathlib.Path) -> Archive:
    """Read what `pack` wrote.

    Raises:
      ValueError: a file is missing, cut off, or holds something else.
    """
    try:
        study = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
        settings, record = study["settings"], study["record"]
        parts = [part.name for part in _asked(settings).parts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / STUDY_FILE}: says of no study what it asked ({type(error).__name__})") from None
    answers: dict[str, dict[str, dict[str, Record]]] = {}
    for part in parts:
        runs = answers.setdefault(part, {})
        for line in _read_lines(folder / f"{part}{_SUFFIX}"):
            for run, own in line.pop("answers").items():
                runs.setdefault(run, {})[line["id"]] = line | own
    coverage = {line["id"]: line for line in _read_lines(folder / f"{COVERAGE}{_SUFFIX}")}
    return Archive(settings=settings, record=record, answers=answers, coverage=coverage)


def _questions(runs: Mapping[str, Records]) -> Iterator[dict[str, Any]]:
    """Yield the line of every question, in the order of the runs' answers."""
    lines: dict[str, dict[str, Any]] = {}
    for run, records in runs.items():
        for id, record in records.items():
            shared = {name: value for name, value in record.items() if name not in {*_DIFFERS, *_LEFT_OUT}}
            line = lines.setdefault(id, shared | {"answers": {}})
            own = {name: record[name] for name in _DIFFERS if record.get(name) is not None}
            line["answers"][run] = own | {name: round(own[name], 3) for name in _SECONDS if name in own}
    yield from lines.values()


def _write_lines(path: pathlib.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with lzma.open(path, "wt", preset=9, encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise ValueError(f"{path}: holds no answers of a study ({type(error).__name__}: {error})") from None
