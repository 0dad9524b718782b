"""Decide which tensor goes where, strictly and from the files' headers alone.

Every tensor is taken by exactly one row of `conversion_table`; nothing is missing, left over or there twice; shapes
follow from the config. All problems come in one ValueError:

    2 problems:
      - model.embed_tokens.weight: shape (97, 3) after layout change, decoder/embed_tokens/embedding needs (97, 64)
      - decoder/layers/mlp/up_proj/kernel: 2 of 3 pieces found, without model.layers.1.mlp.up_proj.weight
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from bat_jax.config import BatConfig, DecoderConfig, VisionConfig
from bat_jax.io import conversion_table as table
from bat_jax.io.conversion_table import Rule, Shape
from bat_jax.io.safetensors import TensorFolder, TensorInfo, open_folder, raise_problems

DTYPES: dict[str, np.dtype] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
_FLOATS = (*DTYPES.values(), np.dtype(np.float64))


class Piece(NamedTuple):
    """A tensor of the source and its row; `layer` is its place along axis 0 of a stacked leaf, else None."""

    folder: TensorFolder
    info: TensorInfo
    row: Rule
    layer: int | None

    def read(self) -> np.ndarray:
        """Return the tensor in our layout: a view of the file."""
        return self.row.layout.to_ours(self.folder.read(self.info.name))


# Leaf path -> its pieces, in the order of the layers.
Plan = dict[str, list[Piece]]


class _Planner:
    """Collects pieces, problems and notes over one or two folders."""

    def __init__(self, num_run_layers: int):
        self.num_run_layers = num_run_layers
        self.plan: Plan = {}
        self.problems: list[str] = []
        self.notes: list[str] = []

    def assign(
        self,
        folder: TensorFolder,
        rows: Sequence[tuple[Rule, tuple[str, ...]]],
        ignored: tuple[str, ...],
        aliases: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Match every tensor of a folder with the rows (each with the prefixes its names may have)."""
        patterns = [(row, table.name_pattern(row, prefixes)) for row, prefixes in rows]
        num_ignored = 0
        for name, info in folder.infos.items():
            if any(re.fullmatch(pattern, name) for pattern in ignored):
                num_ignored += 1
                continue
            main = self._main_name(name, aliases)
            if main != name and main in folder.infos:
                self._check_alias(folder, name, main)
                continue
            matches = [(row, match) for row, pattern in patterns if (match := pattern.fullmatch(main))]
            if len(matches) != 1:
                count = "no row" if not matches else f"{len(matches)} rows"
                self.problems.append(f"{name}: {count} of the conversion table takes it, shape {info.shape}")
                continue
            row, match = matches[0]
            groups = match.groupdict()
            layer, scale = (int(groups[key]) if key in groups else None for key in ("layer", "scale"))
            path, index = table.place(row, layer, scale, self.num_run_layers)
            pieces = self.plan.setdefault(path, [])
            twin = next((piece for piece in pieces if piece.layer == index), None)
            if twin:
                self.problems.append(f"{path}: found twice, as {twin.info.name} and {name}")
            else:
                pieces.append(Piece(folder, info, row, index))
        if num_ignored:
            self.notes.append(f"{num_ignored} tensors of {folder.path} that are no weights of the model were ignored")

    @staticmethod
    def _main_name(name: str, aliases: tuple[tuple[str, str], ...]) -> str:
        for pattern, main in aliases:
            if match := re.fullmatch(pattern, name):
                return match.expand(main)
        return name

    def _check_alias(self, folder: TensorFolder, name: str, main: str) -> None:
        alias_info, main_info = folder.infos[name], folder.infos[main]
        is_same_kind = alias_info.shape == main_info.shape and alias_info.dtype == main_info.dtype
        if is_same_kind and bits_equal(folder.read(name), folder.read(main)):
            self.notes.append(f"{name} is a second name of {main} and equal to it")
        else:
            self.problems.append(f"{name}: a second name of {main}, but the two tensors differ")

    def check(self, shapes: Mapping[str, Shape], dtype: np.dtype | None) -> None:
        """Compare the pieces with the leaves there must be."""
        for path, shape in shapes.items():
            pieces = self.plan.get(path, [])
            num_needed = shape[0] if table.is_stacked(path) else 1
            piece_shape = shape[1:] if table.is_stacked(path) else shape
            for piece in pieces:
                self._check_piece(path, piece, piece_shape, num_needed)
            self._check_count(path, pieces, num_needed)
            dtypes = sorted({str(piece.info.dtype) for piece in pieces})
            if dtype is None and len(dtypes) > 1:
                self.problems.append(f"{path}: pieces have dtypes {', '.join(dtypes)}; set --dtype to cast them")
        for path in sorted(set(self.plan) - set(shapes)):
            names = ", ".join(piece.info.name for piece in self.plan[path])
            self.problems.append(f"{path}: no part of the model that config.json describes, but there is {names}")

    def _check_piece(self, path: str, piece: Piece, needed: Shape, num_needed: int) -> None:
        name, info = piece.info.name, piece.info
        found = piece.row.layout.shape_to_ours(info.shape)
        if piece.layer is not None and piece.layer >= num_needed:
            self.problems.append(f"{name}: one layer too many, {path} has {num_needed}")
        elif found is None:
            self.problems.append(f"{name}: shape {info.shape}, {path} needs {needed} after layout change")
        elif found != needed:
            self.problems.append(f"{name}: shape {found} after layout change, {path} needs {needed}")
        if info.dtype not in _FLOATS:
            self.problems.append(f"{name}: dtype {info.dtype}, a floating dtype is needed")

    def _check_count(self, path: str, pieces: list[Piece], num_needed: int) -> None:
        needed = list(range(num_needed)) if table.is_stacked(path) else [None]
        absent = [index for index in needed if index not in {piece.layer for piece in pieces}]
        if not absent or (path.startswith(table.UNUSED) and len(absent) == num_needed):
            return
        first = table.source_of(path, absent[0], self.num_run_layers)[0]
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        found = num_needed - len(absent)
        self.problems.append(f"{path}: {found} of {num_needed} pieces found, without {first}{others}")

    def finish(self, shapes: Mapping[str, Shape]) -> Plan:
        """Return the plan in the order of `shapes`, or raise all problems."""
        if self.problems:
            raise_problems(self.problems)
        return {
            path: sorted(self.plan[path], key=lambda piece: piece.layer or 0) for path in shapes if path in self.plan
        }


def plan_checkpoint(
    source: pathlib.Path, vision_tower: pathlib.Path | None, config: BatConfig, dtype: np.dtype | None = None
) -> tuple[Plan, list[str]]:
    """Plan a LLaVA-Qwen folder, with the vision tower inside or in a CLIP folder of its own.

    Where the source holds the tower's weights, a `vision_tower` folder gives only its config. Tensors will be cast to
    `dtype`; None keeps theirs, and then a stacked leaf's pieces must agree. Returns the plan and notes for the report.

    Raises:
      ValueError: everything that does not fit, together.
    """
    planner = _Planner(config.vision.num_run_layers)
    tied = table.TIED_ALIASES if config.decoder.tie_word_embeddings else ()
    rows: list[tuple[Rule, tuple[str, ...]]] = [(row, ("",)) for row in table.DECODER_ROWS + table.BRIDGE_ROWS]
    rows += [(row, table.LLAVA_VISION_PREFIXES) for row in table.VISION_ROWS]
    planner.assign(open_folder(source), rows, table.IGNORED, table.ALIASES + tied)
    shapes = table.expected_shapes(config)
    has_tower = any(path.startswith(("vision_tower/", f"{table.UNUSED}vision_tower/")) for path in planner.plan)
    if has_tower and vision_tower is not None:
        planner.notes.append(f"the vision tower's weights are those in {source}; {vision_tower} gave its config only")
    elif vision_tower is not None:
        _assign_tower(planner, open_folder(vision_tower))
    elif not has_tower:
        planner.problems.append(f"{source}: no vision tower in it; set --vision_tower to a CLIP checkpoint's folder")
        shapes = {path: shape for path, shape in shapes.items() if not path.startswith("vision_tower/")}
    planner.check(shapes, dtype)
    return planner.finish(shapes), planner.notes


def plan_decoder(tensors: TensorFolder, cfg: DecoderConfig) -> Plan:
    """Plan a decoder alone; paths start with "decoder/". Raises ValueError with all problems."""
    planner = _Planner(0)
    tied = table.TIED_ALIASES if cfg.tie_word_embeddings else ()
    planner.assign(tensors, [(row, ("",)) for row in table.DECODER_ROWS], table.IGNORED, tied)
    shapes = table.decoder_shapes(cfg)
    planner.check(shapes, None)
    return planner.finish(shapes)


def plan_vision_tower(folder: pathlib.Path, cfg: VisionConfig) -> Plan:
    """Plan a CLIPVisionModel or CLIPModel folder; the leaves that run. Raises ValueError with all problems."""
    planner = _Planner(cfg.num_run_layers)
    _assign_tower(planner, open_folder(folder))
    planner.check(table.vision_shapes(cfg, with_unused=True), None)
    return planner.finish(table.vision_shapes(cfg))


def _assign_tower(planner: _Planner, folder: TensorFolder) -> None:
    rows = [(row, table.CLIP_VISION_PREFIXES) for row in table.VISION_ROWS]
    planner.assign(folder, rows, table.IGNORED + table.CLIP_IGNORED)


def bits_equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Compare two arrays of one shape and dtype bit for bit, so that -0.0 differs from 0.0."""
    as_bits = np.dtype(f"u{first.dtype.itemsize}")
    return np.array_equal(first.view(as_bits), second.view(as_bits))
