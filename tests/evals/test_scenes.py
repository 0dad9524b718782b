"""Questions about many pictures: tables as users write them, names and ids, and the files of answers."""

import csv
import json
import pathlib

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.warp import transform as project

from bat_jax.evals.scenes import (
    QuestionRow,
    ScenePart,
    SceneQuestion,
    answer_line,
    named_images,
    questions_of,
    read_rows,
    scene_questions,
    write_answers,
)

pytestmark = pytest.mark.filterwarnings("ignore:'crs' was not provided")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "deep").mkdir()
    for name in ("b.png", "a.png", "deep/c.jpg"):
        Image.new("RGB", (20, 10), (90, 60, 30)).save(folder / name)
    place = {"crs": "EPSG:32617", "transform": rasterio.Affine(10, 0, 403_000, 0, -10, 3_286_000)}
    with rasterio.open(
        folder / "placed", "w", driver="GTiff", count=3, dtype="uint8", width=20, height=10, **place
    ) as raster:
        raster.write(np.full((3, 10, 20), 9, np.uint8))
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.mark.parametrize(
    "text", ["question,image\nHow many?,a.png\nWhy?,\n", "\ufeffimage,question\r\na.png,How many?\r\n,Why?\r\n"]
)
def test_a_table_is_read_whatever_its_line_ends_and_columns(tmp_path, text):
    (tmp_path / "q.csv").write_bytes(text.encode())
    assert read_rows(tmp_path / "q.csv") == (QuestionRow("a.png", "How many?"), QuestionRow("", "Why?"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no column question"),
        (b"text\nHow?\n", "names no column question (or image): text"),
        (b"question\n", "holds no row"),
        (b"question,id\nHow?,1\n  ,2\n", "line 3 has no question"),
        (b"question\nHow?,2,3\n", "line 2 has more fields than the first"),
        (b"question\n\xff\xfe\n", "is no text in UTF-8 (byte 0xff in line 2)"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "q.csv").write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_rows(tmp_path / "q.csv")
    assert str(error.value).startswith(f"--questions={tmp_path}/q.csv: ") and message in str(error.value)


def test_a_folder_gives_its_own_pictures_whatever_they_are_called_and_a_glob_names_below_its_fixed_part(folder):
    assert list(named_images(str(folder))[0]) == ["a.png", "b.png", "placed"]
    assert list(named_images(f"{folder}/**/*.[pj]*g")[0]) == ["a.png", "b.png", "deep/c.jpg"]
    assert named_images(f"{folder}/d*p/*.jpg")[0] == {"deep/c.jpg": folder / "deep" / "c.jpg"}


def test_a_table_names_pictures_beside_it_and_questions(folder):
    (folder / "list.csv").write_text("image,question,id\ndeep/c.jpg,How?,7\na.png,Why?,8\n")
    files, rows = named_images(str(folder / "list.csv"))
    assert files == {"a.png": folder / "a.png", "deep/c.jpg": folder / "deep" / "c.jpg"}
    assert rows == (QuestionRow("deep/c.jpg", "How?", "7"), QuestionRow("a.png", "Why?", "8"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing/*.tif", "names no picture"),
        ("deep/nothing", "names no picture"),
        ("out.csv", "leads out of"),
        ("gap.csv", "a row names no image"),
    ],
)
def test_pictures_that_are_none_are_named(folder, text, message):
    (folder / "out.csv").write_text("image\n../../etc/passwd\n")
    (folder / "gap.csv").write_text("image,question\n,How?\n")
    with pytest.raises(ValueError, match="--images=") as error:
        named_images(str(folder / text))
    assert message in str(error.value)


def test_a_question_without_a_picture_is_asked_of_all_and_ids_are_never_the_same():
    rows = [QuestionRow("", "How?"), QuestionRow("a", "Why?", "x"), QuestionRow("", "When?", "y")]
    asked = questions_of(["a", "b"], rows)
    assert [row.question for row in asked["a"]] == ["How?", "Why?", "When?"]
    assert [row.question for row in asked["b"]] == ["How?", "When?"]
    ids = [task.id for name in asked for task in scene_questions(name, asked[name], is_whole=True)]
    assert ids == ["a:1", "x", "a:y", "b:1", "b:y"]
    assert [task.id for task in scene_questions("a:r1c2", asked["a"], is_whole=False)] == [
        "a:r1c2:1",
        "a:r1c2:x",
        "a:r1c2:y",
    ]
    with pytest.raises(ValueError, match="'c' is none of the pictures"):
        questions_of(["a"], [QuestionRow("c", "How?")])
    with pytest.raises(ValueError, match="no question"):
        questions_of(["a"], [QuestionRow("a", "")])
    with pytest.raises(ValueError, match="id 'x' is given twice"):
        questions_of(["a"], [QuestionRow("a", "How?", "x"), QuestionRow("a", "Why?", "x")])


def _part(path, **fields):
    return ScenePart(name=path.name, path=pathlib.Path(path), page=1, load=lambda: None, tasks=(), **fields)


OF_PART = {"picture_px": [20], "load_seconds": 0.5}


def test_a_line_holds_window_and_footprint_of_the_file(folder):
    task = SceneQuestion(id="7", text="How?")
    line = answer_line(
        task, _part(folder / "placed", cell=(1, 2), window=(10, 0, 10, 10)), OF_PART, output="3", seconds=0.1
    )
    assert (line["status"], line["answer"], line["error"], line["cell"]) == ("answered", "3", None, (1, 2))
    assert line["window"] == (10, 0, 10, 10) and line["load_seconds"] == 0.5
    bounds = shapely.from_geojson(json.dumps(line["footprint"])).bounds
    (west, east), (south, north) = project("EPSG:32617", "EPSG:4326", [403_100, 403_200], [3_285_900, 3_286_000])
    np.testing.assert_allclose(bounds, (west, south, east, north), atol=1e-6)
    whole = answer_line(task, _part(folder / "a.png"), OF_PART, error="question: ValueError: too long")
    assert (whole["status"], whole["window"], whole["footprint"]) == ("error", (0, 0, 20, 10), None)
    lost = answer_line(task, _part(folder / "nowhere.tif"), OF_PART, error="picture: ImageError: gone")
    assert (lost["status"], lost["window"], lost["footprint"]) == ("error", None, None)
    assert answer_line(task, _part(folder / "a.png"), OF_PART, error="picture: NoDataError: x")["status"] == "no_data"


def test_answers_become_a_table_and_a_map(folder, tmp_path):
    task = SceneQuestion(id="1", text='How many, "all told"?')
    parts = [_part(folder / "placed", cell=(2, 1), window=(0, 0, 10, 10)), _part(folder / "a.png")]
    lines = [answer_line(task, parts[0], OF_PART, output="three,\n4"), answer_line(task, parts[1], OF_PART, error="x")]
    assert write_answers(tmp_path, lines) == "longitude and latitude (WGS 84)"
    with (tmp_path / "answers.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["question"], first["answer"], first["cell_row"], first["cell_column"]) == (
        task.text,
        "three,\n4",
        "2",
        "1",
    )
    assert (second["status"], second["answer"], second["cell_row"]) == ("error", "", "")
    content = json.loads((tmp_path / "answers.geojson").read_text())
    one, other = content["features"]
    shape = shapely.from_geojson(json.dumps(one["geometry"]))
    assert shape.exterior.is_ccw
    np.testing.assert_allclose(shape.bounds, shapely.from_geojson(json.dumps(lines[0]["footprint"])).bounds, atol=1e-6)
    assert one["properties"]["answer"] == "three,\n4" and one["properties"]["cell_row"] == 2
    assert other["geometry"] is None and other["properties"]["answer"] is None and other["properties"]["error"] == "x"
    assert {path.name for path in tmp_path.iterdir()} == {"answers.csv", "answers.geojson"}


def test_cells_of_one_picture_without_a_place_are_in_its_pixels_and_said_so(folder, tmp_path):
    task = SceneQuestion(id="1", text="How?")
    parts = [_part(folder / "a.png", cell=(1, col), window=(10 * col - 10, 0, 10, 10)) for col in (1, 2)]
    words = write_answers(tmp_path, [answer_line(task, part, OF_PART, output="3") for part in parts])
    content = json.loads((tmp_path / "answers.geojson").read_text())
    assert (
        content["description"] == words == "pixels of a.png (x to the right, y down), which has no place on the earth"
    )
    assert shapely.from_geojson(json.dumps(content["features"][1]["geometry"])).bounds == (10, 0, 20, 10)
