"""Fine-tune a converted checkpoint on LLaVA conversations; writes a checkpoint that answer loads.

    python -m experiments.finetune --checkpoint=DIR --data=sft.json --image_dir=IMAGES --output_dir=DIR
    python -m experiments.finetune --checkpoint=DIR --data=sft.json --output_dir=DIR --train=max_steps=500

The recipe starts from a preset; --recipe=FILE reads one from JSON, --train name=value changes single fields. Progress
and the state for --resume are kept under OUTPUT_DIR/train, settings and starts in OUTPUT_DIR/run.json. On several
hosts, start the same command on each with --coordinator, --num_processes and --process_id; all need the output
directory on a file system they share.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
from absl import flags
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from bat_jax.benchmarks.stored_images import image_in
from bat_jax.config import BatConfig
from bat_jax.data.llava import LlavaFile, RecordError, RecordRange, RecordSource
from bat_jax.hosts import meet
from bat_jax.io.digests import checkpoint_digest, file_digest, input_sizes
from bat_jax.io.output_files import staged_file
from bat_jax.io.params import (
    CHECKSUMS_NAME,
    PARAMS_FOLDER,
    inspect_folder,
    load_params,
    orbax_context,
    read_leaves,
    write_checksums,
)
from bat_jax.io.prompts import load_tokenizer
from bat_jax.io.sources import source_digest
from bat_jax.pipeline import BatModel
from bat_jax.runs import RUN_FILE, RunDirectory, working_path
from bat_jax.text_files import read_text
from bat_jax.train.finetune import TrainResult, train
from bat_jax.train.loop import LoopSettings
from bat_jax.train.loss import training_config
from bat_jax.train.recipe import TrainConfig
from . import cli, host_flags
from . import compressor_flags as compressor
from .mesh_flags import training_mesh_of_flags
from .path_flags import ALLOW_OUTSIDE_PATHS
from .recipe_flags import with_fields

CHECKPOINT = flags.DEFINE(cli.CheckpointParser(), "checkpoint", None, "Directory that convert wrote, or uhr-bat-mini.")
DATA = flags.DEFINE_string("data", None, "LLaVA conversations (a JSON list or JSON lines), or tfds:NAME.")
TFDS_DIR = flags.DEFINE_string(
    "tfds_dir", None, "Where --data=tfds:NAME is kept. Default: TFDS_DATA_DIR or TFDS's own."
)
HELD_OUT = flags.DEFINE_integer(
    "held_out", 0, "The last so many records are not trained on; their loss is printed before and after.", lower_bound=0
)
IMAGE_DIR = flags.DEFINE_string("image_dir", ".", "Folder that the image names in --data are relative to.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the fine-tuned checkpoint.")
PRESET = flags.DEFINE_enum(
    "preset",
    "release_7b",
    ["release_7b", "paper"],
    "Recipe to start from; paper needs --visual_rate, --projection_rate.",
)
VISUAL_RATE = flags.DEFINE_float("visual_rate", None, "Learning rate of the visual parts (--preset=paper).")
PROJECTION_RATE = flags.DEFINE_float("projection_rate", None, "Learning rate of the projection (--preset=paper).")
RECIPE = flags.DEFINE_string("recipe", None, "JSON file with a whole recipe, instead of --preset.")
TRAIN = flags.DEFINE_multi_string(
    "train", [], "A field of the recipe as name=value, such as --train=epochs=1 or --train=decoder=1e-5."
)
CHECKPOINT_EVERY = flags.DEFINE_integer("checkpoint_every", 100, "Steps between checkpoints.", lower_bound=1)
KEEP_CHECKPOINTS = flags.DEFINE_integer("keep_checkpoints", 2, "Checkpoints that stay.", lower_bound=1)
RESUME = flags.DEFINE_bool("resume", False, "Go on with the training in --output_dir.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier fine-tuning in --output_dir once it is complete.")

TRAIN_FOLDER = "train"
_RECIPE_NAME = "train_config.json"
_OWN = (RUN_FILE, TRAIN_FOLDER, PARAMS_FOLDER, CHECKSUMS_NAME, "config.json", "source_config.json", "tokenizer")


def recipe_of_flags() -> TrainConfig:
    """Return the recipe that the flags ask for.

    Raises:
      ValueError: names the flag or the field.
    """
    if RECIPE.value:
        recipe = TrainConfig.from_json(read_text(RECIPE.value))
    elif PRESET.value == "paper":
        if VISUAL_RATE.value is None or PROJECTION_RATE.value is None:
            raise ValueError("--preset=paper: give --visual_rate and --projection_rate; the paper's exponents are lost")
        recipe = TrainConfig.paper(visual_rate=VISUAL_RATE.value, projection_rate=PROJECTION_RATE.value)
    else:
        recipe = TrainConfig.release_7b()
    return with_fields(recipe, TRAIN.value, "train")


def images_digest(source: RecordSource, folder: pathlib.Path) -> str:
    """Return a digest of the names and sizes of the images that a source's records name."""
    names: set[str] = set()
    for index in range(len(source)):
        with contextlib.suppress(RecordError):  # is left out of the training, too
            names.update(source[index].images)
    sizes = input_sizes([folder / name for name in sorted(names)], folder)
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def data_settings(source: Any) -> dict[str, Any]:
    """Return what the data of --data is: a file by content, its images and a TensorFlow dataset by names and sizes."""
    if isinstance(source, LlavaFile):
        images = images_digest(source, pathlib.Path(IMAGE_DIR.value))
        found = {"data_sha256": file_digest(source.path), "images": images}
        return found | ({ALLOW_OUTSIDE_PATHS.name: True} if ALLOW_OUTSIDE_PATHS.value else {})
    files = sorted(path for path in source.folder.rglob("*") if path.is_file())
    return {"data_files": input_sizes(files, source.folder)}


def settings_of_flags(cfg: BatConfig, recipe: TrainConfig, source: RecordSource) -> dict[str, Any]:
    """Return everything that decides the trained weights, ready for JSON."""
    return {
        "config": json.loads(cfg.to_json()),
        "recipe": dataclasses.asdict(recipe),
        "checkpoint": checkpoint_digest(pathlib.Path(CHECKPOINT.value)),
        "num_records": len(source),
        "held_out": HELD_OUT.value,
        **data_settings(source),
    }


def open_output(output: pathlib.Path, cfg: BatConfig, recipe: TrainConfig, source: RecordSource) -> RunDirectory:
    """Open the output directory, or refuse it; for process 0, which alone writes its files.

    Raises:
      ValueError: it holds something and neither --resume nor --overwrite fits.
    """
    if output.exists() and pathlib.Path(CHECKPOINT.value).resolve().is_relative_to(output.resolve()):
        raise ValueError(f"--output_dir={output}: holds the checkpoint that is to be trained; choose another")
    run = RunDirectory.open(
        output,
        "finetune",
        settings_of_flags(cfg, recipe, source),
        seed=recipe.seed,
        facts={flag.name: flag.value for flag in (CHECKPOINT, DATA, IMAGE_DIR, TFDS_DIR)},
        resume=RESUME.value,
        overwrite=OVERWRITE.value,
        own=_OWN,
        finished=PARAMS_FOLDER,
    )
    with staged_file(run.path / TRAIN_FOLDER / _RECIPE_NAME) as stage:
        stage.write_text(recipe.to_json())
    return run


def write_checkpoint(checkpoint: pathlib.Path, output: pathlib.Path, cfg_text: str, params: dict[str, Any]) -> None:
    """Write params/, config.json and tokenizer/ in the layout and the dtypes of the checkpoint that was trained."""
    _, leaves = inspect_folder(checkpoint)
    trained = traverse_util.flatten_dict(params, sep="/")
    arrays = {path: array.astype(leaves[path].dtype) for path, array in trained.items()}
    # What never runs goes along, so that the result can be written back as Hugging Face safetensors.
    unused = {path: leaf for path, leaf in leaves.items() if path not in trained}
    if unused:
        arrays |= read_leaves(checkpoint.absolute() / PARAMS_FOLDER, unused)
    if jax.process_index() == 0:
        if (checkpoint / "source_config.json").is_file():
            shutil.copyfile(checkpoint / "source_config.json", output / "source_config.json")
        shutil.copytree(checkpoint / "tokenizer", output / "tokenizer", dirs_exist_ok=True)
        with staged_file(output / "config.json") as stage:
            stage.write_text(cfg_text)
    # Last, and renamed into place by Orbax when it is whole: a folder with params/ is a finished one.
    with orbax_context():
        ocp.save(output.absolute() / PARAMS_FOLDER, traverse_util.unflatten_dict(arrays, sep="/"))
    if jax.process_index() == 0:
        write_checksums(output)


def open_data() -> tuple[RecordSource, Any]:
    """Return the records of --data, and what reads their images.

    Raises:
      ValueError: there are none; names the flag.
    """
    if DATA.value.startswith("tfds:"):
        from bat_jax.benchmarks.prepared import PreparedConversations  # slow, and seldom wanted

        prepared = PreparedConversations(DATA.value.removeprefix("tfds:"), TFDS_DIR.value)
        return prepared, prepared.image
    if not pathlib.Path(IMAGE_DIR.value).is_dir():
        raise ValueError(f"--image_dir={IMAGE_DIR.value}: no such folder")
    folder = pathlib.Path(IMAGE_DIR.value)
    return LlavaFile(DATA.value), functools.partial(image_in, folder, allow_outside=ALLOW_OUTSIDE_PATHS.value)


def finetune() -> TrainResult:
    """Do what the flags ask: check everything, train, write the checkpoint."""
    for flag in (CHECKPOINT, DATA, OUTPUT_DIR):
        if not flag.value:
            raise ValueError(f"--{flag.name}: give one; {flags.FLAGS[flag.name].help}")
    if RESUME.value and OVERWRITE.value:
        raise ValueError("--resume and --overwrite exclude each other")
    checkpoint, output = pathlib.Path(CHECKPOINT.value), pathlib.Path(OUTPUT_DIR.value)
    recipe = recipe_of_flags()
    cfg = compressor.configure(BatModel.read_config(checkpoint))
    training_config(cfg, recipe)  # what training cannot run is refused before anything is written
    records, images = open_data()
    source = records
    held_out = None
    if HELD_OUT.value:
        if HELD_OUT.value >= len(source):
            raise ValueError(f"--held_out={HELD_OUT.value}: {DATA.value} has {len(source)} records, none would be left")
        num_trained = len(source) - HELD_OUT.value
        held_out = RecordRange(source=source, numbers=range(num_trained, len(source)))
        source = RecordRange(source=source, numbers=range(num_trained))
    tokenizer = load_tokenizer(checkpoint / "tokenizer", cfg.decoder.vocab_size)
    if host_flags.has_hosts():
        # First in a process of its own: where a host does not come JAX ends the process, without a word to the user.
        facts = settings_of_flags(cfg, recipe, records) | {"source": source_digest()}
        meet(*host_flags.places(), facts, host_flags.HOST_TIMEOUT.value)
        jax.distributed.initialize(*host_flags.places(), initialization_timeout=host_flags.HOST_TIMEOUT.value)
    mesh = training_mesh_of_flags(cfg)
    is_first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if is_first:
            stack.enter_context(open_output(output, cfg, recipe, records))
        wait_for_all("output directory")
        work = working_path(output)
        if is_first:
            num_steps = recipe.num_steps(len(source))
            print(f"{len(source)} records, {num_steps} steps of {recipe.batch_size}, {mesh.size} device(s)", flush=True)
        settings = LoopSettings(
            directory=work / TRAIN_FOLDER,
            checkpoint_every=CHECKPOINT_EVERY.value,
            keep_checkpoints=KEEP_CHECKPOINTS.value,
            resume=RESUME.value,
            progress=is_first,
        )
        params = load_params(checkpoint)
        result = train(cfg, recipe, params, tokenizer, source, images, settings, mesh, held_out=held_out)
        if not (work / PARAMS_FOLDER).exists():  # else it was killed before it took its place
            write_checkpoint(checkpoint, work, cfg.to_json(), result.params)
        wait_for_all("checkpoint")
    if is_first:
        loss = "" if result.last_loss is None else f", last loss {result.last_loss:.4f}"
        print(f"{result.num_steps} steps{loss}; {result.num_skipped} records left out; wrote {output}")
        for step, value in result.held_out:
            print(f"held-out loss at step {step}: {value:.4f}")
        if result.num_skipped:
            print(f"why: {output / TRAIN_FOLDER}/skipped-*.jsonl")
    return result


def wait_for_all(what: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def main(_: list[str]) -> None:
    """Fine-tune as the flags ask."""
    finetune()


if __name__ == "__main__":
    cli.run(main)
