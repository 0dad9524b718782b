"""Stage 1: the vision tower learns from what every patch shows (dense labels), with linear heads that are then dropped.

    tiles (B, t, t, 3) -> tower -> patches (B, P, E) -> one linear head a kind of label -> softmax over its classes

The heads read the very layer that the projector will read, so what they can read off linearly, it can.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.io.views import normalisation_table
from bat_jax.mini.curriculum.picture_store import PictureStore, TokenTruth, grids
from bat_jax.mini.world.world import COLOURS, EVENT_KINDS, LAND_USES, OBJECT_KINDS, SITE_KINDS, STATES
from bat_jax.train.loop import Loss
from bat_jax.typing import Array, Float, Key, Params, UInt8

# Kind of label -> (classes with "none", weight of its loss, weight of a token that shows none).
HEADS = {
    "land_use": (1 + len(LAND_USES), 0.3, 1.0),
    "site_kind": (1 + len(SITE_KINDS), 0.5, 0.2),
    "object_kind": (1 + len(OBJECT_KINDS), 1.2, 0.05),
    "colour": (1 + len(COLOURS), 1.0, 0.05),
    "state": (1 + len(STATES), 0.6, 0.05),
    "event": (1 + len(EVENT_KINDS), 0.4, 0.05),
    "ring": (2, 0.3, 0.1),
}
# Share of a batch's tiles that hold an object, and which views these are of, coarse to fine.
_OBJECT_SHARE = 0.7
_OBJECT_VIEWS = (0.04, 0.1, 0.32, 0.54)


@functools.partial(jax.jit, static_argnums=0)
def init_params(cfg: BatConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Return random weights of the tower and the heads."""
    tower_key, head_key = jax.random.split(key)
    tower = bat.init_part("vision_tower", cfg.vision.build(), tower_key)
    heads = {}
    for index, (name, (num_classes, _, _)) in enumerate(HEADS.items()):
        kernel = jax.random.normal(jax.random.fold_in(head_key, index), (cfg.vision.width, num_classes)) * 0.02
        heads[name] = {"kernel": kernel, "bias": jnp.zeros(num_classes)}
    return {"vision_tower": tower, "heads": heads}


def patch_features(cfg: BatConfig, params: Params, tiles: UInt8[Array, "B t t 3"]) -> Float[Array, "B P E"]:
    """Return the tower's features of tiles."""
    table = jnp.asarray(normalisation_table(cfg.vision))
    pixels = table[tiles.astype(jnp.int32), jnp.arange(3)]
    return bat.run_tower(cfg, params, pixels).patches


def head_logits(cfg: BatConfig, params: Params, tiles: jax.Array) -> dict[str, jax.Array]:
    """Return (B, P, classes) of every head."""
    patches = patch_features(cfg, params, tiles)
    return {name: patches @ head["kernel"] + head["bias"] for name, head in params["heads"].items()}


def tower_loss(cfg: BatConfig) -> Loss:
    """Return the weighted sum of the heads' cross entropies over {"tiles", "labels"}, and each of them."""

    def loss(params: Params, fixed: None, batch: dict[str, jax.Array]):
        del fixed
        logits = head_logits(cfg, params, batch["tiles"])
        truth = TokenTruth.of(batch["labels"])
        total, facts = jnp.float32(0), {}
        for name, (_, weight, weight_of_none) in HEADS.items():
            label = getattr(truth, name).astype(jnp.int32)
            entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits[name]), label[..., None], axis=-1)[..., 0]
            importance = jnp.where(label > 0, 1.0, weight_of_none)
            facts[f"loss_{name}"] = jnp.sum(entropy * importance) / jnp.sum(importance)
            total += weight * facts[f"loss_{name}"]
        return total, facts

    return loss


class TileBatches:
    """Draws tiles, flipped and turned: position -> {"tiles" (B, t, t, 3) uint8, "labels" (B, P, 9) uint8}."""

    def __init__(self, cfg: BatConfig, store: PictureStore, pictures: np.ndarray, batch_size: int, seed: int):
        """Open the tiles of some pictures, which are rows of the store."""
        self.store, self.pictures, self.batch_size, self.seed = store, pictures, batch_size, seed
        self.side = cfg.vision.side
        counts = [cfg.num_tiles(px) for px in cfg.compressor.sizes_px]
        self.view_tiles = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
        # One picture at a time: the labels of all of them are hundreds of megabytes.
        has_object = np.stack(
            [store.truth(int(row)).object_kind.reshape(sum(counts), -1).any(axis=1) for row in pictures]
        )
        self.object_tiles = []
        for tiles in self.view_tiles:
            picture, column = np.nonzero(has_object[:, tiles])
            self.object_tiles.append(np.stack([pictures[picture], tiles[column]], axis=1))

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, position])
        num_objects = int(self.batch_size * _OBJECT_SHARE)
        chosen = []
        for number in range(self.batch_size):
            if number < num_objects:
                tiles = self.object_tiles[rng.choice(len(_OBJECT_VIEWS), p=_OBJECT_VIEWS)]
                chosen.append(tuple(tiles[rng.integers(len(tiles))]))
            else:
                view = self.view_tiles[rng.integers(len(self.view_tiles))]
                chosen.append((rng.choice(self.pictures), rng.choice(view)))
        patches = self.side**2
        pixels_of, labels_of = [], []
        for picture, tile in chosen:
            pixels = self.store.tiles[picture, tile]
            truth = self.store.labels[picture, tile * patches : (tile + 1) * patches]
            truth = truth.reshape(self.side, self.side, -1)
            turn, flip = int(rng.integers(4)), bool(rng.integers(2))
            pixels, truth = np.rot90(pixels, turn), np.rot90(truth, turn)
            if flip:
                pixels, truth = pixels[:, ::-1], truth[:, ::-1]
            pixels_of.append(pixels)
            labels_of.append(truth.reshape(patches, -1))
        return {"tiles": np.stack(pixels_of), "labels": np.stack(labels_of)}


def held_out_accuracy(cfg: BatConfig, store: PictureStore, pictures: range, params: Params) -> dict[str, float]:
    """Return per view and kind of label the share of tokens that show something and are named right."""
    logits_of = jax.jit(lambda params, tiles: head_logits(cfg, params, tiles))
    right: dict[str, list[np.ndarray]] = {name: [] for name in HEADS}
    for index in pictures:
        tiles = store.tiles[index]
        logits = [logits_of(params, tiles[start : start + 76]) for start in range(0, len(tiles), 76)]
        truth = TokenTruth.of(store.labels[index])
        for name in HEADS:
            guess = np.concatenate([np.asarray(part[name]).argmax(-1).reshape(-1) for part in logits])
            label = getattr(truth, name)
            right[name].append(np.where(label > 0, (guess == label).astype(float), np.nan))
    bounds = np.cumsum([0, *(grid.num_tokens for grid in grids(cfg))])
    return {
        f"accuracy_{name}_{px}": float(np.nanmean(np.stack(values)[:, low:high]))
        for name, values in right.items()
        for px, low, high in zip(cfg.compressor.sizes_px, bounds[:-1], bounds[1:], strict=True)
        if not np.all(np.isnan(np.stack(values)[:, low:high]))
    }
