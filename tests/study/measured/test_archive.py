"""The archive of a study: small, whole, and the tables made from it are those made from the run's own answers."""

import dataclasses
import json
import lzma

import pytest

from bat_jax.benchmarks import answer_readers
from bat_jax.config import BatConfig
from bat_jax.report import study_tables, sweep_tables
from bat_jax.study.measured import coverage, plan, rules
from bat_jax.study.measured.archive import Archive, pack, unpack
from bat_jax.study.measured.sweep import GridAnswers
from tests.command_batch import run_commands

MINI = BatConfig.mini()
SEEDS = range(3_000_000, 3_000_002)
WAYS = dict.fromkeys(coverage.ways(), "cmkkm")
FATES = dict.fromkeys((coverage.OWN, coverage.ORACLE), WAYS)


def line_of(picture, task, number, budgets):
    """Return an answer as `answer_picture` writes it: right by a rule that differs between runs, some failed."""
    failed = number % 17 == 0
    output = None if failed else task.question.truth if (number + sum(budgets)) % 3 else "?"
    verdicts = answer_readers.judge(output, task.question)
    return {
        "id": task.id,
        "picture": picture.key,
        "scene": picture.scene,
        "sub_task": task.sub_task,
        "category": task.category,
        "status": "error" if failed else "answered",
        "output": output,
        "truth": task.question.truth,
        "verdicts": {rule: verdict._asdict() for rule, verdict in verdicts.items()},
        "is_right": verdicts["official"].is_right is True,
        "tokens_kept": None if failed else list(budgets),
        "seconds": None if failed else 0.1234567,
        "compile_seconds": None if failed else 0,
        "load_seconds": 0.1,
        "encode_seconds": 0.2,
        "encode_compile_seconds": 0,
        "error": "question: made up" if failed else None,
        "facts": dict(task.facts),
    }


@pytest.fixture(scope="module")
def made():
    """Return the archive of a study of made-up answers, as a run has it."""
    asked = plan.reduced(MINI)
    asked = asked.with_scenes(dict.fromkeys(asked.scenes, len(SEEDS)))
    answers = {}
    for part in asked.parts:
        tasks = [(picture, task) for picture in part.pictures(SEEDS, None) for task in picture.tasks]

        def read(name, tasks=tasks):
            budgets = tuple(map(int, name.partition("_")[0].split("-")))
            lines = (line_of(*pair, number, budgets) for number, pair in enumerate(tasks))
            return {line["id"]: line for line in lines}

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
        record={"checkpoint": "made-up", "bat_jax": "0", "packages": {"jax": "0"}, "device": "cpu", "date": "2026"},
        answers=answers,
        coverage={str(seed): {"id": str(seed), "targets": targets, "facts": facts} for seed in SEEDS},
    )


@pytest.fixture(scope="module")
def packed(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "answers"
    pack(made, folder)
    return folder


def test_everything_comes_back_but_the_times_of_pictures_and_other_rules_verdicts(made, packed):
    found = unpack(packed)
    assert (found.settings, found.record, found.coverage) == (made.settings, made.record, made.coverage)
    left_out = {"verdicts", "load_seconds", "encode_seconds", "encode_compile_seconds"}
    for part, runs in made.answers.items():
        assert list(found.answers[part]) == list(runs)
        for run, records in runs.items():
            kept = [
                {name: value for name, value in record.items() if name not in left_out and value is not None}
                | ({"seconds": 0.123} if record["seconds"] else {})
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
            tables = [sweep_tables.to_markdown(grid, of.sweeps[part].results(grid), ()) for of in (own, kept)]
            assert tables[0] == tables[1] and "failed" in tables[0]
    assert study_tables.comparison_table(own) == study_tables.comparison_table(kept)
    assert study_tables.coverage_tables(own.coverage) == study_tables.coverage_tables(kept.coverage)


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
    rows = sweep_tables.to_markdown(grid, found.sweeps["selections"].results(grid), ()).rpartition("\n\n")[2]
    assert (outputs["whole"] / "figure5.md").read_text().endswith(f"\n\n{rows}")
    top = "- reduced plan; scenes 3000000 to 3000001, in no split; scenes of each part: "
    assert all(top in (outputs["whole"] / f"{name}.md").read_text() for name in ("claims", "coverage", "figure5"))
    for name, (code, _, err) in done.items():
        assert code != 0 and cases[name][1] in err.strip().splitlines()[-1], (name, err)
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["whole"]
