"""A stage learns, and a killed one ends with the same bits as one that was not."""

import concurrent.futures
import json

import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.mini.curriculum.stage import StageSettings, run_stage
from bat_jax.train.loop import NonFiniteLossError

WANTED = np.arange(12, dtype=np.float32).reshape(3, 4)


def _loss(params, fixed, batch):
    error = jnp.mean((batch @ params["kernel"] - batch @ fixed) ** 2)
    return error, {"error": error}


def _batch(position):
    return np.random.default_rng(position).normal(size=(16, 3)).astype(np.float32)


def _run(directory, num_steps=40, batch_of=_batch, **options):
    settings = StageSettings(num_steps=num_steps, rate=0.3, checkpoint_every=10, log_every=5)
    params = {"kernel": jnp.zeros((3, 4))}
    return run_stage(directory, settings, params, _loss, batch_of, fixed=jnp.asarray(WANTED), **options)


class _KilledError(Exception):
    pass


def test_a_stage_that_was_killed_ends_with_the_same_bits(tmp_path):
    whole = _run(tmp_path / "whole")

    def killed(position):
        if position == 27:
            raise _KilledError
        return _batch(position)

    with pytest.raises(_KilledError):
        _run(tmp_path / "killed", batch_of=killed)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # batches come in order, whoever makes them
        resumed = _run(tmp_path / "killed", pool=pool)
    np.testing.assert_array_equal(whole["kernel"], resumed["kernel"])
    rows = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(5, 41, 5))
    assert rows[-1]["error"] < 0.2 * rows[0]["error"]


def test_evaluation_is_logged_and_a_loss_that_is_no_number_stops(tmp_path):
    _run(tmp_path / "seen", num_steps=5, evaluate=lambda params: {"held_out": float(jnp.sum(params["kernel"] != 0))})
    assert json.loads((tmp_path / "seen" / "metrics.jsonl").read_text())["held_out"] == 12

    with pytest.raises(NonFiniteLossError, match="broken, step 5: loss nan"):
        _run(tmp_path / "broken", batch_of=lambda position: np.full((16, 3), np.nan, np.float32))
