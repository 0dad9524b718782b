"""All stages in small, from nothing to a checkpoint folder that answers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bat_jax.config import BatConfig
from bat_jax.mini.curriculum import initial_weights
from bat_jax.mini.curriculum.bank import Bank
from bat_jax.mini.curriculum.group_batches import Mix
from bat_jax.mini.curriculum.recipe import MiniRecipe
from bat_jax.mini.curriculum.run import STAGES, MiniTraining, batch_pool
from bat_jax.mini.curriculum.stage import StageSettings
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import render
from bat_jax.pipeline import BatModel
from tests.command_batch import run_commands

# Fewer layers than the mini model has compile in less time.
_MINI = BatConfig.mini().with_settings(importance_layer=1)
CFG = dataclasses.replace(
    _MINI,
    vision=dataclasses.replace(_MINI.vision, num_layers=2),
    decoder=dataclasses.replace(_MINI.decoder, num_layers=3),
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
    selected_mix=dataclasses.replace(SMALL, forms=(0.0, 0.0, 1.0), budgets=(2, 3, 4, 5)),
    mixed_mix=dataclasses.replace(
        SMALL,
        forms=(0.0, 0.0, 1.0),
        budgets=(2, 3, 4, 5),
        selections=tuple((name, 0.2) for name, _ in MiniRecipe().mixed_mix.selections),
    ),
    **{name: SHORT for name in STAGES if isinstance(getattr(MiniRecipe, name, None), StageSettings)},
)


def test_all_stages_end_in_a_checkpoint_that_answers(tmp_path):
    with batch_pool(1) as pool:
        training = MiniTraining(tmp_path / "work", RECIPE, CFG, pool=pool)
        with pytest.raises(ValueError, match="stage tower has not been run"):
            training.run("features")
        for stage in STAGES:
            training.run(stage, tmp_path / "mini")
    untrained = initial_weights.init_params(training.cfg, jax.random.key(0))
    model = BatModel.load(tmp_path / "mini")
    assert model.cfg == CFG
    moved = jax.tree.map(
        lambda new, old: not np.allclose(np.asarray(new, np.float32), old, atol=1e-3), model.params, untrained
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
    cases = [[work, "--stage=questions", *small], *([bad_work, "--stage=questions", flag] for flag in wrong)]
    (code, out, err), *failed = run_commands("experiments.train_mini", cases)
    assert code == 0, err
    assert "stage questions" in out
    recipe = json.loads((tmp_path / "work" / "run.json").read_text())["recipe"]
    assert (recipe["num_pictures"], recipe["num_rounds"], recipe["mixed"]["num_steps"]) == (2, 1, 7)
    assert len(Bank.load(tmp_path / "work" / "bank.npz").groups) == 2
    for (code, _, err), message in zip(failed, wrong.values(), strict=True):
        assert code == 1
        assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not (tmp_path / "bad").exists()
