"""The TFDS builder: prepared and read without TensorFlow, with the scenes' own content."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bat_jax.benchmarks.tfds.uhr_mini import UhrMini, UhrMiniConfig
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import render
from bat_jax.mini.world.splits import SPLITS, TEST_CHECKSUM

# In a process of its own, so that "TensorFlow was never imported" can be seen.
PREPARE = """
import sys
from bat_jax.benchmarks.tfds.uhr_mini import UhrMini
builder = UhrMini(config="tiny", data_dir=sys.argv[1])
builder.download_and_prepare()
assert len(builder.as_data_source(split="train")) == 4
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    done = subprocess.run([sys.executable, "-c", PREPARE, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def builder(data_dir):
    return UhrMini(config="tiny", data_dir=data_dir)


def test_files_are_array_records_and_carry_version_and_checksums(builder, data_dir):
    files = sorted(path.name for path in (data_dir / "uhr_mini" / "tiny" / "1.0.0").iterdir())
    assert any(name.startswith("uhr_mini-test.array_record") for name in files)
    assert builder.info.metadata["fixed_test_set_checksum"] == TEST_CHECKSUM
    stored = json.loads((data_dir / "uhr_mini" / "tiny" / "1.0.0" / "metadata.json").read_text())
    assert stored == dict(builder.info.metadata)
    assert len({stored[f"{split}_checksum"] for split in SPLITS}) == 3


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_examples_are_the_scenes_of_their_split(builder, split):
    source = builder.as_data_source(split=split)
    seeds = {int(example["scene_seed"]) for example in source}
    assert seeds == set(SPLITS[split][: len(source)])


def test_an_example_holds_the_picture_and_all_questions(builder):
    example = builder.as_data_source(split="test")[0]
    scene = generate_scene(int(example["scene_seed"]))
    assert np.array_equal(example["image"], render(scene, 224))
    rows, questions = example["questions"], generate_questions(scene)
    assert len(rows["text"]) == len(questions)
    for i, question in enumerate(questions):
        assert rows["text"][i].decode() == question.text
        assert tuple(rows["options"][i].decode().split("\n")) == question.options
        assert rows["answer"][i].decode() == question.answer
        assert rows["category"][i].decode() == question.category
        assert tuple(tuple(box) for box in json.loads(rows["boxes"][i])) == question.boxes
        marker = question.marker
        stored = (rows["marker_x"][i], rows["marker_y"][i], rows["marker_radius"][i])
        assert stored == ((marker.x, marker.y, marker.radius) if marker else (0, 0, 0))


def test_configs_are_checked():
    with pytest.raises(ValueError, match="image_side=100: must be 0"):
        UhrMiniConfig(name="x", image_side=100)
    with pytest.raises(ValueError, match="num=500: the split test has 1 to 200"):
        UhrMiniConfig(name="x", num_test=500)
    assert UhrMiniConfig(name="x", num_train=7).num_scenes("train") == 7
