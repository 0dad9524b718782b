"""Batches are the same from files and from a TensorFlow dataset; names of images stay in their folder."""

import functools

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from bat_jax.benchmarks.prepared import PreparedConversations, builder
from bat_jax.benchmarks.stored_images import image_in
from bat_jax.data.llava import LlavaFile, Record, Turn
from bat_jax.io.prompts import load_tokenizer
from bat_jax.train.batches import BatchMaker
from bat_jax.train.loss import training_config
from bat_jax.train.recipe import TrainConfig
from tests.benchmarks.benchmark_files import picture, write_llava
from tests.command_batch import run_commands
from tests.tiny_model import tiny_config, write_tiny_checkpoint

RECIPE = TrainConfig(batch_size=2, compute_dtype="float32", seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with checkpoint/, llava/ (conversations and images) and tfds/, made of it."""
    folder = tmp_path_factory.mktemp("batches")
    write_tiny_checkpoint(folder / "checkpoint")
    write_llava(folder / "llava")
    config = tfds.download.DownloadConfig(manual_dir=str(folder / "llava"))
    builder("llava", data_dir=folder / "tfds").download_and_prepare(download_config=config)
    return folder


def maker_of(folder, source, images):
    tokenizer = load_tokenizer(folder / "checkpoint" / "tokenizer")
    return BatchMaker(training_config(tiny_config(), RECIPE), RECIPE, tokenizer, source, images)


def test_batches_from_a_tensorflow_dataset_are_those_of_the_files(folder):
    prepared = PreparedConversations("llava", folder / "tfds")
    of_files = maker_of(folder, LlavaFile(folder / "llava" / "conversations.json"), folder / "llava" / "images")
    of_tfds = maker_of(folder, prepared, prepared.image)
    has_image = []
    for position in range(4):
        one, two = of_files(position), of_tfds(position)
        assert (one.ids, one.skipped) == (two.ids, two.skipped)
        jax.tree.map(np.testing.assert_array_equal, one.samples, two.samples)
        has_image += one.samples.has_image.ravel().tolist()
    assert any(has_image)


def test_an_image_outside_the_folder_is_left_out(folder):
    turns = (Turn(role="user", text="<image>\nWhat?"), Turn(role="assistant", text="A"))
    (folder / "secret.jpg").write_bytes(picture(9))
    names = ("../../secret.jpg", str(folder / "secret.jpg"), "1.jpg")
    source = [Record(id=name, images=(name,), turns=turns) for name in names]
    maker = maker_of(folder, source, folder / "llava" / "images")
    skipped = [record for position in range(2) for record in maker(position).skipped]
    assert {record.id for record in skipped} == set(names[:2])
    assert all("leads out of" in record.reason and "--allow_outside_paths" in record.reason for record in skipped)
    anywhere = functools.partial(image_in, folder / "llava" / "images", allow_outside=True)
    assert not any(maker_of(folder, source, anywhere)(position).skipped for position in range(2))


def test_finetune_reads_a_prepared_dataset_and_names_what_is_wrong_with_it(folder):
    flags = [f"--checkpoint={folder / 'checkpoint'}", f"--output_dir={folder / 'out'}", "--train=num_clusters=None"]
    flags.append(f"--tfds_dir={folder / 'tfds'}")
    wrong = {
        ("--data=tfds:llava", "--held_out=3"): "--held_out=3: tfds:llava has 3 records, none would be left",
        ("--data=tfds:xlrs",): "data=tfds:xlrs: xlrs is not prepared in",
    }
    results = run_commands("experiments.finetune", [[*flags, *own] for own in wrong])
    for (code, _, err), message in zip(results, wrong.values(), strict=True):
        assert code == 1 and err.count("\n") == 1 and message in err
    assert not (folder / "out").exists()
