"""Where arrays lie inside a program that runs on a mesh of devices; without a mesh nothing is said."""

import jax
from jax.sharding import PartitionSpec

from bat_jax.typing import Array

# Axes of the mesh of one model. `copies`: devices that hold the same heads, where there are more devices than key-value
# heads; the rest of the model is cut over them, too.
DATA, HEADS, COPIES = "data", "heads", "copies"
ALL = (DATA, HEADS, COPIES)


def on_mesh(array: Array, *axes: str | tuple[str, ...] | None) -> Array:
    """Return the array, cut over these axes of the mesh of the surrounding program, one an axis of the array.

    Axes of the array that are not named, or None, are whole on every device.
    """
    if HEADS not in jax.sharding.get_abstract_mesh().axis_names:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*axes))
