"""Data parallel, ZeRO-2 and ZeRO-3 on 8 simulated devices against one device."""

import json

import numpy as np
import pytest

from bat_jax.train import sharding
from tests.command_batch import run_commands
from tests.tiny_model import tiny_config
from tests.train.sft_files import write_sft


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    write_sft(folder, num_records=16)
    ((code, out, err),) = run_commands("tests.train.sharded_run", [[f"--directory={folder}"]])
    assert code == 0, err
    names = ("single", "data", "zero2", "zero3", "model")
    weights = {name: np.load(folder / f"weights_{name}.npy") for name in names}
    return json.loads(out.splitlines()[-1]), weights


@pytest.mark.parametrize("mode", ["data", "zero2", "zero3", "model"])
def test_losses_and_updated_weights_equal_the_single_device_run(report, mode):
    rows, weights = report
    np.testing.assert_allclose(rows[mode]["losses"], rows["single"]["losses"], rtol=1e-5)
    # AdamW divides by the gradient's size: where that is near rounding, a weight moves by up to its rate (1e-3) freely.
    difference = np.abs(weights[mode] - weights["single"])
    assert np.mean(difference > 2e-6) < 1e-3 and difference.max() < 2e-3


def test_zero2_shards_the_optimiser_and_zero3_the_weights_too(report):
    rows, _ = report
    whole = rows["single"]
    assert rows["data"]["weight_bytes"] == rows["zero2"]["weight_bytes"] == whole["weight_bytes"]
    assert rows["data"]["optimizer_bytes"] == whole["optimizer_bytes"]
    for mode in ("zero2", "zero3"):
        assert rows[mode]["optimizer_bytes"] < 0.15 * whole["optimizer_bytes"]
    assert rows["zero3"]["weight_bytes"] < 0.15 * whole["weight_bytes"]
    # Half of the decoder's matrices, whole norms and the small networks; of moments the four shards of these.
    assert 0.5 < rows["model"]["weight_bytes"] / whole["weight_bytes"] < 0.65
    assert rows["model"]["optimizer_bytes"] < 0.2 * whole["optimizer_bytes"]


def test_a_mesh_or_batch_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(ValueError, match="mesh=data=9: needs 9 devices"):
        sharding.make_mesh(tiny_config(), "data=9")
    mesh = sharding.make_mesh(tiny_config())
    assert sharding.local_columns(mesh, 2 * mesh.size) == list(range(2 * mesh.size))
