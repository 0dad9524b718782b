"""The compressor's flags, the same in every script, and what turns them into a loaded model and label maps."""

import ast
import contextlib
import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from absl import flags

from bat_jax.config import BUDGET_OF_SCALE, BatConfig, CompressorConfig, HeldWeights, Partition, PromptConfig, ScaleSpec
from bat_jax.encoding import ImageLike
from bat_jax.io.images import SourceImage, read_image
from bat_jax.io.label_maps import read_label_map
from bat_jax.io.nodata import NoDataValue

FIDELITY = flags.DEFINE_enum(
    "fidelity",
    None,
    ["paper", "release"],
    "Preset: the paper's text or the authors' release. Default: the checkpoint's.",
)
BUDGETS = flags.DEFINE_string(
    "budgets", None, "Tokens kept per scale, from coarse to fine, as 80,320,600,2000. Default: the checkpoint's."
)
SCALES = flags.DEFINE_string(
    "scales", None, "Sides of the views in pixels, ascending, as 672,1344,2688,4032. Default: the checkpoint's."
)
NUM_CLUSTERS = flags.DEFINE_integer(
    "num_clusters", None, "Regions per scale (K-means, BIRCH, grid); 0: as many as the budget."
)
KMEANS_ITERATIONS = flags.DEFINE_integer("kmeans_iterations", None, "Most Lloyd steps of K-means.")
KMEANS_INIT = flags.DEFINE_string(
    "kmeans_init", None, "NPZ file with kmeans_init_S arrays (token indices at scale S) that fix the first centres."
)
PARTITION = flags.DEFINE_enum("partition", None, list(get_args(Partition)), "How a scale is cut into regions.")
LABEL_MAP = flags.DEFINE_multi_string(
    "label_map",
    [],
    "Region labels of the image's size, 0 = background, for --partition=sam: an integer PNG or TIFF, an NPZ with "
    "`label_map`, or SAM annotations as JSON. Once per --image.",
)
SCALE_EMBEDDING = flags.DEFINE_enum(
    "scale_embedding", None, ["on", "off"], "Add the scale embedding on the answering path."
)
TOKEN_MLP = flags.DEFINE_enum("token_mlp", None, ["on", "off"], "Send the selected tokens through the token MLP.")
COVERAGE = flags.DEFINE_enum(
    "coverage", None, ["off", "guaranteed"], "guaranteed: every region gets a row before the budget is filled in order."
)
SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Any other field of the compressor or the prompt as name=value, to flip one difference of paper and release at "
    "a time, such as --set=preserve_equal=True or --set=coordinates=scale (docs/differences.md lists them).",
)
COMPUTE_DTYPE = flags.DEFINE_enum(
    "compute_dtype", None, ["float32", "bfloat16"], "Type of activations. Default: the checkpoint's."
)
WEIGHTS = flags.DEFINE_enum(
    "weights",
    "stored",
    list(get_args(HeldWeights)),
    "How the decoder's matrices are held, made so as they are read; int8: with a scale a channel (docs/int8.md).",
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first K-means centres and of sampling.", lower_bound=0)
BANDS = flags.DEFINE_string("bands", None, "Raster bands to read, counted from 1: three as 4,3,2, or one.")
PAGE = flags.DEFINE_integer("page", 1, "Page of a TIFF or frame of an animation, counted from 1.", lower_bound=1)
NODATA = flags.DEFINE_string(
    "nodata", None, "Value that means no data, in place of the file's; none: no value does. Masks and NaN stay."
)
MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    300_000_000,
    "Most pixels (width x height) that are held at once. Larger rasters are read straight to the largest view's size, "
    "other files are refused.",
    lower_bound=4,
)

_KMEANS_INIT_NAME = re.compile(r"kmeans_init_(\d+)")


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Read "80,320" as (80, 320).

    Raises:
      ValueError: names the flag and the text.
    """
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError:
        raise ValueError(f"--{flag}={text}: need whole numbers separated by commas") from None


def _scales(cfg: BatConfig) -> tuple[ScaleSpec, ...]:
    """Return the views that --scales and --budgets ask for."""
    sizes = whole_numbers(SCALES.value, "scales") if SCALES.value else cfg.compressor.sizes_px
    if BUDGETS.value:
        budgets = whole_numbers(BUDGETS.value, "budgets")
        if len(budgets) != len(sizes):
            raise ValueError(
                f"--budgets={BUDGETS.value}: {len(budgets)} budgets for the {len(sizes)} scales {list(sizes)}; "
                "give one a scale"
            )
        for size, budget in zip(sizes, budgets, strict=True):
            if budget <= 0:
                raise ValueError(f"--budgets={BUDGETS.value}: {budget} at scale {size} must be at least 1")
    else:
        known = BUDGET_OF_SCALE | {scale.size_px: scale.budget for scale in cfg.compressor.scales}
        unknown = [size for size in sizes if size not in known]
        if unknown:
            raise ValueError(f"--scales={SCALES.value}: give --budgets too, there is no default for {unknown}")
        budgets = tuple(known[size] for size in sizes)
    if any(size <= 0 for size in sizes):
        raise ValueError(f"--scales={SCALES.value}: sides must be positive")
    return tuple(ScaleSpec(size_px=size, budget=budget) for size, budget in zip(sizes, budgets, strict=True))


def _named_settings() -> dict[str, Any]:
    """Parse --set name=value pairs; True, False and numbers are Python literals, anything else is text."""
    fields = vars(CompressorConfig.paper()) | vars(PromptConfig())
    settings = {}
    for item in SET.value:
        name, equals, text = item.partition("=")
        if not equals or name not in fields:
            raise ValueError(f"--set={item}: need name=value with a name from {', '.join(sorted(fields))}")
        kind = type(fields[name])
        try:
            value = text if kind is str else kind(ast.literal_eval(text)) if kind is float else ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError):
            value = None
        if type(value) is not kind:
            raise ValueError(f"--set={item}: {name} needs a {kind.__name__}")
        settings[name] = value
    return settings


def configure(cfg: BatConfig, label_maps: flags.FlagHolder = LABEL_MAP) -> BatConfig:
    """Return the checkpoint's config with what the flags ask for.

    Args:
      label_maps: the flag that names label maps in this script.

    Raises:
      ValueError: a flag does not fit the others or the checkpoint; names it.
    """
    settings = _named_settings() | {"scales": _scales(cfg)}
    given = {
        "num_clusters": NUM_CLUSTERS.value,
        "kmeans_iterations": KMEANS_ITERATIONS.value,
        "partition": PARTITION.value,
        "coverage": COVERAGE.value,
        "scale_embedding": None if SCALE_EMBEDDING.value is None else SCALE_EMBEDDING.value == "on",
        "token_mlp": None if TOKEN_MLP.value is None else TOKEN_MLP.value == "on",
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    configured = cfg.with_settings(FIDELITY.value, **settings)
    if COMPUTE_DTYPE.value:
        configured = dataclasses.replace(configured, compute_dtype=COMPUTE_DTYPE.value)
    configured = configured.with_weights(WEIGHTS.value)
    if configured.compressor.partition == "sam" and not label_maps.value:
        if configured.compressor.without_label_map == "error":
            raise ValueError(f"--partition=sam: needs --{label_maps.name}=PATH under paper fidelity")
    elif label_maps.value and configured.compressor.partition != "sam":
        raise ValueError(f"--{label_maps.name}: is used by --partition=sam only")
    return configured


def _nodata() -> NoDataValue:
    """Read --nodata: a number, whole if it can be, or "none"."""
    text = NODATA.value
    if text is None or text == "none":
        return text
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise ValueError(f"--nodata={text}: need a number or none")


def read_options(cfg: BatConfig) -> dict[str, Any]:
    """Return the options of `read_image` that the flags for bands, pages, no data and size decide."""
    bands = whole_numbers(BANDS.value, "bands") if BANDS.value else None
    options = {"bands": bands, "page": PAGE.value, "nodata": _nodata(), "max_pixels": MAX_PIXELS.value}
    return options | {"largest_view": max(cfg.compressor.sizes_px)}


def read_source(path: str, cfg: BatConfig) -> SourceImage:
    """Read an image with the flags for bands, pages, no data and size."""
    return read_image(path, **read_options(cfg))


def encode_options(image: ImageLike, index: int, num_images: int) -> dict[str, Any]:
    """Return the options of `BatModel.encode` that the flags decide for one image of several."""
    if LABEL_MAP.value and len(LABEL_MAP.value) != num_images:
        raise ValueError(f"--label_map: given {len(LABEL_MAP.value)} times for {num_images} images")
    label_map = read_label_map(LABEL_MAP.value[index], image.full_size) if LABEL_MAP.value else None
    return {"label_map": label_map, "kmeans_init": read_kmeans_init(), "seed": SEED.value}


def read_kmeans_init() -> Mapping[int, np.ndarray] | None:
    """Read --kmeans_init: first centres by scale.

    Raises:
      ValueError: the file is missing, no NPZ, or holds no kmeans_init_S array.
    """
    if not KMEANS_INIT.value:
        return None
    path = pathlib.Path(KMEANS_INIT.value)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            matches = {name: _KMEANS_INIT_NAME.fullmatch(name) for name in arrays.files}
            found = {int(match[1]): arrays[name] for name, match in matches.items() if match}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
        raise ValueError(f"--kmeans_init={path}: is no readable NPZ file") from None
    if not found:
        raise ValueError(f"--kmeans_init={path}: holds no array named kmeans_init_S")
    return found
