"""The folder of encoded images: what comes back, what goes first, damage, full disks and other processes."""

import json
import os
import resource
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bat_jax.io.scene_cache import SceneCache


def arrays_of(seed, rows=3):
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.standard_normal((rows, 5)).astype(ml_dtypes.bfloat16),
        "id": rng.integers(-1, 9, 7, np.int32),
        "valid": rng.random(9) < 0.5,
        "scalar": np.array(seed, np.float32),
        "none": np.zeros((0, 4), np.float32),
    }


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def names(*keys):
    return [f"scene-{key}.safetensors" for key in keys]


def test_arrays_come_back_as_they_were_and_other_programs_can_read_them(tmp_path):
    cache = SceneCache(tmp_path / "new" / "folder", 10**6)
    assert cache.read("a") is None
    cache.write("a", arrays_of(1))
    same(cache.read("a"), arrays_of(1))
    assert cache.read("b") is None and entries(cache.directory) == names("a")
    found = safetensors.numpy.load_file(cache.directory / "scene-a.safetensors")
    same({name: found[name] for name in arrays_of(1)}, arrays_of(1))


def test_the_least_recently_used_entry_goes_first_and_the_limit_is_kept(tmp_path):
    SceneCache(tmp_path, 10**6).write("a", arrays_of(0))
    size = (tmp_path / "scene-a.safetensors").stat().st_size
    (tmp_path / "model.safetensors").write_bytes(bytes(10 * size))  # no entry, so that it neither counts nor goes
    cache = SceneCache(tmp_path, 3 * size + 1)
    for number, key in enumerate("abc"):
        cache.write(key, arrays_of(0))
        os.utime(tmp_path / f"scene-{key}.safetensors", ns=(number, number))
    cache.read("a")
    cache.write("d", arrays_of(0))
    assert entries(tmp_path) == ["model.safetensors", *names("a", "c", "d")]
    cache.write("e", arrays_of(0, rows=4))
    assert entries(tmp_path) == ["model.safetensors", *names("d", "e")]


def test_an_entry_above_the_limit_is_not_kept_moves_no_other_and_is_said_once(tmp_path, capsys):
    SceneCache(tmp_path, 10**6).write("a", arrays_of(0))
    cache = SceneCache(tmp_path, (tmp_path / "scene-a.safetensors").stat().st_size)
    for key in "bc":
        cache.write(key, arrays_of(0, rows=9))
    assert entries(tmp_path) == names("a")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and str(tmp_path) in line and f"{cache.max_bytes:,}" in line
    cache.write("d", arrays_of(1))
    assert entries(tmp_path) == names("d")


def test_no_damaged_byte_and_no_missing_one_goes_unnoticed(tmp_path, capsys):
    cache = SceneCache(tmp_path, 10**6)
    cache.write("a", arrays_of(1))
    path = tmp_path / "scene-a.safetensors"
    whole = path.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    damaged += [whole[:length] for length in (0, 4, 8, 60, len(whole) - 1)] + [whole + b"\0"]
    for content in damaged:
        path.write_bytes(content)
        assert cache.read("a") is None and not path.exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: {path}: ") and "encoded again" in line
    cache.write("a", arrays_of(1))
    assert path.read_bytes() == whole


def test_a_full_disk_costs_one_line_and_leaves_nothing_half_written(tmp_path, capsys):
    cache = SceneCache(tmp_path, 10**6)
    cache.write("a", arrays_of(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for key in "bc":
            cache.write(key, arrays_of(0, rows=999))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    cache.write("d", arrays_of(1))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}: ") and "without keeping" in line
    assert entries(tmp_path) == names("a")
    same(cache.read("a"), arrays_of(1))


def test_a_folder_that_cannot_be_made_costs_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cache = SceneCache(tmp_path / "file" / "scenes", 10**6)
    for key in "ab":
        assert cache.read(key) is None
        cache.write(key, arrays_of(0))
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {tmp_path}/file/scenes: Not a directory; images are encoded without keeping them"
    ]


def test_a_file_is_no_folder_and_nothing_is_no_limit(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"scene_cache=.*file: is a file"):
        SceneCache(tmp_path / "file", 1)
    with pytest.raises(ValueError, match="a limit of 0 bytes"):
        SceneCache(tmp_path, 0)


# Forks, where no JAX device has been made; three of them store, read and drive out each other's entries.
_PROCESSES = """
import json, os, pathlib, signal, sys
from bat_jax.io.scene_cache import SceneCache
from tests.io.test_scene_cache import arrays_of, entries, same

folder, said = pathlib.Path(sys.argv[1]), {}

def fork(action):
    child = os.fork()
    if not child:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def use(cache, start):
    for step in range(60):
        key = (start * 3 + step) % 5
        found = cache.read(str(key))
        if found is None:
            cache.write(str(key), arrays_of(key, rows=4000))
        else:
            same(found, arrays_of(key, rows=4000))

many = folder / "many"
limit = 150_000
cache = SceneCache(many, limit)
said["storm"] = [ended(child) for child in [fork(lambda: use(cache, start)) for start in range(3)]]
said["left"] = entries(many)
said["bytes"] = sum((many / name).stat().st_size for name in entries(many))

def killed_while_writing():
    os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
    SceneCache(folder / "killed", 10**6).write("a", arrays_of(1))

said["killed"] = ended(fork(killed_while_writing))
said["half-written"] = entries(folder / "killed")
SceneCache(folder / "killed", 10**6)
said["cleaned"] = entries(folder / "killed")

reached, may_go = os.pipe(), os.pipe()

def waits_while_writing():
    fsync = os.fsync

    def wait(file):
        os.fsync = fsync
        os.write(reached[1], b"x")
        os.read(may_go[0], 1)

    os.fsync = wait
    SceneCache(folder / "slow", 10**6).write("a", arrays_of(1))

writer = fork(waits_while_writing)
os.read(reached[0], 1)
other = SceneCache(folder / "slow", 10**6)
other.write("a", arrays_of(2))
said["while one writes"] = [name[:8] + name[-4:] for name in entries(folder / "slow")]
other.write("b", arrays_of(2))
os.write(may_go[1], b"x")
said["slow"] = ended(writer)
said["both"] = entries(folder / "slow")
same(other.read("a"), arrays_of(1))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-c", _PROCESSES, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, "no process saw another's entry as damaged"
    return json.loads(done.stdout)


def test_processes_that_store_read_and_drive_out_the_same_entries_see_whole_ones_alone(processes):
    assert processes["storm"] == [0, 0, 0]
    assert 1 < len(processes["left"]) < 5 and processes["bytes"] <= 150_000
    assert all(name.endswith(".safetensors") for name in processes["left"])


def test_what_a_killed_process_has_half_written_is_removed_by_the_next(processes):
    assert processes["killed"] == -9
    assert len(processes["half-written"]) == 1 and processes["half-written"][0].endswith(".new")
    assert processes["cleaned"] == []


def test_what_another_process_is_writing_is_left_to_it(processes):
    assert processes["while one writes"] == ["scene-a..new"]
    assert processes["slow"] == 0 and processes["both"] == names("a", "b")
