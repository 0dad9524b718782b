"""The command as a user types it: one clear line for every flag that does not fit, before weights are read."""

import socket

import pytest

pytest.importorskip("fastapi")

from tests.command_batch import run_commands
from tests.tiny_model import write_tiny_checkpoint


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    checkpoint = f"--checkpoint={write_tiny_checkpoint(folder / 'tiny')}"
    (folder / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = {
            "none": [],
            "no checkpoint": [f"--checkpoint={folder / 'none'}"],
            "root": [checkpoint, f"--scene_root={folder / 'none'}"],
            "root file": [checkpoint, f"--scene_root={folder / 'file'}"],
            "port": [checkpoint, f"--port={taken.getsockname()[1]}"],
            "host": [checkpoint, "--host=no.such.host.invalid"],
            "label map": [checkpoint, "--label_map=a.png"],
            "bands": [checkpoint, "--bands=red"],
            "negative": [checkpoint, "--max_waiting=0"],
        }
        return dict(zip(cases, run_commands("experiments.serve", list(cases.values())), strict=True))


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("none", 1, "--checkpoint: give"),
        ("no checkpoint", 1, "none"),
        ("root", 1, "scene_root="),
        ("root file", 1, "is no folder"),
        ("port", 1, "ddress already in use"),
        ("host", 1, "host=no.such.host.invalid"),
        ("label map", 1, "--label_map: belongs to one picture"),
        ("bands", 1, "--bands=red"),
        ("negative", 2, "max_waiting"),
    ],
)
def test_a_bad_flag_is_one_line(results, name, code, said):
    exit_code, out, err = results[name]
    assert exit_code == code and not out
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err
