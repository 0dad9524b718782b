"""Write SAM masks of pictures as label maps for --partition=sam.

    python -m experiments.make_masks --sam=facebook/sam-vit-huge --image=harbour.tif --output_dir=masks
    python -m experiments.make_masks --sam=DIR --image_dir=PICTURES --output_dir=masks --device=cuda

One NAME.npz a picture: `label_map` at the picture's full size, and box, area, predicted IoU and stability of every
label. A picture whose file is there already is left out, so an interrupted run goes on. experiments.answer reads one
with --partition=sam --label_map=masks/harbour.npz, experiments.evaluate such a folder with --label_maps=DIR. Needs
torch: pip install 'bat_jax[sam]'.
"""

import dataclasses
import pathlib
import time

import numpy as np
from absl import flags

from bat_jax.io.bands import ImageError
from bat_jax.io.images import read_image
from bat_jax.io.output_files import staged_file
from bat_jax.io.sam_masks import MaskSettings, cache_arrays, enlarge, label_map_of, load_sam
from bat_jax.progress import Progress
from . import cli

_DEFAULTS = MaskSettings()
SAM = flags.DEFINE_string("sam", None, "A SAM model of transformers: a directory or a hub name. Safetensors only.")
IMAGE = flags.DEFINE_multi_string("image", [], "Picture; several times for several.")
IMAGE_DIR = flags.DEFINE_string("image_dir", None, "Folder whose files are all pictures.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the masks.")
DEVICE = flags.DEFINE_string("device", "cpu", "torch's device: cpu, cuda, cuda:1, ...")
MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 300_000_000, "Most pixels (width x height) that are held of an image at once.", lower_bound=4
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Make masks anew that are there already.")
POINTS_PER_SIDE = flags.DEFINE_integer("points_per_side", _DEFAULTS.points_per_side, "Prompts along a side.")
POINTS_PER_BATCH = flags.DEFINE_integer("points_per_batch", _DEFAULTS.points_per_batch, "Prompts decoded at once.")
IOU_THRESHOLD = flags.DEFINE_float("iou_threshold", _DEFAULTS.iou_threshold, "Least predicted IoU of a mask.")
STABILITY_THRESHOLD = flags.DEFINE_float(
    "stability_threshold", _DEFAULTS.stability_threshold, "Least IoU of a mask cut at logits of +1 and of -1."
)
LARGEST_SHARE = flags.DEFINE_float(
    "largest_share", _DEFAULTS.largest_share, "Masks of this share of their window or more are dropped."
)
NMS_THRESHOLD = flags.DEFINE_float("nms_threshold", _DEFAULTS.nms_threshold, "Most box IoU of two masks that stay.")
CROP_LAYERS = flags.DEFINE_integer("crop_layers", _DEFAULTS.crop_layers, "Further rounds on 2 x 2, 4 x 4, ... windows.")
MAX_SIDE_PX = flags.DEFINE_integer(
    "max_side_px",
    _DEFAULTS.max_side_px,
    "Pictures are reduced to this long side first; more than SAM's 1024 helps with --crop_layers only.",
)


def settings_of_flags() -> MaskSettings:
    """Return what the flags say about masks; a ValueError names the flag at fault."""
    names = {field.name for field in dataclasses.fields(MaskSettings)}
    return MaskSettings(**{name: flags.FLAGS[name].value for name in names if name in flags.FLAGS})


def outputs_of_flags() -> dict[pathlib.Path, pathlib.Path]:
    """Return every picture's mask file.

    Raises:
      ValueError: there is no picture, or two have the same name.
    """
    images = [pathlib.Path(image) for image in IMAGE.value]
    if IMAGE_DIR.value:
        folder = pathlib.Path(IMAGE_DIR.value)
        if not folder.is_dir():
            raise ValueError(f"--image_dir={folder}: does not exist or is no directory")
        images += sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not images:
        raise ValueError("--image, --image_dir: give at least one picture")
    outputs = {image: pathlib.Path(OUTPUT_DIR.value) / f"{image.stem}.npz" for image in images}
    if len(set(outputs.values())) < len(outputs):
        raise ValueError("--image, --image_dir: two pictures have the same name; their masks would, too")
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise ImageError(f"{missing[0]}: cannot be read (no such file): check --image")
    return outputs


def main(_: list[str]) -> None:
    """Write the masks that the flags ask for and are not there yet."""
    settings, outputs = settings_of_flags(), outputs_of_flags()
    todo = {image: path for image, path in outputs.items() if OVERWRITE.value or not path.exists()}
    print(f"{len(outputs)} pictures, {len(outputs) - len(todo)} of them have masks already", flush=True)
    if not todo:
        return
    model = load_sam(SAM.value, DEVICE.value)
    for image, path in Progress(todo.items(), unit="picture"):
        start = time.perf_counter()
        source = read_image(image, max_pixels=MAX_PIXELS.value, largest_view=settings.max_side_px)
        label_map, masks = label_map_of(model, source.pixels, settings)
        label_map = enlarge(label_map, source.full_size)
        with staged_file(path) as stage:
            np.savez_compressed(stage, **cache_arrays(label_map, masks))
        covered = np.count_nonzero(label_map) / label_map.size
        print(
            f"{path}: {len(masks)} masks on {covered:.0%} of {image}, {time.perf_counter() - start:.1f} s", flush=True
        )


if __name__ == "__main__":
    flags.mark_flags_as_required(["sam", "output_dir"])
    cli.run(main)
