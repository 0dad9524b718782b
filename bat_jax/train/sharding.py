"""Where weights, optimiser state, gradients and samples live on a mesh of devices.

    mode     weights    gradients, optimiser state    samples
    data     whole      whole                         split
    zero2    whole      in shards                     split
    zero3    in shards  in shards                     split

All of it is annotation: the step under jit is the same program, and XLA adds the communication. A mesh of any number of
axes serves; batch and shards are cut over all of them together.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bat_jax.train.recipe import TrainConfig


def make_mesh(shape: tuple[int, ...] | None = None, names: tuple[str, ...] | None = None) -> Mesh:
    """Return a mesh over all devices of all hosts; `shape`: devices along each axis, by default one axis of all.

    Raises:
      ValueError: the shape does not hold as many devices as there are.
    """
    shape = (jax.device_count(),) if shape is None else shape
    names = names or ("data", "fsdp", "replica")[: len(shape)]
    if int(np.prod(shape)) != jax.device_count() or len(names) != len(shape):
        raise ValueError(f"mesh={shape}: needs as many devices as there are ({jax.device_count()}) and a name an axis")
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch (accumulation, samples, ...): samples are split, the rest is whole."""
    return NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))


def sharded(mesh: Mesh, tree: Any) -> Any:
    """Return a NamedSharding per leaf: its longest axis that the number of devices divides is cut, else it is whole."""

    def spec(leaf) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size and size % mesh.size == 0]
        if not axes:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))

    return jax.tree.map(spec, tree)


def whole(mesh: Mesh, tree: Any) -> Any:
    """Return the replicated sharding for every leaf."""
    return jax.tree.map(lambda _: replicated(mesh), tree)


def weights_sharding(recipe: TrainConfig, mesh: Mesh, params: Any) -> Any:
    """Return the shardings of weights, trained or frozen."""
    return sharded(mesh, params) if recipe.sharding == "zero3" else whole(mesh, params)


def optimizer_sharding(recipe: TrainConfig, mesh: Mesh, tree: Any) -> Any:
    """Return the shardings of the optimiser's state or of the gradients."""
    return whole(mesh, tree) if recipe.sharding == "data" else sharded(mesh, tree)


def put(tree: Any, shardings: Any) -> Any:
    """Place host arrays that every process holds alike; works on one host and on many."""
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        jax.tree.map(np.asarray, tree),
        shardings,
    )


def local_columns(mesh: Mesh, num_columns: int) -> list[int]:
    """Return which of a micro-batch's samples this process must read: those on its devices.

    Raises:
      ValueError: the samples cannot be split over the devices.
    """
    if num_columns % mesh.size:
        raise ValueError(
            f"batch_size / accumulation={num_columns}: must be a multiple of the {mesh.size} devices of the mesh"
        )
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
