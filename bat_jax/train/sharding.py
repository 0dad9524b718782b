"""Where weights, optimiser state, gradients and samples live on a mesh of devices.

    mode     weights    gradients, optimiser state    samples
    data     whole      whole                         split
    zero2    whole      in shards                     split
    zero3    in shards  in shards                     split

Samples and shards are cut over `data`; over `model` weights, moments and gradients are cut as answering cuts weights
(engine/mesh.py), in every mode. All of it is annotation: the step under jit is the same program, and XLA adds the
communication.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bat_jax.config import BatConfig
from bat_jax.engine.mesh import device_mesh, param_sharding
from bat_jax.ops.on_mesh import DATA
from bat_jax.train.recipe import TrainConfig


def make_mesh(cfg: BatConfig, text: str | None = None) -> Mesh:
    """Return a mesh over all devices of all hosts, as "data=2,model=4" says; by default all are `data`.

    Raises:
      ValueError: as `device_mesh`, or there are more devices.
    """
    mesh = device_mesh(cfg, text or f"data={jax.device_count()}", jax.devices())
    if mesh.size != jax.device_count():
        raise ValueError(f"mesh={text}: training takes all devices, there are {jax.device_count()}")
    return mesh


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch (accumulation, samples, ...): samples are split, the rest is whole."""
    return NamedSharding(mesh, PartitionSpec(None, DATA))


def _placed(mesh: Mesh, tree: Any, *, in_shards: bool) -> Any:
    """Return a NamedSharding per leaf: cut over `model` by its path, and in shards over `data`, too.

    A shard is of the longest axis that is whole yet and that `data` divides; without one there are none.
    """
    num_shards = mesh.shape[DATA]

    def place(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = list(param_sharding(mesh, name, leaf.shape).spec)
        spec += [None] * (leaf.ndim - len(spec))
        axes = [i for i, size in enumerate(leaf.shape) if size and spec[i] is None and size % num_shards == 0]
        if in_shards and axes:
            spec[max(axes, key=lambda axis: leaf.shape[axis])] = DATA
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def weights_sharding(recipe: TrainConfig, mesh: Mesh, params: Any) -> Any:
    """Return the shardings of weights, trained or frozen."""
    return _placed(mesh, params, in_shards=recipe.sharding == "zero3")


def optimizer_sharding(recipe: TrainConfig, mesh: Mesh, tree: Any) -> Any:
    """Return the shardings of the optimiser's state or of the gradients."""
    return _placed(mesh, tree, in_shards=recipe.sharding != "data")


def put(tree: Any, shardings: Any) -> Any:
    """Place host arrays that every process holds alike; works on one host and on many."""
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        jax.tree.map(np.asarray, tree),
        shardings,
    )


def check_columns(mesh: Mesh, num_columns: int) -> None:
    """Refuse a micro-batch that cannot be split over `data`.

    Raises:
      ValueError: says so.
    """
    if num_columns % mesh.shape[DATA]:
        raise ValueError(
            f"batch_size / accumulation={num_columns}: must be a multiple of the mesh's data={mesh.shape[DATA]}"
        )


def local_columns(mesh: Mesh, num_columns: int) -> list[int]:
    """Return which of a micro-batch's samples this process must read: those on its devices.

    Raises:
      ValueError: the samples cannot be split over the devices.
    """
    check_columns(mesh, num_columns)
    indices = batch_sharding(mesh).addressable_devices_indices_map((1, num_columns))
    parts = [index[1] for index in indices.values() if index is not None]
    return sorted({column for part in parts for column in range(*part.indices(num_columns))})


def global_batch(mesh: Mesh, local: Any, columns: list[int], num_columns: int) -> Any:
    """Join every process's (accumulation, len(columns), ...) host arrays to arrays (accumulation, num_columns, ...)."""
    sharding = batch_sharding(mesh)
    place = {column: index for index, column in enumerate(columns)}

    def join(array: np.ndarray) -> jax.Array:
        def read(index) -> np.ndarray:
            wanted = [place[column] for column in range(*index[1].indices(num_columns))]
            return array[:, wanted]

        return jax.make_array_from_callback((array.shape[0], num_columns, *array.shape[2:]), sharding, read)

    return jax.tree.map(join, local)
