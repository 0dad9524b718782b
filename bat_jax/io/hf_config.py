"""Read a Hugging Face config.json (LLaVA, a decoder of the Llama family, CLIP) as a BatConfig, and write it back.

Sizes come from there and nowhere else. What is not computed is refused and not guessed: an unknown `model_type`,
another projector or activation, RoPE of another kind than plain, sliding windows, experts, a class token among the
features. What is ignored: `rope_scaling` of LLaVA-Qwen checkpoints (`ignored_fields` says why) and
tokenizer_model_max_length (the length of training samples; the release's own budgets exceed it), so `max_positions` is
max_position_embeddings.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Collection
from typing import Any, NamedTuple, NoReturn

from bat_jax.config import (
    BUDGET_OF_SCALE,
    DEFAULT_SCALES_PX,
    BatConfig,
    CompressorConfig,
    DecoderConfig,
    PromptConfig,
    ScaleEmbeddingConfig,
    ScaleSpec,
    VisionConfig,
)
from bat_jax.io import safetensors

CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"
TOWER_FOLDER = "vision_tower"
# Our own keys: in checkpoints written back from the paper's form of the scale embedding; in a written preprocessor.
BASE_SIDE_KEY = "scale_embedding_base_side"
PAD_COLOUR_KEY = "pad_colour"

# What openai/clip-vit-large-patch14-336 says of its vision tower; LongVA and UHR-BAT name that checkpoint and hold its
# (fine-tuned) weights, but not its config.
_CLIP_VIT_LARGE = "clip-vit-large-patch14-336"
_CLIP_VIT_LARGE_CONFIG = {
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-5,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}

_RESIDUAL_NAME = re.compile(r"model\.scale_pos_residuals\.(\d+)")
_TOKEN_MLP_NAME = re.compile(r"(?:model\.)?multiscale_token_mlp\..+")
_BASE_NAME = "model.scale_embedding.base"
# The release makes residual grids of side min(T_s / 14, 64).
_DEFAULT_RESIDUAL_SIDE = 64
# Budget of a scale the paper does not know: the share of the anchor's tokens that the paper keeps is 1/29.
_DEFAULT_KEEP_ONE_IN = 29


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      FileNotFoundError, ValueError: no such file, or no JSON object in it; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a JSON object is needed, {type(values).__name__} came")
    return values


class _Family(NamedTuple):
    """What a decoder's `model_type` says without a field in config.json.

    rope_theta: the base where config.json names none. always_slides: `sliding_window` counts wherever it is set; in
    other families `use_sliding_window` turns it on.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    rope_theta: float | None = None
    always_slides: bool = False


# By `model_type`. A LLaVA checkpoint's comes first: the first name with the right flags is written back.
_LLAVA_QWEN = "llava_qwen"
_FAMILIES = {
    _LLAVA_QWEN: _Family(qkv_bias=True),
    "llava_llama": _Family(rope_theta=1e4),
    "llava_qwen3": _Family(qk_norm=True),
    "qwen2": _Family(qkv_bias=True),
    "llama": _Family(rope_theta=1e4),
    "mistral": _Family(rope_theta=1e4, always_slides=True),
    "qwen3": _Family(qk_norm=True),
}
# Fields that change what a decoder computes, with the values that ours computes; None is a field that is not there.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
    "num_local_experts": (None,),
    "num_experts": (None,),
    "n_routed_experts": (None,),
}
_PLAIN_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


class _Fields:
    """Typed look-ups in a parsed config.json; every error names the file and the field."""

    def __init__(self, values: dict[str, Any], where: str):
        self.values = values
        self.where = where

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if type(value) is not int:
            raise ValueError(f"{self.where}: {name}={value!r}: an integer is needed")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name)
        value = default if value is None else value
        if type(value) not in (int, float):
            raise ValueError(f"{self.where}: {name}={value!r}: a number is needed")
        return float(value)

    def triple(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        values = self.values.get(name)
        values = default if values is None else values
        if not isinstance(values, list | tuple) or [type(v) in (int, float) for v in values] != [True] * 3:
            raise ValueError(f"{self.where}: {name}={values!r}: three numbers, for R, G and B, are needed")
        return tuple(map(float, values))

    def only(self, name: str, allowed: Collection[Any], default: Any = None) -> Any:
        value = self.values.get(name, default)
        # Of the same type, too: 1 == True.
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            self.refuse(name, ", ".join(repr(one) for one in allowed if one is not None) or "none of it")
        return value

    def refuse(self, name: str, supported: str) -> NoReturn:
        raise ValueError(f"{self.where}: {name}={self.values.get(name)!r} is not supported; supported: {supported}")


def ignored_fields(values: dict[str, Any]) -> list[str]:
    """Return a note for every field that would change the decoder and is left out on purpose."""
    if values.get("model_type") != _LLAVA_QWEN or not values.get("rope_scaling"):
        return []
    text = f"rope_scaling={values['rope_scaling']!r} is ignored: the model class of {_LLAVA_QWEN} checkpoints"
    return [f"{text} (LongVA, UHR-BAT) sets it to None before it builds the decoder"]


def _rope_theta(fields: _Fields, default: float | None) -> float:
    """Return the base of plain RoPE; `rope_theta` may stand in `rope_parameters`, where transformers 5 writes it."""
    values = fields.values
    is_ignored = bool(ignored_fields(values))
    for name in ("rope_parameters",) if is_ignored else ("rope_scaling", "rope_parameters"):
        rope = values.get(name) or {}
        if not isinstance(rope, dict) or not set(rope) <= _PLAIN_ROPE:
            fields.refuse(name, "plain RoPE, an object with rope_type 'default' and rope_theta")
        inner = _Fields(rope, f"{fields.where}: {name}")
        for key in ("rope_type", "type"):
            inner.only(key, ("default", None))
        inner.only("partial_rotary_factor", (1.0, None))
    at = values if values.get("rope_theta") else values.get("rope_parameters") or {}
    return _Fields(at, fields.where).number("rope_theta", default)


def decoder_config(values: dict[str, Any], where: str) -> DecoderConfig:
    """Read a decoder of the Llama family from a plain or a LLaVA config.

    Args:
      values: the parsed config.json. where: the file's name, for errors.

    Raises:
      ValueError: a size is missing or out of range, or the decoder has a feature that ours lacks.
    """
    fields = _Fields(values, where)
    family = _FAMILIES[fields.only("model_type", tuple(_FAMILIES))]
    for name, allowed in _ONLY.items():
        fields.only(name, allowed)
    if not family.qkv_bias:  # Qwen2 has its biases whatever this says; elsewhere it means one on o_proj, too
        fields.only("attention_bias", (False, None))
    kinds = values.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        fields.refuse("layer_types", "'full_attention' in every layer")
    max_positions = fields.integer("max_position_embeddings", values.get("tokenizer_model_max_length"))
    if family.always_slides and fields.integer("sliding_window", max_positions) < max_positions:
        fields.refuse("sliding_window", f"none, or at least max_position_embeddings={max_positions}")
    width, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    # Flooring would give a wrong head_dim silently.
    if not values.get("head_dim") and (num_heads <= 0 or width % num_heads):
        raise ValueError(f"{where}: num_attention_heads={num_heads}: must divide hidden_size={width}")
    return DecoderConfig(
        width=width,
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=fields.integer("head_dim", width // max(num_heads, 1)),
        mlp_dim=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope_theta=_rope_theta(fields, family.rope_theta),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        tie_word_embeddings=bool(fields.only("tie_word_embeddings", (True, False, None))),
        max_positions=max_positions,
    )


def vision_config(values: dict[str, Any], where: str, select_layer: int = -2) -> VisionConfig:
    """Read the tower's sizes from a CLIP vision config, or from a full CLIP config that nests it.

    Raises:
      ValueError: a size is missing or out of range, or the tower is no CLIP.
    """
    nested = values.get("vision_config")
    fields = _Fields(nested if isinstance(nested, dict) else values, where)
    fields.only("model_type", ("clip_vision_model", None))
    fields.only("num_channels", (3,), 3)
    return VisionConfig(
        width=fields.integer("hidden_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=fields.integer("num_attention_heads"),
        mlp_dim=fields.integer("intermediate_size"),
        image_size_px=fields.integer("image_size"),
        patch_size_px=fields.integer("patch_size"),
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        activation=fields.only("hidden_act", ("quick_gelu", "gelu"), "quick_gelu"),
        select_layer=select_layer,
    )


def with_preprocessing(vision: VisionConfig, values: dict[str, Any], where: str) -> VisionConfig:
    """Return the tower's config with the pixel values of a parsed preprocessor_config.json; CLIP's where it is silent.

    The margins get int(255 * mean), as in the release, unless the file was written by `preprocessor_to_hf`.

    Raises:
      ValueError: a value is out of range, or the images are prepared in a way that ours are not.
    """
    fields = _Fields(values, where)
    for name in ("do_rescale", "do_normalize", "do_resize"):
        fields.only(name, (True, None))
    fields.only("resample", (3, None))  # bicubic
    crop = values.get("crop_size") or vision.image_size_px
    sides = set(crop.values()) if isinstance(crop, dict) else {crop}
    if sides != {vision.image_size_px}:
        fields.refuse("crop_size", f"the tower's image_size={vision.image_size_px}")
    mean, std = fields.triple("image_mean", vision.pixel_mean), fields.triple("image_std", vision.pixel_std)
    colour = tuple(int(level) for level in fields.triple(PAD_COLOUR_KEY, tuple(255 * part for part in mean)))
    rescale = fields.number("rescale_factor", vision.rescale)
    try:
        return dataclasses.replace(vision, pixel_mean=mean, pixel_std=std, pad_colour=colour, rescale=rescale)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def preprocessor_to_hf(vision: VisionConfig) -> dict[str, Any]:
    """Write what `with_preprocessing` reads."""
    return {
        "crop_size": {"height": vision.image_size_px, "width": vision.image_size_px},
        "image_mean": list(vision.pixel_mean),
        "image_std": list(vision.pixel_std),
        "image_processor_type": "CLIPImageProcessor",
        PAD_COLOUR_KEY: list(vision.pad_colour),
        "rescale_factor": vision.rescale,
    }


def find_preprocessor(source: pathlib.Path, vision_tower: pathlib.Path | None) -> pathlib.Path | None:
    """Return the tower's preprocessor_config.json: in `vision_tower`, SOURCE/vision_tower or SOURCE, in this order."""
    folders = (vision_tower, source / TOWER_FOLDER, source)
    paths = (folder / PREPROCESSOR_NAME for folder in folders if folder is not None)
    return next((path for path in paths if path.is_file()), None)


def find_clip_config(
    source: pathlib.Path, vision_tower: pathlib.Path | None, values: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Find the vision tower's config: `vision_tower`, else SOURCE/vision_tower, else the known ViT-L/14-336.

    Returns:
      The parsed config and where it came from.

    Raises:
      ValueError: none of the three.
    """
    if vision_tower is not None:
        path = vision_tower / CONFIG_NAME
    else:
        path = source / TOWER_FOLDER / CONFIG_NAME
        name = values.get("mm_vision_tower") or values.get("vision_tower")
        if not path.is_file():
            if isinstance(name, str) and name.rstrip("/").endswith(_CLIP_VIT_LARGE):
                return dict(_CLIP_VIT_LARGE_CONFIG), f"mm_vision_tower={name}"
            raise ValueError(
                f"{source / CONFIG_NAME}: the sizes of the vision tower mm_vision_tower={name!r} are not known; pass "
                f"--vision_tower with a folder that holds its {CONFIG_NAME}, or put it at {path}"
            )
    return read_json(path), str(path)


def _known_scales(values: dict[str, Any], where: str) -> tuple[int, ...]:
    scales = values.get("multiscale_target_sizes") or ()
    if not isinstance(scales, list | tuple) or not all(type(scale) is int and scale > 0 for scale in scales):
        raise ValueError(f"{where}: multiscale_target_sizes={scales!r}: a list of sizes in pixels is needed")
    return tuple(sorted(set(scales)))


def _scale_embedding_config(
    values: dict[str, Any], where: str, names: Collection[str], vision: VisionConfig, width: int
) -> ScaleEmbeddingConfig:
    """Tell the form from the tensors' names; grid sides follow the config; shapes are checked later."""
    fields = _Fields(values, where)
    configured = _known_scales(values, where)
    held = {int(match[1]) for match in map(_RESIDUAL_NAME.fullmatch, names) if match}
    if held:
        # The union: a scale that the config lists and the file lacks is then reported as missing.
        scales = tuple(sorted(held | set(configured)))
        most = fields.integer("scale_residual_base", _DEFAULT_RESIDUAL_SIDE)
        sides = tuple(min(scale // vision.patch_size_px, most) for scale in scales)
        return ScaleEmbeddingConfig(form="residual", width=width, scales_px=scales, sides=sides)
    if _BASE_NAME in names:
        side = fields.integer(BASE_SIDE_KEY, vision.side)
        return ScaleEmbeddingConfig(form="base", width=width, scales_px=configured, base_side=side)
    return ScaleEmbeddingConfig(width=width)


def _compressor_config(scales_px: tuple[int, ...], vision: VisionConfig, has_token_mlp: bool) -> CompressorConfig:
    num_tokens = {size: (size // vision.patch_size_px) ** 2 for size in scales_px}
    budgets = {size: BUDGET_OF_SCALE.get(size, num // _DEFAULT_KEEP_ONE_IN) for size, num in num_tokens.items()}
    scales = tuple(ScaleSpec(size_px=s, budget=max(1, min(budgets[s], num_tokens[s]))) for s in scales_px)
    default = CompressorConfig.release(token_mlp=has_token_mlp, scales=scales)
    clusters = min(default.num_clusters, max(num_tokens.values()))
    return CompressorConfig.release(token_mlp=has_token_mlp, scales=scales, num_clusters=clusters)


def config_from_hf(source: str | pathlib.Path, vision_tower: str | pathlib.Path | None = None) -> BatConfig:
    """Build the config of a LLaVA-Qwen checkpoint folder (LongVA or UHR-BAT layout).

    Parts (token MLP, scale embedding) are on where the folder's tensors have them; only headers are read. The
    compressor is the release's preset with scales from `multiscale_target_sizes` (else the paper's four), the paper's
    budgets where it knows the scale and one token in 29 elsewhere. Float16 checkpoints compute in bfloat16: float16's
    range is too small for this decoder's activations.

    Args:
      source: the checkpoint's folder with config.json.
      vision_tower: a CLIP folder whose config.json gives the tower's sizes; see `find_clip_config` for the default.

    Raises:
      FileNotFoundError: no config.json.
      ValueError: a field is missing, out of range or not supported; names the file and the field.
    """
    folder = pathlib.Path(source)
    where = str(folder / CONFIG_NAME)
    values = read_json(folder / CONFIG_NAME)
    fields = _Fields(values, where)
    decoder = decoder_config(values, where)
    fields.only("mm_projector_type", ("mlp2x_gelu",), None)
    fields.only("mm_vision_select_feature", ("patch",), "patch")
    tower = pathlib.Path(vision_tower) if vision_tower else None
    clip_values, clip_where = find_clip_config(folder, tower, values)
    vision = vision_config(clip_values, clip_where, fields.integer("mm_vision_select_layer", -2))
    if preprocessor := find_preprocessor(folder, tower):
        vision = with_preprocessing(vision, read_json(preprocessor), str(preprocessor))
    mm_width = fields.integer("mm_hidden_size", vision.width)
    if mm_width != vision.width:
        raise ValueError(f"{where}: mm_hidden_size={mm_width}, but the tower of {clip_where} has width {vision.width}")
    names = safetensors.open_folder(folder).infos
    has_token_mlp = any(_TOKEN_MLP_NAME.fullmatch(name) for name in names)
    scales_px = _known_scales(values, where) or DEFAULT_SCALES_PX
    dtype_name = fields.only(
        "torch_dtype" if "torch_dtype" in values else "dtype", ("float32", "float16", "bfloat16", None), None
    )
    return BatConfig(
        vision=vision,
        decoder=decoder,
        scale_embedding=_scale_embedding_config(values, where, names, vision, decoder.width),
        has_token_mlp=has_token_mlp,
        compressor=_compressor_config(scales_px, vision, has_token_mlp),
        prompt=PromptConfig.preset("release"),
        compute_dtype="bfloat16" if dtype_name in ("float16", "bfloat16") else "float32",
    )


def config_to_hf(config: BatConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a BatConfig as a LLaVA-Qwen and a CLIP config from which `config_from_hf` reads the same sizes.

    `multiscale_target_sizes` is there only if the checkpoint has a scale embedding: it lists the scales of that.
    """
    decoder, vision, scale_embedding = config.decoder, config.vision, config.scale_embedding
    flags = (decoder.qkv_bias, decoder.qk_norm)
    model_type = next((name for name, family in _FAMILIES.items() if family[:2] == flags), None)
    if model_type is None:
        raise ValueError(f"qkv_bias, qk_norm={flags}: no model_type has both")
    values: dict[str, Any] = {
        "architectures": [f"{model_type.title().replace('_', '')}ForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": decoder.width,
        "head_dim": decoder.head_dim,
        "intermediate_size": decoder.mlp_dim,
        "max_position_embeddings": decoder.max_positions,
        "mm_hidden_size": vision.width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": vision.select_layer,
        "model_type": model_type,
        "num_attention_heads": decoder.num_heads,
        "num_hidden_layers": decoder.num_layers,
        "num_key_value_heads": decoder.num_kv_heads,
        "rms_norm_eps": decoder.norm_eps,
        "rope_theta": decoder.rope_theta,
        "tie_word_embeddings": decoder.tie_word_embeddings,
        "torch_dtype": config.compute_dtype,
        "vocab_size": decoder.vocab_size,
    }
    if scale_embedding.form != "none":
        values["multiscale_target_sizes"] = list(scale_embedding.scales_px)
    if scale_embedding.form == "residual":
        values["scale_residual_base"] = max(scale_embedding.sides)
    if scale_embedding.form == "base":
        values[BASE_SIDE_KEY] = scale_embedding.base_side
    clip_values = {
        "architectures": ["CLIPVisionModel"],
        "hidden_act": vision.activation,
        "hidden_size": vision.width,
        "image_size": vision.image_size_px,
        "intermediate_size": vision.mlp_dim,
        "layer_norm_eps": vision.norm_eps,
        "model_type": "clip_vision_model",
        "num_attention_heads": vision.num_heads,
        "num_channels": 3,
        "num_hidden_layers": vision.num_layers,
        "patch_size": vision.patch_size_px,
    }
    return values, clip_values
