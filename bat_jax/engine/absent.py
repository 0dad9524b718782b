"""Compiles programs for devices that are not here, by XLA's own compilers: memory, and the program as text.

    program = compile_for("h200", jax.nn.softmax, jax.ShapeDtypeStruct((8, 1024), jnp.bfloat16))
    program.memory_analysis().temp_size_in_bytes, program.as_text()

No device and no driver is needed, only the compiler: the extra `fit` for GPUs, `fit-tpu` for TPUs. Nothing can be run.
What JAX computes meanwhile stays on the devices that are here.
"""

import contextlib
import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bat_jax.engine.devices import DeviceFacts, find_device

_EXTRAS = {"cuda": "fit", "tpu": "fit-tpu"}
_SHORTEST_CACHED = "jax_persistent_cache_min_compile_time_secs"
_GPU_PLUGIN = "jax_plugins.xla_cuda12"
# libtpu asks the cloud's metadata server what it runs on, for minutes, unless it is told.
_TPU_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    # It locks the TPU for one process, also where there is none, and a process that was killed leaves the lock.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class NoCompilerError(ValueError):
    """The compiler for a device is not installed; the message names the extra that brings it."""


def absent_mesh(device: str, axes: Mapping[str, int] | None = None) -> Mesh:
    """Return a mesh of devices that are not here; `axes`: name -> how many, one device by default.

    Raises:
      ValueError: no such device is known.
      NoCompilerError: its compiler is not installed.
    """
    facts, axes = find_device(device), dict(axes or {"model": 1})
    count = math.prod(axes.values())
    devices = np.array(_devices(facts, count)[:count]).reshape(tuple(axes.values()))
    return Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def placed(mesh: Mesh, tree: Any) -> Any:
    """Return the shapes and dtypes of a tree on a mesh: whole on every device, but for leaves that have a sharding."""

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None:
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(place, tree)


def compile_for(
    where: str | Mesh,
    function: Callable[..., Any],
    *args: Any,
    static: tuple[Any, ...] = (),
    mesh_is_known: bool = True,
    **options: Any,
) -> jax.stages.Compiled:
    """Compile function(*static, *args) for one device by name, or for an `absent_mesh`.

    Args:
      args: trees of arrays or ShapeDtypeStructs; those without a sharding of the mesh are whole on every device.
      static: leading arguments that the program is specialised to.
      mesh_is_known: the program says itself where arrays lie (`ops.on_mesh`), as answering does; training leaves it to
        its arguments.
      options: of `jax.jit`, for instance donate_argnums (counted with `static`) or out_shardings.

    Returns:
      JAX's compiled program: `memory_analysis()` in bytes a device, `as_text()` the optimised HLO.

    Raises:
      ValueError, NoCompilerError: as `absent_mesh`.
      jax.errors.JaxRuntimeError: XLA cannot compile it; RESOURCE_EXHAUSTED where a TPU's memory is too small.
    """
    mesh = absent_mesh(where) if isinstance(where, str) else where
    jitted = jax.jit(function, static_argnums=tuple(range(len(static))), **options)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh_is_known else contextlib.nullcontext():
        lowered = jitted.lower(*static, *placed(mesh, args))
    # JAX could not read such programs back from its cache of compiled ones, and would warn: none takes long enough.
    shortest = getattr(jax.config, _SHORTEST_CACHED)
    jax.config.update(_SHORTEST_CACHED, math.inf)
    try:
        return lowered.compile(compiler_options=_compiler_options(mesh.devices.flat[0].platform))
    finally:
        jax.config.update(_SHORTEST_CACHED, shortest)


def results_of(program: jax.stages.Compiled) -> Any:
    """Return the shapes of what a program returns, where it leaves them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        program.out_info,
        program.output_shardings,
    )


def _devices(facts: DeviceFacts, count: int) -> list[Any]:
    """Return `count` or more devices of a kind, all in one process."""
    if facts.platform == "cuda":
        _need("cuda", _GPU_PLUGIN)
        _register_gpu_compiler()
        extent = f"1x1x{count}"  # hosts, processes, devices
        settings = {"topology": extent, "target_config": facts.target}
        return list(topologies.get_topology_desc(extent, "cuda", **settings).devices)
    _need(facts.platform, "libtpu")
    for name, value in _TPU_SETTINGS.items():
        os.environ.setdefault(name, value)
    # Four chips are the smallest slice that every version has; larger ones are square, or half as wide as long.
    side = 2 ** max(1, math.ceil(math.log2(count) / 2))
    sides = [side, side // 2 if side > 2 and 2 * count <= side**2 else side]
    sides += [1] * (facts.topology == "v5p")
    name = f"{facts.topology}:{'x'.join(map(str, sides))}"
    return list(topologies.get_topology_desc(name, "tpu").devices)


def _spec(module: str) -> Any:
    """Return where a module lies, None where it is not installed; nothing is imported but the packages it lies in."""
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package that would hold it
        return None


def _need(platform: str, module: str) -> None:
    if _spec(module) is None:
        raise NoCompilerError(
            f"device: XLA's compiler for {platform} is not installed; pip install 'bat_jax[{_EXTRAS[platform]}]'"
        )


@functools.cache
def _register_gpu_compiler() -> None:
    """Make JAX know the plugin, which it refuses at its start where there is no driver."""
    jax.devices()  # what is here is found first, so that the plugin is not asked for devices
    try:
        topologies.get_topology_desc("1x1x1", "cuda", topology="1x1x1", target_config=find_device("h200").target)
    except NotImplementedError:
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
        importlib.import_module(_GPU_PLUGIN).initialize()


def _compiler_options(platform: str) -> dict[str, Any]:
    if platform not in ("gpu", "cuda"):
        return {}
    # With Triton's products on, the tower's product of 4,616 rows fails to tile.
    # Whatever the flags of this process ask for, the program is the one that a user would run.
    options: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False, "xla_backend_optimization_level": 3}
    toolkit = _spec("nvidia.cuda_nvcc")  # the wheel with ptxas and libdevice, where no toolkit is installed
    if toolkit is not None:
        options["xla_gpu_cuda_data_dir"] = next(iter(toolkit.submodule_search_locations))
    return options
