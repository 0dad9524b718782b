"""Encoded images of one set of weights in a SceneCache: what an entry holds, and what it is known by.

An entry holds what questions read (SceneArrays) and K-means' first centres, as the programs returned them: reading it
gives the bits of a fresh run and needs no program. The tower's features, from which other settings could make their
scenes, are a quarter as large, but projector and K-means would run, in a program that rounds otherwise than the whole.
A scene of UHR-BAT-7B has 131,328 tokens of 3,584 bfloat16 and the anchor's keys and values, 1.08 GB together. What
else a Scene has comes from the picture, which has been read for the key.

The key is of everything that the programs of an image are given: pixels, region ids of a label map, seed, first
centres, number of clusters, steps, prefix, the settings that `engine.image` reads; weights by content and how they are
held; the code up to here, libraries, device and options of its compiler. Budgets, selections without the tower's
attention, and questions are not in it: settings that differ in these alone share entries.
"""

import dataclasses
import hashlib
import json
import os
from typing import Any

import jax
import numpy as np

from bat_jax.compress.compressor import ScaleTokens
from bat_jax.config import BatConfig
from bat_jax.engine.image import ImageArrays
from bat_jax.engine.question import SceneArrays
from bat_jax.io.digests import arrays_digest
from bat_jax.io.scene_cache import SceneCache
from bat_jax.io.sources import package_version, source_digest
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.nn.decoder import KVCache
from bat_jax.typing import Params

# Counts changes of what an entry holds.
FORMAT = 1
# What an image's programs and views can come from: what encoding.py may import (tests/test_house.py), and itself.
SOURCES = (
    *("typing", "registry", "text_files", "progress", "config", "ops", "nn", "compress", "model", "engine", "io"),
    *("scene_store", "encoding"),
)
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "scikit-learn", "nvidia-cudnn-cu12", "libtpu")
_READ_OF_SETTINGS = (
    "sizes_px",
    "partition",
    "cluster_features",
    "coordinates",
    "feature_scale",
    "coord_scale",
    "birch_threshold",
    "scale_embedding_extent",
    "reads_tower_attention",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneStore:
    """`weights`: digest of the files that parameters were read from (`io.digests.weights_digest`)."""

    cache: SceneCache
    weights: str

    def key(
        self,
        cfg: BatConfig,
        params: Params,
        pixels: np.ndarray,
        image: ImageArrays,
        program: tuple[Any, ...],
    ) -> str:
        """Return what an image is known by.

        Args:
          pixels: (H, W, 3) that the views are made of. image: what else the programs are given.
          program: how they are cut: tiles at once, most regions, stage by stage or in one.
        """
        settings = cfg.compressor
        facts = {
            "format": FORMAT,
            "code": [source_digest(SOURCES), [package_version(name) for name in _PACKAGES]],
            "device": [jax.default_backend(), jax.devices()[0].device_kind],
            "compiled": [os.environ.get("XLA_FLAGS", ""), jax.config.values["jax_default_matmul_precision"]],
            "weights": self.weights,
            "shardings": sorted({_sharding(leaf) for leaf in jax.tree.leaves(params)}),
            "networks": dataclasses.asdict(cfg.networks),
            "settings": {name: getattr(settings, name) for name in _READ_OF_SETTINGS},
            "embedding": [settings.embedding_repeats("answer"), settings.embedding_repeats("attention")],
            "program": program,
            "names": list(_named(_blank(cfg, params))),
            "inputs": arrays_digest({"pixels": pixels} | _host_arrays(image)),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def read(self, key: str, cfg: BatConfig, params: Params) -> tuple[SceneArrays, tuple[Any, ...]] | None:
        """Return a scene's arrays and K-means' first centres, on the host; None where there is none."""
        arrays = self.cache.read(key)
        if arrays is None:
            return None
        blank = _blank(cfg, params)
        leaves = [arrays[name] for name in _named(blank)]
        return jax.tree.unflatten(jax.tree.structure(blank), leaves)

    def write(self, key: str, scene: SceneArrays, centres: tuple[Any, ...]) -> None:
        """Keep what `read` returns."""
        self.cache.write(key, _host_arrays((scene, centres)))


def _blank(cfg: BatConfig, params: Params) -> tuple[SceneArrays, tuple[int | None, ...]]:
    """Return an entry's structure, with zeros in place of its arrays."""
    blank: Any = 0
    settings = cfg.compressor
    attention = TowerAttention(blank, blank, blank) if settings.reads_tower_attention else None
    layers = blank if "layers" in params["decoder"] else (blank,) * cfg.decoder.num_layers
    scales = (ScaleTokens(blank, blank, blank, attention),) * len(settings.scales)
    centres = (0 if settings.partition == "kmeans" else None,) * len(settings.scales)
    return SceneArrays(scales, KVCache(layers, layers, blank)), centres


def _sharding(leaf: Any) -> str:
    """Return how an array is cut over devices, whichever they are: hosts share entries."""
    sharding = getattr(leaf, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    return f"{getattr(sharding, 'spec', None)} over {dict(mesh.shape) if mesh else 1}"


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _host_arrays(tree: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in _named(tree).items()}
