"""Read and write folders of safetensors files without holding them in memory.

A safetensors file is eight bytes (the header's length, little endian), a JSON header `{name: {"dtype", "shape",
"data_offsets"}}` and the tensors' bytes. A tensor is a read-only view into the memory-mapped file, whose pages the
system can drop at any time. The `safetensors` package copies every tensor it reads, needs all that it writes in memory
(15.9 GB of a 7B model), and names neither the tensor nor the file of a broken header.

Pickled weights (.bin, .pt, .pth) are never opened: unpickling runs code that the file brings along.
"""

import contextlib
import json
import mmap
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeGuard

import ml_dtypes
import numpy as np

from bat_jax.text_files import is_lfs_pointer, lfs_problem, read_json

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

INDEX_NAME = "model.safetensors.index.json"
DEFAULT_SHARD_BYTES = 5 * 10**9
# The format itself allows 100 MB; anything above is a broken length, not a header.
_MAX_HEADER_BYTES = 100_000_000
_ADAPTER_FILE, _MODEL_FILE = (
    re.compile(r"adapter_(config|model)\b"),
    re.compile(r"(pytorch_)?model\b.*\.(safetensors|bin)"),
)
# Of LoRA, DoRA and IA3, under any file's name.
_ADAPTER_TENSOR = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|ia3_l)\b")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class TensorSpec(NamedTuple):
    """Name, shape and dtype of a tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class TensorInfo(NamedTuple):
    """Where a tensor lies: bytes [start, stop) of the file at `path`, counted from the file's first byte."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    path: pathlib.Path
    start: int
    stop: int


def raise_problems(problems: Sequence[str]) -> NoReturn:
    """Raise one ValueError that holds every problem: the sentence itself if there is one, else a counted list."""
    if len(problems) == 1:
        raise ValueError(problems[0])
    raise ValueError(f"{len(problems)} problems:" + "".join(f"\n  - {problem}" for problem in problems))


class TensorFolder:
    """The tensors of one folder, read lazily; `infos`: name -> TensorInfo in the order of files and headers."""

    def __init__(self, path: pathlib.Path, infos: Mapping[str, TensorInfo]):
        self.path = path
        self.infos = dict(infos)
        self._maps: dict[pathlib.Path, mmap.mmap] = {}

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as a read-only view of the memory-mapped file (no copy, no anonymous memory)."""
        info = self.infos[name]
        if info.start == info.stop:
            return np.empty(info.shape, info.dtype)
        if info.path not in self._maps:
            with open(info.path, "rb") as file:
                self._maps[info.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(info.shape, info.dtype, buffer=self._maps[info.path], offset=info.start)


def read_header(path: pathlib.Path) -> dict[str, TensorInfo]:
    """Parse a file's header, in its order, and check that the data it promises is there.

    Raises:
      ValueError: the file is truncated, longer than its header says, or its header is broken; names file and tensor.
    """
    with open(path, "rb") as file:
        return parse_header(file, path)[0]


def parse_header(file: BinaryIO, path: pathlib.Path) -> tuple[dict[str, TensorInfo], dict[str, Any]]:
    """Do as `read_header` with an open file, which then stands at its data; returns its metadata, too."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if is_lfs_pointer(start + file.read(92)):
        raise ValueError(lfs_problem(path))
    file.seek(8)
    length = int.from_bytes(start, "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"{path}: truncated: {size} bytes, and the header alone needs {8 + length}")
    try:
        pairs = json.loads(file.read(length), object_pairs_hook=_Pairs)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: the header is no JSON ({error})") from None
    if not isinstance(pairs, _Pairs):
        raise ValueError(f"{path}: the header is no JSON object")
    infos: dict[str, TensorInfo] = {}
    metadata: dict[str, Any] = {}
    data_start = 8 + length
    for name, entry in pairs:
        if name == "__metadata__":
            metadata = dict(entry) if isinstance(entry, _Pairs) else {}
            continue
        if name in infos:
            raise ValueError(f"{path}: tensor {name} stands twice in the header")
        infos[name] = _parse_entry(path, name, entry, data_start)
    needed = max((info.stop for info in infos.values()), default=data_start)
    if needed > size:
        raise ValueError(f"{path}: truncated: the header promises {needed} bytes, the file has {size}")
    if needed < size:
        raise ValueError(f"{path}: {size - needed} bytes more than the header accounts for")
    return infos, metadata


class _Pairs(list):
    """A JSON object as its (key, value) pairs, so that a key standing twice is seen."""


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _parse_entry(path: pathlib.Path, name: str, entry: object, data_start: int) -> TensorInfo:
    fields = dict(entry) if isinstance(entry, _Pairs) else {}
    shape, offsets, dtype_name = fields.get("shape"), fields.get("data_offsets"), fields.get("dtype")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{path}: tensor {name}: the header's entry is broken")
    if dtype_name not in DTYPES:
        raise ValueError(f"{path}: tensor {name}: dtype {dtype_name} is not one of {', '.join(DTYPES)}")
    spec = TensorSpec(name, tuple(shape), DTYPES[dtype_name])
    if offsets[1] - offsets[0] != spec.num_bytes:
        raise ValueError(
            f"{path}: tensor {name}: {offsets[1] - offsets[0]} bytes of data for shape {spec.shape} of {dtype_name}, "
            f"which needs {spec.num_bytes}"
        )
    return TensorInfo(name, spec.shape, spec.dtype, path, data_start + offsets[0], data_start + offsets[1])


def open_folder(path: str | pathlib.Path) -> TensorFolder:
    """Read the headers of all safetensors files of a folder.

    With a `model.safetensors.index.json` the index decides which files and which tensors there must be; without one,
    all *.safetensors files of the folder are taken.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: no safetensors file (pickled weights are refused with a hint), a Git LFS pointer in a file's place, an
        adapter in a checkpoint's place; or, all of them together: a truncated or broken shard, an absent shard, a
        tensor that the index lists and no shard holds, or one that two shards hold.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if is_adapter(folder):
        raise ValueError(adapter_problem(folder))
    index_path = folder / INDEX_NAME
    weight_map: dict[str, str] | None = None
    if index_path.is_file():
        weight_map = _read_index(index_path)
        files = sorted({folder / file_name for file_name in weight_map.values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ValueError(_explain_no_weights(folder))
    pointers = [file for file in files if file.is_file() and is_lfs_pointer(_head(file))]
    if pointers:
        raise ValueError(f"{lfs_problem(pointers[0])} ({len(pointers)} of {len(files)} weight files are pointers)")
    problems: list[str] = []
    infos: dict[str, TensorInfo] = {}
    broken: set[str] = set()
    for file in files:
        if not file.is_file():
            problems.append(f"{index_path} names the shard {file.name}, which is not in the folder")
            broken.add(file.name)
            continue
        try:
            header = read_header(file)
        except ValueError as error:
            problems.append(str(error))
            broken.add(file.name)
            continue
        for name, info in header.items():
            if name in infos:
                problems.append(f"tensor {name} stands in two shards, {infos[name].path} and {file}")
            infos[name] = info
    for name, file_name in (weight_map or {}).items():
        if file_name in broken:
            continue
        if name not in infos:
            problems.append(f"{index_path} lists the tensor {name}, but {folder / file_name} does not hold it")
        elif infos[name].path.name != file_name:
            problems.append(
                f"{index_path} lists the tensor {name} in {file_name}, but it is in {infos[name].path.name}"
            )
    if any(_ADAPTER_TENSOR.search(name) for name in infos):
        raise ValueError(adapter_problem(folder))
    if problems:
        raise_problems(problems)
    return TensorFolder(folder, infos)


def _head(path: pathlib.Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(100)


def is_adapter(folder: pathlib.Path) -> bool:
    """Whether a folder holds what PEFT or LLaVA saves of an adapter, and no model beside it."""
    names = [file.name for file in folder.iterdir()]
    return any(map(_ADAPTER_FILE.match, names)) and not any(map(_MODEL_FILE.match, names))


def adapter_problem(folder: pathlib.Path) -> str:
    """Return what to say of such a folder."""
    base = "its base model"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        named = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        base += f" {named}" if isinstance(named, str) and named else ""
    return (
        f"{folder}: is a LoRA adapter (or another of PEFT's) and not a whole checkpoint; merge it into {base} "
        "first, with peft's PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(DIR); then "
        "convert DIR"
    )


def _read_index(path: pathlib.Path) -> dict[str, str]:
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    is_sound = isinstance(weight_map, dict) and all(isinstance(value, str) for value in weight_map.values())
    if not is_sound or not weight_map:
        raise ValueError(f"{path}: no valid index: weight_map must map tensor names to file names")
    outside = [name for name in weight_map.values() if pathlib.PurePath(name).name != name]
    if outside:
        raise ValueError(f"{path}: the index names a file outside its folder: {outside[0]}")
    return weight_map


def _explain_no_weights(folder: pathlib.Path) -> str:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in _PICKLE_SUFFIXES)
    if not pickles:
        return f"{folder}: no *.safetensors file in it"
    return (
        f"{folder}: only pickled weights ({', '.join(pickles[:3])}{', ...' if len(pickles) > 3 else ''}), which are "
        "never loaded because unpickling runs code; get the safetensors revision of the checkpoint, or load it with "
        "transformers where you trust the file and write it again with save_pretrained(..., safe_serialization=True)"
    )


def cut_by_bytes(num_bytes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Cut names, in order, into groups of at most `limit` bytes together; a larger one is a group of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in num_bytes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def write_folder(
    folder: str | pathlib.Path,
    specs: Sequence[TensorSpec],
    arrays: Iterable[np.ndarray],
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write tensors into an existing folder as `model-0000i-of-0000n.safetensors` and an index, one at a time.

    The authors' release reads the scale residuals and the token MLP only where an index file is, hence an index even
    for a single shard.

    Args:
      specs: every tensor's name, shape and dtype, since a file's header comes first.
      arrays: the tensors in the same order; consumed lazily.

    Raises:
      ValueError: two tensors have the same name, or an array is not as its spec says.
    """
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"tensor names stand twice: {', '.join(twice)}")
    folder = pathlib.Path(folder)
    shards = cut_by_bytes({spec.name: spec.num_bytes for spec in specs}, max_shard_bytes)
    by_name = {spec.name: spec for spec in specs}
    stream = iter(arrays)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file_name, [by_name[name] for name in shard], stream)
        weight_map |= dict.fromkeys(shard, file_name)
    total_size = sum(spec.num_bytes for spec in specs)
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _write_file(path: pathlib.Path, specs: Sequence[TensorSpec], arrays: Iterator[np.ndarray]) -> None:
    with open(path, "wb") as file:
        # transformers refuses a file whose metadata does not name a framework; "pt" is what its own files say.
        file.write(header_bytes(specs, {"format": "pt"}))
        for spec in specs:
            array = next(arrays)
            if array.shape != spec.shape or array.dtype != spec.dtype:
                raise ValueError(
                    f"{spec.name}: {array.dtype} {array.shape} came, {spec.dtype} {spec.shape} was announced"
                )
            file.write(array_bytes(array))
            del array  # a view would keep its whole source alive while the next one is made


def header_bytes(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Return what stands in front of the tensors' bytes."""
    header: dict[str, Mapping[str, object]] = {"__metadata__": metadata}
    start = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": _DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, start + spec.num_bytes],
        }
        start += spec.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the data aligned, as the format asks
    return len(text).to_bytes(8, "little") + text


def array_bytes(array: np.ndarray) -> memoryview:
    """Return an array's bytes in row-major order, without a copy where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
