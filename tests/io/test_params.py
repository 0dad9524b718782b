"""A checkpoint whose weights' files are damaged is refused in one line that names the folder and says what to do."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from bat_jax.io import convert
from bat_jax.io.params import CHECKSUMS_NAME, checksums, load_params, write_checksums
from tests.tiny_model import write_tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "dev" / "checkpoint"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "checkpoint"
    convert.convert(GOLDEN, folder)
    return folder


def state(folder):
    return folder / "params" / "state"


def chunk_files(folder):
    """Return the files of the process that wrote, which hold the arrays' values."""
    return sorted(state(folder).glob("ocdbt.process_*/d/*"))


def nodes(folder):
    return sorted(state(folder).glob("d/*"))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(bytes(data))


def changed_value(folder):
    """Change one byte of an array's values, which no checksum of the format covers."""
    value = np.asarray(ocp.load(folder / "params")["decoder"]["lm_head"]["kernel"]).tobytes()[:256]
    for path in chunk_files(folder):
        if (place := path.read_bytes().find(value)) >= 0:
            return flip(path, (place + 100.5) / path.stat().st_size)
    raise AssertionError("no file holds the value as it is")


DAMAGE = {
    "a value changed": changed_value,
    "a node changed": lambda folder: flip(nodes(folder)[0], 0.5),
    "nodes truncated": lambda folder: [path.write_bytes(path.read_bytes()[:100]) for path in nodes(folder)],
    "nodes missing": lambda folder: shutil.rmtree(state(folder) / "d"),
    "manifest missing": lambda folder: (state(folder) / "manifest.ocdbt").unlink(),
    "manifest empty": lambda folder: (state(folder) / "manifest.ocdbt").write_bytes(b""),
    "manifest changed": lambda folder: flip(state(folder) / "manifest.ocdbt", 0.5),
    "values missing": lambda folder: [path.unlink() for path in chunk_files(folder)],
    "values truncated": lambda folder: [
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) for path in chunk_files(folder)
    ],
    "values empty": lambda folder: [path.write_bytes(b"") for path in chunk_files(folder)],
    "everything missing": lambda folder: shutil.rmtree(state(folder)),
    "checksums damaged": lambda folder: (folder / CHECKSUMS_NAME).write_text("[1"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_that_says_what_to_do(whole, tmp_path, name, capfd):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    DAMAGE[name](folder)
    with pytest.raises(ValueError) as info:
        load_params(folder)
    message = str(info.value)
    assert str(folder) in message and "convert it again" in message and len(message.splitlines()) == 1
    assert capfd.readouterr().err == "", "no library adds lines of its own"


def test_files_that_git_lfs_did_not_fetch_are_named_as_such(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n"
    for path in (*chunk_files(folder), *nodes(folder), state(folder) / "manifest.ocdbt"):
        path.write_text(pointer)
    with pytest.raises(ValueError, match=r"copy/params/.*: is a Git LFS pointer .*`git lfs pull`"):
        load_params(folder)
    (folder / "config.json").write_text(pointer)
    with pytest.raises(ValueError, match=r"config.json: is a Git LFS pointer"):
        load_params(folder)


def test_an_adapters_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^checkpoint=.*: is a LoRA adapter .* merge it"):
        load_params(tmp_path)


def test_checksums_are_of_the_values_as_stored_whoever_writes_them(whole, tmp_path):
    write_tiny_checkpoint(tmp_path / "trained")
    write_checksums(tmp_path / "trained")
    for folder in (whole, tmp_path / "trained"):
        stored = json.loads((folder / CHECKSUMS_NAME).read_text())
        leaves = traverse_util.flatten_dict(ocp.load(folder / "params"), sep="/")
        assert stored == checksums({path: np.asarray(leaf) for path, leaf in leaves.items()})
        assert len(set(stored.values())) > 20


def test_a_folder_without_checksums_loads_as_it_did(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / CHECKSUMS_NAME).unlink()
    found, expected = (traverse_util.flatten_dict(load_params(path), sep="/") for path in (tmp_path / "copy", whole))
    assert found.keys() == expected.keys()
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[path])


def test_the_checkpoint_in_the_repository_has_checksums():
    folder = ROOT / "checkpoints" / "uhr-bat-mini"
    leaves = traverse_util.flatten_dict(load_params(folder), sep="/")
    assert leaves.keys() == json.loads((folder / CHECKSUMS_NAME).read_text()).keys()
