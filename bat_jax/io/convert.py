"""Convert checkpoints: Hugging Face safetensors -> our folder with an Orbax tree, and back; read the tree at run time.

A converted folder holds `params/` (Orbax, one stacked leaf per kind of tensor), `checksums.json` of these leaves,
`config.json` (BatConfig), `source_config.json` (the Hugging Face config as it came, with the tower's config under
"vision_tower") and `tokenizer/`. It is written beside its final place and renamed at the end, after every tensor was
read back and compared with the source; NaN and infinity are refused. What is checked before anything is written:
`conversion_plan`.

Memory: sources are memory-mapped files and one stacked leaf is built at a time. Leaves above 1 GiB are built in a
scratch file, because Orbax keeps a leaf's size in buffers while it writes; with the leaf itself on top of that, the
3.8 GB mlp kernels of a 7B model would need 7.5 GB.
"""

import contextlib
import dataclasses
import mmap
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from bat_jax.config import BatConfig, DecoderConfig, VisionConfig
from bat_jax.io import conversion_table as table
from bat_jax.io import hf_config
from bat_jax.io.conversion_plan import DTYPES, Piece, Plan, bits_equal, plan_checkpoint, plan_decoder, plan_vision_tower
from bat_jax.io.conversion_table import Shape
from bat_jax.io.gguf import GgufFile
from bat_jax.io.hf_config import CONFIG_NAME, TOWER_FOLDER, config_from_hf
from bat_jax.io.hf_decoder import decoder_config, ignored_fields
from bat_jax.io.hf_fields import read_json
from bat_jax.io.output_files import beside, replace_dir, write_json
from bat_jax.io.params import (
    CHECKSUMS_NAME,
    PARAMS_FOLDER,
    Leaf,
    checksums,
    group_leaves,
    inspect_folder,
    orbax_context,
    read_leaves,
    trim_memory,
)
from bat_jax.io.prompts import TOKENIZER_FILES, load_tokenizer
from bat_jax.io.safetensors import TensorFolder, TensorSpec, open_folder, raise_problems, write_folder

TOKENIZER_FOLDER, SOURCE_CONFIG_NAME = "tokenizer", "source_config.json"
_TOKENIZER_PATTERNS = (
    *("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template*", "generation_config.json"),
)
_SCRATCH_BYTES = 2**30  # leaves above this are built in a scratch file
_BLOCK = 2**24  # elements that are tested or compared at a time

# Called with (what is being done, bytes done, bytes in all).
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
      parts: part -> (parameters, bytes), for example "projector" -> (16_522_240, 33_044_480).
      absent: parts that the checkpoint lacks and that are therefore off.
      notes: what was ignored or decided, a sentence each.
      num_checked: tensors that were compared between the source and what was read back from the written files.
      max_abs_error: the largest difference found there; 0.0 unless the dtype changed.
    """

    parts: dict[str, tuple[int, int]]
    absent: tuple[str, ...]
    notes: tuple[str, ...]
    num_checked: int
    max_abs_error: float


def convert(
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    vision_tower: str | pathlib.Path | None = None,
    dtype: str | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert a LLaVA-Qwen folder (LongVA or UHR-BAT layout, safetensors) into a bat_jax folder.

    Args:
      output: folder to make; appears only when everything is written and checked.
      vision_tower: CLIP folder; its weights are used where the source holds none, its config.json always.
      dtype: "float32", "bfloat16" or "float16" to store all weights so; None keeps the source's.
      overwrite: replace an earlier conversion at `output`. progress: called after every leaf.

    Raises:
      ValueError: everything that is wrong with the source, together; `output` is not made.
      OSError: `output` cannot be written, exists, or does not fit on the disk.
    """
    source, output = pathlib.Path(source), pathlib.Path(output).absolute()
    vision_tower = pathlib.Path(vision_tower) if vision_tower is not None else None
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    if (source / PARAMS_FOLDER).is_dir() and (source / SOURCE_CONFIG_NAME).is_file():
        raise ValueError(f"{source} is converted already; pass --to_hf to convert it back")
    open_folder(source)  # weights that cannot be read are named before anything that their config lacks
    config = config_from_hf(source, vision_tower)
    plan, notes = plan_checkpoint(source, vision_tower, config, DTYPES[dtype] if dtype else None)
    shapes = table.expected_shapes(config)
    leaves = {path: Leaf(shapes[path], DTYPES[dtype] if dtype else plan[path][0].info.dtype) for path in plan}
    values = read_json(source / CONFIG_NAME)
    clip_values, clip_where = hf_config.find_clip_config(source, vision_tower, values)
    notes += [f"the vision tower's sizes come from {clip_where}", *ignored_fields(values)]
    notes.append(hf_config.preprocessing_note(source, vision_tower))
    with _staged(output, (source, vision_tower), overwrite, leaves) as stage:
        if not _copy_tokenizer(source, stage / TOKENIZER_FOLDER, config.decoder.vocab_size):
            notes.append(f"no tokenizer files in {source}")
        params = stage / PARAMS_FOLDER
        write_json(stage / CHECKSUMS_NAME, _write_params(params, plan, leaves, progress))
        (stage / CONFIG_NAME).write_text(config.to_json())
        write_json(stage / SOURCE_CONFIG_NAME, values | {TOWER_FOLDER: clip_values})
        max_abs_error = _check_written(plan, params, leaves, progress)
    return _report(leaves, config, notes, plan, max_abs_error)


def convert_back(
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Write a bat_jax folder as Hugging Face safetensors with the tensor names of the authors' release.

    Dtypes are as stored; what never runs (`unused`) is written too, so that a checkpoint that was converted without a
    change of dtype comes back bit for bit. The outer alias `multiscale_token_mlp.*` is left out: safetensors refuses
    tensors that share memory, and the release reads the inner names.

    Raises: as `convert`.
    """
    source, output = pathlib.Path(source), pathlib.Path(output).absolute()
    config, leaves = inspect_folder(source)
    values, clip_values = _source_config(source, config)
    num_run_layers = config.vision.num_run_layers
    specs = [
        TensorSpec(name, shape, leaf.dtype)
        for path, leaf in leaves.items()
        for name, _, shape, _ in table.tensors_of(path, leaf.shape, num_run_layers)
    ]
    params = (source / PARAMS_FOLDER).absolute()
    with _staged(output, (source,), overwrite, leaves) as stage:
        write_folder(stage, specs, _hf_arrays(params, leaves, num_run_layers, progress))
        write_json(stage / CONFIG_NAME, values)
        (stage / TOWER_FOLDER).mkdir()
        write_json(stage / TOWER_FOLDER / CONFIG_NAME, clip_values)
        write_json(stage / TOWER_FOLDER / hf_config.PREPROCESSOR_NAME, hf_config.preprocessor_to_hf(config.vision))
        _copy_tokenizer(source / TOKENIZER_FOLDER, stage)
        written = config_from_hf(stage)
        for field in ("vision", "decoder", "scale_embedding", "has_token_mlp"):
            if getattr(written, field) != getattr(config, field):
                raise ValueError(f"{source}: {field} in {CONFIG_NAME} is not what {SOURCE_CONFIG_NAME} describes")
        plan, notes = plan_checkpoint(stage, None, config)
        max_abs_error = _check_written(plan, params, leaves, progress)
    return _report(leaves, config, notes, plan, max_abs_error)


def convert_decoder(source: str | pathlib.Path) -> tuple[DecoderConfig, dict[str, Any]]:
    """Read a decoder alone into memory: its config and the tree under "decoder" (embed_tokens, ...).

    Args:
      source: a folder as Qwen2ForCausalLM or LlamaForCausalLM writes it, or a GGUF file, whose weights become float32.

    Raises:
      ValueError: everything that does not fit, together.
    """
    path = pathlib.Path(source)
    tensors: TensorFolder
    if path.suffix == ".gguf":
        tensors = file = GgufFile(path)
        values, where = file.config, path
    else:
        values, where = read_json(path / CONFIG_NAME), path / CONFIG_NAME
        tensors = open_folder(path)
    cfg = decoder_config(values, str(where))
    return cfg, _build_tree(plan_decoder(tensors, cfg), table.decoder_shapes(cfg))["decoder"]


def convert_vision_tower(source: str | pathlib.Path, select_layer: int = -2) -> tuple[VisionConfig, dict[str, Any]]:
    """Read a CLIPVisionModel or CLIPModel folder into memory: its config and the tree under "vision_tower".

    `select_layer` decides how many layers the tree holds; -1 for all.

    Raises:
      ValueError: everything that does not fit, together.
    """
    folder = pathlib.Path(source)
    values = read_json(folder / CONFIG_NAME)
    cfg = hf_config.vision_config(values, str(folder / CONFIG_NAME), select_layer)
    return cfg, _build_tree(plan_vision_tower(folder, cfg), table.vision_shapes(cfg))["vision_tower"]


# ---- from tensors to leaves


def _build_tree(plan: Plan, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    problems: list[str] = []
    arrays = {
        path: _fill(np.empty(shapes[path], pieces[0].info.dtype), pieces, problems) for path, pieces in plan.items()
    }
    if problems:
        raise_problems(problems)
    return traverse_util.unflatten_dict(arrays, sep="/")


def _fill(leaf: np.ndarray, pieces: list[Piece], problems: list[str]) -> np.ndarray:
    """Copy the pieces into a leaf, casting to its dtype; NaN, infinity and overflow go to `problems`."""
    for piece in pieces:
        num_bad = _count_not_finite(piece.folder.read(piece.info.name))
        if num_bad:
            problems.append(f"{piece.info.name}: {num_bad} values are NaN or infinite")
            continue
        place = leaf if piece.layer is None else leaf[piece.layer]
        with np.errstate(over="ignore"):  # counted below
            place[...] = piece.read()
        if leaf.dtype != piece.info.dtype and (num_bad := _count_not_finite(place)):
            problems.append(f"{piece.info.name}: {num_bad} values are too large for {leaf.dtype}")
    return leaf


def _count_not_finite(array: np.ndarray) -> int:
    flat = array.reshape(-1)
    blocks = (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
    return sum(block.size - int(np.count_nonzero(np.isfinite(block))) for block in blocks)


def _groups(purpose: str, leaves: Mapping[str, Leaf], progress: Progress | None) -> Iterator[list[str]]:
    """Yield the paths of the leaves in groups, and report each one when the next is asked for."""
    num_done, num_bytes = 0, sum(leaf.num_bytes for leaf in leaves.values())
    for group in group_leaves(leaves):
        yield group
        num_done += sum(leaves[path].num_bytes for path in group)
        if progress:
            progress(purpose, num_done, num_bytes)


def _allocate(leaf: Leaf, scratch: pathlib.Path) -> np.ndarray:
    """Return memory for a leaf: anonymous, or of an unlinked scratch file if the leaf is large."""
    if leaf.num_bytes <= _SCRATCH_BYTES:
        return np.empty(leaf.shape, leaf.dtype)
    with open(scratch, "w+b") as file:
        # Reserving the blocks makes a full disk an OSError here; writing to a sparse map would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, leaf.num_bytes)
        else:
            file.truncate(leaf.num_bytes)
        memory = mmap.mmap(file.fileno(), leaf.num_bytes)
    scratch.unlink()
    return np.ndarray(leaf.shape, leaf.dtype, buffer=memory)


def _write_params(
    params: pathlib.Path, plan: Plan, leaves: Mapping[str, Leaf], progress: Progress | None
) -> dict[str, str]:
    """Write the plan's leaves as one Orbax checkpoint, group after group; after a problem only go on testing values.

    Returns their checksums.
    """
    problems: list[str] = []
    written: dict[str, str] = {}
    for group in _groups("writing", leaves, progress):
        arrays = {
            path: _fill(_allocate(leaves[path], params.with_name("scratch")), plan[path], problems) for path in group
        }
        if not problems:
            written |= checksums(arrays)
            with orbax_context():
                ocp.partial.save(params, traverse_util.unflatten_dict(arrays, sep="/"))
        del arrays
        trim_memory()
    if problems:
        raise_problems(problems)
    ocp.partial.finalize(params)
    return written


# ---- reading what was written


def _read_groups(
    purpose: str, params: pathlib.Path, leaves: Mapping[str, Leaf], progress: Progress | None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield all leaves, a group at a time; the receiver empties the dict, so that two groups never meet in memory."""
    for group in _groups(purpose, leaves, progress):
        yield read_leaves(params, {path: leaves[path] for path in group})


def _hf_arrays(
    params: pathlib.Path, leaves: Mapping[str, Leaf], num_run_layers: int, progress: Progress | None
) -> Iterator[np.ndarray]:
    """Yield every tensor in the checkpoint's layout, leaf after leaf and layer after layer."""
    for arrays in _read_groups("writing", params, leaves, progress):
        for path in list(arrays):
            array = arrays.pop(path)
            for _, layout, _, index in table.tensors_of(path, array.shape, num_run_layers):
                yield layout.to_hf(array if index is None else array[index])
            del array  # or it would stay while the next group is read


def _check_written(plan: Plan, params: pathlib.Path, leaves: Mapping[str, Leaf], progress: Progress | None) -> float:
    """Compare every tensor of the plan's files with the Orbax tree; return the largest absolute difference.

    Raises:
      ValueError: a difference that rounding to the stored dtype does not explain, or any at all if the dtype is kept.
    """
    problems: list[str] = []
    largest = 0.0
    for arrays in _read_groups("checking", params, leaves, progress):
        for path in list(arrays):
            array = arrays.pop(path)
            for piece in plan[path]:
                error = _difference(piece.read(), array if piece.layer is None else array[piece.layer])
                if error is None:
                    problems.append(f"{path}: what was written differs from {piece.info.name}")
                else:
                    largest = max(largest, error)
            del array  # or it would stay while the next group is read
    if problems:
        raise_problems(problems)
    return largest


def _difference(source: np.ndarray, stored: np.ndarray) -> float | None:
    """Return the largest |stored - source|, or None where it is not explained by one rounding to stored's dtype."""
    if source.shape != stored.shape:
        return None
    step = max(1, _BLOCK // max(1, source[:1].size))
    largest = 0.0
    for start in range(0, source.shape[0], step):
        first, second = source[start : start + step], stored[start : start + step]
        if first.dtype == second.dtype:
            if not bits_equal(first, second):
                return None
            continue
        limits = ml_dtypes.finfo(second.dtype)
        exact = first.astype(np.float64)
        error = np.abs(second.astype(np.float64) - exact)
        # Half a unit in the last place, and below the normal range a step of the subnormals.
        if not np.all(error <= 0.5 * float(limits.eps) * np.abs(exact) + float(limits.smallest_subnormal)):
            return None
        largest = max(largest, float(error.max(initial=0.0)))
    return largest


def _report(
    leaves: Mapping[str, Leaf], config: BatConfig, notes: list[str], plan: Plan, max_abs_error: float
) -> ConversionReport:
    parts: dict[str, tuple[int, int]] = {}
    for path, leaf in leaves.items():
        params, num_bytes = parts.get(path.split("/")[0], (0, 0))
        num_params = leaf.num_bytes // leaf.dtype.itemsize
        parts[path.split("/")[0]] = (params + num_params, num_bytes + leaf.num_bytes)
    absent = ["scale_embedding"] if config.scale_embedding.form == "none" else []
    absent += [] if config.has_token_mlp else ["token_mlp"]
    return ConversionReport(
        parts=parts,
        absent=tuple(absent),
        notes=tuple(notes),
        num_checked=sum(len(pieces) for pieces in plan.values()),
        max_abs_error=max_abs_error,
    )


# ---- folders and small files


@contextlib.contextmanager
def _staged(
    output: pathlib.Path,
    inputs: Collection[pathlib.Path | None],
    overwrite: bool,
    leaves: Mapping[str, Leaf],
) -> Iterator[pathlib.Path]:
    """Give a folder beside `output` that becomes `output` if all goes well and is removed if not."""
    if os.path.lexists(output):
        if not overwrite:
            raise FileExistsError(f"{output} exists; choose another folder or pass --overwrite")
        if not output.is_dir() or (any(output.iterdir()) and not (output / CONFIG_NAME).is_file()):
            raise FileExistsError(f"{output} is no earlier conversion (no {CONFIG_NAME} in it); it is not overwritten")
        for path in inputs:
            if path is not None and path.resolve().is_relative_to(output.resolve()):
                raise FileExistsError(f"{output} holds what is to be converted; choose another folder")
    stage = beside(output, f"partial-{os.getpid()}")
    sizes = [leaf.num_bytes for leaf in leaves.values()]
    needed = sum(sizes) + max((size for size in sizes if size > _SCRATCH_BYTES), default=0)
    try:
        stage.mkdir(parents=True)
        free = shutil.disk_usage(stage).free
    except OSError as error:
        raise OSError(f"cannot write to {output}: {error.strerror}") from None
    try:
        if free < needed:
            raise OSError(f"cannot write to {output}: {needed / 1e9:.1f} GB needed there, {free / 1e9:.1f} GB free")
        yield stage
        replace_dir(stage, output, own=("*",))
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _copy_tokenizer(source: pathlib.Path, target: pathlib.Path, num_rows: int | None = None) -> int:
    """Copy the tokenizer's files that are there; return how many.

    Args:
      num_rows: of the embedding, which a tokenizer that is there is held against.

    Raises:
      ValueError: it cannot be read, or has an id without a row.
    """
    files = sorted({file for pattern in _TOKENIZER_PATTERNS for file in source.glob(pattern) if file.is_file()})
    target.mkdir(exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)
    if num_rows is not None and any((target / name).exists() for name in TOKENIZER_FILES):
        try:
            load_tokenizer(target, num_rows)
        except ValueError as error:
            raise ValueError(str(error).replace(str(target), str(source))) from None
    return len(files)


def _source_config(source: pathlib.Path, config: BatConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Hugging Face configs to write back: as they came, or made from ours where none came."""
    made, made_clip = hf_config.config_to_hf(config)
    if not (source / SOURCE_CONFIG_NAME).is_file():
        return made, made_clip
    values = read_json(source / SOURCE_CONFIG_NAME)
    clip_values = values.pop(TOWER_FOLDER, made_clip)
    # Parts that were trained after the conversion need what the original config could not say.
    for name in ("multiscale_target_sizes", hf_config.BASE_SIDE_KEY):
        if name in made:
            values.setdefault(name, made[name])
    return values, clip_values
