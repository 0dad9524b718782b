"""Answers on meshes of 8 simulated devices against those of one device."""

import json

import numpy as np
import pytest

from tests.command_batch import run_commands
from tests.tiny_model import tiny_config, write_tiny_checkpoint

ALIKE = {
    "model=2": "one",
    "model=4": "one",
    "data=2,model=2": "one",
    "data=8": "one",
    "model=4 int8": "one int8",
    "model=2 stacked": "one",
    "model=2 read": "one",
    "model=2 stacked read": "one",
} | {f"data=2,model=2 many {index}": f"one many {index}" for index in range(3)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    write_tiny_checkpoint(folder / "checkpoint")
    ((code, out, err),) = run_commands("tests.mesh_run", [[f"--directory={folder}"]])
    assert code == 0, err
    return folder, json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("name", ALIKE)
def test_devices_together_answer_as_one_does(ran, name):
    folder, _ = ran
    found, expected = (np.load(folder / f"{run}.npz") for run in (name, ALIKE[name]))
    assert set(found) == set(expected)
    for array in expected:
        if array in ("logits", "importance"):
            np.testing.assert_allclose(found[array], expected[array], rtol=1e-5, atol=1e-5, err_msg=array)
        else:
            np.testing.assert_array_equal(found[array], expected[array], err_msg=array)


@pytest.mark.parametrize(("mesh", "heads", "parts"), [("model=2", 1, 2), ("model=4", 1, 4), ("data=8", 2, 1)])
def test_each_device_holds_its_part_of_the_decoder_and_its_heads_of_the_cache(ran, mesh, heads, parts):
    """Norms, and attention beyond two key-value heads, are not cut further."""
    _, report = ran
    dec, whole = tiny_config().decoder, report["one"]["decoder_bytes"]
    of_heads = min(parts, dec.num_kv_heads)
    attention = 4 * dec.num_layers * dec.head_dim * (2 * dec.width + 1) * (dec.num_heads + dec.num_kv_heads)
    attention -= 4 * dec.num_layers * dec.head_dim * dec.num_heads  # the output projection has no bias
    norms = 4 * dec.width * (2 * dec.num_layers + 1)
    expected = norms + attention / of_heads + (whole - norms - attention) / parts
    assert report[mesh]["decoder_bytes"] == pytest.approx(expected, rel=0.01)
    assert report[mesh]["cache_heads"] == heads


@pytest.mark.parametrize(("mesh", "parts"), [("model=4", 4), ("data=2,model=2", 4), ("data=8", 8)])
def test_devices_share_the_rows_of_a_scales_tokens_where_their_number_divides(ran, mesh, parts):
    _, report = ran
    whole = report["one"]["token_rows"]
    assert report[mesh]["token_rows"] == [rows // parts if rows % parts == 0 else rows for rows in whole]
    assert sum(report[mesh]["token_rows"]) < sum(whole) / 2


@pytest.mark.parametrize("name", ["model=2", "model=2 stacked"])
def test_a_picture_of_the_scene_cache_lies_as_a_fresh_one_does_and_shares_its_programs(ran, name):
    _, report = ran
    assert not report[name]["from_cache"] and report[f"{name} read"]["from_cache"]
    assert report[name]["same_places"] and report[name]["compiled"] == {"image": 1, "question": 1}
    parts = ("token_rows", "cache_heads")
    assert [report[f"{name} read"][part] for part in parts] == [report[name][part] for part in parts]
    assert report[name]["cache_heads"] == 1
    assert report[name]["token_rows"] == [rows // 2 for rows in report["one"]["token_rows"]]


def test_devices_share_the_pictures_of_a_sweep_and_answer_as_one_does(ran):
    _, report = ran
    one, two = (report["swept"][number] for number in "12")
    assert one["devices"] == [0, 0] and two["devices"] == [0, 1]
    assert two["answers"] == one["answers"] and min(map(len, one["answers"].values())) > 3
