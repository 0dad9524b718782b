"""All stages in small, from nothing to a checkpoint folder that answers."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from bat_jax.config import BatConfig
from bat_jax.io.output_files import replace_dir, restore
from bat_jax.mini.curriculum import export, provenance, selected
from bat_jax.mini.curriculum.bank import Bank
from bat_jax.mini.curriculum.group_batches import ANCHOR, Mix
from bat_jax.mini.curriculum.recipe import MiniRecipe
from bat_jax.mini.curriculum.run import STAGES, MiniTraining, exported_stages, worker_pool
from bat_jax.mini.curriculum.stage import StageSettings
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import render
from bat_jax.nn.decoder import layers_apart
from bat_jax.pipeline import BatModel
from tests.command_batch import run_commands

# Fewer layers than the mini model has compile in less time.
_MINI = BatConfig.mini().with_settings(importance_layer=0)
CFG = dataclasses.replace(
    _MINI,
    vision=dataclasses.replace(_MINI.vision, num_layers=2),
    decoder=dataclasses.replace(_MINI.decoder, num_layers=1),
)
SHORT = StageSettings(num_steps=2, rate=1e-3, log_every=1)
SMALL = Mix(num_pictures=2, num_questions=2, num_text_only=2)
RECIPE = MiniRecipe(
    num_pictures=3,
    num_held_out=1,
    num_tower_pictures=1,
    num_rounds=1,
    tile_batch=4,
    option_batch=4,
    lookup_pictures=2,
    lookup_questions=2,
    lookup_text_only=2,
    word_bag_pictures=1,
    attention_mix=SMALL,
    given_mix=dataclasses.replace(SMALL, num_given=8, forms=(0.0, 0.0, 1.0)),
    # Texts without a picture are part of the stages above.
    selected_mix=dataclasses.replace(SMALL, num_text_only=0, forms=(0.0, 0.0, 1.0), budgets=(2, 3, 4, 5)),
    mixed_mix=dataclasses.replace(
        SMALL,
        num_text_only=0,
        forms=(0.0, 0.0, 1.0),
        budgets=(2, 3, 4, 5),
        selections=tuple((name, 1 / 3) for name in ("uhr_bat", "pooling", ANCHOR)),
    ),
    **{name: SHORT for name in STAGES if isinstance(getattr(MiniRecipe, name, None), StageSettings)},
)


def test_all_stages_end_in_a_checkpoint_that_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(selected, "NUM_HELD_OUT_BATCHES", 2)
    with worker_pool(1) as pool:
        training = MiniTraining(tmp_path / "work", RECIPE, CFG, pool=pool)
        with pytest.raises(ValueError, match="stage tower has not been run"):
            training.run("features")
        for stage in STAGES:
            training.run(stage, tmp_path / "mini")
    model = BatModel.load(tmp_path / "mini")
    assert model.cfg == CFG
    moved = jax.tree.map(
        lambda new, old: not np.allclose(np.asarray(new, np.float32), old, atol=1e-3),
        model.params,
        layers_apart(training.untrained),
    )
    for part in ("vision_tower", "projector", "scale_embedding", "decoder"):
        assert any(jax.tree.leaves(moved[part])), part
    scene = generate_scene(5)
    answer = model.encode(render(scene, 1344)).ask(generate_questions(scene)[0].prompt(), max_new_tokens=2)
    assert answer.token_ids.size <= 2 and sum(answer.tokens_kept[0]) <= 729
    # A finished stage is left as it is.
    before = (tmp_path / "work" / "given.npz").stat().st_mtime_ns
    training.run("given")
    assert (tmp_path / "work" / "given.npz").stat().st_mtime_ns == before
    assert training.provenance.has_exported(tmp_path / "mini", exported_stages("mixed"))


class QuickTraining(MiniTraining):
    """Its stages leave a file each and make nothing."""

    def make(self, stage):
        product = self.directory / provenance.SOURCES[stage].product
        product.parent.mkdir(parents=True, exist_ok=True)
        product.write_text("made")

    def run_all(self, **options):
        for stage in STAGES[:-1]:
            self.run(stage, **options)
        return self


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_rounds": 6}, "stage questions: was made with other settings .num_rounds: 1 -> 6."),
        ({"num_held_out": 2}, "num_held_out: 1 -> 2"),
        ({"given": dataclasses.replace(SHORT, rate=2e-3)}, "given.rate: 0.001 -> 0.002"),
        ({"given": dataclasses.replace(SHORT, seed=2)}, "given.seed: 0 -> 2"),
    ],
)
def test_finished_stages_are_those_of_the_recipe_or_refused(tmp_path, changes, words):
    QuickTraining(tmp_path, RECIPE, CFG).run_all()
    before = (tmp_path / "stages.json").read_bytes()
    slower = dataclasses.replace(RECIPE, tower=dataclasses.replace(SHORT, log_every=2, checkpoint_every=1))
    QuickTraining(tmp_path, slower, CFG).run_all()  # decides no weight
    other = QuickTraining(tmp_path, dataclasses.replace(RECIPE, **changes), CFG)
    for stage in ("mixed", "export"):
        with pytest.raises(ValueError, match=words):
            other.run(stage, tmp_path / "mini")
    assert (tmp_path / "stages.json").read_bytes() == before
    other.run_all(remake=True)
    assert other.provenance.problems("mixed") == []


def test_what_was_made_from_an_earlier_tower_is_stale_until_it_is_made_anew(tmp_path):
    training = QuickTraining(tmp_path, RECIPE, CFG).run_all()
    (tmp_path / "tower.npz").unlink()
    training.run("tower")
    for stage in ("features", "mixed", "export"):
        with pytest.raises(ValueError, match="stage features: was made before tower was made anew"):
            training.run(stage, tmp_path / "mini")
    (tmp_path / "features" / "done.npy").write_text("all of them")
    training.run("features", remake=True)
    assert not (tmp_path / "features" / "done.npy").exists()
    with pytest.raises(ValueError, match="stage word_bag: was made before features was made anew"):
        training.run("given")
    training.run("options")  # knows no picture


def test_every_number_of_the_recipe_is_a_setting_of_some_stage():
    fields = {field for source in provenance.SOURCES.values() for field in source.fields}
    assert fields == {field.name for field in dataclasses.fields(MiniRecipe)}
    assert [*provenance.SOURCES, "export"] == list(STAGES)


def test_a_stage_that_broke_off_does_not_go_on_under_another_recipe(tmp_path, monkeypatch):
    def killed(self):
        (self.directory / "bank.npz").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(MiniTraining, "questions", killed)
    with pytest.raises(KeyboardInterrupt):
        MiniTraining(tmp_path, RECIPE, CFG).run("questions")
    other = MiniTraining(tmp_path, dataclasses.replace(RECIPE, num_rounds=6), CFG)
    with pytest.raises(ValueError, match="num_rounds: 1 -> 6"):
        other.run("questions")
    seen = []
    monkeypatch.setattr(MiniTraining, "questions", lambda self: seen.append((self.directory / "bank.npz").exists()))
    other.run("questions", remake=True)
    assert seen == [False], "nothing is left of the one that broke off"


def test_an_exported_checkpoint_is_swapped_in_whole(tmp_path, monkeypatch):
    """A kill while it is put in place leaves the earlier checkpoint or the new one, and what is no part of either."""
    output = tmp_path / "mini"
    output.mkdir()
    for name in ("README.md", "config.json"):
        (output / name).write_text("earlier")
    params = {"decoder": {"kernel": np.ones((2, 2), np.float32)}}

    def killed(*names):
        os.rename(*names)
        raise KeyboardInterrupt

    def killed_in_between(*arguments):
        monkeypatch.setattr(os, "replace", killed)
        replace_dir(*arguments)

    monkeypatch.setattr(export, "replace_dir", killed_in_between)
    with pytest.raises(KeyboardInterrupt):
        export.write_checkpoint(output, CFG, params)
    monkeypatch.undo()
    restore(output)
    parts = sorted(path.name for path in output.iterdir())
    whole = ["README.md", "checksums.json", "config.json", "params", "tokenizer"]
    assert parts in (["README.md", "config.json"], whole)
    assert ((output / "config.json").read_text() == "earlier") == (len(parts) == 2)
    export.write_checkpoint(output, CFG, params)
    assert sorted(path.name for path in output.iterdir()) == whole
    assert (output / "README.md").read_text() == "earlier" and BatConfig.load(output / "config.json") == CFG


def test_the_command_takes_other_numbers_and_steps_and_names_wrong_ones(tmp_path):
    work = f"--work_dir={tmp_path / 'work'}"
    small = ["--set=num_pictures=2", "--set=num_held_out=1", "--set=num_rounds=1", "--steps=mixed=7"]
    wrong = {
        "--set=num_pictures=20": "num_pictures=20: must exceed num_held_out=20",
        "--set=num_rounds=few": "--set=num_rounds=few: want NAME=N",
        "--set=mixed=3": "--set=mixed=3: want NAME=N",
        "--steps=pictures=3": "--steps=pictures=3: want STAGE=N",
    }
    bad_work = f"--work_dir={tmp_path / 'bad'}"
    full = tmp_path / "full"
    full.mkdir()
    (full / "config.json").write_text("another checkpoint")
    refused = {
        "--set=num_rounds=6": "num_rounds: 1 -> 6",
        "--set=num_pictures=3": "num_pictures: 2 -> 3",
        f"--output_dir={full}": "is not empty; give --overwrite",
    }
    cases = [[work, "--stage=questions", *small], *([bad_work, "--stage=questions", flag] for flag in wrong)]
    cases += [[work, "--stage=questions", "--stage=export", *small, "--output_dir=new", flag] for flag in refused]
    (code, out, err), *failed = run_commands("experiments.train_mini", cases)
    for (code_, _, err_), words in zip(failed[len(wrong) :], refused.values(), strict=True):
        assert code_ == 1 and words in err_ and err_.count("\n") == 1, err_
    assert [path.name for path in full.iterdir()] == ["config.json"]
    assert len(json.loads((tmp_path / "work" / "run.json").read_text())["starts"]) == 1
    assert code == 0, err
    assert "stage questions" in out
    recipe = json.loads((tmp_path / "work" / "run.json").read_text())["starts"][0]["recipe"]
    assert (recipe["num_pictures"], recipe["num_rounds"], recipe["mixed"]["num_steps"]) == (2, 1, 7)
    assert len(Bank.load(tmp_path / "work" / "bank.npz").groups) == 2
    for (code, _, err), message in zip(failed[: len(wrong)], wrong.values(), strict=True):
        assert code == 1
        assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not (tmp_path / "bad").exists()
