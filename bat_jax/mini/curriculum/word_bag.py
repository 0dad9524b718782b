"""The projector learns words: a token's embedding becomes the sum of the embeddings of the words true of it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.mini.curriculum.picture_store import TokenTruth
from bat_jax.mini.world.questions import CORNERS
from bat_jax.mini.world.world import COLOURS, EVENT_KINDS, LAND_USES, OBJECT_KINDS, SITE_KINDS, STATES
from bat_jax.train.loop import Loss
from bat_jax.typing import Array, Float, Params, UInt8

# The words that describe what a token shows, per kind of label, and how strongly they count in its embedding.
_WORDS = {
    "land_use": (LAND_USES, 1.0),
    "site_kind": (SITE_KINDS, 1.0),
    "object_kind": (OBJECT_KINDS, 1.5),
    "colour": (COLOURS, 1.5),
    "state": (STATES, 1.0),
    "event": (EVENT_KINDS, 1.0),
    "ring": (("circle",), 1.0),
}
# Of the words for a token's quarter of the picture; as strong as the others they drowned colours (94 -> 77 % right).
_CORNER_WEIGHT = 0.5
# Tokens of a picture that a step sees, and how much more often those that show something small.
_TOKENS_SEEN, _OBJECT_CHANCE = 256, 60.0


def true_words(tokenizer: Any, embedding: Float[Array, "V D"], labels: UInt8[Array, "*M 9"]):
    """Return (*M, D): the sum of the words' embeddings that are true of each token."""
    truth = TokenTruth.of(labels)
    total = jnp.float32(0)
    for name, (words, weight) in _WORDS.items():
        ids = tokenizer.convert_tokens_to_ids(list(words))
        table = jnp.concatenate([jnp.zeros((1, embedding.shape[1])), embedding[jnp.asarray(ids)]])
        total += weight * table[getattr(truth, name).astype(np.int32)]
    return total


def corner_words(tokenizer: Any, embedding: Float[Array, "V D"]) -> Float[Array, "4 D"]:
    """Return the sum of the words' embeddings of each of CORNERS, to be added to what lies in that quarter."""
    ids = [tokenizer.convert_tokens_to_ids(corner.split()) for corner in CORNERS]
    return _CORNER_WEIGHT * jnp.sum(embedding[jnp.asarray(ids)], axis=1)


def corner_grid(tokenizer: Any, embedding: Float[Array, "V D"], side: int) -> Float[Array, "G G D"]:
    """Return a base grid that says in the decoder's words which quarter of the picture a cell is in.

    Beside sinusoids alone the decoder had learned "Where in the image is the harbour?" in 45 % of cases: nothing in a
    token resembled the options' words.
    """
    is_second = np.arange(side) >= side // 2
    return corner_words(tokenizer, embedding)[2 * is_second[:, None] + is_second[None]]


def project(cfg: BatConfig, params: Params, vision: Float[Array, "*B E"]) -> Float[Array, "*B D"]:
    """Return the projector's embeddings of vision features."""
    return bat.project(cfg, params, vision.astype(jnp.float32))


class WordBagBatches:
    """Draws batches: position -> {"picture" (B, 1), "token" (B, K)}, tokens with something small more often."""

    def __init__(self, labels: np.ndarray, pictures: range, batch_size: int, seed: int):
        """Wrap the labels (N, M, 9); `pictures` are the first of them."""
        self.labels, self.num_pictures, self.batch_size, self.seed = labels, len(pictures), batch_size, seed

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, position])
        pictures, tokens = rng.integers(self.num_pictures, size=(self.batch_size, 1)), []
        for picture in pictures[:, 0]:
            truth = TokenTruth.of(self.labels[picture])
            chance = 1.0 + _OBJECT_CHANCE * ((truth.object_id > 0) | (truth.event > 0) | (truth.ring > 0))
            tokens.append(rng.choice(chance.size, _TOKENS_SEEN, p=chance / chance.sum()))
        return {"picture": pictures.astype(np.int32), "token": np.stack(tokens).astype(np.int32)}


def word_bag_loss(cfg: BatConfig, tokenizer: Any) -> Loss:
    """Return the squared error of projected tokens against their true words, over a batch of WordBagBatches.

    fixed: {"vision": (N, M, E), "labels": (N, M, 9), "decoder": its weights}.
    """

    def loss(params: Params, fixed: dict[str, Any], batch: dict[str, Array]):
        embedding = fixed["decoder"]["embed_tokens"]["embedding"]
        rows = batch["picture"], batch["token"]
        wanted = true_words(tokenizer, embedding, fixed["labels"][rows]).reshape(-1, embedding.shape[1])
        found = project(cfg, params, fixed["vision"][rows]).reshape(wanted.shape)
        error = jnp.mean(jnp.sum((found - wanted) ** 2, axis=-1))
        spread = jnp.mean(jnp.sum((wanted - jnp.mean(wanted, axis=0)) ** 2, axis=-1))
        return error, {"explained": 1 - error / spread}

    return loss
