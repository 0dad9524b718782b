"""A step of fine-tuning as an `AbstractRun`: weights, moments, a batch, and the program that changes them."""

from typing import Any

import jax
import jax.numpy as jnp

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.engine.cost import Text
from bat_jax.fit.abstract_run import AbstractRun, bytes_of
from bat_jax.io.prompts import bucket
from bat_jax.train.batches import BatchMaker
from bat_jax.train.finetune import step_layout
from bat_jax.train.loop import train_step
from bat_jax.train.loss import training_config
from bat_jax.train.optimizer import split_params
from bat_jax.train.recipe import TrainConfig
from bat_jax.train.sharding import batch_sharding, check_columns
from bat_jax.train.state import TrainState


def train(run: AbstractRun, cfg: BatConfig, recipe: TrainConfig, text: Text) -> int:
    """Run one step over the run's mesh, on which weights and samples lie as the recipe's `sharding` says.

    Returns:
      Bytes a device of the weights, trained and frozen.

    Raises:
      ValueError: the recipe does not fit the model or the mesh.
    """
    params, cfg = bat.loaded_shapes(cfg), training_config(cfg, recipe)
    num_columns = recipe.batch_size // recipe.accumulation
    check_columns(run.mesh, num_columns)
    trained, frozen = split_params(recipe, params)
    if recipe.master_weights:
        trained = jax.tree.map(lambda leaf: leaf.update(dtype=jnp.float32), trained)
    layout = step_layout(cfg, recipe, trained, frozen, run.mesh, num_steps=1000)
    state: Any = (jax.ShapeDtypeStruct((), jnp.int32), trained, jax.eval_shape(layout.init, trained))
    fixed = {"frozen": frozen, "table": jax.ShapeDtypeStruct((256, 3), jnp.float32)}
    sample = BatchMaker(cfg, recipe, None, [], "").empty_sample((text.prefix, bucket(text.question + text.answer)))
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((recipe.accumulation, num_columns, *leaf.shape), leaf.dtype), sample
    )
    state, fixed = run.hold(_at(TrainState._make(state), layout.state)), run.hold(_at(fixed, layout.fixed))
    batch = run.hold(jax.tree.map(lambda leaf: leaf.update(sharding=batch_sharding(run.mesh)), batch))
    step = train_step(layout.gradients_of, layout.optimizer)
    run.stage(
        "training step",
        step,
        (),
        state,
        fixed,
        batch,
        donate_argnums=0,
        out_shardings=(layout.state, layout.whole),
        mesh_is_known=False,
    )
    return sum(map(bytes_of, jax.tree.leaves((state.params, fixed["frozen"]))))


def _at(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), tree, shardings)
