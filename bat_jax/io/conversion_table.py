"""The conversion as data: which tensor of a Hugging Face checkpoint becomes which leaf of our tree, in what layout.

A row's `source` is a tensor name in which `{layer}` and `{scale}` stand for numbers, so that one line serves both
directions: as a regular expression that must match a name fully, and as a template that writes the name back.
Tensors of rows with `{layer}` are stacked over layers along axis 0. E, P, D, L and so on are the letters of
`bat_jax.typing`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util

from bat_jax.config import BatConfig, DecoderConfig, VisionConfig
from bat_jax.config.networks import NetworkConfig
from bat_jax.model import init_part

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How an array changes between the checkpoint (PyTorch's order) and our tree, without copying."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_hf: Callable[[np.ndarray], np.ndarray]

    def shape_to_ours(self, shape: Shape) -> Shape | None:
        """Return the shape after the layout change, or None where an array of this shape cannot be changed."""
        try:
            return self.to_ours(np.broadcast_to(np.int8(0), shape)).shape
        except ValueError:
            return None

    def shape_to_hf(self, shape: Shape) -> Shape:
        """Return the shape in the checkpoint of a leaf (or of one layer of a stacked leaf)."""
        return self.to_hf(np.broadcast_to(np.int8(0), shape)).shape


def _grid_to_ours(array: np.ndarray) -> np.ndarray:
    one, num_cells, width = array.shape
    side = int(num_cells**0.5)
    if one != 1 or side * side != num_cells:
        raise ValueError(f"shape {array.shape} is no square grid")
    return array.reshape(side, side, width)


KEEP = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda x: x.transpose(1, 0), lambda x: x.transpose(1, 0))  # (out, in) <-> (in, out)
# (E, C, row, column) <-> (row, column, C, E)
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# (1, side * side, D), row-major <-> (side, side, D)
GRID = Layout(_grid_to_ours, lambda x: x.reshape(1, x.shape[0] * x.shape[1], x.shape[2]))


class Rule(NamedTuple):
    """One kind of tensor. `target` is the leaf's path, in which `{scale}` stands for the same number as in `source`."""

    source: str
    target: str
    layout: Layout


def _linear(source: str, target: str) -> tuple[Rule, Rule]:
    """Return the rows of a linear layer with a bias."""
    return Rule(f"{source}.weight", f"{target}/kernel", LINEAR), Rule(f"{source}.bias", f"{target}/bias", KEEP)


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
    """Return the rows of a layer norm."""
    return Rule(f"{source}.weight", f"{target}/scale", KEEP), Rule(f"{source}.bias", f"{target}/bias", KEEP)


# The Llama family, alike in LLaVA checkpoints (LongVA, UHR-BAT) and in plain ones such as Qwen2ForCausalLM; biases are
# Qwen2's, q_norm and k_norm Qwen3's.
DECODER_ROWS = (
    Rule("model.embed_tokens.weight", "decoder/embed_tokens/embedding", KEEP),
    Rule("model.layers.{layer}.input_layernorm.weight", "decoder/layers/input_layernorm/scale", KEEP),
    *_linear("model.layers.{layer}.self_attn.q_proj", "decoder/layers/self_attn/q_proj"),
    *_linear("model.layers.{layer}.self_attn.k_proj", "decoder/layers/self_attn/k_proj"),
    *_linear("model.layers.{layer}.self_attn.v_proj", "decoder/layers/self_attn/v_proj"),
    Rule("model.layers.{layer}.self_attn.q_norm.weight", "decoder/layers/self_attn/q_norm/scale", KEEP),
    Rule("model.layers.{layer}.self_attn.k_norm.weight", "decoder/layers/self_attn/k_norm/scale", KEEP),
    Rule("model.layers.{layer}.self_attn.o_proj.weight", "decoder/layers/self_attn/o_proj/kernel", LINEAR),
    Rule("model.layers.{layer}.post_attention_layernorm.weight", "decoder/layers/post_attention_layernorm/scale", KEEP),
    Rule("model.layers.{layer}.mlp.gate_proj.weight", "decoder/layers/mlp/gate_proj/kernel", LINEAR),
    Rule("model.layers.{layer}.mlp.up_proj.weight", "decoder/layers/mlp/up_proj/kernel", LINEAR),
    Rule("model.layers.{layer}.mlp.down_proj.weight", "decoder/layers/mlp/down_proj/kernel", LINEAR),
    Rule("model.norm.weight", "decoder/norm/scale", KEEP),
    Rule("lm_head.weight", "decoder/lm_head/kernel", LINEAR),
)

# CLIP's vision tower; names without the prefix, which differs between checkpoints (VISION_PREFIXES). "pre_layrnorm" is
# the checkpoint's spelling. Layers that never run and post_layernorm go to `unused` (see `place`).
VISION_ROWS = (
    Rule("embeddings.class_embedding", "vision_tower/class_embedding", KEEP),
    Rule("embeddings.patch_embedding.weight", "vision_tower/patch_embedding/kernel", CONV),
    Rule("embeddings.position_embedding.weight", "vision_tower/position_embedding", KEEP),
    *_norm("pre_layrnorm", "vision_tower/pre_layernorm"),
    *_norm("encoder.layers.{layer}.layer_norm1", "vision_tower/layers/layer_norm1"),
    *_linear("encoder.layers.{layer}.self_attn.q_proj", "vision_tower/layers/self_attn/q_proj"),
    *_linear("encoder.layers.{layer}.self_attn.k_proj", "vision_tower/layers/self_attn/k_proj"),
    *_linear("encoder.layers.{layer}.self_attn.v_proj", "vision_tower/layers/self_attn/v_proj"),
    *_linear("encoder.layers.{layer}.self_attn.out_proj", "vision_tower/layers/self_attn/out_proj"),
    *_norm("encoder.layers.{layer}.layer_norm2", "vision_tower/layers/layer_norm2"),
    *_linear("encoder.layers.{layer}.mlp.fc1", "vision_tower/layers/mlp/fc1"),
    *_linear("encoder.layers.{layer}.mlp.fc2", "vision_tower/layers/mlp/fc2"),
    *_norm("post_layernorm", "unused/vision_tower/post_layernorm"),
)

# What LLaVA and UHR-BAT add. `model.scale_embedding.*` are our own names: the paper's form of the scale embedding (one
# base grid and one vector per scale) is in no released checkpoint.
BRIDGE_ROWS = (
    *_linear("model.mm_projector.0", "projector/linear_1"),
    *_linear("model.mm_projector.2", "projector/linear_2"),
    *_linear("model.multiscale_token_mlp.0", "token_mlp/linear_1"),
    *_linear("model.multiscale_token_mlp.2", "token_mlp/linear_2"),
    Rule("model.scale_pos_residuals.{scale}", "scale_embedding/residual_{scale}", GRID),
    Rule("model.scale_embedding.base", "scale_embedding/base", KEEP),
    Rule("model.scale_embedding.scale", "scale_embedding/scale", KEEP),
    Rule("model.image_newline", "unused/image_newline", KEEP),
)

# The first prefix of each kind of checkpoint is the one that is written back; the others are what some versions of
# transformers leave of it.
LLAVA_VISION_PREFIXES: tuple[str, ...] = (
    "model.vision_tower.vision_tower.vision_model.",
    "model.vision_tower.vision_tower.",
)
CLIP_VISION_PREFIXES: tuple[str, ...] = ("vision_model.", "")

# Second names of a tensor. They may be absent, may stand alone, and must be equal where both are there.
ALIASES = ((r"multiscale_token_mlp\.([02])\.(weight|bias)", r"model.multiscale_token_mlp.\1.\2"),)
# Only where config.json says tie_word_embeddings.
TIED_ALIASES = ((r"lm_head\.weight", r"model.embed_tokens.weight"),)

# Buffers that are computed, not learned, and the parts of a full CLIPModel that no vision tower has.
IGNORED = (
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"model\.rotary_emb\.inv_freq",
    r"(?:model\.vision_tower\.vision_tower\.)?(?:vision_model\.)?embeddings\.position_ids",
)
CLIP_IGNORED = (r"text_model\..+", r"logit_scale", r"text_projection\.weight", r"visual_projection\.weight")

# Leaves that a checkpoint may lack: nothing ever runs on them.
UNUSED = "unused/"


def name_pattern(row: Rule, prefixes: tuple[str, ...]) -> re.Pattern[str]:
    """Return the regular expression, for `fullmatch`, of a row's names with any of the prefixes."""
    body = re.escape(row.source)
    for field in ("layer", "scale"):
        body = body.replace(re.escape(f"{{{field}}}"), rf"(?P<{field}>0|[1-9]\d*)")
    return re.compile(f"(?:{'|'.join(re.escape(prefix) for prefix in prefixes)}){body}")


def place(row: Rule, layer: int | None, scale: int | None, num_run_layers: int) -> tuple[str, int | None]:
    """Return the path of the leaf that a tensor belongs to and, in a stacked leaf, its index.

    Vision layers from `num_run_layers` on never run and go to `unused`, counted from zero there.
    """
    path = row.target.format(scale=scale)
    if layer is not None and path.startswith("vision_tower/") and layer >= num_run_layers:
        return UNUSED + path, layer - num_run_layers
    return path, layer


def source_of(path: str, index: int | None, num_run_layers: int) -> tuple[str, Rule]:
    """Return the tensor's name in the authors' release and its row: the inverse of `place`.

    Args:
      path: a leaf's path. index: the layer within a stacked leaf, None for other leaves.
    """
    target, scale, layer = path, None, index
    if match := re.fullmatch(r"scale_embedding/residual_(\d+)", path):
        target, scale = "scale_embedding/residual_{scale}", match[1]
    elif path.startswith(f"{UNUSED}vision_tower/layers/") and index is not None:
        target, layer = path.removeprefix(UNUSED), index + num_run_layers
    row = _ROW_OF_TARGET[target]
    prefix = LLAVA_VISION_PREFIXES[0] if row in VISION_ROWS else ""
    return prefix + row.source.format(layer=layer, scale=scale), row


_ROW_OF_TARGET = {row.target: row for row in DECODER_ROWS + VISION_ROWS + BRIDGE_ROWS}


def is_stacked(path: str) -> bool:
    """Tell whether axis 0 of a leaf counts layers."""
    return "/layers/" in path


def tensors_of(path: str, shape: Shape, num_run_layers: int) -> Iterator[tuple[str, Layout, Shape, int | None]]:
    """Yield (name in the release, layout, shape there, index along axis 0 or None) of the tensors that make a leaf."""
    for index in range(shape[0]) if is_stacked(path) else (None,):
        name, row = source_of(path, index, num_run_layers)
        yield name, row.layout, row.layout.shape_to_hf(shape if index is None else shape[1:]), index


def expected_shapes(config: BatConfig) -> dict[str, Shape]:
    """Return path -> shape of every leaf that a checkpoint of this config has, e.g. "decoder/norm/scale" -> (D,).

    Those under `unused` (vision layers that never run, post_layernorm, image_newline) it may have.
    """
    shapes = vision_shapes(config.vision, with_unused=True) | _shapes("projector", config.projector)
    if config.has_token_mlp:
        shapes |= _shapes("token_mlp", config.token_mlp)
    if config.scale_embedding.form != "none":
        shapes |= _shapes("scale_embedding", config.scale_embedding)
    return shapes | decoder_shapes(config.decoder) | {f"{UNUSED}image_newline": (config.decoder.width,)}


@functools.cache
def _shapes(part: str, network: NetworkConfig) -> dict[str, Shape]:
    """Return the shapes of a network's parameters, read off the network itself; to be copied, not changed."""
    tree = jax.eval_shape(functools.partial(init_part, part, network.build()), jax.random.key(0))
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {f"{part}/{path}": leaf.shape for path, leaf in flat.items()}


def vision_shapes(cfg: VisionConfig, with_unused: bool = False) -> dict[str, Shape]:
    """Return path -> shape of the vision tower's leaves; `with_unused` adds the layers and the norm that never run."""
    shapes: dict[str, Shape] = {}
    unused: dict[str, Shape] = {
        f"{UNUSED}vision_tower/post_layernorm/{name}": (cfg.width,) for name in ("scale", "bias")
    }
    for path, shape in _shapes("vision_tower", dataclasses.replace(cfg, select_layer=-1)).items():
        if not is_stacked(path):
            shapes[path] = shape
            continue
        if cfg.num_run_layers:
            shapes[path] = (cfg.num_run_layers, *shape[1:])
        if cfg.num_layers > cfg.num_run_layers:
            unused[UNUSED + path] = (cfg.num_layers - cfg.num_run_layers, *shape[1:])
    return shapes | unused if with_unused else shapes


def decoder_shapes(cfg: DecoderConfig) -> dict[str, Shape]:
    """Return path -> shape of the decoder's leaves."""
    return dict(_shapes("decoder", cfg))
