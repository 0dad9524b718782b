"""The flag of devices that share a model, the same for every command that answers or trains."""

from collections.abc import Callable

from absl import flags
from jax.sharding import Mesh

from bat_jax.config import BatConfig
from bat_jax.engine.mesh import device_mesh
from bat_jax.train.sharding import make_mesh

MESH = flags.DEFINE_string(
    "mesh",
    None,
    "Devices that share the work, as data=2,model=4: `model` cuts the decoder's weights; answering, all share a "
    "picture's tiles; training, `data` shares samples and shards, and all devices by default.",
)


def mesh_of_flags(cfg: BatConfig) -> Mesh | None:
    """Return the mesh that the flag names, None without it: one device.

    Raises:
      ValueError: the flag is not understood, or does not fit the model or this host's devices.
    """
    return None if MESH.value is None else _named(device_mesh, cfg)


def training_mesh_of_flags(cfg: BatConfig) -> Mesh:
    """Return the mesh of all devices that the flag names.

    Raises:
      ValueError: as `mesh_of_flags`, or devices are left out.
    """
    return _named(make_mesh, cfg)


def _named(make: Callable[..., Mesh], cfg: BatConfig) -> Mesh:
    try:
        return make(cfg, MESH.value)
    except ValueError as error:  # which begins with "mesh"
        raise ValueError(f"--{error}") from error
