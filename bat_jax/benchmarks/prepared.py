"""Benchmarks as TensorFlow datasets: made from their records, and read again for measuring and for training.

    builder("xlrs", data_dir=DIR).download_and_prepare(download_config=...)  # see experiments.prepare_tfds
    open_prepared(BENCHMARKS["xlrs"], "tfds", DIR).source("test")            # experiments.evaluate --data=tfds
    source = PreparedConversations("llava", DIR)                             # experiments.finetune --data=tfds:llava
    record = source[3]; source.image(record.images[0]).load(largest_view=4032)

Nothing is downloaded: the benchmarks' licences want them fetched by hand. Images keep their bytes, since a view of
10,000 x 10,000 pixels is decoded when it is looked at, not when it is listed. Examples stand in the order of the files.
TensorFlow itself is never imported.
"""

import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from bat_jax.benchmarks.record import Benchmark, TfdsConfig
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.benchmarks.samples import Sample
from bat_jax.benchmarks.stored_images import StoredImage
from bat_jax.data.llava import Record, RecordError

_SCALARS = {str: tfds.features.Text, bytes: tfds.features.Text, bool: np.bool_, int: np.int64}


class BenchmarkBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Makes the TensorFlow dataset of RECORD; `builder` derives a class for each benchmark."""

    VERSION = tfds.core.Version("1.3.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First release.",
        "1.1.0": "Examples in the order of the files; whole conversations.",
        "1.2.0": "The scenes of uhr_mini's split test are in development; test has scenes of its own.",
        "1.3.0": "Turns name their dialogue and its length, where the data does.",
    }
    RECORD: ClassVar[Benchmark]
    SETTINGS: ClassVar[Mapping[str, TfdsConfig]]

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)

    @property
    def settings(self) -> TfdsConfig:
        return self.SETTINGS[self.builder_config.name if self.builder_config else ""]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.RECORD.description or self.RECORD.title,
            features=_feature(self.RECORD.tfds_features(self.settings)),
            metadata=tfds.core.MetadataDict(**self.RECORD.tfds_metadata(self.settings)),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Iterable[tuple[int, dict[str, Any]]]]:
        manual_dir = dl_manager.manual_dir if self.MANUAL_DOWNLOAD_INSTRUCTIONS else ""
        return self.RECORD.tfds_examples(self.settings, str(manual_dir))

    def _generate_examples(self, **kwargs: Any) -> Any:
        raise NotImplementedError("the splits' examples come from the record")


def _feature(kind: Any) -> Any:
    """Return a feature for what `Benchmark.tfds_features` says."""
    if isinstance(kind, dict):
        return tfds.features.FeaturesDict({name: _feature(item) for name, item in kind.items()})
    if isinstance(kind, list):
        (item,) = kind
        # A sequence of dicts is wanted as a plain dict.
        parts = {name: _feature(part) for name, part in item.items()} if isinstance(item, dict) else _feature(item)
        return tfds.features.Sequence(parts)
    if isinstance(kind, tuple):
        return tfds.features.Image(shape=kind, encoding_format="png")
    scalar = _SCALARS[kind]
    return scalar() if scalar is tfds.features.Text else scalar


def builder(name: str, *, config: str | TfdsConfig = "", **options: Any) -> BenchmarkBuilder:
    """Return the TFDS builder of a benchmark.

    Args:
      name: a benchmark's, or an alias.
      config: one of its `tfds_configs` by name, or one of your own; the first by default.
      options: of tfds.core.DatasetBuilder, such as `data_dir`.

    Raises:
      ValueError: the benchmark or the config is unknown.
    """
    record = BENCHMARKS[name]
    chosen = record.tfds_config_of(f"tfds:{record.name}/{config}") if isinstance(config, str) else config
    settings = {item.name: item for item in (*record.tfds_configs, chosen)}
    configs = [tfds.core.BuilderConfig(name=n, description=s.description) for n, s in settings.items() if n]
    body = {
        "name": record.name,
        "RECORD": record,
        "SETTINGS": settings,
        "BUILDER_CONFIGS": configs,
        "MANUAL_DOWNLOAD_INSTRUCTIONS": record.how_to_get and f"--manual_dir is {record.how_to_get}.",
        "__module__": __name__,
    }
    made = types.new_class(
        record.name.title().replace("_", ""),
        (BenchmarkBuilder,),
        {"skip_registration": True},
        lambda namespace: namespace.update(body),
    )
    return made(config=chosen.name or None, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A benchmark's TensorFlow dataset on the disk.

    Attributes:
      folder: holds its files. made_by: its builder, read from the folder.
    """

    record: Benchmark
    config: TfdsConfig
    folder: pathlib.Path
    made_by: tfds.core.DatasetBuilder

    @property
    def text(self) -> str:
        """What it is, for tables."""
        return f"TensorFlow dataset {self.made_by.info.full_name} in {self.folder}"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.made_by.info.splits)

    def files(self, split: str) -> list[pathlib.Path]:
        """Return the files that hold a split's examples."""
        return sorted(self.folder.glob(f"*-{split}.*"))

    def source(self, split: str, *, decode_images: bool = False) -> Any:
        """Return the examples of a split: a sequence; images as encoded bytes unless they are to be decoded.

        Raises:
          ValueError: there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"split={split}: {self.text} has {', '.join(self.splits)}")
        features = self.made_by.info.features
        skipped = {k: tfds.decode.SkipDecoding() for k, v in features.items() if isinstance(v, tfds.features.Image)}
        return self.made_by.as_data_source(split, decoders=None if decode_images else skipped)

    def samples(self, sample_of: Callable[[Mapping[str, Any], str, tuple[StoredImage, ...]], Sample]) -> list[Sample]:
        """Return the samples that the dataset was made of; images are read again when they are wanted.

        Args:
          sample_of: (example, place for messages, images) -> Sample; that of a FileBenchmark.
        """
        source = self.source("test")
        return [
            sample_of(example, f"{self.text}: example {number}", _images(source, number, example))
            for number, example in enumerate(source)
        ]


def _images(source: Any, number: int, example: Mapping[str, Any]) -> tuple[StoredImage, ...]:
    return tuple(
        StoredImage(name=name.decode(), path=None, read=functools.partial(_image, source, number, place))
        for place, name in enumerate(example["image_names"])
    )


def _image(source: Any, number: int, place: int) -> bytes:
    return bytes(source[number]["images"][place])


def open_prepared(record: Benchmark, data: str = "tfds", data_dir: str | pathlib.Path | None = None) -> PreparedData:
    """Open the TensorFlow dataset of a benchmark, of the highest version that is there.

    Args:
      data: "tfds", "tfds:NAME" or "tfds:NAME/CONFIG". data_dir: TFDS's own by default.

    Raises:
      ValueError: it has not been prepared; says how to.
    """
    config = record.tfds_config_of(data)
    root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    for name in (record.name, *record.aliases):
        folder = root / name / config.name
        versions = tfds.core.utils.version.list_all_versions(folder)
        if versions:
            folder = folder / str(versions[-1])
            return PreparedData(
                record=record, config=config, folder=folder, made_by=tfds.builder_from_directory(folder)
            )
    wanted = "/".join(filter(None, (record.name, config.name)))
    raise ValueError(
        f"data={data}: {wanted} is not prepared in {root}; python -m experiments.prepare_tfds --benchmark={record.name}"
        + (f" --config={config.name}" if config.name else "")
        + (" --data=PATH" if record.how_to_get else "")
        + (f" --tfds_dir={data_dir}" if data_dir else "")
    )


class PreparedConversations:
    """A benchmark's TensorFlow dataset as conversations to train on: a `data.llava.RecordSource` with its images.

    The images of a record are named "EXAMPLE/NUMBER"; `image` gives what a name stands for.

    Attributes:
      folder: holds the dataset's files.
    """

    def __init__(self, name: str, data_dir: str | pathlib.Path | None = None, split: str | None = None):
        """Open the dataset.

        Args:
          name: "NAME" or "NAME/CONFIG". data_dir: TFDS's own by default.
          split: by default "train" where there is one, else the first.

        Raises:
          ValueError: the benchmark is unknown, its dataset is not prepared, has no such split, or holds no pictures.
        """
        self.record = BENCHMARKS[name.partition("/")[0]]
        prepared = open_prepared(self.record, f"tfds:{name}", data_dir)
        if not {"image", "images"} & set(prepared.made_by.info.features):
            others = ", ".join(config.name for config in self.record.tfds_configs if config != prepared.config)
            raise ValueError(f"data=tfds:{name}: holds no pictures to train on; take one of {others}")
        self.folder = prepared.folder
        self._source = prepared.source(split or ("train" if "train" in prepared.splits else prepared.splits[0]))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Return an example's conversation.

        Raises:
          RecordError: it holds no conversation that can be used.
        """
        example = self._source[index]
        num_images = len(example["images"]) if "images" in example else int("image" in example)
        names = tuple(f"{index}/{number}" for number in range(num_images))
        try:
            return self.record.conversation_of(example, names)
        except ValueError as error:
            raise RecordError(str(error)) from None

    def image(self, name: str) -> StoredImage:
        """Return an image of a record."""
        index, _, number = name.partition("/")
        return StoredImage(name=name, path=None, read=functools.partial(self._read, int(index), int(number)))

    def _read(self, index: int, number: int) -> bytes:
        example = self._source[index]
        return bytes(example["images"][number] if "images" in example else example["image"])
