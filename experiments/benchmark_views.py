"""Time reading an image and cutting its views, against Pillow's own resize calls.

    python -m experiments.benchmark_views
    python -m experiments.benchmark_views --size=1024 --repeats=1

Baseline: the four `Image.resize` calls that the release's pre-processing needs, on an image that Pillow holds already.
Ours: the same image as an array, to the tiles of every scale; and the same from a file, with decoding timed alone.
"""

import functools
import os
import platform
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import rasterio
from absl import flags
from PIL import Image

from bat_jax.config import VisionConfig
from bat_jax.io import images, views
from . import cli

_SIZE = flags.DEFINE_integer("size", 8192, "Side of the square test image, in pixels.", lower_bound=2)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each step; the fastest counts.", lower_bound=1)

_SCALES = (672, 1344, 2688, 4032)
_TOWER = VisionConfig()


def _fastest(step: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of a step, in seconds: other programs can only add to it."""
    return min(timeit.repeat(step, number=1, repeat=repeats))


def _picture(side: int) -> np.ndarray:
    """Make an image that compresses about as photographs do: smooth shapes with a little noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (side // 64 + 1, side // 64 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    noise = rng.integers(0, 8, (side, side, 1), dtype=np.uint8)
    return smooth // 2 + 32 + noise


def _row(name: str, seconds: float, baseline: float) -> None:
    print(f"{name:<58}{seconds:9.3f} s{seconds / baseline:9.2f} x")


def main(argv) -> None:
    del argv
    side, repeats = _SIZE.value, _REPEATS.value
    Image.MAX_IMAGE_PIXELS = None  # for the baseline only; read_image does not look at it
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"Pillow {PIL.__version__}, rasterio {rasterio.__version__}, NumPy {np.__version__}")
    print(f"{side} x {side} RGB, scales {_SCALES}, tiles of {_TOWER.image_size_px}, fastest of {repeats}\n")
    pixels = _picture(side)
    held = Image.fromarray(pixels)
    baseline = _fastest(lambda: [held.resize((scale, scale)) for scale in _SCALES], repeats)
    _row("Pillow's four resizes", baseline, baseline)
    _row("array -> Pillow image (part of the next)", _fastest(lambda: Image.fromarray(pixels), repeats), baseline)
    ours = _fastest(lambda: views.make_tiles(pixels, _SCALES, _TOWER), repeats)
    _row("ours: make_tiles from the array", ours, baseline)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "TIFF": ("picture.tif", {}),
            "PNG": ("picture.png", {"compress_level": 1}),
            "JPEG": ("picture.jpg", {"quality": 90}),
        }
        for kind, (name, options) in files.items():
            path = Path(folder) / name
            held.save(path, **options)
            reading = functools.partial(images.read_image, path, max_pixels=side * side)
            pillow = _fastest(lambda: Image.open(path).convert("RGB"), repeats)  # noqa: B023
            read = _fastest(reading, repeats)
            both = _fastest(lambda: views.make_tiles(reading().pixels, _SCALES, _TOWER), repeats)  # noqa: B023
            print()
            _row(f"{kind}: decoding by Pillow alone", pillow, baseline)
            _row(f"{kind}: read_image alone", read, baseline)
            _row(f"{kind}: Pillow, decoding + four resizes", pillow + baseline, baseline)
            _row(f"{kind}: ours, read_image + make_tiles", both, baseline)
            print(f"{kind}: ours / Pillow, both with decoding: {both / (pillow + baseline):.2f}")


if __name__ == "__main__":
    cli.run(main)
