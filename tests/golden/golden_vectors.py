"""Reads the vectors recorded from the authors' PyTorch release (tests/golden/dev, see its README)."""

import json
import pathlib

import numpy as np

DEV = pathlib.Path(__file__).parent / "dev"
ARRAYS = np.load(DEV / "golden.npz")
META = json.loads((DEV / "meta.json").read_text())


def selected_positions(prefix: str, is_merged: np.ndarray) -> np.ndarray:
    """Return the token index of each selected row, -1 for merged rows, from the recorded CSR lists."""
    offsets, positions = ARRAYS[f"{prefix}.sel_offsets"], ARRAYS[f"{prefix}.sel_pos"]
    return np.where(is_merged, -1, positions[offsets[:-1]])
