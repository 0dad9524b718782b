"""The flag of devices that share a model, the same for every command that answers."""

from absl import flags
from jax.sharding import Mesh

from bat_jax.config import BatConfig
from bat_jax.engine.mesh import device_mesh

MESH = flags.DEFINE_string(
    "mesh",
    None,
    "Devices that share the model, as data=2,model=4: `model` cuts the decoder's weights, all share a picture's tiles.",
)


def mesh_of_flags(cfg: BatConfig) -> Mesh | None:
    """Return the mesh that the flag names, None without it: one device.

    Raises:
      ValueError: the flag is not understood, or does not fit the model or this host's devices.
    """
    if MESH.value is None:
        return None
    try:
        return device_mesh(cfg, MESH.value)
    except ValueError as error:  # which begins with "mesh"
        raise ValueError(f"--{error}") from error
