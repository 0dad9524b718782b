"""Flags that say where a benchmark's pictures come from, the same for experiments.evaluate and experiments.ablate."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from bat_jax.benchmarks.containers import data_digests
from bat_jax.benchmarks.record import Benchmark, Picture, is_prepared
from bat_jax.evals.runner import sample_tasks, select_tasks
from bat_jax.io.digests import file_digest
from bat_jax.mini.world.splits import parse_seeds, seeds_of
from .path_flags import ALLOW_OUTSIDE_PATHS

SPLIT = flags.DEFINE_enum(
    "split",
    None,
    ["development", "validation", "test"],
    "Fixed scenes of uhr_mini, development by default. test is asked once per released checkpoint, by "
    "experiments.study --release: whoever looks at its figures and then changes something has spent it.",
)
SCENE_SEEDS = flags.DEFINE_string("scene_seeds", None, "Other scenes of uhr_mini as FROM:TO; TO is not among them.")
DATA = flags.DEFINE_string(
    "data",
    None,
    "File or folder of a benchmark that comes as files, in any of the forms it is distributed in. tfds (or "
    "tfds:NAME/CONFIG): the data set that experiments.prepare_tfds made, also of uhr_mini.",
)
TFDS_DIR = flags.DEFINE_string(
    "tfds_dir", None, "Where the data set of --data=tfds is. Default: TFDS_DATA_DIR or TFDS's own."
)
IMAGE_FOLDER = flags.DEFINE_string(
    "image_folder", None, "Where the image files of --data stand. Default: beside it, also in images/, imgs/ or data/."
)

SAMPLE_SEED = flags.DEFINE_integer("sample_seed", 0, "Draws the sample that --limit asks for.", lower_bound=0)


def asked_of(
    found: Iterable[Picture], description: str, settings: Mapping[str, Any]
) -> tuple[tuple[Picture, ...], str]:
    """Return the pictures with the questions that a run's settings ask for, and the line that describes them.

    Raises:
      ValueError: an id is unknown, or no question is left.
    """
    chosen = select_tasks(found, offset=settings.get("offset", 0), ids=settings.get("ids", ()))
    chosen, sample = sample_tasks(chosen, settings["limit"], settings.get("sample_seed", 0))
    return chosen, f"{description}; {sample}" if sample else description


def source_settings(record: Benchmark) -> dict[str, Any]:
    """Return which data of a benchmark is asked about: by content for files, by seeds for scenes.

    Raises:
      ValueError: a flag is missing or belongs to other data, or the data is none that can be read.
    """
    if is_prepared(DATA.value):
        return _prepared_settings(record)
    if TFDS_DIR.value:
        raise ValueError("--tfds_dir: give --data=tfds, or leave it out")
    if "scene_seeds" not in record.settings:
        _refuse(record.name, SPLIT, SCENE_SEEDS)
        if not DATA.value:
            raise ValueError(f"--data: name the file or folder of {record.name}")
        return {"data_sha256": data_digests(pathlib.Path(DATA.value))}
    _refuse(record.name, DATA, IMAGE_FOLDER, ALLOW_OUTSIDE_PATHS)
    only_seeds = SCENE_SEEDS.value and not SPLIT.value
    seeds = parse_seeds(SCENE_SEEDS.value) if only_seeds else seeds_of(_split())
    return {"scene_seeds": f"{seeds.start}:{seeds.stop}"}


def _prepared_settings(record: Benchmark) -> dict[str, Any]:
    """Return the settings of a TensorFlow dataset; its pictures' size too, where it holds painted ones."""
    from bat_jax.benchmarks.prepared import open_prepared  # tensorflow_datasets is imported where it is used

    prepared = open_prepared(record, DATA.value, TFDS_DIR.value)
    _refuse(f"{record.name} with --data={DATA.value}", SCENE_SEEDS, IMAGE_FOLDER, ALLOW_OUTSIDE_PATHS)
    if "split" not in record.settings:
        _refuse(record.name, SPLIT)
        return {"data_sha256": {file.name: file_digest(file) for file in prepared.files("test")}}
    split = _split()
    side = getattr(prepared.config, "image_side", 0)
    digests = {file.name: file_digest(file) for file in prepared.files(split)}
    return {"data_sha256": digests, "split": split} | ({"render_px": side} if side else {})


def places() -> dict[str, Any]:
    """Return where the data stands, and whether it may name files elsewhere."""
    found = {flag.name: flag.value for flag in (DATA, TFDS_DIR, IMAGE_FOLDER)}
    where = {
        name: value if is_prepared(value) else value and str(pathlib.Path(value).absolute())
        for name, value in found.items()
    }
    return where | {ALLOW_OUTSIDE_PATHS.name: ALLOW_OUTSIDE_PATHS.value}


def _split() -> str:
    if SPLIT.value and SCENE_SEEDS.value:
        raise ValueError("--split, --scene_seeds: give one of them")
    return SPLIT.value or "development"


def _refuse(what: str, *refused: flags.FlagHolder) -> None:
    for flag in refused:
        if flag.value not in (None, False):
            raise ValueError(f"--{flag.name}: is not for --benchmark={what}; leave it out")
