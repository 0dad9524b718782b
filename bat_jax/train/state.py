"""The state of a training and its checkpoints: everything that decides what comes next, saved together.

A checkpoint holds the trained weights (frozen ones are read from the model's checkpoint), the optimiser and the step,
which is the data position, too; random keys come from the recipe's seed. So a run killed at any moment goes on as if
nothing had happened. Orbax writes it in the background; one that was not written to its end is never read.
"""

import pathlib
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from bat_jax.typing import Array, Int, Params


class TrainState(NamedTuple):
    """step (): optimiser steps done, and batches consumed. params: the trained parts. opt_state: of optax."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any


class Checkpoints:
    """The checkpoints of one run, in folders by step; the newest `keep` stay."""

    def __init__(self, directory: str | pathlib.Path, keep: int = 2):
        """Open (or make) the folder of checkpoints.

        Raises:
          ValueError: keep is not positive.
        """
        if keep < 1:
            raise ValueError(f"keep_checkpoints={keep}: must be at least 1, or nothing could be resumed")
        self._checkpointer = ocp.training.Checkpointer(
            pathlib.Path(directory).absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, None without any."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState) -> None:
        """Begin to write a checkpoint in the background; waits only for the one before."""
        if self.latest_step != step:
            self._checkpointer.save_async(step, _named_leaves(state), force=True)

    def restore(self, like: TrainState) -> TrainState:
        """Read the newest checkpoint into the shapes and shardings of `like`.

        Raises:
          ValueError: it is of another model or recipe.
        """
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _named_leaves(like).items()
        }
        found = set(self._checkpointer.metadata().metadata)
        if found != set(abstract):
            different = sorted(found ^ set(abstract))
            raise ValueError(f"checkpoint: trained other parts than the recipe: {', '.join(different[:4])} ...")
        leaves = self._checkpointer.load(abstract_state=abstract)
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in abstract])

    def close(self) -> None:
        """Wait until everything is on the disk."""
        self._checkpointer.close()


def _named_leaves(state: TrainState) -> dict[str, Any]:
    """Return path -> leaf; plain names, so that no class of optax is part of the files."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
