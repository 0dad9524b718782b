"""The commands as a user types them: what they print and write, and one clear line for every bad input."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.command_batch import run_commands
from tests.tiny_model import write_tiny_checkpoint

QUESTION = "How many ships are there?"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, a picture, broken pictures, label maps and id files."""
    folder = tmp_path_factory.mktemp("commands")
    write_tiny_checkpoint(folder / "checkpoint")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (150, 230, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(pixels).save(folder / "image.jpg")
    whole = (folder / "image.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(pixels[:1, :1]).save(folder / "one-pixel.png")
    labels = np.zeros((150, 230), np.uint8)
    labels[:, :100] = 3
    Image.fromarray(labels).save(folder / "labels.png")
    Image.fromarray(labels[:50]).save(folder / "small-labels.png")
    np.savez(folder / "labels.npz", label_map=labels.astype(np.int32))
    np.savez(folder / "init.npz", kmeans_init_112=np.arange(6), kmeans_init_224=np.arange(6) * 7)
    np.savez(folder / "no-init.npz", other=np.arange(6))
    np.save(folder / "ids.npy", np.array([5, 6, -200, 7, 8, 9]))
    np.save(folder / "no-place.npy", np.array([5, 6, 7]))
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("kept")
    (folder / "a-file").write_text("")
    shutil.copytree(folder / "checkpoint", folder / "no-values")
    for values in (folder / "no-values" / "params" / "state").glob("ocdbt.process_*"):
        shutil.rmtree(values)
    return folder


def answer_flags(files, **flags):
    given = {"checkpoint": files / "checkpoint", "image": files / "image.png", "question": QUESTION} | flags
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


GOOD_ANSWERS = {
    "plain": {"max_new_tokens": 4},
    "report": {"max_new_tokens": 4, "output_dir": "OUT/report", "fidelity": "paper"},
    "scene_cache": {"max_new_tokens": 4, "scene_cache": "OUT/scenes", "scene_cache_gb": 0.01},
}
# By stages, which these share.
GOOD_ANSWERS |= {
    name: flags | {"max_new_tokens": 2, "profile": True}
    for name, flags in {
        "label_map": {"partition": "sam", "label_map": "OUT/labels.png"},
        "label_map_npz": {"partition": "sam", "label_map": "OUT/labels.npz", "fidelity": "paper"},
        "top": {"partition": "sam", "fidelity": "release"},
        "grid": {"partition": "grid", "num_clusters": 9, "coverage": "guaranteed"},
        "settings": {"set": "mask_added_tokens=True", "scale_embedding": "on", "token_mlp": "off"},
        "init": {"kmeans_init": "OUT/init.npz", "budgets": "3,7"},
        "window": {"window": "20,10,100,80"},
        "sampled": {"temperature": 1.0, "top_p": 0.9, "seed": 5},
    }.items()
}
BAD_ANSWERS = {
    "missing image": ({"image": "OUT/nowhere.png"}, "nowhere.png"),
    "truncated image": ({"image": "OUT/truncated.jpg"}, "truncated.jpg"),
    "text named png": ({"image": "OUT/text.png"}, "text.png"),
    "empty image": ({"image": "OUT/empty.png"}, "empty.png"),
    "one pixel": ({"image": "OUT/one-pixel.png"}, "one-pixel.png"),
    "too many pixels": ({"max_pixels": 100}, "--max_pixels"),
    "bands": ({"bands": "9"}, "--bands"),
    "bands text": ({"bands": "red"}, "--bands=red"),
    "page": ({"page": 2}, "--page"),
    "nodata": ({"nodata": "black"}, "--nodata=black"),
    "window text": ({"window": "1,2,x,4"}, "--window=1,2,x,4"),
    "window count": ({"window": "1,2,3"}, "--window=1,2,3"),
    "window outside": ({"window": "200,100,40,20"}, "--window"),
    "two parts": ({"window": "1,2,3,4", "bbox": "1,2,3,4"}, "--window, --bbox: give one"),
    "map of a part": ({"window": "1,2,3,4", "label_map": "OUT/labels.png", "partition": "sam"}, "--label_map"),
    "bbox text": ({"bbox": "1,2,x,4"}, "--bbox=1,2,x,4"),
    "bbox order": ({"bbox": "3,2,1,4"}, "--bbox=3,2,1,4"),
    "bbox without a map": ({"bbox": "1,2,3,4"}, "image.png has no place on the map"),
    "crs alone": ({"bbox_crs": "EPSG:32617"}, "--bbox_crs"),
    "missing area": ({"aoi": "OUT/nowhere.geojson"}, "nowhere.geojson"),
    "area of text": ({"aoi": "OUT/text.png"}, "is no GeoJSON"),
    "no checkpoint": ({"checkpoint": "OUT/nowhere"}, "nowhere"),
    "not converted": ({"checkpoint": "OUT/full"}, "experiments.convert"),
    "damaged checkpoint": ({"checkpoint": "OUT/no-values"}, "no-values/params: is damaged"),
    "no image": ({"image": None}, "--image"),
    "no question": ({"question": None}, "--question"),
    "empty question": ({"question": " "}, "--question"),
    "long question": ({"question": "boat " * 900}, "positions"),
    "question of other bytes": ({"question": os.fsdecode(b"caf\xe9s near the port?")}, r"--question=caf\xe9s near"),
    "path of other bytes": (
        {"image": os.fsdecode(b"caf\xe9.png")},
        r"--image=caf\xe9.png: holds bytes that are no UTF-8",
    ),
    "answer beyond positions": ({"max_new_tokens": 100_000}, "positions"),
    "budget count": ({"budgets": "3"}, "--budgets"),
    "budget zero": ({"budgets": "0,7"}, "--budgets"),
    "budget negative": ({"budgets": "-3,7"}, "--budgets"),
    "budget text": ({"budgets": "3,x"}, "--budgets"),
    "budget above N": ({"budgets": "65,7"}, "budgets=65"),
    "clusters above N": ({"num_clusters": 257}, "num_clusters=257"),
    "clusters above N, paper": ({"num_clusters": 65, "fidelity": "paper"}, "num_clusters=65"),
    "clusters negative": ({"num_clusters": -1}, "num_clusters=-1"),
    "iterations": ({"kmeans_iterations": 0}, "kmeans_iterations"),
    "scales order": ({"scales": "224,112"}, "scales"),
    "scales multiple": ({"scales": "112,230", "budgets": "3,7"}, "scales=230"),
    "scales unknown": ({"scales": "112,448"}, "--budgets"),
    "sam without map": ({"partition": "sam", "fidelity": "paper"}, "--label_map"),
    "map without sam": ({"label_map": "OUT/labels.png"}, "--label_map"),
    "small map": ({"partition": "sam", "label_map": "OUT/small-labels.png"}, "small-labels.png"),
    "missing map": ({"partition": "sam", "label_map": "OUT/nowhere.png"}, "nowhere.png"),
    "missing init": ({"kmeans_init": "OUT/nowhere.npz"}, "--kmeans_init"),
    "init without arrays": ({"kmeans_init": "OUT/no-init.npz"}, "kmeans_init_S"),
    "init count": ({"kmeans_init": "OUT/init.npz", "num_clusters": 5}, "needs 5 token indices"),
    "top_p": ({"top_p": 0}, "--top_p"),
    "set unknown": ({"set": "nothing=1"}, "--set=nothing=1"),
    "set type": ({"set": "preserve_equal=3"}, "--set=preserve_equal=3"),
    "set value": ({"set": "coordinates=sideways"}, "coordinates"),
    "scene cache is a file": ({"scene_cache": "OUT/a-file"}, "a-file: is a file"),
    "scene cache of nothing": ({"scene_cache": "OUT/none", "scene_cache_gb": 0}, "none: a limit of 0 bytes"),
    "mesh axis": ({"mesh": "rows=2"}, "--mesh=rows=2"),
    "mesh and heads": ({"mesh": "model=3"}, "--mesh: model=3"),
    "mesh devices": ({"mesh": "data=64"}, "--mesh=data=64: needs 64 devices"),
    "output not empty": ({"output_dir": "OUT/full"}, "--overwrite"),
    "output is a file": ({"output_dir": "OUT/a-file"}, "output_dir"),
    "output below a file": ({"output_dir": "OUT/a-file/report"}, "output_dir"),
}


@pytest.fixture(scope="module")
def answers(files):
    """Run all command lines of experiments.answer once: name -> (code, stdout, stderr)."""
    cases = {"good " + name: flags for name, flags in GOOD_ANSWERS.items()}
    cases |= {"bad " + name: flags for name, (flags, _) in BAD_ANSWERS.items()}
    lines = []
    for flags in cases.values():
        placed = {k: v.replace("OUT", str(files)) if isinstance(v, str) else v for k, v in flags.items()}
        lines.append(answer_flags(files, **placed))
    return dict(zip(cases, run_commands("experiments.answer", lines), strict=True))


@pytest.mark.parametrize("name", GOOD_ANSWERS)
def test_answer_prints_answer_tokens_and_seconds(answers, name):
    code, out, err = answers["good " + name]
    assert code == 0, err
    kept = "112 px 3 of 64, 224 px 7 of 256" if name == "init" else "112 px 12 of 64, 224 px 30 of 256"
    assert f"Q: {QUESTION}\nA: " in out
    assert kept in out
    stages = ("vision_tower", "generate") if "profile" in GOOD_ANSWERS[name] else ("  image ", "  question ")
    assert "compile s" in out and all(stage in out for stage in stages)


def test_a_picture_kept_in_a_scene_cache_is_answered_as_without(answers, files):
    (entry,) = (files / "scenes").glob("scene-*")
    assert "scene_cache" in answers["good scene_cache"][1]
    said = [answers[f"good {name}"][1].partition("\nA: ")[2].partition("\n")[0] for name in ("plain", "scene_cache")]
    assert said[0] == said[1] and entry.stat().st_size < 0.01e9


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_input_gets_one_line_and_a_non_zero_exit(answers, files, name):
    code, _, err = answers["bad " + name]
    assert code in (1, 2), err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert BAD_ANSWERS[name][1] in lines[0]
    assert sorted(path.name for path in (files / "full").iterdir()) == ["file"]


def test_answer_writes_a_record_and_pictures(answers, files):
    assert answers["good report"][0] == 0
    report = files / "report"
    names = sorted(path.name for path in report.iterdir())
    pictures = ["image.png", "importance_q1.png", "regions.png", "tokens_q1.png"]
    rasters = [f"{name}_{size}.tif" for name in ("importance", "regions") for size in (112, 224)]
    assert names == sorted([*pictures, *rasters, "answer.json", "report.html", "tokens.geojson", "tokens.gpkg"])
    assert "image.png (x to the right, y down), which has no place on the map" in answers["good report"][1]
    assert QUESTION in (report / "report.html").read_text()
    record = json.loads((report / "answer.json").read_text())
    assert record["answers"][0]["question"] == QUESTION
    assert record["answers"][0]["tokens_kept"] == [
        [{"scale_px": 112, "kept": 12, "of": 64}, {"scale_px": 224, "kept": 30, "of": 256}]
    ]
    assert record["config"]["compressor"]["fidelity"] == "paper"
    assert record["packages"]["jax"] and record["device"].startswith("cpu") and record["seed"] == 0
    for name in pictures:
        with Image.open(report / name) as picture:
            picture.load()
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


@pytest.fixture(scope="module")
def traces(files):
    """Run command lines of experiments.trace: name -> (code, stdout, stderr)."""
    base = [f"--checkpoint={files}/checkpoint", f"--image={files}/image.png"]
    init = [f"--kmeans_init={files}/init.npz"]
    cases = {
        "question": [*base, *init, f"--question={QUESTION}", f"--output={files}/question.npz", "--max_new_tokens=3"],
        "ids": [*base, f"--input_ids={files}/ids.npy", f"--output={files}/ids.npz", "--mesh=data=1,model=1"],
        "sam": [
            *base,
            f"--question={QUESTION}",
            "--partition=sam",
            f"--label_map={files}/labels.png",
            f"--output={files}/sam.npz",
        ],
        "neither": [*base, f"--output={files}/x.npz"],
        "both": [*base, f"--question={QUESTION}", f"--input_ids={files}/ids.npy", f"--output={files}/x.npz"],
        "no place": [*base, f"--input_ids={files}/no-place.npy", f"--output={files}/x.npz"],
        "suffix": [*base, f"--question={QUESTION}", f"--output={files}/x.txt"],
        "exists": [*base, f"--question={QUESTION}", f"--output={files}/init.npz"],
        "devices": [*base, f"--question={QUESTION}", f"--output={files}/x.npz", "--mesh=data=64"],
    }
    return dict(zip(cases, run_commands("experiments.trace", list(cases.values())), strict=True))


def test_trace_writes_every_array_by_name_and_shape(traces, files):
    assert traces["question"][0] == 0, traces["question"][2]
    with np.load(files / "question.npz", allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        is_row = arrays["selected_mask_224"]
        index, region = arrays["selected_index_224"], arrays["selected_region_224"]
        np.testing.assert_array_equal(arrays["kmeans_init_224"], np.arange(6) * 7)
        np.testing.assert_array_equal(
            region[is_row & (index >= 0)], arrays["region_id_224"][index[is_row & (index >= 0)]]
        )
        num_rows = arrays["selected_mask_112"].sum() + is_row.sum()
        assert arrays["inputs_embeds"].shape[0] == arrays["input_ids"].size - 1 + num_rows
    num_text = shapes["input_ids"][0] - 1
    for size, tiles, budget in ((112, 4, 12), (224, 16, 30)):
        assert shapes[f"pixels_{size}"] == (tiles, 56, 56, 3)
        assert shapes[f"vision_{size}"] == (tiles, 16, 16)
        assert shapes[f"projected_{size}"] == (tiles, 16, 32)
        assert shapes[f"scale_embedding_{size}"] == (16, 32)
        assert shapes[f"importance_{size}"] == (tiles, 4, 4)
        assert shapes[f"region_id_{size}"] == (tiles * 16,)
        assert shapes[f"selected_{size}"] == (budget, 32)
    assert shapes["anchor_importance"] == (64,)
    assert shapes["visual_tokens"] == (42, 32)
    assert shapes["inputs_embeds"] == (num_text + 42, 32)
    assert shapes["logits"] == (num_text + 42, 512)
    assert shapes["generated_ids"][0] <= 3


def test_trace_of_ids_has_exactly_their_prompt(traces, files):
    assert traces["ids"][0] == 0, traces["ids"][2]
    with np.load(files / "ids.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["input_ids"], [5, 6, -200, 7, 8, 9])
        assert arrays["logits"].shape == (5 + 42, 512)


def test_trace_of_a_label_map_gives_its_labels(traces, files):
    assert traces["sam"][0] == 0, traces["sam"][2]
    with np.load(files / "sam.npz", allow_pickle=False) as arrays:
        assert set(np.unique(arrays["region_id_224"])) == {0, 3}
        assert set(np.unique(arrays["selected_region_224"])) <= {0, 3}
        assert "kmeans_init_224" not in arrays.files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("neither", "--question, --input_ids"),
        ("both", "--question, --input_ids"),
        ("no place", "placeholder"),
        ("suffix", "must end in .npz"),
        ("exists", "--overwrite"),
        ("devices", "--mesh=data=64: needs 64 devices"),
    ],
)
def test_bad_trace_input_gets_one_line(traces, files, name, message):
    code, _, err = traces[name]
    assert code == 1
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ") and message in err
    assert not (files / "x.npz").exists()
