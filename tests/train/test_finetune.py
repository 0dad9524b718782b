"""experiments.finetune as a user runs it: it learns, survives kill -9, runs on two processes, tells of bad records."""

import json
import random
import shutil
import signal
import socket

import jax
import numpy as np
import pytest

from bat_jax.pipeline import BatModel
from tests.command_batch import run_commands, run_killed, run_together
from tests.train.sft_files import command, metrics, run, weights, write_sft

STEPS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sft")
    write_sft(path)
    return path


@pytest.fixture(scope="module")
def plain(folder):
    """An uninterrupted training."""
    done = run(folder, "plain", "--train=epochs=8", "--checkpoint_every=2")
    assert done.returncode == 0, done.stderr
    return done


def same_weights(first, second):
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_loss_falls_and_every_step_is_logged(folder, plain):
    rows = metrics(folder, "plain")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[0]["rate_decoder"] == 0 and max(row["rate_decoder"] for row in rows) == pytest.approx(1e-2)
    assert all(row["memory_bytes"] > 0 and row["tokens_per_s"] > 0 for row in rows)
    assert list((folder / "plain" / "train" / "tensorboard").glob("events.out.tfevents.*"))
    assert f"{STEPS} steps, last loss" in plain.stdout


def test_the_result_is_a_checkpoint_that_answers(folder, plain):
    before, after = weights(folder, "checkpoint"), weights(folder, "plain")
    same_weights(before["vision_tower"], after["vision_tower"])
    for part in ("projector", "decoder", "token_mlp"):
        assert not np.array_equal(jax.tree.leaves(before[part])[0], jax.tree.leaves(after[part])[0])
    model = BatModel.load(folder / "plain")
    answer = model.encode(folder / "0.png").ask("How many ships are there?", max_new_tokens=4)
    assert answer.token_ids.size <= 4


def test_a_run_killed_at_a_random_moment_resumes_to_the_same_weights_bit_for_bit(folder, plain):
    flags = ("--train=epochs=8", "--checkpoint_every=2")
    log = folder / "killed" / "train" / "metrics.jsonl"
    victim = command(folder, "killed", *flags)[3:]
    lines, delay = random.randint(1, STEPS - 4), random.random() * 0.05
    code, _, _ = run_killed("experiments.finetune", victim, log, lines, delay)
    assert code == -signal.SIGKILL and not (folder / "killed" / "params").exists()
    refused = run(folder, "killed", *flags)
    assert refused.returncode == 1 and "--resume" in refused.stderr
    done = run(folder, "killed", *flags, "--resume")
    assert done.returncode == 0, done.stderr
    same_weights(weights(folder, "plain"), weights(folder, "killed"))
    ours, theirs = metrics(folder, "killed"), metrics(folder, "plain")
    assert [(row["step"], row["loss"]) for row in ours] == [(row["step"], row["loss"]) for row in theirs]
    assert "nothing is left to do" in run(folder, "killed", *flags, "--resume").stderr


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_no_run_is_resumed_into_another(folder, plain):
    """A run that was stopped before it wrote its result; what differs is named and nothing is touched."""
    stopped, other = folder / "stopped", folder / "other"
    shutil.copytree(folder / "plain", stopped, ignore=shutil.ignore_patterns("params"))
    shutil.copytree(folder / "checkpoint", other)
    for path in (other / "params").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[::-1])  # the same names and sizes
    records = json.loads((folder / "sft.json").read_text())
    (folder / "turned.json").write_text(json.dumps(records[::-1]))
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(len(records)):
        (pictures / f"{number}.png").write_bytes((folder / f"{number}.png").read_bytes() + bytes(number == 3))
    changed = {
        "data_sha256": f"--data={folder / 'turned.json'}",
        "held_out": "--held_out=1",
        "config.compressor.scales": "--budgets=3,5",
        "config.compressor.partition": "--partition=grid",
        "recipe.decoder": "--train=decoder=1e-3",
        "checkpoint": f"--checkpoint={other}",
        "images": f"--image_dir={pictures}",
    }
    arguments = [*command(folder, "stopped", "--train=epochs=8", "--resume")[3:]]
    before = contents(stopped)
    refused = run_commands("experiments.finetune", [[*arguments, flag] for flag in changed.values()])
    for name, (code, _, err) in zip(changed, refused, strict=True):
        assert code == 1 and f"{name}: " in err and err.count("\n") == 1, (name, err)
    assert contents(stopped) == before
    # How often the state is kept decides no weight.
    ((code, _, err),) = run_commands("experiments.finetune", [[*arguments, "--checkpoint_every=5"]])
    assert code == 0, err
    same_weights(weights(folder, "plain"), weights(folder, "stopped"))
    starts = json.loads((stopped / "run.json").read_text())["starts"]
    assert len(starts) == 2 and starts[1]["flags"][-1] == "--checkpoint_every=5"


def on_two_hosts(folder, output, *flags, second=()):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = (*flags, f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
    hosts = (("--process_id=0",), ("--process_id=1", *second))
    return run_together("experiments.finetune", [command(folder, output, *flags, *host)[3:] for host in hosts])


def test_two_processes_with_other_recipes_are_refused_before_anything_is_written(folder):
    for code, _, err in on_two_hosts(folder, "unlike", "--train=epochs=8", second=("--train=seed=7",)):
        assert code == 1 and err.count("\n") == 1 and "hosts 1 and 2 differ (recipe.seed: 1 -> 7)" in err, err
    assert not (folder / "unlike").exists()


def test_two_processes_reach_the_weights_of_one(folder, plain):
    done = on_two_hosts(folder, "two", "--train=epochs=8", "--train=sharding=zero3")
    assert [code for code, _, _ in done] == [0, 0], done
    ours, theirs = metrics(folder, "two"), metrics(folder, "plain")
    np.testing.assert_allclose([row["loss"] for row in ours], [row["loss"] for row in theirs], rtol=1e-4)
    pairs = zip(jax.tree.leaves(weights(folder, "plain")), jax.tree.leaves(weights(folder, "two")), strict=True)
    difference = np.concatenate([np.abs(one - two).ravel() for one, two in pairs])
    # AdamW divides by the gradient's size: where that is rounding, a weight goes its own way at a rate of 1e-2.
    assert np.mean(difference > 1e-4) < 1e-2 and difference.max() < 1e-2


def test_the_loss_of_held_out_records_is_that_of_training_at_rate_0(folder):
    """The same records are trained on and held out, no weight moves: one loss, before and after."""
    flags = ["--train=epochs=1", "--train=batch_size=8", "--train=accumulation=2", "--train=clip_norm=1e-30"]
    flags.append("--partition=grid")  # K-means begins anew for every place in a batch
    records = json.loads((folder / "sft.json").read_text())
    twice = folder / "twice.json"
    twice.write_text(json.dumps([*records, *records, records[0] | {"image": "missing.png"}]))
    done = run(folder, "held_out", *flags, f"--data={twice}", "--held_out=9")
    assert done.returncode == 0, done.stderr
    first, last = metrics(folder, "held_out")
    assert (first["step"], last["step"]) == (0, 1)
    assert first["held_out_loss"] == pytest.approx(last["answer_loss"], rel=1e-5)
    assert last["held_out_loss"] == pytest.approx(first["held_out_loss"], rel=1e-5)
    assert f"held-out loss at step 0: {first['held_out_loss']:.4f}" in done.stdout


def test_bad_records_are_left_out_counted_and_named(folder, plain):
    records = json.loads((folder / "sft.json").read_text())
    bad = folder / "bad"
    bad.mkdir()
    shutil.copy(folder / "0.png", bad / "broken.png")
    (bad / "broken.png").write_bytes((bad / "broken.png").read_bytes()[:500])
    records[1]["image"] = "bad/missing.png"
    records[2]["image"] = "bad/broken.png"
    records[3]["conversations"] = [{"from": "robot", "value": "x"}]
    (bad / "sft.json").write_text(json.dumps(records))
    done = run(folder, "with_bad", "--train=epochs=1", f"--data={bad / 'sft.json'}")
    assert done.returncode == 0, done.stderr
    assert "3 records left out" in done.stdout
    lines = (folder / "with_bad" / "train" / "skipped-00000.jsonl").read_text().splitlines()
    reasons = {row["index"]: row["reason"] for row in map(json.loads, lines)}
    assert set(reasons) == {1, 2, 3}
    assert "missing.png" in reasons[1] and "broken.png" in reasons[2] and "known `from`" in reasons[3]
    rows = metrics(folder, "with_bad")
    assert sum(row["samples"] for row in rows) == 5 and rows[-1]["left_out"] == 3


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_samples(folder, plain):
    done = run(folder, "nan", "--train=epochs=8", "--train=decoder=1e30", "--train=clip_norm=0")
    assert done.returncode == 1
    # The first step has rate 0, the second spoils the weights, the third meets them.
    assert "step 3: the loss is not finite; samples r" in done.stderr
    assert not (folder / "nan" / "params").exists()


def test_wrong_flags_are_named_before_anything_is_written(folder):
    wrong = {
        "--train=epochs=0": "epochs",
        "--train=nothing=1": "--train=nothing=1",
        "--data=/nowhere.json": "/nowhere.json",
        "--preset=paper": "--visual_rate",
        "--held_out=8": "--held_out=8",
        "--set=selection=tome": "selection='tome': reads the vision tower's attention",
    }
    results = run_commands("experiments.finetune", [command(folder, "wrong", flag)[3:] for flag in wrong])
    for (code, _, err), named in zip(results, wrong.values(), strict=True):
        assert code == 1 and named in err and err.count("\n") == 1, err
    assert not (folder / "wrong").exists()
