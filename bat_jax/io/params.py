"""The weights of a bat_jax folder: an Orbax tree under `params/`, read whole, leaf by leaf, or written group by group.

`load_params` is what run time needs. The other functions serve the converter, which never holds more than one group of
leaves: memory is measured there, see `trim_memory` and `orbax_context`.
"""

import ctypes
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from typing import Any

import numpy as np
import tensorstore
import xxhash
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from bat_jax.config import BatConfig, HeldWeights
from bat_jax.io import conversion_table as table
from bat_jax.io.conversion_table import Shape
from bat_jax.io.hf_config import CONFIG_NAME
from bat_jax.io.output_files import write_json
from bat_jax.io.safetensors import adapter_problem, array_bytes, cut_by_bytes, is_adapter, raise_problems
from bat_jax.io.shipped import MINI, checkpoint_folder
from bat_jax.nn.decoder import unstacked
from bat_jax.nn.int8 import held_as
from bat_jax.text_files import is_lfs_pointer, lfs_problem, read_json

PARAMS_FOLDER = "params"
CHECKSUMS_NAME = "checksums.json"  # leaf -> XXH3 of its bytes: what Orbax keeps of an array has no checksum
# Orbax writes a leaf in chunks. 48 MiB is above the 32 MiB from which malloc always returns memory to the system.
_CHUNK_BYTES = 48 * 2**20
_META = "/zarr.json"  # Orbax keeps each leaf as a Zarr array called by its path, with dots
_WHAT_TO_DO = "copy the checkpoint anew, or convert it again with experiments.convert"
_MOST_OF_POINTER = 1024
_GROUP_BYTES = 512 * 2**20  # smaller leaves are handled together, up to this


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Shape and dtype of a leaf, without its values."""

    shape: Shape
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_config(directory: str | pathlib.Path) -> BatConfig:
    """Read the config of a bat_jax folder, or of a shipped checkpoint by its name, without its weights.

    Raises:
      ValueError: no bat_jax folder, or a config that is not valid; names the folder or the file.
    """
    path = checkpoint_folder(directory)
    if not path.is_dir():
        raise ValueError(f"checkpoint={path}: does not exist or is no directory (by name there is {MINI})")
    if is_adapter(path):
        raise ValueError(f"checkpoint={adapter_problem(path)}")
    if not (path / CONFIG_NAME).is_file() or not (path / PARAMS_FOLDER).is_dir():
        raise ValueError(f"checkpoint={path}: is no converted checkpoint; run experiments.convert first")
    return BatConfig.load(path / CONFIG_NAME)


def load_params(
    directory: str | pathlib.Path,
    *,
    place: Callable[[str, Any], Any] = lambda path, array: array,
    layers_apart: bool = False,
    weights: HeldWeights = "stored",
) -> dict[str, Any]:
    """Read the weights of a bat_jax folder as a nested dict of arrays, without what never runs.

    `place` is called with the path and values of every leaf as it arrives. Leaves are read in groups, so that what it
    moves to a device never stands on the host as a whole; by default they stay NumPy arrays. `layers_apart`: as of
    `nn.decoder.layers_apart`, done before placing, so that no stack of layers stands on the device beside them.
    `weights`: as of `nn.int8.held_as`, done after placing, so that a leaf at a time stands there as it is stored.

    Raises:
      ValueError: no bat_jax folder; leaves are missing, left over, or not of the shapes that config.json says, all
        together; or files are damaged.
    """
    _, leaves = inspect_folder(pathlib.Path(directory))
    wanted = {path: leaf for path, leaf in leaves.items() if not path.startswith(table.UNUSED)}
    params = pathlib.Path(directory).absolute() / PARAMS_FOLDER
    placed: dict[str, Any] = {}
    for group in group_leaves(wanted):
        arrays = read_leaves(params, {path: wanted[path] for path in group})
        while arrays:
            path, array = arrays.popitem()
            for name, part in unstacked(path, array) if layers_apart else [(path, array)]:
                placed |= held_as(weights, name, place(name, part))
            del array, part
        trim_memory()
    return traverse_util.unflatten_dict(placed, sep="/")


def inspect_folder(directory: pathlib.Path) -> tuple[BatConfig, dict[str, Leaf]]:
    """Read config and metadata of a bat_jax folder and check them against each other.

    Returns:
      The config and path -> leaf, in the order of `expected_shapes`; leaves under `unused` where there are any.
    """
    config, params = read_config(directory), directory.absolute() / PARAMS_FOLDER
    if not ocp.is_orbax_checkpoint(params):
        raise ValueError(f"{params}: no Orbax checkpoint, or one that was not written to its end; {_WHAT_TO_DO}")
    found = _stored_leaves(params)
    shapes = table.expected_shapes(config)
    problems = [f"{path}: missing" for path in shapes if path not in found and not path.startswith(table.UNUSED)]
    problems += [f"{path}: no part of the model that {CONFIG_NAME} describes" for path in found if path not in shapes]
    problems += [
        f"{path}: shape {found[path].shape}, {CONFIG_NAME} needs {shape}"
        for path, shape in shapes.items()
        if path in found and found[path].shape != shape
    ]
    if problems:
        raise_problems([f"{params}: {problem}" for problem in problems])
    return config, {path: found[path] for path in shapes if path in found}


def read_leaves(params: pathlib.Path, wanted: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    """Read leaves of an Orbax tree, cast to the wanted dtypes.

    Raises:
      ValueError: a file is missing, truncated or changed, as far as it has a checksum.
    """
    stores = _open_leaves(params, wanted)
    try:
        reads = {path: store.read() for path, store in stores.items()}
        arrays = {path: np.asarray(read.result(), wanted[path].dtype) for path, read in reads.items()}
    except ValueError as error:
        raise _damaged(params, error) from None
    stored = _read_checksums(params.parent / CHECKSUMS_NAME)
    for path, found in checksums({path: arrays[path] for path in stored.keys() & arrays.keys()}).items():
        if found != stored[path]:
            raise ValueError(f"{params}: {path} is not what {CHECKSUMS_NAME} says, so a file is damaged; {_WHAT_TO_DO}")
    trim_memory()
    return arrays


def _open_leaves(params: pathlib.Path, paths: Iterable[str] | None = None) -> dict[str, tensorstore.TensorStore]:
    """Open leaves of an Orbax tree, by default all that it has.

    Orbax' own reader meets a damaged file with the errors of all tasks that were waiting beside it.
    """
    manifests = list(params.glob("*/manifest.ocdbt"))
    if len(manifests) != 1:
        raise ValueError(f"{params}: is damaged: manifest.ocdbt is missing; {_WHAT_TO_DO}")
    store = {"driver": "ocdbt", "base": manifests[0].parent.absolute().as_uri()}
    try:
        if paths is None:
            keys = [key.decode() for key in tensorstore.KvStore.open(store).result().list().result()]
            paths = [key.removesuffix(_META).replace(".", "/") for key in keys if key.endswith(_META)]
        spec = {"driver": "zarr3", "open": True}
        opening = {
            path: tensorstore.open(spec | {"kvstore": store | {"path": path.replace("/", ".")}}) for path in paths
        }
        return {path: opened.result() for path, opened in opening.items()}
    except ValueError as error:
        raise _damaged(params, error) from None


def _stored_leaves(params: pathlib.Path) -> dict[str, Leaf]:
    return {path: Leaf(store.shape, store.dtype.numpy_dtype) for path, store in _open_leaves(params).items()}


def _damaged(params: pathlib.Path, error: ValueError) -> ValueError:
    """Return the error of a folder whose files TensorStore cannot read, in one line; names the file where it does."""
    held = [path for path in sorted(params.rglob("*")) if path.is_file() and path.stat().st_size < _MOST_OF_POINTER]
    if pointers := [path for path in held if is_lfs_pointer(path.read_bytes())]:
        return ValueError(lfs_problem(pointers[0]))
    text = " ".join(str(error).split())
    files = re.findall(r'local file "([^"]*[^"/])"', text)
    where = files[-1].removeprefix(f"{params}/") + ": " if files else ""
    reason = "is missing" if text.startswith("NOT_FOUND") else text.rpartition('": ')[2]
    return ValueError(f"{params}: is damaged: {where}{reason}; {_WHAT_TO_DO}")


def checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return path -> checksum of a leaf's bytes; several at a time."""
    with futures.ThreadPoolExecutor() as pool:
        found = pool.map(lambda array: xxhash.xxh3_64_hexdigest(array_bytes(array)), arrays.values())
        return dict(zip(arrays, found, strict=True))


def _read_checksums(path: pathlib.Path) -> dict[str, str]:
    """Return path -> checksum; of a folder that was written before there were any, none."""
    if not path.is_file():
        return {}
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: is damaged: {error}; {_WHAT_TO_DO}") from None


def write_checksums(directory: pathlib.Path) -> None:
    """Write the checksums of the leaves that a folder holds."""
    params = directory.absolute() / PARAMS_FOLDER
    leaves = _stored_leaves(params)
    found: dict[str, str] = {}
    for group in group_leaves(leaves):
        found |= checksums(read_leaves(params, {path: leaves[path] for path in group}))
    write_json(directory / CHECKSUMS_NAME, found)


def group_leaves(leaves: Mapping[str, Leaf]) -> list[list[str]]:
    """Return the paths in order, in groups of at most 512 MiB; a larger leaf is a group of its own."""
    return cut_by_bytes({path: leaf.num_bytes for path, leaf in leaves.items()}, _GROUP_BYTES)


def orbax_context() -> ocp.Context:
    """Return the settings the converter writes with."""
    context = ocp.Context()
    # Weights hardly compress (a fifth), and reading is three times as fast without.
    context.array.saving.use_compression = False
    context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
    context.array.saving.storage_options.shard_axes = (0,)
    # The copy guards against changes during an asynchronous save; ours is not one.
    context.memory.deepcopy_host_arrays = False
    return context


def trim_memory() -> None:
    """Give freed memory back to the system; Orbax's small buffers otherwise stay with the C allocator, leaf on leaf."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
