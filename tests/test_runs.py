"""An output directory holds one run, has one writer, keeps every start and is replaced whole."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import bat_jax
from bat_jax import runs
from bat_jax.io import digests, output_files
from bat_jax.io.digests import checkpoint_digest, file_digest, input_sizes, weights_digest
from bat_jax.io.output_files import replace_dir, staged_file, write_json
from bat_jax.runs import RunDirectory, package_versions, stored_runs, working_path
from tests.tiny_model import write_tiny_checkpoint

SETTINGS = {"plan": "reduced", "config": {"scales": [{"size_px": 112, "budget": 3}]}, "limit": None}


def begin(path, settings=SETTINGS, **options):
    return RunDirectory.open(path, options.pop("command", "test"), settings, seed=0, **options)


def contents(folder):
    """Return everything below a folder: name -> bytes, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def done(tmp_path):
    """A directory that holds a run with a result."""
    with begin(tmp_path / "run", own=("answers", "run.json")) as run:
        (run.path / "answers").write_text("first")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"plan": "full"}, 'plan: "reduced" -> "full"'),
        ({"limit": 5}, "limit: null -> 5"),
        ({"config": {"scales": [{"size_px": 112, "budget": 5}]}}, '"budget": 5'),
        ({"seed": 1}, "seed: null -> 1"),
    ],
)
def test_what_differs_is_named_and_nothing_is_touched(done, changed, words):
    before = contents(done.parent)
    with pytest.raises(ValueError, match="other settings") as raised:
        begin(done, SETTINGS | changed)
    assert words in str(raised.value)
    assert contents(done.parent) == before


def test_another_version_is_refused_and_other_sources_of_the_same_one_are_a_warning(done, monkeypatch, capsys):
    monkeypatch.setattr(runs, "source_digest", lambda: "other")
    begin(done).close()
    assert "source files have changed" in capsys.readouterr().err
    assert stored_runs(done, "test")[0]["starts"][-1]["source"] == "other"
    monkeypatch.setattr(bat_jax, "__version__", "99")
    with pytest.raises(ValueError, match='-> "99"'):
        begin(done)


def test_every_start_is_kept_with_versions_device_flags_and_places(done, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", "--checkpoint_every=3"])
    begin(done, facts={"data": "/somewhere/else"}).close()
    (run,) = stored_runs(done, "test")
    first, second = run["starts"]
    assert run["settings"] == SETTINGS | {"command": "test", "bat_jax": bat_jax.__version__}
    assert second["flags"] == ["--checkpoint_every=3"] and second["data"] == "/somewhere/else"
    assert first["device"].startswith("cpu") and first["packages"]["jax"] and first["date"] <= second["date"]


def test_one_process_writes_and_each_shard_has_its_own_lock(tmp_path):
    path = tmp_path / "run"
    with begin(path, shard=(1, 2)), begin(path, shard=(2, 2)):
        before = contents(path)
        with pytest.raises(ValueError, match="another process is writing here"):
            begin(path, shard=(1, 2))
        with pytest.raises(ValueError, match="another process is writing here"):
            begin(path, SETTINGS | {"limit": 7}, overwrite=True)
        assert contents(path) == before
        assert len(stored_runs(path, "test")) == 2
    begin(path, shard=(1, 2)).close()


def test_a_shard_that_starts_while_another_does_finds_a_run_there(tmp_path, monkeypatch):
    files = []

    def write_and_start_another(path, content):
        write_json(path, content)
        with monkeypatch.context() as inner:
            inner.setattr(runs, "write_json", write_json)
            begin(tmp_path / "run", shard=(2, 2), inputs={"a.png": 1}).close()
        files.append(path.name)

    monkeypatch.setattr(runs, "write_json", write_and_start_another)
    begin(tmp_path / "run", shard=(1, 2), inputs={"a.png": 1}).close()
    assert sorted(files) == ["inputs.json", "run-001-of-002.json"]


def test_a_folder_that_is_no_run_is_refused_but_for_files_that_count_as_none(tmp_path):
    (tmp_path / "claims.md").write_text("")
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and no run of this command"):
            begin(tmp_path, overwrite=overwrite)
    with pytest.raises(ValueError, match="is a file"):
        begin(tmp_path / "claims.md")
    assert contents(tmp_path) == before
    with begin(tmp_path, ignored=("*.md",)):
        pass
    with pytest.raises(ValueError, match='plan: "reduced" -> "full"'):
        begin(tmp_path, {"plan": "full"}, ignored=("*.md",))


def test_another_commands_run_and_a_record_of_an_earlier_version_are_no_run_of_ours(done):
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="no run of this command"):
            begin(done, command="other", overwrite=overwrite)
    (done / "run.json").write_text(json.dumps({"settings": SETTINGS}))
    with pytest.raises(ValueError, match="no run of this command"):
        begin(done)


def test_a_finished_run_has_nothing_left_to_do_but_to_be_replaced(done):
    before = contents(done)
    with pytest.raises(ValueError, match="is finished; nothing is left to do"):
        begin(done, finished="answers")
    assert contents(done) == before
    begin(done, finished="answers", overwrite=True).close()


def test_without_resume_a_run_is_refused(done):
    with pytest.raises(ValueError, match="give --overwrite or --resume"):
        begin(done, resume=False)


def test_a_picture_may_come_back_but_not_change(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    first.write_bytes(b"123")
    path = tmp_path / "run"
    begin(path, inputs=input_sizes([first, second], tmp_path)).close()
    second.write_bytes(b"12")
    begin(path, inputs=input_sizes([first, second], tmp_path)).close()
    assert json.loads((path / "inputs.json").read_text()) == {"a.png": 3, "b.png": 2}
    second.write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"inputs.b.png: 2 -> 4"):
        begin(path, inputs=input_sizes([first, second], tmp_path))


OTHER = SETTINGS | {"plan": "full"}


def test_an_overwritten_run_stays_until_the_new_one_is_complete(done):
    (done / "notes.txt").write_text("the user's own")
    with begin(done, OTHER, overwrite=True, own=("answers", "run.json")) as run:
        (run.path / "other answers").write_text("second")
        assert (done / "answers").read_text() == "first" and working_path(done) == run.path != done
    assert (done / "other answers").read_text() == "second" and (done / "notes.txt").exists()
    assert not (done / "answers").exists() and stored_runs(done, "test")[0]["settings"]["plan"] == "full"
    assert [path.name for path in done.parent.iterdir()] == ["run"] and working_path(done) == done


def test_a_replacement_that_broke_off_goes_on_and_its_predecessor_stays(done):
    with pytest.raises(KeyboardInterrupt), begin(done, OTHER, overwrite=True) as run:
        (run.path / "half").write_text("half")
        raise KeyboardInterrupt
    assert (done / "answers").read_text() == "first"
    begin(done).close()  # the run that is there
    with begin(done, OTHER) as run:
        assert (run.path / "half").exists() and len(run.starts) == 2
    assert (done / "half").exists() and [path.name for path in done.parent.iterdir()] == ["run"]


def test_a_replacement_with_yet_other_settings_begins_anew(done):
    with pytest.raises(KeyboardInterrupt), begin(done, OTHER, overwrite=True) as run:
        (run.path / "half").write_text("half")
        raise KeyboardInterrupt
    with begin(done, OTHER | {"limit": 4}, overwrite=True) as run:
        assert not (run.path / "half").exists() and len(run.starts) == 1


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_replaced_whole(tmp_path, monkeypatch, swaps):
    if not swaps:  # as on a system that cannot swap two names
        monkeypatch.setattr(output_files, "_exchanged", lambda *_: False)
    stage, path = tmp_path / "stage", tmp_path / "path"
    for folder, text in ((stage, "new"), (path, "old")):
        folder.mkdir()
        (folder / "own").write_text(text)
    (path / "README.md").write_text("kept")
    replace_dir(stage, path, ("own",))
    assert contents(tmp_path) == {"path": None, "path/README.md": b"kept", "path/own": b"new"}


def test_a_replacement_killed_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(output_files, "_exchanged", lambda *_: False)
    stage, path = tmp_path / "stage", tmp_path / "path"
    replace, calls = os.replace, []

    def killed(*names):
        if calls:
            raise KeyboardInterrupt
        calls.append(names)
        replace(*names)

    monkeypatch.setattr(os, "replace", killed)
    for folder in (stage, path):
        folder.mkdir()
        (folder / "own").write_text(folder.name)
    with pytest.raises(KeyboardInterrupt):
        replace_dir(stage, path, ("own",))
    monkeypatch.setattr(os, "replace", replace)
    output_files.restore(path)
    assert (path / "own").read_text() == "path" and (stage / "own").read_text() == "stage"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "file.json", [1])
    with pytest.raises(RuntimeError), staged_file(tmp_path / "file.json") as stage:
        stage.write_text("[1, ")
        raise RuntimeError
    assert contents(tmp_path) == {"file.json": b"[\n  1\n]\n"}


def test_a_killed_process_leaves_its_lock_to_the_next(tmp_path):
    code = (
        "import pathlib, sys, time; from bat_jax.runs import RunDirectory; "
        "run = RunDirectory.open(pathlib.Path(sys.argv[1]), 'test', {'a': 1}, seed=0); print('open', flush=True); "
        "time.sleep(99)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    with pytest.raises(ValueError, match="another process is writing here"):
        begin(tmp_path / "run", {"a": 1})
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with begin(tmp_path / "run", {"a": 1}) as run:
        assert len(run.starts) == 2


def test_a_checkpoint_and_its_weights_are_known_by_their_bytes_not_by_sizes_and_place(tmp_path):
    write_tiny_checkpoint(tmp_path / "one")
    before = checkpoint_digest(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "moved")
    assert checkpoint_digest(tmp_path / "moved") == before
    weights = weights_digest(tmp_path / "moved")
    config = tmp_path / "moved" / "config.json"
    config.write_text(config.read_text() + " ")
    changed = checkpoint_digest(tmp_path / "moved")
    assert changed != before and weights_digest(tmp_path / "moved") == weights
    largest = max((tmp_path / "moved" / "params").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)  # the same name and size
    assert checkpoint_digest(tmp_path / "moved") not in (before, changed)
    assert weights_digest(tmp_path / "moved") != weights


def test_a_large_files_digest_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_CACHED_FROM_BYTES", 1)
    monkeypatch.setattr(digests, "DIGEST_CACHE", tmp_path / "cache")
    path = tmp_path / "large"
    path.write_bytes(b"abc")
    os.utime(path, (1, 1))
    digest = file_digest(path)
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_text(entry.read_text().replace(digest, "kept"))
    assert file_digest(path) == "kept"
    path.write_bytes(b"abd")
    assert file_digest(path) == "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9"
    monkeypatch.setattr(digests, "DIGEST_CACHE", pathlib.Path("/proc/nowhere"))
    os.utime(path, (1, 1))
    assert file_digest(path).startswith("a52d159f")


def test_packages_that_are_not_installed_are_left_out():
    assert package_versions({"packages": {"jax": "1.2", "rasterio": None, "numpy": "3.4"}}) == "jax 1.2, numpy 3.4"
