"""The log of the test split: a checkpoint is asked once, and the run that asks it may go on."""

import json

import pytest

from bat_jax.study.measured import split_log

ONE, OTHER = "1" * 64, "2" * 64


def test_weights_that_were_asked_are_refused_and_others_are_not(tmp_path):
    log = tmp_path / "results" / "log.jsonl"
    split_log.check_unasked(log, ONE)
    split_log.append(log, "begun", "2026-12-01T10:00", ONE)
    split_log.append(log, "finished", "2026-12-01T10:00", ONE, accuracy={"own": 68.5})
    split_log.check_unasked(log, OTHER)
    for begun in ((), ("2026-12-01T10:00",), ("2026-12-02T09:00",)):
        with pytest.raises(
            ValueError,
            match="asked once per released checkpoint, and one with weights 111111111111 was asked on 2026-12",
        ):
            split_log.check_unasked(log, ONE, *begun)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[1] == {"event": "finished", "date": "2026-12-01T10:00", "weights": ONE, "accuracy": {"own": 68.5}}


def test_an_unfinished_run_goes_on_and_another_does_not_begin(tmp_path):
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        split_log.append(log, "begun", "2026-12-01T10:00", ONE)
        split_log.check_unasked(log, ONE, "2026-12-01T10:00")
    assert len(split_log.read(log)) == 1
    for begun in ((), ("2026-12-02T09:00",)):
        with pytest.raises(ValueError, match="asked once"):
            split_log.check_unasked(log, ONE, *begun)
