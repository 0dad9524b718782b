"""What the TFDS builders of the benchmarks share: one example a question, images as they are encoded.

    builder = XlrsBench(data_dir=...)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="XLRS-Bench-lite"))
    source = builder.as_data_source(split="test")       # random access, no TensorFlow

Nothing is downloaded: the benchmarks' licences want them fetched by hand. Images keep their bytes, since a view of
10,000 x 10,000 pixels is decoded when it is looked at, not when it is listed.
"""

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from bat_jax.benchmarks.samples import BenchmarkData, Sample


class BenchmarkBuilder(tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True):
    """A benchmark's questions in the split "test". KEY: of samples.KEYS. DESCRIPTION: for the data set's info."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    KEY: ClassVar[str]
    DESCRIPTION: ClassVar[str]

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {
            "id": text,
            "question": text,
            "options": tfds.features.Sequence(text),
            "options_text": text,  # "" where the data holds a list
            "answers": tfds.features.Sequence(text),  # as the data holds them: one text, or the items of a list
            "category": text,
            "conversation": text,  # "" where the data holds none
            "image_names": tfds.features.Sequence(text),
            "images": tfds.features.Sequence(text),  # encoded
        }
        return tfds.core.DatasetInfo(
            builder=self, description=self.DESCRIPTION, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {"test": self._generate_examples(dl_manager.manual_dir)}

    def _generate_examples(self, path: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        for sample in BenchmarkData(self.KEY, str(path)):
            yield sample.id, example_of(sample)


def example_of(sample: Sample) -> dict[str, Any]:
    """Return a sample as the builders store it.

    Raises:
      ValueError: an image cannot be read; names its row.
    """
    try:
        images = [image.read() for image in sample.images]
    except (ValueError, OSError) as error:
        raise ValueError(f"{sample.place}: {error}") from None
    return {
        "id": sample.id,
        "question": sample.question,
        "options": list(sample.options),
        "options_text": sample.options_text or "",
        "answers": [sample.answer] if isinstance(sample.answer, str) else list(sample.answer),
        "category": sample.category,
        "conversation": sample.conversation or "",
        "image_names": [image.name for image in sample.images],
        "images": images,
    }
