"""What decides which visual tokens the decoder sees, and how a question becomes a prompt.

A number that differs between the paper (arXiv:2604.13565) and the authors' release is a field here. The presets
`paper()` and `release()` set all of them together; `dataclasses.replace` flips one. docs/differences.md lists them.
"""

import dataclasses
from typing import Any, Literal, get_args

from bat_jax.config.fields import require, require_choice, require_positive
from bat_jax.config.selections import SELECTIONS, SelectionRule

Fidelity = Literal["paper", "release"]
Partition = Literal["kmeans", "birch", "sam", "grid", "one"]
# The budgets of the paper's appendix A, which the authors' README uses too, and its other sets by benchmark.
DEFAULT_SCALES_PX = (672, 1344, 2688, 4032)
PAPER_BUDGETS = {
    "default": (80, 320, 600, 2000),
    "xlrs": (180, 1320, 1600, 8000),
    "rshr": (80, 320, 1600, 4000),
    "table6": (80, 320, 600, 2400),
}
BUDGET_OF_SCALE = dict(zip(DEFAULT_SCALES_PX, PAPER_BUDGETS["default"], strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleSpec:
    """One view: its side T_s in pixels and B_s, the tokens kept of it."""

    size_px: int
    budget: int

    def __post_init__(self):
        require_positive(self, "size_px", "budget")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressorConfig:
    """Everything that decides which visual tokens the decoder sees (paper, Sec. 3.2-3.4, App. C).

    Attributes:
      fidelity: the preset the fields below started from; only a label once they are set.
      scales: views from coarse to fine; the first is the anchor.
      partition: how a scale is cut into regions: K-means, BIRCH, a label map (SAM), a regular grid, or one region.
      num_clusters: regions per scale for K-means, BIRCH and grid; 0 means as many as the scale's budget.
      kmeans_iterations: most Lloyd steps.
      birch_threshold: largest radius of BIRCH's subclusters, in the units of Eq. 13's u_i.
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
      selection: name of a record (config/selections.py): "uhr_bat" is the method, the others are what it is compared
        with (docs/compressors.md).
      fastv_layer: K of selection "fastv": the decoder layer, counted from 1, whose attention is read.
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
    birch_threshold: float = 0.25
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
    selection: str = "uhr_bat"
    fastv_layer: int = 2
    coverage: Literal["off", "guaranteed"] = "off"
    background: Literal["tokens", "region"] = "tokens"
    without_label_map: Literal["top", "error"]
    clip_clusters: bool

    def __post_init__(self):
        require_choice(self, "fidelity", ("paper", "release"))
        require_choice(self, "partition", get_args(Partition))
        require_choice(self, "cluster_features", ("vision", "projected"))
        require_choice(self, "coordinates", ("scale", "tile"))
        require_choice(self, "importance_query", ("question", "last_token"))
        require_choice(self, "scale_embedding_extent", ("scale", "tile"))
        require_choice(self, "scale_embedding_in_attention", ("as_set", "always"))
        require_choice(self, "selection", SELECTIONS.names)
        require_choice(self, "coverage", ("off", "guaranteed"))
        require_choice(self, "background", ("tokens", "region"))
        require_choice(self, "without_label_map", ("top", "error"))
        require_positive(self, "kmeans_iterations", "scale_embedding_repeats", "fastv_layer", "birch_threshold")
        require(self.num_clusters >= 0, "num_clusters", self.num_clusters, "must be 0 (as the budget) or positive")
        require(len(self.scales) > 0, "scales", self.scales, "must name at least one view")
        sizes = [scale.size_px for scale in self.scales]
        require(sizes == sorted(set(sizes)), "scales", sizes, "must be ascending and distinct; the first is the anchor")

    @classmethod
    def paper(cls, **overrides: Any) -> "CompressorConfig":
        """The method as the paper's text describes it."""
        settings: dict[str, Any] = {
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
        settings: dict[str, Any] = {
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
        require(fidelity in ("paper", "release"), "fidelity", fidelity, "must be one of paper, release")
        return cls.paper(**overrides) if fidelity == "paper" else cls.release(**overrides)

    @property
    def sizes_px(self) -> tuple[int, ...]:
        return tuple(scale.size_px for scale in self.scales)

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(scale.budget for scale in self.scales)

    @property
    def rule(self) -> SelectionRule:
        """The selection's record."""
        return SELECTIONS[self.selection]

    @property
    def attention_layer(self) -> int:
        """Decoder layer whose attention the selection reads; negative counts from the last."""
        return self.rule.attention(self)[0] if self.rule.attention else self.importance_layer

    @property
    def attention_query(self) -> str:
        """Which rows of that attention the selection reads, "question" or "last_token"."""
        return self.rule.attention(self)[1] if self.rule.attention else self.importance_query

    @property
    def reads_tower_attention(self) -> bool:
        """Whether the selection needs the vision tower's attention of every token."""
        return "tower" in self.rule.needs

    def only(self, *names: str) -> "CompressorConfig":
        """Return these fields' values, and for all others values that do not depend on this config."""
        blank = CompressorConfig.release(num_clusters=0, token_mlp=False, scale_embedding_in_attention="as_set")
        return dataclasses.replace(blank, **{name: getattr(self, name) for name in names})

    @property
    def for_select(self) -> "CompressorConfig":
        """The config with only what `compress.compressor.select` reads: nothing else compiles the selection anew."""
        return self.only("scales", "mask_padding", "selection", *self.rule.settings)

    def embedding_repeats(self, path: Literal["answer", "attention"]) -> int:
        """How often the scale embedding is added to tokens the decoder sees ("answer") or computes importance on."""
        if path == "answer":
            return self.scale_embedding_repeats if self.scale_embedding else 0
        return int(self.scale_embedding or self.scale_embedding_in_attention == "always")

    def clusters_of(self, scale: ScaleSpec, num_tokens: int) -> int:
        """Regions made of a scale of `num_tokens` tokens: `num_clusters` or the budget, clipped to the tokens."""
        if self.partition == "one":
            return 1
        return min(self.num_clusters or scale.budget, num_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How a question becomes the ChatML prompt, in the paper's setting and as the release's scripts build it.

    Attributes:
      system: the system message.
      keep_image_newline: True turns a stored question "<image>\\nQ" into "<image>\\n\\nQ", as the release does.
      images: "first": only the first of several images reaches the prompt (release); "all": each has its place.
      mask_added_tokens: replace every id >= the tokenizer's base vocabulary by the end-of-turn id, as the release's
        inference and evaluation scripts do. Off in both presets.
      special_tokens: "text": added tokens of the tokenizer inside a question, an answer or the system message are text,
        so that none closes a turn; "raw": they count, as in the release.
    """

    system: str = "You are a helpful assistant."
    keep_image_newline: bool = False
    images: Literal["first", "all"] = "all"
    mask_added_tokens: bool = False
    special_tokens: Literal["text", "raw"] = "text"

    def __post_init__(self):
        require_choice(self, "images", ("first", "all"))
        require_choice(self, "special_tokens", ("text", "raw"))

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
