"""Prepare a benchmark as a TensorFlow dataset, for --data=tfds of evaluate and finetune.

    python -m experiments.prepare_tfds --benchmark=xlrs --data=XLRS-Bench-lite --tfds_dir=DIR
    python -m experiments.prepare_tfds --benchmark=uhr_mini --config=tiny

--data is what was downloaded by hand (docs/benchmarks.md); uhr_mini is made from its seeds and needs none. Files are
array_record; neither making nor reading them needs TensorFlow. An image that is missing, or that the data names outside
of its folder, stops the command.
"""

import dataclasses
import pathlib

import tensorflow_datasets as tfds
from absl import flags

from bat_jax.benchmarks.prepared import builder
from bat_jax.benchmarks.registry import BENCHMARKS
from . import cli
from .path_flags import ALLOW_OUTSIDE_PATHS

BENCHMARK = flags.DEFINE_string("benchmark", None, f"What to prepare: {', '.join(BENCHMARKS.names)}.")
CONFIG = flags.DEFINE_string("config", "", "Which of its forms; uhr_mini has scenes (default), images_1344 and tiny.")
DATA = flags.DEFINE_string("data", None, "Folder of the download.")
TFDS_DIR = flags.DEFINE_string("tfds_dir", None, "Where data sets are kept. Default: TFDS_DATA_DIR or TFDS's own.")


def main(_: list[str]) -> None:
    """Prepare what the flags name.

    Raises:
      ValueError: a flag is missing, or the data cannot be read.
    """
    record = BENCHMARKS[BENCHMARK.value]
    if bool(DATA.value) != bool(record.how_to_get):
        wanted = f"give {record.how_to_get}" if record.how_to_get else f"{record.name} needs none; leave it out"
        raise ValueError(f"--data: {wanted}")
    if DATA.value and not pathlib.Path(DATA.value).is_dir():
        raise ValueError(f"--data={DATA.value}: is no folder")
    config = record.tfds_config_of(f"tfds:{record.name}/{CONFIG.value}")
    config = dataclasses.replace(config, allow_outside_paths=ALLOW_OUTSIDE_PATHS.value)
    made = builder(record.name, config=config, data_dir=TFDS_DIR.value)
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=DATA.value))
    sizes = ", ".join(f"{name} {split.num_examples}" for name, split in made.info.splits.items())
    print(f"{made.info.full_name} in {made.data_dir}: {sizes}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["benchmark"])
    cli.run(main)
