"""experiments.study as a user types it: bad input is one line, before anything runs, and nothing is written."""

import pathlib
import subprocess
import sys

import pytest

from tests.command_batch import run_commands


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run all command lines in one process: name -> (code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("kept")
    (folder / "other").mkdir()
    (folder / "other" / "run.json").write_text('{"settings": {"command": "study", "plan": "full"}, "starts": []}')
    cases = {
        "no checkpoint": [f"--checkpoint={folder}", f"--output_dir={folder / 'new'}"],
        "bad seeds": ["--scene_seeds=5:3", f"--output_dir={folder / 'new'}"],
        "bad part": ["--scenes=tables=3", f"--output_dir={folder / 'new'}"],
        "bad number": ["--scenes=methods=few", f"--output_dir={folder / 'new'}"],
        "full folder": [f"--output_dir={folder / 'full'}"],
        "other settings": [f"--output_dir={folder / 'other'}"],
    }
    return folder, dict(zip(cases, run_commands("experiments.study", list(cases.values())), strict=True))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no checkpoint", "is no converted checkpoint"),
        ("bad seeds", "scene_seeds='5:3'"),
        ("bad part", "scenes=tables=3: want one of methods, selections, ablations, settings, coverage"),
        ("bad number", "--scenes=methods=few"),
        ("full folder", "is not empty"),
        ("other settings", 'plan: "full" -> "reduced"'),
    ],
)
def test_bad_input_is_named_in_one_line(done, case, words):
    folder, results = done
    code, stdout, stderr = results[case]
    assert code != 0 and not stdout and words in stderr.strip().splitlines()[-1]
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "full", "other", "run.json"]


def test_a_study_of_a_users_own_writes_where_git_looks_away(tmp_path):
    ask = "from experiments.study import default_output as of; print(of(False), of(True))"
    places = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    rules = pathlib.Path(__file__).parents[1] / ".gitignore"
    (tmp_path / ".gitignore").write_text(rules.read_text())

    def is_ignored(name):
        return not subprocess.run(["git", "check-ignore", "--quiet", name], cwd=tmp_path).returncode

    assert places == ["runs/study", "runs/study-full"]
    assert all(is_ignored(f"{place}/claims.md") for place in places)
    kept = ("mini/claims.md", "mini/answers/methods.jsonl.xz", "mini/rules_v1/claims.md", "test_split.jsonl")
    assert not any(is_ignored(f"results/{name}") for name in kept)
