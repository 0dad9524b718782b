"""Which questions of a benchmark show the same images, so that each image is encoded once.

Image files are the same by their path; embedded images by their content, which is read only where several rows give
them one name.
"""

import hashlib
from collections.abc import Iterator, Sequence

from bat_jax.benchmarks.record import Loaded
from bat_jax.benchmarks.samples import Sample
from bat_jax.benchmarks.stored_images import StoredImage


def load_images(images: Sequence[StoredImage], max_pixels: int) -> Loaded:
    """Decode a question's images in full."""
    loaded = tuple(image.load(max_pixels=max_pixels) for image in images)
    return loaded if len(loaded) > 1 else loaded[0]


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
