"""Read a Hugging Face config.json (LLaVA with a CLIP tower) as a BatConfig, and write it back.

Sizes come from there and nowhere else. What is not computed is refused and not guessed: another tower or projector, a
class token among the features, images that are prepared in another way, and what `hf_decoder` names.
"""

import dataclasses
import pathlib
import re
from collections.abc import Collection
from typing import Any

from bat_jax.config import (
    BUDGET_OF_SCALE,
    DEFAULT_SCALES_PX,
    BatConfig,
    CompressorConfig,
    PromptConfig,
    ScaleEmbeddingConfig,
    ScaleSpec,
    VisionConfig,
)
from bat_jax.io import safetensors
from bat_jax.io.hf_decoder import FAMILIES, decoder_config
from bat_jax.io.hf_fields import Fields, read_json

CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"
TOWER_FOLDER = "vision_tower"
# Our own keys: in checkpoints written back from the paper's form of the scale embedding; in a written preprocessor.
BASE_SIDE_KEY = "scale_embedding_base_side"
PAD_COLOUR_KEY = "pad_colour"

# LongVA and UHR-BAT name this tower and hold its (fine-tuned) weights, but not its config: VisionConfig's defaults.
_CLIP_VIT_LARGE = "clip-vit-large-patch14-336"

_RESIDUAL_NAME = re.compile(r"model\.scale_pos_residuals\.(\d+)")
_TOKEN_MLP_NAME = re.compile(r"(?:model\.)?multiscale_token_mlp\..+")
_BASE_NAME = "model.scale_embedding.base"
# The release makes residual grids of side min(T_s / 14, 64).
_DEFAULT_RESIDUAL_SIDE = 64
# Budget of a scale the paper does not know: the share of the anchor's tokens that the paper keeps is 1/29.
_DEFAULT_KEEP_ONE_IN = 29


def vision_config(values: dict[str, Any], where: str, select_layer: int = -2) -> VisionConfig:
    """Read the tower's sizes from a CLIP vision config, or from a full CLIP config that nests it.

    Raises:
      ValueError: a size is missing or out of range, or the tower is no CLIP.
    """
    nested = values.get("vision_config")
    fields = Fields(nested if isinstance(nested, dict) else values, where)
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
    fields = Fields(values, where)
    for name in ("do_rescale", "do_normalize", "do_resize"):
        fields.only(name, (True, None))
    fields.only("resample", (3, None))  # bicubic
    crop = values.get("crop_size") or vision.image_size_px
    if any(side != vision.image_size_px for side in (crop.values() if isinstance(crop, dict) else (crop,))):
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


def preprocessing_note(source: pathlib.Path, vision_tower: pathlib.Path | None) -> str:
    """Say where the pixel values of the tower's config are from."""
    path = find_preprocessor(source, vision_tower)
    absent = f"are CLIP's: no {PREPROCESSOR_NAME} in the source or with the tower"
    return f"mean, std and rescaling of pixels {f'come from {path}' if path else absent}"


def find_clip_config(
    source: pathlib.Path, vision_tower: pathlib.Path | None, values: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Return the vision tower's config and where it came from: `vision_tower`, SOURCE/vision_tower or ViT-L/14-336.

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
                return clip_to_hf(VisionConfig()), f"mm_vision_tower={name}"
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
    fields = Fields(values, where)
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

    `vision_tower` is a CLIP folder whose config.json gives the tower's sizes; see `find_clip_config` for the default.

    Raises:
      FileNotFoundError: no config.json.
      ValueError: a field is missing, out of range or not supported; names the file and the field.
    """
    folder = pathlib.Path(source)
    where = str(folder / CONFIG_NAME)
    values = read_json(folder / CONFIG_NAME)
    fields = Fields(values, where)
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
    model_type = next((name for name, family in FAMILIES.items() if family[:2] == flags), None)
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
    return values, clip_to_hf(vision)


def clip_to_hf(vision: VisionConfig) -> dict[str, Any]:
    """Write what `vision_config` reads."""
    return {
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
