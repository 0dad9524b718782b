"""experiments.study as a user types it: bad input is one line, before anything runs, and nothing is written."""

import pathlib
import subprocess

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
        "release of another": ["--release", f"--checkpoint={folder}"],
        "release of more": ["--release", "--full"],
        "nowhere to rebuild": [f"--rebuild={folder}"],
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
        ("release of another", "--checkpoint: --release decides it; leave it out"),
        ("release of more", "--full: --release decides it; leave it out"),
        ("nowhere to rebuild", "--output_dir: give a new folder for the tables of --rebuild"),
        ("full folder", "is not empty"),
        ("other settings", 'plan: "full" -> "reduced"'),
    ],
)
def test_bad_input_is_named_in_one_line(done, case, words):
    folder, results = done
    code, stdout, stderr = results[case]
    assert code != 0 and not stdout and words in stderr.strip().splitlines()[-1]
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "full", "other", "run.json"]


ASK_AGAIN = """
import pathlib
from experiments import cli, study

def main(_):
    folder = pathlib.Path(__file__).parent / "folder"
    study.SPLIT_LOG, study.RELEASE_RUN = folder / "log.jsonl", folder / "run"
    line = {"event": "begun", "date": "2026-12-01", "weights": study.weights_digest(study.SHIPPED)}
    study.SPLIT_LOG.write_text(study.json.dumps(line) + chr(10))
    print(study.default_output(False), study.default_output(True))
    study.main([])
"""


@pytest.fixture(scope="module")
def asked_again(tmp_path_factory):
    """Return (folder, result) of a process that prints the default folders and then asks for a release once more."""
    place = tmp_path_factory.mktemp("release")
    (place / "folder").mkdir()
    (place / "ask_again.py").write_text(ASK_AGAIN)
    return place / "folder", *run_commands("ask_again", [["--release"]], path=place)


def test_a_study_of_a_users_own_writes_where_git_looks_away(asked_again, tmp_path):
    places = asked_again[1][1].split()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    rules = pathlib.Path(__file__).parents[1] / ".gitignore"
    (tmp_path / ".gitignore").write_text(rules.read_text())

    def is_ignored(name):
        return not subprocess.run(["git", "check-ignore", "--quiet", name], cwd=tmp_path).returncode

    assert places == ["runs/study", "runs/study-full"]
    assert all(is_ignored(f"{place}/claims.md") for place in places)
    kept = ("mini/claims.md", "mini/answers/methods.jsonl.xz", "mini/rules_v1/claims.md", "test_split.jsonl")
    assert not any(is_ignored(f"results/{name}") for name in kept)


def test_a_checkpoint_whose_weights_the_log_has_is_not_asked_again(asked_again):
    folder, (code, _, err) = asked_again
    (line,) = err.strip().splitlines()
    assert code == 1 and "the test split is asked once per released checkpoint" in line
    assert "2026-12-01" in line and [path.name for path in folder.iterdir()] == ["log.jsonl"]
