"""Exports: files that the benchmarks' readers and our own can read, whole or not at all."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from bat_jax.io.label_maps import read_label_map
from bat_jax.mini.world import exports
from bat_jax.mini.world.exports import export
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.masks import instance_map
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import render
from tests.command_batch import run_commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "new" / "out"
    assert export(path, range(20, 22), 224) == sum(len(generate_questions(generate_scene(seed))) for seed in (20, 21))
    return path


def test_llava_records_ask_with_a_picture_and_answer_with_a_letter(folder):
    records = json.loads((folder / "llava.json").read_text())
    questions = [question for seed in (20, 21) for question in generate_questions(generate_scene(seed))]
    pictures = {}
    for record, question in zip(records, questions, strict=True):
        human, gpt = record["conversations"]
        assert human == {"from": "human", "value": "<image>\n" + question.prompt()}
        assert gpt == {"from": "gpt", "value": question.answer}
        seen = pictures.setdefault((question.scene_seed, question.marker), record["image"])
        assert seen == record["image"]
    assert len(set(pictures.values())) == len(pictures)
    for (seed, marker), image in pictures.items():
        assert np.array_equal(np.asarray(Image.open(folder / image)), render(generate_scene(seed), 224, marker))


def test_xlrs_records_have_the_documented_fields(folder):
    records = json.loads((folder / "xlrs.json").read_text())
    fields = {"index", "path", "question", "multi-choice options", "answer", "category", "l2-category", "image"}
    for index, record in enumerate(records):
        assert set(record) == fields and record["index"] == index
        assert [option[:4] for option in record["multi-choice options"]] == ["(A) ", "(B) ", "(C) ", "(D) "][
            : len(record["multi-choice options"])
        ]
        assert all((folder / image).is_file() for image in record["image"])
        assert "/" in record["category"] or record["category"] == "detection"


@pytest.mark.parametrize("suffix", ["png", "npz"])
def test_label_maps_are_read_back_by_the_library(tmp_path, suffix):
    assert export(tmp_path / "out", range(20, 21), 300, ("label_maps",), suffix) == 0
    ids = read_label_map(tmp_path / "out" / "label_maps" / f"20.{suffix}", (300, 300))
    assert np.array_equal(ids, instance_map(generate_scene(20), 300))
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["20.png"]


def test_a_folder_that_holds_files_is_left_alone(folder):
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="is not empty; name a new folder"):
        export(folder, range(2), 224)
    assert sorted(folder.iterdir()) == before
    with pytest.raises(ValueError, match=r"llava\.json: is a file"):
        export(folder / "llava.json", range(2), 224)


def test_a_place_that_cannot_be_written_is_named(tmp_path, folder):
    with pytest.raises(ValueError, match=r"output_dir=.*cannot be written below"):
        export(folder / "llava.json" / "below" / "it", range(1), 224)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):
        with pytest.raises(ValueError, match="cannot be written below"):
            export(closed / "out", range(1), 224)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 100}, "side=100: must lie in 224 .. 16384"),
        ({"formats": ("coco",)}, "formats='coco': must be some of llava, xlrs, label_maps"),
        ({"formats": ()}, "formats='': must be some of"),
        ({"label_suffix": "tif"}, "label_suffix='tif': must be one of png, npz"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "out", range(1), **{"side": 224, **settings})
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "write_label_map", full)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
        export(tmp_path / "out", range(1), 224, ("label_maps",))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_and_refuses_in_one_line(tmp_path):
    flags = [f"--output_dir={tmp_path / 'out'}", "--side=224", "--scene_seeds=3000000:3000001", "--formats=xlrs"]
    (code, out, err), again = run_commands("experiments.export_uhr_mini", [flags, flags])
    assert code == 0 and "1 scenes" in out, err
    assert len(json.loads((tmp_path / "out" / "xlrs.json").read_text())) > 15
    code, _, err = again
    assert code == 1 and err.startswith("error: output_dir=") and err.count("\n") == 1
