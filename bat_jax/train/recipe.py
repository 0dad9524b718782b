"""How a model is trained, as one frozen dataclass: what `experiments.finetune` writes beside its results.

UHR-BAT (arXiv:2604.13565), App. B: 10K image-question pairs, CLIP frozen, everything else trained, cosine schedule with
warm-up. The authors' release uses one rate for all parts; the paper gives one for the visual parts and one for the
projection, whose exponents its text has lost, so rates are settings here.
"""

import dataclasses
import json
import math
import typing
from typing import Any, Literal

from bat_jax.config.fields import from_json, require, require_choice, require_positive

PARTS = ("vision_tower", "projector", "decoder", "scale_embedding", "token_mlp")
LabelRule = Literal["release", "answer"]
Sharding = Literal["data", "zero2", "zero3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """The optimiser and its schedule.

    Attributes:
      warmup_ratio: fraction of all steps with a rate that rises from 0; then half a cosine down to 0.
      b1, b2, eps, weight_decay: AdamW. Biases, norms and embeddings of scale do not decay.
      clip_norm: largest global norm of the gradient over all trained parts; 0 does not clip.
    """

    warmup_ratio: float = 0.2
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(AdamWSettings):
    """Everything that decides what training does to the weights, apart from the model's own config.

    Attributes:
      vision_tower, projector, decoder, scale_embedding, token_mlp: peak learning rate of the part; 0 freezes it: no
        gradient is computed for it and the optimiser holds no state of it. A part that the checkpoint lacks is ignored.
      batch_size: samples of an optimiser step, over all devices and hosts.
      accumulation: the batch goes through in this many parts one after another; the result is the same.
      epochs: passes over the data. max_steps: stop after so many optimiser steps; 0: at the end of the data.
      seed: of the order of the data and the first K-means centres.
      compute_dtype: of activations and of the weights they meet.
      master_weights: keep float32 weights and cast them to `compute_dtype` for every step; False keeps the checkpoint's
        dtype, in which a step of 2e-6 is mostly rounded away in bfloat16 (the moments are float32 either way).
      remat: compute decoder layers and projector again in the backward pass instead of keeping their insides.
      max_length: text tokens (an image counts as one) that are kept of a conversation; the rest is cut off.
      label_rule: "answer": the assistant's text and its <|im_end|>; "release": <|im_start|>, <|im_end|> and the newline
        behind it in every turn, too.
      importance_loss_weight: weight of the auxiliary loss -log(importance on given anchor tokens); 0 leaves it out.
      num_clusters: regions per scale while training; None: the model config's.
      sharding: "data": whole weights on every device; "zero2": optimiser state and gradients in shards; "zero3": the
        weights, too.
    """

    vision_tower: float = 0.0
    projector: float = 2e-6
    decoder: float = 2e-6
    scale_embedding: float = 2e-6
    token_mlp: float = 2e-6
    batch_size: int = 16
    accumulation: int = 1
    epochs: int = 2
    max_steps: int = 0
    seed: int = 0
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    master_weights: bool = True
    remat: bool = True
    max_length: int = 5000
    label_rule: LabelRule = "release"
    importance_loss_weight: float = 0.0
    num_clusters: int | None = None
    sharding: Sharding = "data"

    def __post_init__(self):
        for field in (*PARTS, "weight_decay", "clip_norm", "max_steps", "seed", "importance_loss_weight"):
            self._require(getattr(self, field) >= 0, field, "must be 0 or positive")
        require_positive(self, "eps", "batch_size", "accumulation", "epochs", "max_length")
        for field in ("b1", "b2"):
            self._require(0 <= getattr(self, field) < 1, field, "must be in [0, 1)")
        self._require(0 <= self.warmup_ratio <= 1, "warmup_ratio", "must be in [0, 1]")
        self._require(
            self.batch_size % self.accumulation == 0, "accumulation", f"must divide the batch of {self.batch_size}"
        )
        self._require(self.num_clusters is None or self.num_clusters >= 0, "num_clusters", "is negative")
        for field, kind in typing.get_type_hints(TrainConfig).items():
            if typing.get_origin(kind) is Literal:
                require_choice(self, field, typing.get_args(kind))
        self._require(any(self.rates.values()), "projector", "no part has a rate, nothing would be trained")

    def _require(self, condition: bool, field: str, allowed: str) -> None:
        require(condition, f"TrainConfig.{field}", getattr(self, field), allowed)

    @classmethod
    def release_7b(cls, **overrides: Any) -> "TrainConfig":
        """The authors' release (K-means script): 2e-6 for all parts but CLIP, which is frozen."""
        settings: dict[str, Any] = {"num_clusters": 3000, "max_length": 5000, "label_rule": "release"}
        return cls(**(settings | overrides))

    @classmethod
    def paper(cls, *, visual_rate: float, projection_rate: float, **overrides: Any) -> "TrainConfig":
        """The paper's recipe (App. B): its own rates for the visual parts and for the projection.

        Its text has lost the exponents, so both are asked for. The paper does not say to which group decoder and token
        MLP belong: the decoder goes with the projection here, the scale embedding with the visual parts.
        """
        settings: dict[str, Any] = {
            "projector": projection_rate,
            "decoder": projection_rate,
            "token_mlp": projection_rate,
            "scale_embedding": visual_rate,
            "label_rule": "answer",
        }
        return cls(**(settings | overrides))

    @property
    def rates(self) -> dict[str, float]:
        """Peak learning rate per part."""
        return {part: getattr(self, part) for part in PARTS}

    def num_steps(self, num_records: int) -> int:
        """Optimiser steps of the whole training; the last, short batch of an epoch is a step, too."""
        steps = self.epochs * math.ceil(num_records / self.batch_size)
        return min(steps, self.max_steps) if self.max_steps else steps

    def to_json(self) -> str:
        """Return the recipe as JSON text (sorted keys, two spaces)."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Read what `to_json` wrote.

        Raises:
          ValueError: no JSON object, or a field is unknown, of a wrong type or out of range; names the field.
        """
        return from_json(cls, text, "train config")
