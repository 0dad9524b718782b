"""A whole model's config: networks, compressor and prompt; `config.json` of a converted checkpoint holds one."""

import dataclasses
import json
import pathlib
from typing import Any, Literal

from bat_jax.config.compressor import DEFAULT_SCALES_PX, CompressorConfig, Fidelity, PromptConfig, ScaleSpec
from bat_jax.config.fields import from_json, require, require_choice
from bat_jax.config.networks import (
    AttentionKernels,
    DecoderConfig,
    HeldWeights,
    MlpConfig,
    ScaleEmbeddingConfig,
    VisionConfig,
)
from bat_jax.text_files import read_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatConfig:
    """A whole model: what its weights are (vision, decoder, scale_embedding, token_mlp) and how it is used by default.

    Attributes:
      has_token_mlp: the checkpoint holds a token MLP.
      compressor: default settings; a command's flags replace them.
      compute_dtype: "float32" or "bfloat16", the dtype of activations.
      attention: how a device computes attention; no property of the weights, so that no file holds it.
    """

    vision: VisionConfig = dataclasses.field(default_factory=VisionConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    scale_embedding: ScaleEmbeddingConfig = dataclasses.field(default_factory=ScaleEmbeddingConfig)
    has_token_mlp: bool = False
    compressor: CompressorConfig = dataclasses.field(default_factory=lambda: CompressorConfig.release(token_mlp=False))
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig.release)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    attention: AttentionKernels = dataclasses.field(default_factory=AttentionKernels)

    def __post_init__(self):
        require_choice(self, "compute_dtype", ("float32", "bfloat16"))
        if self.scale_embedding.form != "none":
            require(
                self.scale_embedding.width == self.decoder.width,
                "scale_embedding.width",
                self.scale_embedding.width,
                f"must be the decoder's {self.decoder.width}",
            )
        num_layers = self.decoder.num_layers
        layer = self.compressor.importance_layer
        is_layer = -num_layers <= layer < num_layers
        require(is_layer, "importance_layer", layer, f"the decoder has {num_layers} layers")
        tile = self.vision.image_size_px
        for scale in self.compressor.scales:
            require(
                scale.size_px % tile == 0, "scales", scale.size_px, f"must be a multiple of the tile's {tile} pixels"
            )
            num_tokens = self.num_tokens(scale.size_px)
            require(
                scale.budget <= num_tokens,
                "budgets",
                scale.budget,
                f"scale {scale.size_px} has only {num_tokens} tokens",
            )
        self._check_clusters()
        if self.compressor.rule.check:
            self.compressor.rule.check(self, self.compressor.budgets, 1)
        has_embedding = self.scale_embedding.form != "none"
        require(
            has_embedding or not self.compressor.scale_embedding,
            "scale_embedding",
            True,
            "the checkpoint holds no scale embedding",
        )
        if has_embedding:
            wanted = self.compressor.sizes_px if self.compressor.embedding_repeats("answer") else ()
            anchor = self.compressor.sizes_px[:1] if self.compressor.embedding_repeats("attention") else ()
            missing = {*wanted, *anchor} - set(self.scale_embedding.scales_px)
            require(
                not missing,
                "scales",
                sorted(missing),
                f"the checkpoint's scale embedding knows {list(self.scale_embedding.scales_px)} only",
            )
        if self.compressor.token_mlp:
            require(self.has_token_mlp, "token_mlp", True, "the checkpoint holds no token MLP")

    def _check_clusters(self) -> None:
        if self.compressor.partition in ("sam", "one"):
            return
        num_clusters = self.compressor.num_clusters
        counts = [self.num_tokens(size) for size in self.compressor.sizes_px]
        limit = max(counts) if self.compressor.clip_clusters else min(counts)
        require(
            num_clusters <= limit,
            "num_clusters",
            num_clusters,
            f"the scales {list(self.compressor.sizes_px)} have {counts} tokens; at most {limit} regions fit",
        )

    def num_tiles(self, size_px: int) -> int:
        """I, tiles of a view of this side."""
        return (size_px // self.vision.image_size_px) ** 2

    def num_tokens(self, size_px: int) -> int:
        """N_s, tokens of a view of this side."""
        return (size_px // self.vision.patch_size_px) ** 2

    @property
    def projector(self) -> MlpConfig:
        return MlpConfig(in_dim=self.vision.width, out_dim=self.decoder.width)

    @property
    def token_mlp(self) -> MlpConfig:
        return MlpConfig(in_dim=self.decoder.width, out_dim=self.decoder.width)

    def with_settings(self, fidelity: Fidelity | None = None, **settings: Any) -> "BatConfig":
        """Return the config with other compressor settings, for instance from a command's flags.

        Args:
          fidelity: start from this preset (with the present scales, clusters, K-means steps and partition) instead of
            the present settings; parts that the checkpoint lacks stay off unless `settings` ask for them.
          settings: CompressorConfig or PromptConfig fields to replace; asking for a part that the checkpoint lacks is
            an error.
        """
        compressor, prompt = self.compressor, self.prompt
        if fidelity is not None:
            kept = ("scales", "partition", "num_clusters", "kmeans_iterations")
            compressor = CompressorConfig.preset(fidelity, **{name: getattr(compressor, name) for name in kept})
            compressor = dataclasses.replace(
                compressor,
                scale_embedding=compressor.scale_embedding and self.scale_embedding.form != "none",
                token_mlp=compressor.token_mlp and self.has_token_mlp,
            )
            prompt = PromptConfig.preset(fidelity, system=prompt.system)
        names = {kind: {field.name for field in dataclasses.fields(kind)} for kind in (CompressorConfig, PromptConfig)}
        known = set.union(*names.values())
        require(set(settings) <= known, "settings", sorted(set(settings) - known), f"known are {sorted(known)}")
        of = {kind: {name: value for name, value in settings.items() if name in names[kind]} for kind in names}
        return dataclasses.replace(
            self,
            compressor=dataclasses.replace(compressor, **of[CompressorConfig]),
            prompt=dataclasses.replace(prompt, **of[PromptConfig]),
        )

    def with_weights(self, weights: HeldWeights) -> "BatConfig":
        """Return the config with the decoder's weights held so (`DecoderConfig.weights`)."""
        return dataclasses.replace(self, decoder=dataclasses.replace(self.decoder, weights=weights))

    @property
    def networks(self) -> "BatConfig":
        """The config with the compressor's and the prompt's settings blanked out.

        What only runs a network is compiled for this one, so that no setting of the compressor compiles it anew.
        """
        return self.networks_with()

    def networks_with(self, *names: str) -> "BatConfig":
        """Return `networks` with some of the compressor's settings, for what reads only these."""
        compressor = self.compressor.only(*names)
        if "scales" not in names:
            tile = ScaleSpec(size_px=self.vision.image_size_px, budget=1)
            compressor = dataclasses.replace(compressor, scales=(tile,))
        return dataclasses.replace(self, compressor=compressor, prompt=PromptConfig())

    @classmethod
    def uhr_bat_7b(cls, fidelity: Fidelity = "release", **overrides: Any) -> "BatConfig":
        """UHR-BAT-7B's sizes: CLIP ViT-L/14-336, LongVA-7B, residual grids for the four scales, token MLP."""
        sides = tuple(min(size // 14, 64) for size in DEFAULT_SCALES_PX)
        settings: dict[str, Any] = {
            "scale_embedding": ScaleEmbeddingConfig(form="residual", scales_px=DEFAULT_SCALES_PX, sides=sides),
            "has_token_mlp": True,
            "compressor": CompressorConfig.preset(fidelity),
            "prompt": PromptConfig.preset(fidelity),
            "compute_dtype": "bfloat16",
        }
        return cls(**(settings | overrides))

    @classmethod
    def mini(cls, **overrides: Any) -> "BatConfig":
        """UHR-BAT in small, for the UHR-Mini world: the paper's grid at a ninth, 14,592 tokens of four views.

        Tiles of 112 pixels have 8 x 8 tokens, views have 4, 16, 64 and 144 tiles. Everything else is in proportion: the
        budgets keep a twentieth (729 tokens), a view has 64 regions as the paper's 600 of nine times as many tokens.
        Importance is read where training teaches it, at the third of five layers.
        """
        sizes = (224, 448, 896, 1344)
        scales = tuple(ScaleSpec(size_px=px, budget=b) for px, b in zip(sizes, (20, 70, 190, 449), strict=True))
        settings: dict[str, Any] = {
            "vision": VisionConfig(width=128, num_layers=5, num_heads=4, mlp_dim=512, image_size_px=112),
            "decoder": DecoderConfig(
                width=128,
                num_layers=5,
                num_heads=4,
                num_kv_heads=2,
                head_dim=32,
                mlp_dim=384,
                vocab_size=256,
                rope_theta=1e4,
                max_positions=4096,
                tie_word_embeddings=True,
            ),
            "scale_embedding": ScaleEmbeddingConfig(form="base", width=128, scales_px=sizes, base_side=16),
            "compressor": CompressorConfig.paper(scales=scales, num_clusters=64, coord_scale=0.3, importance_layer=2),
            "prompt": PromptConfig.preset("paper"),
        }
        return cls(**(settings | overrides))

    def to_json(self) -> str:
        """Return the config as JSON text (sorted keys, two spaces), without `weights` where they are as stored."""
        stored = {name: value for name, value in dataclasses.asdict(self).items() if name != "attention"}
        if self.decoder.weights == "stored":
            del stored["decoder"]["weights"]
        return json.dumps(stored, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BatConfig":
        """Read what `to_json` wrote.

        Raises:
          ValueError: the text is no JSON, or a field is missing, unknown or out of range; names the field.
        """
        return from_json(cls, text, "config")

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "BatConfig":
        """Read a config.json written by `to_json`; a ValueError names the file, too."""
        text = read_text(path)
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
