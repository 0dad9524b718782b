"""The archive of a study: small, whole, and the tables made from it are those made from the run's own answers."""

import dataclasses
import itertools
import json
import lzma
import pathlib
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from bat_jax.config import BatConfig
from bat_jax.evals.runner import answer_picture
from bat_jax.io.digests import tree_digest, weights_digest
from bat_jax.report import study_tables, sweep_tables
from bat_jax.study.measured import coverage, plan, reproduction, rules, split_log
from bat_jax.study.measured.archive import Archive, pack, unpack
from bat_jax.study.measured.sweep import GridAnswers
from tests.command_batch import run_commands

MINI = BatConfig.mini()
SEEDS = range(3_000_000, 3_000_002)
WAYS = dict.fromkeys(coverage.ways(), "cmkkm")
FATES = dict.fromkeys((coverage.OWN, coverage.ORACLE), WAYS)


class Guesser:
    """A model whose answers are right by a rule that differs between budgets; every 17th question fails."""

    compile_seconds: ClassVar[dict] = {}
    from_cache = False
    pixels = np.zeros((8, 8, 3))

    def __init__(self, tasks, budgets):
        self.numbers = {task.text: number for number, task in enumerate(tasks)}
        self.truths = {task.text: task.question.truth for task in tasks}
        self.budgets = budgets

    def encode(self, image):
        return self

    def ask_many(self, texts, room, **options):
        (text,) = texts
        number = self.numbers[text]
        if number % 17 == 0:
            raise MemoryError("made up")
        right = (number + sum(self.budgets)) % 3
        text = self.truths[text] if right else "?"
        return (SimpleNamespace(text=text, tokens_kept=(self.budgets,), compile_seconds={}),)


@pytest.fixture(scope="module")
def made():
    """Return the archive of a study of made-up answers, as a run has it."""
    asked = plan.reduced(MINI)
    asked = asked.with_scenes(dict.fromkeys(asked.scenes, len(SEEDS)))
    answers = {}
    for part in asked.parts:
        pictures = part.pictures(SEEDS, None)

        def read(name, pictures=pictures):
            budgets = tuple(map(int, name.partition("_")[0].split("-")))
            model = Guesser([task for picture in pictures for task in picture.tasks], budgets)
            groups = [answer_picture(model, picture, lambda: (None, 0.1), {}, {}) for picture in pictures]
            return {line["id"]: line for lines in itertools.chain(*groups) for line in lines}

        answers[part.name] = GridAnswers(MINI, part.grids, read).runs()
    targets = [
        {"question": "q", "object": 1, "is_scattered": scattered, "is_outer": outer, "fates": FATES}
        for scattered in (False, True)
        for outer in (False, True)
    ]
    facts = {"purity": 0.9, "grid_purity": 0.8, "num_regions": 50, "num_covered": 20, "num_empty": 0}
    facts |= {"mass": [0.8], "area": [0.04]}
    settings = {
        "plan": "reduced",
        "rules": rules.load().text,
        "scenes": asked.scenes,
        "scene_seeds": f"{SEEDS.start}:{SEEDS.stop}",
    }
    return Archive(
        settings=settings | {"checkpoint": "c" * 64, "config": json.loads(MINI.to_json())},
        record={
            "checkpoint": "made-up",
            "bat_jax": "0",
            "packages": {"jax": "0"},
            "device": "cpu",
            "date": "2026",
            "commit": None,
        },
        answers=answers,
        coverage={str(seed): {"id": str(seed), "targets": targets, "facts": facts} for seed in SEEDS},
    )


@pytest.fixture(scope="module")
def packed(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "answers"
    pack(made, folder)
    return folder


def none_of(record):
    """Return the fields of a failed answer, or of one that has not failed, that are empty."""
    return {name for name in ("output", "tokens_kept", "seconds", "compile_seconds", "error") if record[name] is None}


def test_everything_comes_back_but_the_times_of_pictures_and_other_rules_verdicts(made, packed):
    found = unpack(packed)
    assert (found.settings, found.record, found.coverage) == (made.settings, made.record, made.coverage)
    left_out = {"verdicts", "load_seconds", "encode_seconds", "encode_compile_seconds"}
    for part, runs in made.answers.items():
        assert list(found.answers[part]) == list(runs)
        for run, records in runs.items():
            kept = [
                {name: value for name, value in record.items() if name not in left_out | none_of(record)}
                | {name: round(record[name], 3) for name in ("seconds",) if record[name] is not None}
                for record in records.values()
            ]
            assert list(found.answers[part][run].values()) == kept


def test_an_answer_takes_few_bytes(made, packed):
    num_answers = sum(len(records) for runs in made.answers.values() for records in runs.values())
    assert sum(file.stat().st_size for file in packed.iterdir()) < 8 * num_answers


def test_tables_of_the_archive_are_those_of_the_run(made, packed):
    own, kept = made.results(), unpack(packed).results()
    assert own.chance == kept.chance and len(own.chance) == 75
    for part, answers in own.sweeps.items():
        for grid in answers.grids:
            tables = [sweep_tables.to_markdown(grid, of.sweeps[part].results(grid, of.rules), ()) for of in (own, kept)]
            assert tables[0] == tables[1] and "failed" in tables[0]
    comparisons = [study_tables.comparison_table(reproduction.claims(of)) for of in (own, kept)]
    assert comparisons[0] == comparisons[1] and comparisons[0].rows
    targets = [study_tables.coverage_tables(of.coverage, of.rules) for of in (own, kept)]
    assert targets[0] == targets[1]


def test_the_command_rebuilds_the_tables_of_an_archive_and_refuses_what_is_none(made, packed, tmp_path):
    cut = tmp_path / "cut"
    pack(made, cut)
    whole = (cut / "methods.jsonl.xz").read_bytes()
    (cut / "methods.jsonl.xz").write_bytes(whole[: len(whole) // 2])
    other = tmp_path / "other"
    pack(made, other)
    with lzma.open(other / "coverage.jsonl.xz", "wt") as file:
        file.write("no JSON\n")
    pack(dataclasses.replace(made, settings=made.settings | {"rules": "rules v0"}), tmp_path / "old")
    cases = {
        "whole": (packed, ""),
        "old": (tmp_path / "old", f"--rebuild={tmp_path}/old: rules v0; here are rules v"),
        "cut": (cut, f"{cut}/methods.jsonl.xz: holds no answers of a study"),
        "other": (other, f"{other}/coverage.jsonl.xz: holds no answers of a study"),
        "none": (tmp_path, f"{tmp_path}/study.json: says of no study what it asked"),
        "full": (packed, "is not empty"),
    }
    outputs = {name: tmp_path / "tables" / name for name in cases}
    outputs["full"] = other
    lines = [[f"--rebuild={folder}", f"--output_dir={outputs[name]}"] for name, (folder, _) in cases.items()]
    done = dict(zip(cases, run_commands("experiments.study", lines), strict=True))
    code, _, err = done.pop("whole")
    assert code == 0, err
    found = unpack(packed).results()
    (grid,) = (grid for grid in found.sweeps["selections"].grids if grid.name == "figure5")
    cells = found.sweeps["selections"].results(grid, found.rules, found.outside)
    rows = sweep_tables.to_markdown(grid, cells, ()).rpartition("\n\n")[2]
    assert (outputs["whole"] / "figure5.md").read_text().endswith(f"\n\n{rows}")
    for name in ("claims", "coverage", "figure5", "reproduction"):
        table = (outputs["whole"] / f"{name}.md").read_text()
        assert "- reduced plan; scenes 3000000 to 3000001, in no split; scenes of each part: methods 2, " in table
        assert f"- {rules.load().text}; what is not under them: methods 2 scenes, not 40; " in table
    for name, (code, _, err) in done.items():
        assert code != 0 and cases[name][1] in err.strip().splitlines()[-1], (name, err)
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["whole"]


PUBLISH = """
import pathlib
from bat_jax.study.measured.archive import unpack
from experiments import cli, study

def main(_):
    folder = pathlib.Path(__file__).parent
    study.TABLES, study.DOCS, study.SPLIT_LOG = folder / "mini", folder / "docs.md", folder / "log.jsonl"
    found = unpack(pathlib.Path(study.REBUILD.value))
    judged = study.reproduction.claims(found.results())
    study.publish(found, judged, folder / "run", [{"date": "2026-12-01", "source": source} for source in "aab"])
"""


def test_a_release_writes_tables_answers_and_document_and_a_line_of_the_log(packed, tmp_path):
    for name in ("run/claims.md", "run/other.md", "mini/claims.md", "mini/stale.md", "mini/rules_v1/kept.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    split_log.append(tmp_path / "log.jsonl", "begun", "2026-12-01", "w" * 64)
    (tmp_path / "published_run.py").write_text(PUBLISH)
    ((code, _, err),) = run_commands("published_run", [[f"--rebuild={packed}"]], path=tmp_path)
    assert code == 0, err
    tables = {path.name: path.read_text() for path in (tmp_path / "mini").glob("*.md")}
    assert tables == {"claims.md": "run/claims.md", "other.md": "run/other.md"}
    assert (tmp_path / "mini" / "rules_v1" / "kept.md").exists()
    assert unpack(tmp_path / "mini" / "answers") == unpack(packed)
    assert "Written by `python -m experiments.study`; do not edit" in (tmp_path / "docs.md").read_text()
    begun, finished = split_log.read(tmp_path / "log.jsonl")
    assert (begun["event"], finished["event"]) == ("begun", "finished")
    assert (finished["date"], finished["checkpoint"]) == ("2026-12-01", "c" * 64)
    assert finished["weights"] == weights_digest(pathlib.Path(__file__).parents[3] / "checkpoints" / "uhr-bat-mini")
    assert finished["rules"] == rules.load().text and finished["sources"] == ["a", "b"]
    own = finished["accuracy"]["own"]
    answers = unpack(packed).answers["selections"]["-".join(map(str, MINI.compressor.budgets))].values()
    right = 100 * sum(line["is_right"] for line in answers) / len(answers)
    assert (own["tokens"], own["questions"], own["right"]) == (729, len(answers), round(right, 2)) and 0 < right < 99
    assert (
        finished["failed"] > 100 and 25 < own["chance"] < 35 and set(finished["accuracy"]) == {"own", "1k", "3k", "6k"}
    )
    assert sum(finished["verdicts"].values()) > 30


COMMITTED = pathlib.Path(__file__).parents[3] / "results" / "mini"


def test_the_committed_claims_are_those_of_the_committed_answers():
    judged = reproduction.claims(unpack(COMMITTED / "answers").results())
    table = study_tables.markdown(study_tables.claims_table(judged))
    assert (COMMITTED / "claims.md").read_text().endswith(f"\n\n{table}")


def test_the_log_names_the_committed_answers_rules_and_weights():
    *_, line = split_log.read(COMMITTED.parent / "test_split.jsonl")
    assert line["event"] == "finished" and line["rules"] == rules.load(2).text
    assert line["answers"] == tree_digest(COMMITTED, (COMMITTED / "answers").iterdir())
    assert line["weights"] == weights_digest(COMMITTED.parents[1] / "checkpoints" / "uhr-bat-mini")
    assert sum(file.stat().st_size for file in (COMMITTED / "answers").iterdir()) < 3_000_000
