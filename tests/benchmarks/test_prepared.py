"""Benchmarks as TensorFlow datasets: made without TensorFlow, and read back as what the files hold."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bat_jax.benchmarks.file_benchmark import BenchmarkData
from bat_jax.benchmarks.prepared import PreparedConversations, builder, open_prepared
from bat_jax.benchmarks.records.uhr_mini import UhrMiniConfig
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.data.llava import Record, RecordSource
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import render
from bat_jax.mini.world.splits import FIXED_SETS, SPLITS
from tests.benchmarks import benchmark_files as files
from tests.command_batch import run_commands
from tests.tiny_model import write_tiny_checkpoint

WRITE = {
    "xlrs": files.write_xlrs_tree,
    "mme_realworld": files.write_mme_parquet,
    "rshr": files.write_rshr_json,
    "llava": files.write_llava,
}
# One process makes all of them, and tries one that names a file elsewhere; it shows that TensorFlow was never imported.
PREPARE = """
import sys
from absl import flags
from experiments import prepare_tfds
folder, *names = sys.argv[1:]
for name in names:
    source = "--config=tiny" if name == "uhr_mini" else f"--data={folder}/{name}"
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["", f"--benchmark={name}", f"--tfds_dir={folder}/tfds", "--config=", "--data=", source])
    prepare_tfds.main([])
for allowed in ("false", "true"):
    flags.FLAGS.unparse_flags()
    where = [f"--data={folder}/outside", f"--tfds_dir={folder}/elsewhere", f"--allow_outside_paths={allowed}"]
    flags.FLAGS(["", "--benchmark=llava", *where])
    try:
        prepare_tfds.main([])
    except ValueError as error:
        print(error)
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for name, write in WRITE.items():
        write(folder / name)
    (folder / "outside").mkdir()
    named = (folder / "llava" / "conversations.json").read_text().replace("1.jpg", "../llava/images/1.jpg")
    (folder / "outside" / "conversations.json").write_text(named.replace("2.jpg", "../llava/images/2.jpg"))
    command = [sys.executable, "-c", PREPARE, str(folder), *WRITE, "uhr_mini"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes = "train 4, validation 2, development 2, test 2"
    assert f"uhr_mini/tiny/1.3.0 in {folder}/tfds/uhr_mini/tiny/1.3.0: {sizes}" in done.stdout
    assert "row 0: ../llava/images/1.jpg: leads out of" in done.stdout
    assert f"in {folder}/elsewhere/llava/1.3.0: test 3" in done.stdout
    (folder / "tfds" / "rshr").rename(folder / "tfds" / "rshr_bench")  # prepared under its old name
    return folder


def settings_of(folder, name, data):
    prompt = next(iter(BENCHMARKS[name].prompts))
    own = {"data": data, "image_folder": None, "leak_hint": False, "max_pixels": 10**6}
    scenes = {"scene_seeds": "2000000:2000002", "render_px": 224, "split": "development"}
    return {"prompt": prompt, "tfds_dir": str(folder / "tfds"), **own, **scenes}


@pytest.mark.parametrize("name", [*WRITE, "uhr_mini"])
def test_the_dataset_gives_the_pictures_and_tasks_of_the_files(name, folder):
    of_files = None if name == "uhr_mini" else str(folder / name)
    data = f"tfds:{name}/tiny" if name == "uhr_mini" else "tfds"
    routes = [BENCHMARKS[name].open(settings_of(folder, name, way)) for way in (of_files, data)]
    plain, prepared = (list(pictures) for pictures, _ in routes)
    assert [(picture.key, picture.tasks) for picture in plain] == [(one.key, one.tasks) for one in prepared]
    for one, other in zip(plain, prepared, strict=True):
        pixels = [
            [getattr(image, "pixels", image) for image in (loaded if isinstance(loaded, tuple) else (loaded,))]
            for loaded in (one.load(), other.load())
        ]
        assert all(np.array_equal(*pair) for pair in zip(*pixels, strict=True)) and pixels[0]
    assert "TensorFlow dataset" in routes[1][1]


def test_scenes_that_were_prepared_as_another_split_are_refused(folder, monkeypatch):
    monkeypatch.setitem(SPLITS, "development", range(5, 205))
    with pytest.raises(ValueError, match="its scenes are not of the development split; prepare it anew"):
        BENCHMARKS["uhr_mini"].open(settings_of(folder, "uhr_mini", "tfds:uhr_mini/tiny"))


@pytest.mark.parametrize("name", WRITE)
def test_pictures_are_down_sampled_to_the_asked_side_from_files_and_from_the_dataset(name, folder):
    pixels = {}
    for data in (str(folder / name), "tfds"):
        for most_px in (None, 24, 12):
            found, _ = BENCHMARKS[name].open(settings_of(folder, name, data) | {"most_px": most_px})
            loaded = next(iter(found)).load()
            pixels[data, most_px] = loaded.pixels
            assert loaded.pixels.shape[:2] == {None: (40, 48), 24: (20, 24), 12: (10, 12)}[most_px]
            assert np.array_equal(loaded.pixels, pixels[str(folder / name), most_px])


@pytest.mark.parametrize("name", WRITE)
def test_samples_come_back_whole_and_in_order_with_their_images_byte_for_byte(name, folder):
    stored = open_prepared(BENCHMARKS[name], "tfds", folder / "tfds").samples(BENCHMARKS[name].sample_of)
    samples = list(BenchmarkData(BENCHMARKS[name], folder / name))
    fields = (
        "id",
        "question",
        "options",
        "options_text",
        "answer",
        "category",
        "conversation",
        "record",
        "dialogue",
        "num_turns",
    )
    for sample, other in zip(samples, stored, strict=True):
        assert [getattr(sample, field) for field in fields] == [getattr(other, field) for field in fields]
        assert [image.name for image in sample.images] == [image.name for image in other.images]
        assert [image.read() for image in sample.images] == [image.read() for image in other.images]


def test_evaluate_asks_the_dataset_as_it_asks_the_files_and_the_seeds_of_the_development_split(folder):
    write_tiny_checkpoint(folder / "checkpoint")
    seeds = "--scene_seeds=2000000:2000002"
    cases = {
        "xlrs files": ["--benchmark=xlrs", f"--data={folder}/xlrs"],
        "xlrs tfds": ["--benchmark=xlrs", "--data=tfds"],
        "scenes": ["--benchmark=uhr_mini", seeds, "--render_px=224", "--limit=2"],
        "scenes tfds": ["--benchmark=uhr_mini", "--data=tfds:uhr_mini/tiny", "--limit=2"],
        "other": ["--benchmark=xlrs", "--data=tfds:rshr"],
        "seeds": ["--benchmark=uhr_mini", "--data=tfds:uhr_mini/tiny", seeds],
        "missing": ["--benchmark=uhr_mini", "--data=tfds:uhr_mini/images_1344"],
    }
    shared = [f"--checkpoint={folder}/checkpoint", f"--tfds_dir={folder}/tfds", "--max_new_tokens=2"]
    lines = [
        [*shared[:: 1 if "tfds" in " ".join(flags) else 2], *flags, f"--output_dir={folder}/runs/{name}"]
        for name, flags in cases.items()
    ]
    done = dict(zip(cases, run_commands("experiments.evaluate", lines), strict=True))
    for name in ("xlrs", "scenes"):
        plain = "xlrs files" if name == "xlrs" else name
        answers = []
        for output in (plain, f"{name} tfds"):
            assert done[output][0] == 0, done[output][2]
            records = (folder / "runs" / output / "predictions.jsonl").read_text().splitlines()
            kept = ("id", "picture", "scene", "output", "verdicts", "tokens_kept", "facts")
            answers.append([{key: json.loads(line)[key] for key in kept} for line in records])
        assert answers[0] == answers[1] and len(answers[0]) == (4 if name == "xlrs" else 2)
    table = (folder / "runs" / "scenes tfds" / "table.md").read_text()
    assert "2 scenes of development, stored at 224 px" in table
    for name, message in {
        "other": "data=tfds:rshr: is not of xlrs",
        "seeds": "--scene_seeds: is not for --benchmark=uhr_mini with --data=tfds",
        "missing": "python -m experiments.prepare_tfds --benchmark=uhr_mini --config=images_1344",
    }.items():
        code, _, err = done[name]
        assert code == 1 and len(err.strip().splitlines()) == 1 and message in err, (name, err)


def test_conversations_are_records_to_train_on(folder):
    source = PreparedConversations("llava", folder / "tfds")
    assert isinstance(source, RecordSource) and len(source) == 3
    record = source[2]
    assert isinstance(record, Record) and (record.id, record.images) == ("c", ("2/0", "2/1"))
    assert [turn.text for turn in record.turns] == ["<image>\n<image>\nWhat changed?", "nothing"]
    assert [source.image(name).read() for name in record.images] == [files.picture(31), files.picture(32)]
    assert source.image("0/0").load(largest_view=16).pixels.shape[2] == 3


def test_a_benchmarks_questions_are_records_with_the_default_prompt_and_the_letters_of_the_answer(folder):
    question, answer = PreparedConversations("xlrs", folder / "tfds")[1].turns
    assert question.text.startswith("<image>\nQuestion 1?") and question.text.endswith("The answer(s) is(are):")
    assert answer.text == "A B D"


def test_a_scene_is_a_record_of_all_questions_without_a_circle(folder):
    source = PreparedConversations("uhr_mini/tiny", folder / "tfds")
    record, scene = source[1], generate_scene(1)
    asked = [question for question in generate_questions(scene) if question.marker is None]
    assert (len(source), record.id, record.images) == (4, "1", ("1/0",))
    assert [turn.text for turn in record.turns[1::2]] == [question.answer for question in asked]
    assert record.turns[0].text == "<image>\n" + asked[0].prompt("release")
    assert np.array_equal(source.image("1/0").load().pixels, render(scene, 224))


def test_scenes_without_pictures_are_refused_for_training(tmp_path):
    few = UhrMiniConfig(name="scenes", num_train=1, num_validation=1, num_development=1, num_test=1)
    builder("uhr_mini", config=few, data_dir=tmp_path).download_and_prepare()
    with pytest.raises(ValueError, match="data=tfds:uhr_mini: holds no pictures to train on; take one of images_1344"):
        PreparedConversations("uhr_mini", tmp_path)


@pytest.mark.parametrize("split", list(SPLITS))
def test_scenes_are_those_of_their_split_with_pictures_and_all_fields(split, folder):
    made = builder("uhr_mini", config="tiny", data_dir=folder / "tfds")
    source = made.as_data_source(split=split)
    assert [int(example["scene_seed"]) for example in source] == list(SPLITS[split][: len(source)])
    scene = generate_scene(SPLITS[split][0])
    rows, questions = source[0]["questions"], generate_questions(scene)
    assert np.array_equal(source[0]["image"], render(scene, 224)) and len(rows["text"]) == len(questions)
    for i, question in enumerate(questions):
        assert rows["text"][i].decode() == question.text
        assert tuple(rows["options"][i].decode().split("\n")) == question.options
        assert rows["answer"][i].decode() == question.answer
        assert rows["category"][i].decode() == question.category
        assert tuple(tuple(box) for box in json.loads(rows["boxes"][i])) == question.boxes
        marker = question.marker
        stored = (rows["marker_x"][i], rows["marker_y"][i], rows["marker_radius"][i])
        assert stored == ((marker.x, marker.y, marker.radius) if marker else (0, 0, 0))


def test_files_are_array_records_and_carry_version_and_checksums(folder):
    made = builder("uhr_mini", config="tiny", data_dir=folder / "tfds")
    path = folder / "tfds" / "uhr_mini" / "tiny" / "1.3.0"
    assert any(file.name.startswith("uhr_mini-test.array_record") for file in path.iterdir())
    whole = {split: made.info.metadata[f"whole_{split}_checksum"] for split in FIXED_SETS}
    assert whole == {split: fixed.checksum for split, fixed in FIXED_SETS.items()}
    stored = json.loads((path / "metadata.json").read_text())
    assert stored == dict(made.info.metadata)
    assert len({stored[f"{split}_checksum"] for split in SPLITS}) == 4


def test_configs_are_checked_and_one_of_your_own_is_taken(folder):
    with pytest.raises(ValueError, match="image_side=100: must be 0"):
        UhrMiniConfig(name="x", image_side=100)
    with pytest.raises(ValueError, match="num=500: the split test has 1 to 200"):
        UhrMiniConfig(name="x", num_test=500)
    own = builder("uhr_mini", config=UhrMiniConfig(name="x", num_train=7), data_dir=folder / "tfds")
    assert own.settings.seeds("train") == range(7) and own.builder_config.name == "x"
    with pytest.raises(ValueError, match="data=tfds:uhr_mini/huge: must be tfds:uhr_mini and one of scenes,"):
        builder("uhr_mini", config="huge")


def test_what_is_not_prepared_is_one_line_that_says_how_to_prepare_it(folder, tmp_path):
    with pytest.raises(ValueError) as error:
        open_prepared(BENCHMARKS["xlrs"], "tfds:xlrs_lite", tmp_path)
    assert str(error.value) == (
        f"data=tfds:xlrs_lite: xlrs is not prepared in {tmp_path}; "
        f"python -m experiments.prepare_tfds --benchmark=xlrs --data=PATH --tfds_dir={tmp_path}"
    )
    with pytest.raises(ValueError, match="data=tfds:rshr: is not of xlrs; give tfds or tfds:xlrs"):
        open_prepared(BENCHMARKS["xlrs"], "tfds:rshr", folder / "tfds")
    with pytest.raises(ValueError, match=r"split=train: .* has test"):
        PreparedConversations("xlrs", folder / "tfds", split="train")
