"""Where arrays lie inside a program that runs on a mesh of devices; without a mesh nothing is said."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from bat_jax.typing import Array

# Axes of the mesh of one model. `copies`: devices that hold the same heads, where there are more devices than key-value
# heads; the rest of the model is cut over them, too.
DATA, HEADS, COPIES = "data", "heads", "copies"
ALL = (DATA, HEADS, COPIES)


def on_mesh(array: Array, *axes: str | tuple[str, ...] | None) -> Array:
    """Return the array, cut over these axes of the mesh of the surrounding program, one an axis of the array.

    Axes of the array that are not named, or None, are whole on every device.
    """
    if surrounding_mesh() is None:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*axes))


def rows_on_mesh(array: Array) -> Array:
    """Return the array with its rows (axis 0) shared out over all devices, or whole where they cannot be, evenly."""
    mesh = surrounding_mesh()
    return array if mesh is None else on_mesh(array, *rows_spec(mesh, array.shape[0]))


def rows_spec(mesh: Mesh | AbstractMesh, num_rows: int) -> PartitionSpec:
    """Return how so many rows lie on a mesh: shared out over all devices where these divide them, or whole."""
    return cut_over(mesh, 0, ALL) if num_rows % mesh.size == 0 else PartitionSpec()


def cut_over(mesh: Mesh | AbstractMesh, axis: int, names: Sequence[str]) -> PartitionSpec:
    """Return that an array's `axis` is cut over these axes of a mesh, in the words of a program's results.

    Axes of one device are left out there; and programs are told apart by the words.
    """
    named = tuple(name for name in names if mesh.shape[name] > 1)
    return PartitionSpec(*[None] * axis, named) if named else PartitionSpec()


def over_rows(function: Callable[..., tuple[Any, Any]], rows: Any, *whole: Any) -> tuple[Any, Any]:
    """Return function(rows, *whole), which each device calls on the rows that it holds (`rows_on_mesh`).

    Args:
      function: gives two trees: arrays of as many rows, and sums over the rows, which are added over the devices.
      rows: a tree of arrays of as many rows. whole: what every device holds whole.
    """
    mesh = surrounding_mesh()
    if mesh is None or not rows_spec(mesh, jax.tree.leaves(rows)[0].shape[0]):
        return function(rows, *whole)

    def on_device(rows: Any, *whole: Any) -> tuple[Any, Any]:
        of_rows, sums = function(rows, *whole)
        return of_rows, jax.lax.psum(sums, ALL)

    cut, same = PartitionSpec(ALL), PartitionSpec()
    in_specs = (cut, *[same] * len(whole))
    # What is equal on all devices is not told apart from what differs: scans begin with zeros, which are equal.
    return jax.shard_map(on_device, in_specs=in_specs, out_specs=(cut, same), check_vma=False)(rows, *whole)


def surrounding_mesh() -> AbstractMesh | None:
    """Return the mesh of the program that is being traced, or None."""
    mesh = jax.sharding.get_abstract_mesh()
    # Within `over_rows` the axes are another type.
    is_ours = HEADS in mesh.axis_names and all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh if is_ours else None
