"""The benchmarks' TFDS builders: built from their scripts and read back without TensorFlow."""

import subprocess
import sys

import pytest

from bat_jax.benchmarks.samples import BenchmarkData
from bat_jax.benchmarks.tfds.llava_conversations import LlavaConversations
from bat_jax.benchmarks.tfds.mme_realworld import MmeRealworld
from bat_jax.benchmarks.tfds.rshr_bench import RshrBench
from bat_jax.benchmarks.tfds.xlrs_bench import XlrsBench
from tests.benchmarks import benchmark_files as files

BUILDERS = {
    "xlrs_bench": (XlrsBench, files.write_xlrs_tree),
    "mme_realworld": (MmeRealworld, files.write_mme_parquet),
    "rshr_bench": (RshrBench, files.write_rshr_json),
    "llava_conversations": (LlavaConversations, files.write_llava),
}
# One process builds all, from the scripts as `tfds build` loads them, and shows that TensorFlow was never imported.
BUILD = """
import sys
import tensorflow_datasets as tfds
sys.path.insert(0, "bat_jax/benchmarks/tfds")
for name in sys.argv[2:]:
    builder = tfds.core.community.builder_cls_from_module(f"{name}.builder")(data_dir=f"{sys.argv[1]}/tfds")
    config = tfds.download.DownloadConfig(manual_dir=f"{sys.argv[1]}/{name}")
    builder.download_and_prepare(download_config=config)
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builders")
    for name, (_, write) in BUILDERS.items():
        write(folder / name)
    done = subprocess.run([sys.executable, "-c", BUILD, str(folder), *BUILDERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", BUILDERS)
def test_examples_are_the_samples_with_their_pictures_byte_for_byte(name, folder):
    builder = BUILDERS[name][0](data_dir=folder / "tfds")
    source = builder.as_data_source(split="test")
    stored = {example["id"].decode(): example for example in source}
    samples = list(BenchmarkData(builder.KEY, folder / name))
    assert len(source) == len(samples) > 0 and set(stored) == {sample.id for sample in samples}
    for sample in samples:
        example = stored[sample.id]
        assert example["question"].decode() == sample.question and example["category"].decode() == sample.category
        assert tuple(text.decode() for text in example["options"]) == sample.options
        answers = (sample.answer,) if isinstance(sample.answer, str) else sample.answer
        assert tuple(text.decode() for text in example["answers"]) == answers
        assert [bytes(content) for content in example["images"]] == [image.read() for image in sample.images]
    assert any(path.name.startswith(f"{name}-test.array_record") for path in builder.data_path.iterdir())


def test_misspelt_categories_stay_as_the_data_has_them(folder):
    categories = {
        example["category"].decode() for example in RshrBench(data_dir=folder / "tfds").as_data_source("test")
    }
    assert {"object_clasfication", "regionla_counting", "multitrun-future_prediction"} <= categories
