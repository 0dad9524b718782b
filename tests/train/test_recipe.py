"""The recipe and its optimiser: the release's numbers, schedules and updates as torch's, no state for frozen parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.train.optimizer import apply_gradients, init_optimizer, make_optimizer, schedule, split_params
from bat_jax.train.recipe import TrainConfig


def test_the_release_preset_holds_the_releases_numbers():
    recipe = TrainConfig.release_7b()
    assert recipe.rates == {
        "vision_tower": 0.0,
        "projector": 2e-6,
        "decoder": 2e-6,
        "scale_embedding": 2e-6,
        "token_mlp": 2e-6,
    }
    assert (recipe.warmup_ratio, recipe.clip_norm, recipe.weight_decay) == (0.2, 0.5, 0.0)
    assert (recipe.batch_size, recipe.epochs, recipe.num_clusters, recipe.max_length) == (16, 2, 3000, 5000)
    assert recipe.label_rule == "release" and recipe.importance_loss_weight == 0 and recipe.remat
    assert recipe.num_steps(10_000) == 1250


def test_a_recipe_survives_json():
    recipe = TrainConfig.paper(visual_rate=1e-5, projection_rate=5e-5, epochs=3, num_clusters=12)
    assert TrainConfig.from_json(recipe.to_json()) == recipe
    assert (recipe.scale_embedding, recipe.projector) == (1e-5, 5e-5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "object"),
        ("{", "valid JSON"),
        ('{"epoch": 1}', "unknown fields"),
        ('{"epochs": 1.5}', "epochs"),
        ('{"decoder": -1}', "decoder"),
        ('{"accumulation": 3}', "accumulation"),
        ('{"label_rule": "all"}', "label_rule"),
        ('{"projector": 0, "decoder": 0, "scale_embedding": 0, "token_mlp": 0}', "nothing would be trained"),
    ],
)
def test_a_wrong_recipe_names_the_field(text, named):
    with pytest.raises(ValueError, match=named):
        TrainConfig.from_json(text)


def test_the_schedule_is_a_literal_warmup_and_cosine():
    rate = schedule(1.0, num_steps=10, warmup_ratio=0.2)
    expected = [0, 0.5, *[0.5 * (1 + np.cos(np.pi * step / 8)) for step in range(9)]]
    np.testing.assert_allclose([rate(step) for step in range(11)], expected, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_equal_torchs_adamw_with_its_own_rate_a_part_and_one_norm_for_all(weight_decay):
    torch = pytest.importorskip("torch")
    rates = {"projector": 1e-2, "decoder": 3e-3}
    recipe = TrainConfig(
        **rates, scale_embedding=0.0, token_mlp=0.0, warmup_ratio=0.5, clip_norm=0.5, weight_decay=weight_decay
    )
    rng = np.random.default_rng(0)
    params = {part: {"kernel": rng.standard_normal((3, 4)).astype(np.float32)} for part in rates}
    tensors = {part: torch.nn.Parameter(torch.from_numpy(params[part]["kernel"].copy())) for part in rates}
    groups = [{"params": [tensors[part]], "lr": rate} for part, rate in rates.items()]
    theirs = torch.optim.AdamW(groups, weight_decay=weight_decay)
    scheduled = torch.optim.lr_scheduler.LambdaLR(
        theirs, lambda step: step / 2 if step < 2 else 0.5 * (1 + np.cos(np.pi * (step - 2) / 2))
    )
    optimizer = make_optimizer(recipe, recipe.rates, num_steps=4)
    state = init_optimizer(optimizer, params)
    for _ in range(4):
        gradients = {part: {"kernel": rng.standard_normal((3, 4)).astype(np.float32)} for part in rates}
        for part, tensor in tensors.items():
            tensor.grad = torch.from_numpy(gradients[part]["kernel"].copy())
        torch.nn.utils.clip_grad_norm_(list(tensors.values()), 0.5)
        theirs.step()
        scheduled.step()
        params, state = apply_gradients(optimizer, gradients, state, jax.tree.map(jnp.asarray, params))
    for part, tensor in tensors.items():
        np.testing.assert_allclose(params[part]["kernel"], tensor.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_frozen_parts_have_no_optimiser_state_and_bf16_weights_have_float32_moments():
    params = {part: {"kernel": jnp.ones((7, 5), jnp.bfloat16)} for part in ("vision_tower", "projector", "decoder")}
    recipe = TrainConfig(decoder=0.0)
    trained, frozen = split_params(recipe, params)
    assert set(trained) == {"projector"} and set(frozen) == {"vision_tower", "decoder"}
    state = init_optimizer(make_optimizer(recipe, recipe.rates, 4), trained)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (7, 5)]
    assert [leaf.dtype for leaf in moments] == [jnp.float32] * 2
    with pytest.raises(ValueError, match="vision_tower, projector"):
        split_params(TrainConfig(vision_tower=1e-3, decoder=0.0, scale_embedding=0.0, token_mlp=0.0), {"decoder": {}})
