"""Where arrays lie inside a program that runs on a mesh of devices; without a mesh nothing is said."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from bat_jax.typing import Array

# Axes of the mesh of one model. `copies`: devices that hold the same heads, where there are more devices than key-value
# heads; the rest of the model is cut over them, too.
DATA, HEADS, COPIES = "data", "heads", "copies"
ALL = (DATA, HEADS, COPIES)


def on_mesh(array: Array, *axes: str | tuple[str, ...] | None) -> Array:
    """Return the array, cut over these axes of the mesh of the surrounding program, one an axis of the array.

    Axes of the array that are not named, or None, are whole on every device.
    """
    if not _is_on_mesh():
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*axes))


def rows_on_mesh(array: Array) -> Array:
    """Return the array with its rows (axis 0) shared out over all devices, or whole where they cannot be, evenly."""
    return on_mesh(array, *([ALL] if _is_shared(array.shape[0]) else []))


def over_rows(function: Callable[..., tuple[Any, Any]], rows: Any, *whole: Any) -> tuple[Any, Any]:
    """Return function(rows, *whole), which each device calls on the rows that it holds (`rows_on_mesh`).

    Args:
      function: gives two trees: arrays of as many rows, and sums over the rows, which are added over the devices.
      rows: a tree of arrays of as many rows. whole: what every device holds whole.
    """
    if not _is_shared(jax.tree.leaves(rows)[0].shape[0]):
        return function(rows, *whole)

    def on_device(rows: Any, *whole: Any) -> tuple[Any, Any]:
        of_rows, sums = function(rows, *whole)
        return of_rows, jax.lax.psum(sums, ALL)

    cut, same = PartitionSpec(ALL), PartitionSpec()
    in_specs = (cut, *[same] * len(whole))
    # What is equal on all devices is not told apart from what differs: scans begin with zeros, which are equal.
    return jax.shard_map(on_device, in_specs=in_specs, out_specs=(cut, same), check_vma=False)(rows, *whole)


def _is_on_mesh() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    # Within `over_rows` the axes are another type.
    return HEADS in mesh.axis_names and all(kind == AxisType.Auto for kind in mesh.axis_types)


def _is_shared(num_rows: int) -> bool:
    size = jax.sharding.get_abstract_mesh().size if _is_on_mesh() else 1
    return size > 1 and num_rows % size == 0
