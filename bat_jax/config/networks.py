"""Sizes of the networks. Each module under `nn/` takes one of these as its field `cfg`; `build` returns the module."""

import dataclasses
import importlib
from typing import Any, ClassVar, Literal, get_args

from bat_jax.config.fields import require, require_choice, require_positive

HeldWeights = Literal["stored", "bf16", "int8"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionKernels:
    """Which form of attention each network runs over whole sequences: "plain" or one of `ops.fused_attention`."""

    tower: str = "plain"
    decoder: str = "plain"


class NetworkConfig:
    """What the configs of networks share.

    Attributes:
      network: "MODULE:CLASS" of the Linen module. A name and no import, because `nn` imports these configs.
    """

    network: ClassVar[str]

    def build(self, **fields: Any) -> Any:
        """Return the Linen module of these sizes; `fields` are its other fields, such as the decoder's `remat`."""
        module, name = self.network.split(":")
        return getattr(importlib.import_module(module), name)(self, **fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(NetworkConfig):
    """CLIP vision tower. Defaults: ViT-L/14 at 336 pixels.

    Attributes:
      width: E, the tower's width.
      num_layers: layers in the checkpoint; `select_layer` decides how many of them run.
      select_layer: index into the hidden states [embeddings, layer 1, ...]; -2 is the output of the last layer but one.
      image_size_px: the side t of a tile in pixels.
      patch_size_px: the side of a patch in pixels.
      pixel_mean, pixel_std, rescale: a byte x of a channel enters as (x * rescale - mean) / std, channels R, G, B.
      pad_colour: bytes of the margins that make an image square; the release takes int(255 * mean).
    """

    network: ClassVar[str] = "bat_jax.nn.clip_vit:ClipVit"

    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_dim: int = 4096
    image_size_px: int = 336
    patch_size_px: int = 14
    norm_eps: float = 1e-5
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    select_layer: int = -2
    pixel_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    rescale: float = 1 / 255
    pad_colour: tuple[int, ...] = (122, 116, 104)

    def __post_init__(self):
        require_positive(
            self, "width", "num_layers", "num_heads", "mlp_dim", "image_size_px", "patch_size_px", "rescale"
        )
        for name in ("pixel_mean", "pixel_std", "pad_colour"):
            values = getattr(self, name)
            require(len(values) == 3, f"VisionConfig.{name}", values, "needs a number for each of R, G and B")
        require(min(self.pixel_std) > 0, "VisionConfig.pixel_std", self.pixel_std, "must be positive")
        is_byte = all(0 <= value <= 255 for value in self.pad_colour)
        require(is_byte, "VisionConfig.pad_colour", self.pad_colour, "must be bytes")
        require_choice(self, "activation", ("quick_gelu", "gelu"))
        require(self.width % self.num_heads == 0, "VisionConfig.num_heads", self.num_heads, f"must divide {self.width}")
        require(
            self.image_size_px % self.patch_size_px == 0,
            "VisionConfig.patch_size_px",
            self.patch_size_px,
            f"must divide the tile's {self.image_size_px} pixels",
        )
        require(
            0 <= self.num_run_layers <= self.num_layers,
            "VisionConfig.select_layer",
            self.select_layer,
            f"must select one of the {self.num_layers + 1} hidden states",
        )

    @property
    def side(self) -> int:
        """Patches along a tile's side (24 for 336/14)."""
        return self.image_size_px // self.patch_size_px

    @property
    def num_patches(self) -> int:
        """P, patches of a tile (576 for 336/14)."""
        return self.side**2

    @property
    def num_run_layers(self) -> int:
        """Layers that `select_layer` needs; the rest of the checkpoint's layers never run."""
        return self.select_layer if self.select_layer >= 0 else self.num_layers + 1 + self.select_layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(NetworkConfig):
    """Dense decoder of the Llama family. Defaults: LongVA-7B, which is Qwen2.

    Attributes:
      width: D. num_heads: N query heads. num_kv_heads: K. head_dim: H, whatever D / N is. mlp_dim: F. vocab_size: V.
      num_layers: L.
      qkv_bias: queries, keys and values have biases (Qwen2); the output projection never has.
      qk_norm: queries and keys go through an RMSNorm over H before RoPE (Qwen3).
      rope_theta: RoPE base; LongVA's long-context base is 1e9.
      max_positions: longest sequence (prompt, visual tokens and answer together) that is accepted.
      weights: how matrices, embedding and head included, are held: as they are "stored", as "bf16", or as "int8" with a
        scale for each output channel (`nn.int8`).
    """

    network: ClassVar[str] = "bat_jax.nn.decoder:Decoder"

    width: int = 3584
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    head_dim: int = 128
    mlp_dim: int = 18944
    vocab_size: int = 152064
    qkv_bias: bool = True
    qk_norm: bool = False
    rope_theta: float = 1e9
    norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    max_positions: int = 32768
    weights: HeldWeights = "stored"

    def __post_init__(self):
        require_positive(
            self, "width", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "vocab_size", "rope_theta"
        )
        require_positive(self, "max_positions")
        require_choice(self, "weights", get_args(HeldWeights))
        require(
            self.num_heads % self.num_kv_heads == 0,
            "DecoderConfig.num_kv_heads",
            self.num_kv_heads,
            f"must divide the {self.num_heads} query heads",
        )
        require(self.head_dim % 2 == 0, "DecoderConfig.head_dim", self.head_dim, "must be even (RoPE rotates pairs)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpConfig(NetworkConfig):
    """Two linear layers with exact (erf) GELU between: the projector and the release's token MLP."""

    network: ClassVar[str] = "bat_jax.nn.mlp:GeluMlp"

    in_dim: int
    out_dim: int

    def __post_init__(self):
        require_positive(self, "in_dim", "out_dim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleEmbeddingConfig(NetworkConfig):
    """What a checkpoint holds to tell scales and places apart (paper, Sec. 3.3, Eq. 5).

    Attributes:
      form: "none"; "base" (paper: one base grid p of side `base_side` for all scales and one vector q per scale);
        "residual" (release: one learned grid per scale).
      scales_px: the scales the weights know, in pixels, ascending.
      sides: for "residual", the grid side of each of them; empty otherwise.
      base_side: G, for "base".
    """

    network: ClassVar[str] = "bat_jax.nn.scale_embedding:ScaleEmbedding"

    form: Literal["none", "base", "residual"] = "none"
    width: int = 3584
    scales_px: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()
    base_side: int = 24

    def __post_init__(self):
        require_choice(self, "form", ("none", "base", "residual"))
        require_positive(self, "width", "base_side")
        if self.form == "residual":
            require(
                len(self.sides) == len(self.scales_px),
                "ScaleEmbeddingConfig.sides",
                self.sides,
                f"needs one side for each of the {len(self.scales_px)} scales",
            )
