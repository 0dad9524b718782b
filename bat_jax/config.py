"""Sizes and settings of UHR-BAT as frozen dataclasses; every other file reads them from here.

Who uses what: `nn/` modules take one of VisionConfig, DecoderConfig, ScaleEmbeddingConfig or MlpConfig as their
only field `cfg`; `compress/` takes a CompressorConfig; `model.py` and `pipeline.py` take the whole BatConfig, which
is what `config.json` of a converted checkpoint holds.

A number that differs between the paper (arXiv:2604.13565) and the authors' release is a field of CompressorConfig or
PromptConfig. The presets `paper()` and `release()` set all of them together; `dataclasses.replace` flips one.
"""

import dataclasses
import json
import math
import pathlib
import typing
from typing import Any, Literal

Fidelity = Literal["paper", "release"]
Partition = Literal["kmeans", "sam", "grid"]

# The budgets of the paper's appendix A, which the authors' README uses too, and its other sets by benchmark.
DEFAULT_SCALES_PX = (672, 1344, 2688, 4032)
PAPER_BUDGETS = {
    "default": (80, 320, 600, 2000),
    "xlrs": (180, 1320, 1600, 8000),
    "rshr": (80, 320, 1600, 4000),
    "table6": (80, 320, 600, 2400),
}
BUDGET_OF_SCALE = dict(zip(DEFAULT_SCALES_PX, PAPER_BUDGETS["default"], strict=True))


def _require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raise a ValueError that names the field at fault, what came and what is allowed."""
    if not condition:
        raise ValueError(f"{field}={value!r}: {allowed}")


def _require_positive(obj: Any, *fields: str) -> None:
    for field in fields:
        value = getattr(obj, field)
        _require(value > 0, f"{type(obj).__name__}.{field}", value, "must be positive")


def _require_choice(obj: Any, field: str, choices: tuple[str, ...]) -> None:
    value = getattr(obj, field)
    _require(value in choices, f"{type(obj).__name__}.{field}", value, f"must be one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """CLIP vision tower. Defaults: ViT-L/14 at 336 pixels.

    Attributes:
      width: E, the tower's width.
      num_layers: layers in the checkpoint; `select_layer` decides how many of them run.
      select_layer: index into the hidden states [embeddings, layer 1, ...]; -2 is the output of the last layer but one.
      image_size_px: the side t of a tile in pixels.
      patch_size_px: the side of a patch in pixels.
    """

    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_dim: int = 4096
    image_size_px: int = 336
    patch_size_px: int = 14
    norm_eps: float = 1e-5
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    select_layer: int = -2

    def __post_init__(self):
        _require_positive(self, "width", "num_layers", "num_heads", "mlp_dim", "image_size_px", "patch_size_px")
        _require_choice(self, "activation", ("quick_gelu", "gelu"))
        _require(
            self.width % self.num_heads == 0, "VisionConfig.num_heads", self.num_heads, f"must divide {self.width}"
        )
        _require(
            self.image_size_px % self.patch_size_px == 0,
            "VisionConfig.patch_size_px",
            self.patch_size_px,
            f"must divide the tile's {self.image_size_px} pixels",
        )
        _require(
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
class DecoderConfig:
    """Qwen2 decoder. Defaults: LongVA-7B.

    Attributes:
      width: D. num_heads: N query heads. num_kv_heads: K. head_dim: H. mlp_dim: F. vocab_size: V. num_layers: L.
      rope_theta: RoPE base; LongVA's long-context base is 1e9.
      max_positions: longest sequence (prompt, visual tokens and answer together) that is accepted.
    """

    width: int = 3584
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    head_dim: int = 128
    mlp_dim: int = 18944
    vocab_size: int = 152064
    rope_theta: float = 1e9
    norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    max_positions: int = 32768

    def __post_init__(self):
        _require_positive(
            self, "width", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "vocab_size", "rope_theta"
        )
        _require_positive(self, "max_positions")
        _require(
            self.num_heads % self.num_kv_heads == 0,
            "DecoderConfig.num_kv_heads",
            self.num_kv_heads,
            f"must divide the {self.num_heads} query heads",
        )
        _require(self.head_dim % 2 == 0, "DecoderConfig.head_dim", self.head_dim, "must be even (RoPE rotates pairs)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """Two linear layers with exact (erf) GELU between: the projector and the release's token MLP."""

    in_dim: int
    out_dim: int

    def __post_init__(self):
        _require_positive(self, "in_dim", "out_dim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleEmbeddingConfig:
    """What a checkpoint holds to tell scales and places apart (paper, Sec. 3.3, Eq. 5).

    Attributes:
      form: "none"; "base" (paper: one base grid p of side `base_side` for all scales and one vector q per scale);
        "residual" (release: one learned grid per scale).
      scales_px: the scales the weights know, in pixels, ascending.
      sides: for "residual", the grid side of each of them; empty otherwise.
      base_side: G, for "base".
    """

    form: Literal["none", "base", "residual"] = "none"
    width: int = 3584
    scales_px: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()
    base_side: int = 24

    def __post_init__(self):
        _require_choice(self, "form", ("none", "base", "residual"))
        _require_positive(self, "width", "base_side")
        if self.form == "residual":
            _require(
                len(self.sides) == len(self.scales_px),
                "ScaleEmbeddingConfig.sides",
                self.sides,
                f"needs one side for each of the {len(self.scales_px)} scales",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleSpec:
    """One view: its side T_s in pixels and B_s, the tokens kept of it."""

    size_px: int
    budget: int

    def __post_init__(self):
        _require_positive(self, "size_px", "budget")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressorConfig:
    """Everything that decides which visual tokens the decoder sees (paper, Sec. 3.2-3.4, App. C).

    Attributes:
      fidelity: the preset the fields below started from; only a label once they are set.
      scales: views from coarse to fine; the first is the anchor.
      partition: how a scale is cut into regions: K-means, a label map (SAM), or a regular grid.
      num_clusters: regions per scale for K-means and grid; 0 means as many as the scale's budget.
      kmeans_iterations: most Lloyd steps.
      feature_scale, coord_scale: weights of the unit feature and of the coordinates in Eq. 13.
      cluster_features: "vision" clusters the tower's features, "projected" the decoder-wide ones.
      coordinates: "scale" is the normalised centre on the whole view (paper); "tile" is (col, row)/(side-1) inside the
        tile, alike in every tile (release).
      preserve_equal: True keeps tokens with importance >= the region's mean (paper, Eq. 9); False needs > (release).
      importance_layer: decoder layer whose attention is read; negative counts from the last.
      importance_query: "question" averages the rows of the question's text tokens (paper, Eq. 2); "last_token" takes
        the last text token's row (release).
      mask_padding: keep padding tokens of non-square images out of anchor attention, clustering and selection.
      scale_embedding: add the checkpoint's scale embedding on the answering path.
      scale_embedding_extent: "scale" stretches a grid over the whole view (paper); "tile" over one tile, alike in every
        tile (release).
      scale_embedding_repeats: how often it is added on the answering path (release: twice).
      scale_embedding_in_attention: "as_set" follows `scale_embedding`; "always" adds it once on the attention path
        whatever that says (release).
      token_mlp: send the selected tokens through the token MLP (release).
      coverage: "guaranteed" gives every region one row before the budget is filled in order (ours, in neither).
      background: for label maps: "tokens" makes every token of label 0 a region of its own; "region" treats 0 as any
        other label.
      without_label_map: what partition "sam" does without a label map: "top" keeps the best tokens, "error" refuses.
      clip_clusters: more clusters than tokens at a scale: True uses as many as there are tokens (release), False
        refuses.
    """

    fidelity: Fidelity
    scales: tuple[ScaleSpec, ...] = tuple(ScaleSpec(size_px=s, budget=b) for s, b in BUDGET_OF_SCALE.items())
    partition: Partition = "kmeans"
    num_clusters: int = 600
    kmeans_iterations: int = 10
    feature_scale: float = 1.0
    coord_scale: float = 0.05
    cluster_features: Literal["vision", "projected"]
    coordinates: Literal["scale", "tile"]
    preserve_equal: bool
    importance_layer: int = -1
    importance_query: Literal["question", "last_token"]
    mask_padding: bool
    scale_embedding: bool
    scale_embedding_extent: Literal["scale", "tile"]
    scale_embedding_repeats: int
    scale_embedding_in_attention: Literal["as_set", "always"]
    token_mlp: bool
    coverage: Literal["off", "guaranteed"] = "off"
    background: Literal["tokens", "region"] = "tokens"
    without_label_map: Literal["top", "error"]
    clip_clusters: bool

    def __post_init__(self):
        _require_choice(self, "fidelity", ("paper", "release"))
        _require_choice(self, "partition", ("kmeans", "sam", "grid"))
        _require_choice(self, "cluster_features", ("vision", "projected"))
        _require_choice(self, "coordinates", ("scale", "tile"))
        _require_choice(self, "importance_query", ("question", "last_token"))
        _require_choice(self, "scale_embedding_extent", ("scale", "tile"))
        _require_choice(self, "scale_embedding_in_attention", ("as_set", "always"))
        _require_choice(self, "coverage", ("off", "guaranteed"))
        _require_choice(self, "background", ("tokens", "region"))
        _require_choice(self, "without_label_map", ("top", "error"))
        _require_positive(self, "kmeans_iterations", "scale_embedding_repeats")
        _require(self.num_clusters >= 0, "num_clusters", self.num_clusters, "must be 0 (as the budget) or positive")
        _require(len(self.scales) > 0, "scales", self.scales, "must name at least one view")
        sizes = [scale.size_px for scale in self.scales]
        _require(
            sizes == sorted(set(sizes)), "scales", sizes, "must be ascending and distinct; the first is the anchor"
        )

    @classmethod
    def paper(cls, **overrides: Any) -> "CompressorConfig":
        """The method as the paper's text describes it."""
        settings = {
            "fidelity": "paper",
            "cluster_features": "vision",
            "coordinates": "scale",
            "preserve_equal": True,
            "importance_query": "question",
            "mask_padding": True,
            "scale_embedding": True,
            "scale_embedding_extent": "scale",
            "scale_embedding_repeats": 1,
            "scale_embedding_in_attention": "as_set",
            "token_mlp": False,
            "without_label_map": "error",
            "clip_clusters": False,
        }
        return cls(**(settings | overrides))

    @classmethod
    def release(cls, **overrides: Any) -> "CompressorConfig":
        """The method as the authors' PyTorch release of June 2026 runs it."""
        settings = {
            "fidelity": "release",
            "cluster_features": "projected",
            "coordinates": "tile",
            "preserve_equal": False,
            "importance_query": "last_token",
            "mask_padding": False,
            "scale_embedding": False,
            "scale_embedding_extent": "tile",
            "scale_embedding_repeats": 2,
            "scale_embedding_in_attention": "always",
            "token_mlp": True,
            "without_label_map": "top",
            "clip_clusters": True,
        }
        return cls(**(settings | overrides))

    @classmethod
    def preset(cls, fidelity: Fidelity, **overrides: Any) -> "CompressorConfig":
        """Return `paper()` or `release()`."""
        _require(fidelity in ("paper", "release"), "fidelity", fidelity, "must be one of paper, release")
        return cls.paper(**overrides) if fidelity == "paper" else cls.release(**overrides)

    @property
    def sizes_px(self) -> tuple[int, ...]:
        return tuple(scale.size_px for scale in self.scales)

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(scale.budget for scale in self.scales)

    def embedding_repeats(self, path: Literal["answer", "attention"]) -> int:
        """How often the scale embedding is added to tokens the decoder sees ("answer") or computes importance on."""
        if path == "answer":
            return self.scale_embedding_repeats if self.scale_embedding else 0
        return int(self.scale_embedding or self.scale_embedding_in_attention == "always")

    def clusters_of(self, scale: ScaleSpec, num_tokens: int) -> int:
        """Regions made of a scale of `num_tokens` tokens: `num_clusters` or the budget, clipped to the tokens."""
        return min(self.num_clusters or scale.budget, num_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How a question becomes the ChatML prompt (SPEC of the release's scripts and the paper's unified template).

    Attributes:
      system: the system message.
      keep_image_newline: True turns a stored question "<image>\\nQ" into "<image>\\n\\nQ", as the release does.
      images: "first": only the first of several images reaches the prompt (release); "all": each has its place.
      mask_added_tokens: replace every id >= the tokenizer's base vocabulary by the end-of-turn id, as the release's
        inference and evaluation scripts do. Off in both presets.
    """

    system: str = "You are a helpful assistant."
    keep_image_newline: bool = False
    images: Literal["first", "all"] = "all"
    mask_added_tokens: bool = False

    def __post_init__(self):
        _require_choice(self, "images", ("first", "all"))

    @classmethod
    def release(cls) -> "PromptConfig":
        """The prompt as the authors' inference script builds it."""
        return cls.preset("release")

    @classmethod
    def preset(cls, fidelity: Fidelity, **overrides: Any) -> "PromptConfig":
        """Return the prompt settings of the paper or the release."""
        is_release = fidelity == "release"
        settings = {"keep_image_newline": is_release, "images": "first" if is_release else "all"}
        return cls(**(settings | overrides))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatConfig:
    """A whole model: what its weights are (vision, decoder, scale_embedding, token_mlp) and how it is used by default.

    Attributes:
      has_token_mlp: the checkpoint holds a token MLP.
      compressor: default settings; a command's flags replace them.
      compute_dtype: "float32" or "bfloat16", the dtype of activations.
    """

    vision: VisionConfig = VisionConfig()
    decoder: DecoderConfig = DecoderConfig()
    scale_embedding: ScaleEmbeddingConfig = ScaleEmbeddingConfig()
    has_token_mlp: bool = False
    compressor: CompressorConfig = dataclasses.field(default_factory=lambda: CompressorConfig.release(token_mlp=False))
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig.release)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        _require_choice(self, "compute_dtype", ("float32", "bfloat16"))
        if self.scale_embedding.form != "none":
            _require(
                self.scale_embedding.width == self.decoder.width,
                "scale_embedding.width",
                self.scale_embedding.width,
                f"must be the decoder's {self.decoder.width}",
            )
        layer = self.compressor.importance_layer
        _require(
            -self.decoder.num_layers <= layer < self.decoder.num_layers,
            "importance_layer",
            layer,
            f"the decoder has {self.decoder.num_layers} layers",
        )
        tile = self.vision.image_size_px
        for scale in self.compressor.scales:
            _require(
                scale.size_px % tile == 0, "scales", scale.size_px, f"must be a multiple of the tile's {tile} pixels"
            )
            num_tokens = self.num_tokens(scale.size_px)
            _require(
                scale.budget <= num_tokens,
                "budgets",
                scale.budget,
                f"scale {scale.size_px} has only {num_tokens} tokens",
            )
        self._check_clusters()
        has_embedding = self.scale_embedding.form != "none"
        _require(
            has_embedding or not self.compressor.scale_embedding,
            "scale_embedding",
            True,
            "the checkpoint holds no scale embedding",
        )
        if has_embedding:
            wanted = self.compressor.sizes_px if self.compressor.embedding_repeats("answer") else ()
            anchor = self.compressor.sizes_px[:1] if self.compressor.embedding_repeats("attention") else ()
            missing = {*wanted, *anchor} - set(self.scale_embedding.scales_px)
            _require(
                not missing,
                "scales",
                sorted(missing),
                f"the checkpoint's scale embedding knows {list(self.scale_embedding.scales_px)} only",
            )
        if self.compressor.token_mlp:
            _require(self.has_token_mlp, "token_mlp", True, "the checkpoint holds no token MLP")

    def _check_clusters(self) -> None:
        if self.compressor.partition == "sam":
            return
        num_clusters = self.compressor.num_clusters
        counts = [self.num_tokens(size) for size in self.compressor.sizes_px]
        limit = max(counts) if self.compressor.clip_clusters else min(counts)
        _require(
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
        _require(set(settings) <= known, "settings", sorted(set(settings) - known), f"known are {sorted(known)}")
        of = {kind: {name: value for name, value in settings.items() if name in names[kind]} for kind in names}
        return dataclasses.replace(
            self,
            compressor=dataclasses.replace(compressor, **of[CompressorConfig]),
            prompt=dataclasses.replace(prompt, **of[PromptConfig]),
        )

    @property
    def networks(self) -> "BatConfig":
        """The config with the compressor's and the prompt's settings blanked out.

        What only runs a network is compiled for this one, so that no setting of the compressor compiles it anew.
        """
        scales = (ScaleSpec(size_px=self.vision.image_size_px, budget=1),)
        blank = CompressorConfig.release(
            scales=scales, num_clusters=0, token_mlp=False, scale_embedding_in_attention="as_set"
        )
        return dataclasses.replace(self, compressor=blank, prompt=PromptConfig())

    @classmethod
    def uhr_bat_7b(cls, fidelity: Fidelity = "release", **overrides: Any) -> "BatConfig":
        """UHR-BAT-7B's sizes: CLIP ViT-L/14-336, LongVA-7B, residual grids for the four scales, token MLP."""
        sides = tuple(min(size // 14, 64) for size in DEFAULT_SCALES_PX)
        settings = {
            "scale_embedding": ScaleEmbeddingConfig(form="residual", scales_px=DEFAULT_SCALES_PX, sides=sides),
            "has_token_mlp": True,
            "compressor": CompressorConfig.preset(fidelity),
            "prompt": PromptConfig.preset(fidelity),
            "compute_dtype": "bfloat16",
        }
        return cls(**(settings | overrides))

    def to_json(self) -> str:
        """Return the config as JSON text (sorted keys, two spaces)."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BatConfig":
        """Read what `to_json` wrote.

        Raises:
          ValueError: the text is no JSON, or a field is missing, unknown or out of range; names the field.
        """
        try:
            return _from_dict(cls, json.loads(text), "")
        except json.JSONDecodeError as error:
            raise ValueError(f"config is no valid JSON: {error}") from None

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "BatConfig":
        """Read a config.json written by `to_json`."""
        return cls.from_json(pathlib.Path(path).read_text())


_NESTED = {
    "vision": VisionConfig,
    "decoder": DecoderConfig,
    "scale_embedding": ScaleEmbeddingConfig,
    "compressor": CompressorConfig,
    "prompt": PromptConfig,
}


def _from_dict(cls: type, values: Any, where: str) -> Any:
    """Build a config dataclass from parsed JSON: exact fields of the right types, nested dataclasses, tuples."""
    _require(isinstance(values, dict), where or "config", values, "must be a JSON object")
    types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    _require(not unknown, f"{where or 'config'}", unknown, f"unknown fields; known are {', '.join(sorted(types))}")
    built = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        if name in _NESTED and cls is BatConfig:
            built[name] = _from_dict(_NESTED[name], value, name)
        elif name == "scales":
            _require(isinstance(value, list), path, value, "must be a list of scales")
            built[name] = tuple(_from_dict(ScaleSpec, item, "scales") for item in value)
        else:
            built[name] = _typed(types[name], value, path)
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"{where or 'config'}: {error}") from None


def _typed(kind: Any, value: Any, path: str) -> Any:
    """Return a JSON value as the field's type: bool, int, float, text or a tuple of whole numbers."""
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(is_number and math.isfinite(value), path, value, "must be a finite number")
        return value
    if typing.get_origin(kind) is tuple:
        is_list = isinstance(value, list) and all(type(item) is int for item in value)
        _require(is_list, path, value, "must be a list of whole numbers")
        return tuple(value)
    kind = kind if kind in (bool, int) else str  # a Literal is text, too; its choices are checked by the dataclass
    _require(type(value) is kind, path, value, f"must be {'text' if kind is str else kind.__name__}")
    return value
