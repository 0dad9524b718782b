"""What a question shows: images decoded, made smaller where that is asked, and encoded once for all that share them.

Image files are the same by their path; embedded images by their content, which is read only where several rows give
them one name.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from bat_jax.benchmarks.record import Loaded
from bat_jax.benchmarks.samples import Sample
from bat_jax.benchmarks.stored_images import StoredImage
from bat_jax.io.images import SourceImage
from bat_jax.io.views import RESAMPLING, any_in_cells


def load_images(images: Sequence[StoredImage], max_pixels: int, most_px: int | None = None) -> Loaded:
    """Decode a question's images in full; `most_px`: then see `down_sampled`."""
    loaded = tuple(image.load(max_pixels=max_pixels) for image in images)
    if most_px is not None:
        loaded = tuple(down_sampled(image, most_px) for image in loaded)
    return loaded if len(loaded) > 1 else loaded[0]


def down_sampled(image: SourceImage, most_px: int) -> SourceImage:
    """Return an image whose long side has at most `most_px` pixels; a smaller one is returned as it is.

    Pixels are resampled with the filter that views are cut with; one holds data where any of its area does. `full_size`
    stays the file's, as after a decimated read: a label map that fits the file fits what is returned.
    """
    height, width = image.pixels.shape[:2]
    factor = most_px / max(height, width)
    if factor >= 1:
        return image
    size = (max(2, round(width * factor)), max(2, round(height * factor)))
    valid = image.valid
    if valid is not None:
        rows, cols = np.arange(size[1] + 1) * height * size[0], np.arange(size[0] + 1) * width * size[1]
        valid = any_in_cells(valid, rows, cols, size[0] * size[1])
    note = f"down-sampled to {size[0]} x {size[1]} of {width} x {height} pixels ({RESAMPLING.name.lower()})"
    return dataclasses.replace(
        image,
        pixels=np.asarray(Image.fromarray(image.pixels).resize(size, RESAMPLING)),
        valid=valid,
        note=f"{image.note}; {note}" if image.note else note,
    )


def by_images(samples: Sequence[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    """Yield (unique key, questions about the same images), in the order of their first questions."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(str(image.path or image.name) for image in sample.images), []).append(sample)
    for group in groups.values():
        name = " + ".join(image.name for image in group[0].images if image.name) or f"question {group[0].id}"
        parts = [group]
        if len(group) > 1 and any(image.path is None for image in group[0].images):
            parts = _by_content(group)
        for number, part in enumerate(parts, start=1):
            yield (name if number == 1 else f"{name}#{number}"), part


def _by_content(samples: Sequence[Sample]) -> list[list[Sample]]:
    parts: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        try:
            content = tuple(hashlib.sha256(image.read()).hexdigest() for image in sample.images)
        except (ValueError, OSError):
            content = (sample.id,)  # alone, so that its failure is its own
        parts.setdefault(content, []).append(sample)
    return list(parts.values())
