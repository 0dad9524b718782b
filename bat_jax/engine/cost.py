"""What a run of UHR-BAT costs, computed from a config: floating-point operations, bytes moved and memory per stage.

Counted are matrix products, two operations per multiply-add; norms, softmax, activations and sorting are left out (they
are under 3 % wherever a stage is dominated by products, see tests/study/test_cost.py). Attention is counted in one of
four ways, `Attention`:

    "computed"  as this project runs it: a sequence from slot 0 on in four spans, each with all keys up to its end; any
                other queries with all S keys; masked afterwards, in blocks of at most 512 queries
    "all"       all S keys for every query
    "causal"    only the pairs that the mask lets through (what a fused causal kernel does)
    "none"      left out, as counters do that do not see inside a fused attention kernel

A decoder's layers stand apart, as on accelerators and, up to 6 of them, on a CPU: of the last layer nothing is computed
that no one reads. Where they are scanned, it computes all rows.

Letters: D decoder width, E vision width, T new rows, S key slots, M tokens, R regions, L layers, V vocabulary.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Literal

import jax

from bat_jax.config import BatConfig
from bat_jax.model import init_params, loaded_shapes
from bat_jax.ops.attention import QUERY_BLOCK, num_scored_pairs

Attention = Literal["computed", "all", "causal", "none"]
BYTES = {"float32": 4, "bfloat16": 2}
TERA, GIGA = 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage's cost. linear: operations in products with weights or centres; attention: in scores and mixing.

    bytes: weights read once, inputs read and outputs written once; what stays on the chip is not counted.
    """

    name: str
    linear: int | float
    attention: int | float = 0
    bytes: int | float = 0

    @property
    def flops(self) -> int | float:
        return self.linear + self.attention

    def times(self, count: int) -> "Stage":
        return Stage(self.name, count * self.linear, count * self.attention, count * self.bytes)


def together(name: str, parts: Iterable[Stage]) -> Stage:
    """Return several stages as one."""
    parts = tuple(parts)
    return Stage(name, sum(p.linear for p in parts), sum(p.attention for p in parts), sum(p.bytes for p in parts))


def _item(cfg: BatConfig) -> int:
    return BYTES[cfg.compute_dtype]


def _decoder_item(cfg: BatConfig) -> int:
    """Return the bytes of a weight in the decoder's matrices."""
    return {"stored": _item(cfg), "bf16": 2, "int8": 1}[cfg.decoder.weights]


# ---- the image half


def vision_layer_parameters(cfg: BatConfig) -> int:
    """Return the matrix parameters of one tower layer: 4 E^2 + 2 E F."""
    vision = cfg.vision
    return 4 * vision.width**2 + 2 * vision.width * vision.mlp_dim


def vision_tower(cfg: BatConfig, num_tiles: int, num_layers: int | None = None, attention: Attention = "all") -> Stage:
    """Return the tower's cost over tiles; `num_layers` defaults to the layers that run here (23 of 24).

    Attention has no mask here: it is counted in full, or left out under "none".
    """
    vision = cfg.vision
    layers = vision.num_run_layers if num_layers is None else num_layers
    tokens = vision.num_patches + 1
    patch = 2 * vision.num_patches * 3 * vision.patch_size_px**2 * vision.width
    linear = 2 * tokens * vision_layer_parameters(cfg) * layers
    mixing = 0 if attention == "none" else 4 * tokens**2 * vision.width * layers
    weights = (3 * vision.patch_size_px**2 * vision.width + layers * vision_layer_parameters(cfg)) * _item(cfg)
    moved = num_tiles * (3 * vision.image_size_px**2 + vision.num_patches * vision.width * _item(cfg))
    return Stage("vision tower", num_tiles * (patch + linear), num_tiles * mixing, weights + moved)


def projector(cfg: BatConfig, num_tokens: int) -> Stage:
    """Return the projector's cost: E -> D -> D."""
    parameters = cfg.vision.width * cfg.decoder.width + cfg.decoder.width**2
    moved = num_tokens * (cfg.vision.width + cfg.decoder.width)
    return Stage("projector", 2.0 * num_tokens * parameters, 0.0, (parameters + moved) * _item(cfg))


def scale_embedding(cfg: BatConfig, scale_px: int) -> Stage:
    """Return the cost of resizing a scale's grid (two matrix products per axis, Eq. 16) and adding it to its tokens."""
    embedding = cfg.scale_embedding
    if embedding.form == "none":
        return Stage("scale embedding", 0.0)
    is_base = embedding.form == "base"
    source = embedding.base_side if is_base else embedding.sides[embedding.scales_px.index(scale_px)]
    target = (
        cfg.vision.side if cfg.compressor.scale_embedding_extent == "tile" else scale_px // cfg.vision.patch_size_px
    )
    width, tokens = cfg.decoder.width, cfg.num_tokens(scale_px)
    resize = 2 * target * source * source * width + 2 * target * target * source * width
    moved = 4 * source**2 * width + 2 * tokens * width * _item(cfg)
    return Stage("scale embedding", resize + tokens * width, 0.0, moved)


def kmeans_step(cfg: BatConfig, num_tokens: int, num_clusters: int, sums: Literal["scatter", "product"]) -> Stage:
    """Return one Lloyd step: 2 M R C for the distances, and the new centres' sums.

    Args:
      sums: "product" is the one-hot matrix product of accelerators, another 2 M R C, in one pass over the features as
        they are; "scatter" the CPU's M C additions, in a second pass over float32 rows.
    """
    is_vision = cfg.compressor.cluster_features == "vision"
    width = (cfg.vision.width if is_vision else cfg.decoder.width) + 2
    distances = 2.0 * num_tokens * num_clusters * width
    adding, read = (distances, _item(cfg)) if sums == "product" else (num_tokens * width, 2 * BYTES["float32"])
    centres = 2 * num_clusters * width * BYTES["float32"]
    return Stage("K-means", distances + adding, 0.0, num_tokens * width * read + centres)


# ---- the decoder


def decoder_parameters(cfg: BatConfig) -> int:
    """Return the matrix parameters of all decoder layers, without embedding and head."""
    return cfg.decoder.num_layers * (_key_value_parameters(cfg) + _row_parameters(cfg))


def _key_value_parameters(cfg: BatConfig) -> int:
    return 2 * cfg.decoder.width * cfg.decoder.head_dim * cfg.decoder.num_kv_heads


def _row_parameters(cfg: BatConfig) -> int:
    """Return those of a layer that what leaves it takes, beside the keys and values: 2 D N H + 3 D F."""
    dec = cfg.decoder
    return dec.width * (2 * dec.head_dim * dec.num_heads + 3 * dec.mlp_dim)


def decoder(
    cfg: BatConfig,
    rows: int,
    slots: int | None = None,
    attention: Attention = "computed",
    name: str = "decoder",
    free_slots: int = 0,
    last_rows: int | None = None,
) -> Stage:
    """Return the cost of new rows through all layers, without the head.

    Args:
      rows: how many. slots: the key slots, of which the rows are the last; None if the rows are all there is.
      free_slots: those of the cache behind the rows.
      last_rows: how many leave the last layer, the last ones, 1 or 0; of the others it gives keys and values alone.
        None for all.
    """
    dec = cfg.decoder
    before = 0 if slots is None else slots - rows
    pairs = {
        "none": 0,
        "causal": rows * before + rows * (rows + 1) // 2,
        "all": rows * (before + rows),
        "computed": num_scored_pairs(rows, slots),
    }[attention]
    linear, read, leaving = rows * decoder_parameters(cfg), decoder_parameters(cfg), rows
    all_pairs = pairs * dec.num_layers
    if last_rows is not None:
        all_pairs += (0 if attention == "none" else last_rows * (before + rows)) - pairs
        linear -= (rows - last_rows) * _row_parameters(cfg)
        read -= 0 if last_rows else _row_parameters(cfg)
        leaving = last_rows
    moved = read * _decoder_item(cfg) + (rows + leaving) * dec.width * _item(cfg)
    moved += kv_bytes(cfg, before + rows + free_slots)
    return Stage(name, 2.0 * linear, 4.0 * all_pairs * dec.num_heads * dec.head_dim, moved)


def head(cfg: BatConfig, rows: int) -> Stage:
    """Return the cost of the logits of `rows` rows."""
    parameters = cfg.decoder.width * cfg.decoder.vocab_size
    return Stage(
        "logits", 2.0 * rows * parameters, 0.0, parameters * _decoder_item(cfg) + 4 * rows * cfg.decoder.vocab_size
    )


def anchor_prefix(cfg: BatConfig, prefix: int, attention: Attention = "computed") -> Stage:
    """Return the decoder over [prompt prefix, anchor tokens], once an image; all that is kept is the cache."""
    rows = prefix + num_tokens_of_anchor(cfg)
    return decoder(cfg, rows, attention=attention, name="anchor prefix", last_rows=0)


def question_pass(cfg: BatConfig, prefix: int, question: int, attention: Attention = "computed") -> Stage:
    """Return the question's rows over the anchor's cache (Eq. 2); XLA shares the scores that importance reads again."""
    slots = prefix + num_tokens_of_anchor(cfg) + question
    return decoder(cfg, question, slots, attention, "question pass")


def selection(cfg: BatConfig, sums: Literal["scatter", "product"]) -> Stage:
    """Return preserve and merge over all scales: the sums of merged tokens; sorting is not counted."""
    width = cfg.decoder.width
    adding = sum(
        tokens * width * (2.0 * regions if sums == "product" else 1.0) for tokens, regions in tokens_and_regions(cfg)
    )
    return Stage("selection", adding, 0.0, total_tokens(cfg) * width * _item(cfg))


def token_mlp(cfg: BatConfig, kept: int) -> Stage:
    """Return the token MLP's cost over the kept rows (release; the paper has none)."""
    parameters = 2 * cfg.decoder.width**2
    moved = parameters + 2 * kept * cfg.decoder.width
    return Stage("token MLP", 2.0 * kept * parameters, 0.0, moved * _item(cfg))


def prefill(cfg: BatConfig, rows: int, new_slots: int = 0, attention: Attention = "computed") -> Stage:
    """Return the spliced prompt through the decoder, logits of its last row only."""
    through_layers = decoder(cfg, rows, attention=attention, free_slots=new_slots, last_rows=1)
    return together("prefill", (through_layers, head(cfg, 1)))


def decode_step(cfg: BatConfig, slots: int, attention: Attention = "computed") -> Stage:
    """Return one token through the decoder and the head; every slot of the cache is read."""
    return together("decode step", (decoder(cfg, 1, slots, attention), head(cfg, 1)))


# ---- whole paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """Text rows of a prompt: before the image, after it, and the answer's."""

    prefix: int = 14
    question: int = 64
    answer: int = 8

    @property
    def prompt(self) -> int:
        return self.prefix + self.question


def num_tiles(cfg: BatConfig) -> int:
    return sum(cfg.num_tiles(size) for size in cfg.compressor.sizes_px)


def total_tokens(cfg: BatConfig) -> int:
    """Return the tokens of all views (131,328 at the paper's sizes)."""
    return sum(cfg.num_tokens(size) for size in cfg.compressor.sizes_px)


def tokens_and_regions(cfg: BatConfig) -> list[tuple[int, int]]:
    """Return each scale's tokens and the most regions they are cut into."""
    counts = [cfg.num_tokens(scale.size_px) for scale in cfg.compressor.scales]
    regions = map(cfg.compressor.clusters_of, cfg.compressor.scales, counts)
    return list(zip(counts, regions, strict=True))


def num_tokens_of_anchor(cfg: BatConfig) -> int:
    return cfg.num_tokens(cfg.compressor.sizes_px[0])


def image_half(
    cfg: BatConfig, text: Text, attention: Attention = "computed", sums: Literal["scatter", "product"] = "product"
) -> list[Stage]:
    """Return what is computed once an image here: every view encoded once, only the layers that are needed."""
    settings = cfg.compressor
    used = [size for size in settings.sizes_px if settings.embedding_repeats("answer")]
    used += [settings.sizes_px[0]] if settings.embedding_repeats("attention") else []
    stages = [
        vision_tower(cfg, num_tiles(cfg), attention=attention),
        projector(cfg, total_tokens(cfg)),
        together("scale embedding", (scale_embedding(cfg, size) for size in used)),
    ]
    if settings.partition == "kmeans":
        steps = (kmeans_step(cfg, tokens, regions, sums) for tokens, regions in tokens_and_regions(cfg))
        stages.append(together("K-means", steps).times(settings.kmeans_iterations))
    return [*stages, anchor_prefix(cfg, text.prefix, attention)]


def question_half(
    cfg: BatConfig,
    kept: int,
    text: Text,
    attention: Attention = "computed",
    sums: Literal["scatter", "product"] = "product",
) -> list[Stage]:
    """Return what every question costs here, its answer included."""
    rows = kept + text.prompt
    stages = [question_pass(cfg, text.prefix, text.question, attention), selection(cfg, sums)]
    if cfg.compressor.token_mlp:
        stages.append(token_mlp(cfg, kept))
    stages.append(prefill(cfg, rows, text.answer, attention))
    steps = decode_step(cfg, rows + text.answer, attention).times(max(text.answer - 1, 0))
    return [*stages, dataclasses.replace(steps, name=f"{max(text.answer - 1, 0)} decode steps")]


def pipeline_stages(cfg: BatConfig, text: Text, sums: Literal["scatter", "product"] = "product") -> dict[str, Stage]:
    """Return the costs of all stages of a first question, under their names in `BatModel.stages`; budgets are full."""
    image = {stage.name: stage for stage in image_half(cfg, text, sums=sums)}
    *question, steps = question_half(cfg, sum(cfg.compressor.budgets), text, sums=sums)
    named = image | {stage.name: stage for stage in question}
    stages = {
        "vision_tower": together("vision_tower", (named["vision tower"], named["projector"])),
        "scale_embedding": named["scale embedding"],
        "region_partition": named.get("K-means", Stage("K-means", 0)),
        "anchor_prefix": named["anchor prefix"],
        "anchor_importance": named["question pass"],
        "preserve_merge": named["selection"],
        "token_mlp": named.get("token MLP", Stage("token MLP", 0)),
        "prefill": named["prefill"],
        "generate": steps,
    }
    return {name: dataclasses.replace(stage, name=name) for name, stage in stages.items()}


def release_path(
    cfg: BatConfig,
    kept: int,
    text: Text,
    attention: Attention = "none",
    encodings: int = 2,
    vision_layers: int | None = None,
) -> list[Stage]:
    """Return a question on the release's path: views encoded `encodings` times, all layers, logits of every row.

    Region partition is left out (its K-means has no weights, SAM's runs before); so are decode steps.
    """
    layers = vision_layers or cfg.vision.num_layers
    tower = vision_tower(cfg, num_tiles(cfg), layers, attention)
    anchor = text.prompt + num_tokens_of_anchor(cfg)
    rows = kept + text.prompt
    stages = [tower.times(encodings), projector(cfg, total_tokens(cfg)).times(encodings)]
    for name, length in (("anchor pass", anchor), ("prefill", rows)):
        stages.append(together(name, (decoder(cfg, length, attention=attention), head(cfg, length))))
    return [*stages, token_mlp(cfg, kept)] if cfg.compressor.token_mlp else stages


def tflops(stages: list[Stage]) -> int | float:
    return sum(stage.flops for stage in stages) / TERA


# ---- memory, in bytes


def kv_bytes(cfg: BatConfig, slots: int) -> int:
    """Return the key-value cache of `slots` rows, all layers."""
    return 2 * cfg.decoder.num_layers * slots * cfg.decoder.num_kv_heads * cfg.decoder.head_dim * _item(cfg)


@functools.cache
def parameter_counts(cfg: BatConfig) -> Mapping[str, int]:
    """Return the parameters of every part as they are held here (biases, norms and embeddings included)."""
    tree = jax.eval_shape(functools.partial(init_params, cfg), jax.random.key(0))
    return {name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part)) for name, part in tree.items()}


def inference_memory(cfg: BatConfig, kept: int, text: Text) -> dict[str, int]:
    """Return what an accelerator holds, in bytes: some of it for good, some only while its stage runs.

    K-means reads the tokens as they are there; a CPU's also writes float32 rows of the largest view.
    """
    item, tokens, dec = _item(cfg), total_tokens(cfg), cfg.decoder
    largest = max(cfg.num_tokens(size) for size in cfg.compressor.sizes_px)
    anchor = text.prefix + num_tokens_of_anchor(cfg)
    rows = kept + text.prompt + text.answer
    return {
        "weights": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(loaded_shapes(cfg))),
        "tokens of all views": tokens * dec.width * item,
        "anchor's KV cache": kv_bytes(cfg, anchor),
        "prompt's KV cache": kv_bytes(cfg, rows),
        "tower features of the largest view, while it is encoded": largest * cfg.vision.width * item,
        f"attention scores of {QUERY_BLOCK} queries, the most at once (float32), while prefilling": (
            4 * dec.num_heads * QUERY_BLOCK * rows
        ),
        "logits (float32, one row)": 4 * dec.vocab_size,
    }


def training_memory(cfg: BatConfig, moment_bytes: int) -> dict[str, int]:
    """Return weights, gradients and AdamW's two moments in bytes, without activations; the tower is frozen (App. B)."""
    counts = parameter_counts(cfg)
    trained = sum(counts.values()) - counts["vision_tower"]
    return {
        "weights": sum(counts.values()) * _item(cfg),
        "gradients": trained * _item(cfg),
        "AdamW moments": 2 * trained * moment_bytes,
    }
