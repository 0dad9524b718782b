"""One model on several devices: what `data=D,model=M` means, and where each parameter lies.

`model` devices share one model: attention is cut by heads, its output projection and the MLP's by what they sum over,
so that a decoder layer has two sums over the devices; the head is cut by tokens and the embedding by its width. Of more
devices than key-value heads several hold the same heads, and all else is cut over all of them. The tiles of a picture
are shared out over all devices, `data` and `model`, each of which holds the tower and the projector whole: 0.7 GB of
UHR-BAT-7B, and nothing is sent within a tile. So are the rows of every scale's tokens, where their number divides:
K-means and merging add up what each device finds in its rows (`ops.on_mesh.over_rows`), and the kept rows are gathered.
What is small (importance, region ids, the order of candidates) all devices compute.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bat_jax.config import BatConfig
from bat_jax.ops.on_mesh import COPIES, DATA, HEADS

AXES = ("data", "model")
_MODEL = (HEADS, COPIES)
# A parameter's path -> which axis of it, from behind, is cut over which axes of the mesh. What no rule names is whole.
# int8's `rows` are kernels turned over.
RULES: tuple[tuple[str, int, str | tuple[str, ...]], ...] = (
    (r"decoder/layers.*/[qkv]_proj/(kernel|bias|scale)", -1, HEADS),
    (r"decoder/layers.*/[qkv]_proj/rows", -2, HEADS),
    (r"decoder/layers.*/o_proj/kernel", -2, HEADS),
    (r"decoder/layers.*/o_proj/rows", -1, HEADS),
    (r"decoder/layers.*/(gate|up)_proj/(kernel|scale)", -1, _MODEL),
    (r"decoder/layers.*/(gate|up)_proj/rows", -2, _MODEL),
    (r"decoder/layers.*/down_proj/kernel", -2, _MODEL),
    (r"decoder/layers.*/down_proj/rows", -1, _MODEL),
    # Cut by tokens, the whole table would be gathered to look one up.
    (r"decoder/embed_tokens/embedding", -1, _MODEL),
    (r"decoder/lm_head/(kernel|scale)", -1, _MODEL),
    (r"decoder/lm_head/rows", -2, _MODEL),
)


def parse_axes(text: str) -> dict[str, int]:
    """Return what "data=2,model=4" says; an axis that is not named has one device.

    Raises:
      ValueError: an axis or a number is not known.
    """
    axes = dict.fromkeys(AXES, 1)
    for item in text.split(","):
        axis, _, digits = item.partition("=")
        if axis not in AXES or not digits.isdecimal() or not int(digits):
            raise ValueError(f"mesh={text}: need axes as data=1,model=4; known are {', '.join(AXES)}")
        axes[axis] = int(digits)
    return axes


def mesh_axes(cfg: BatConfig, axes: Mapping[str, int]) -> dict[str, int]:
    """Return the axes of a model's mesh and how many devices each has.

    Raises:
      ValueError: `model` does not divide what is cut.
    """
    model, decoder = axes["model"], cfg.decoder
    heads = math.gcd(model, decoder.num_kv_heads)
    if heads < min(model, decoder.num_kv_heads):
        raise ValueError(
            f"mesh: model={model} neither divides the {decoder.num_kv_heads} key-value heads nor is a multiple of them"
        )
    if decoder.mlp_dim % model:
        raise ValueError(f"mesh: model={model} does not divide the {decoder.mlp_dim} rows of the decoder's MLP")
    return {DATA: axes["data"], HEADS: heads, COPIES: model // heads}


def device_mesh(cfg: BatConfig, text: str, devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh that "data=2,model=4" names, of this process's first devices or of those given.

    Raises:
      ValueError: as `parse_axes` and `mesh_axes`, or there are not so many devices.
    """
    axes = mesh_axes(cfg, parse_axes(text))
    devices = jax.local_devices() if devices is None else devices
    num_devices = math.prod(axes.values())
    if num_devices > len(devices):
        raise ValueError(f"mesh={text}: needs {num_devices} devices, there are {len(devices)}")
    return Mesh(np.array(devices[:num_devices]).reshape(*axes.values()), tuple(axes), (AxisType.Auto,) * len(axes))


def param_sharding(mesh: Mesh | AbstractMesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Return where a parameter lies, by its path with slashes; a vocabulary that cannot be cut evenly is whole.

    What an optimiser keeps of a parameter lies there, too: its path ends in the parameter's.
    """
    for rule, axis, names in RULES:
        if re.search(f"(^|/){rule}$", path):
            spec: list[Any] = [None] * len(shape)
            spec[axis] = names
            parts = math.prod(mesh.shape[name] for name in np.atleast_1d(names))
            if parts > 1 and shape[axis] % parts == 0:
                return NamedSharding(mesh, PartitionSpec(*spec))
    return NamedSharding(mesh, PartitionSpec())


def params_at(mesh: Mesh | AbstractMesh, params: Any) -> Any:
    """Return the sharding of every leaf of a model's parameters (arrays or shapes)."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict(
        {path: param_sharding(mesh, path, leaf.shape) for path, leaf in flat.items()}, sep="/"
    )
