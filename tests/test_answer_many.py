"""`answer --images` and `--grid` as commands: resumed after a kill, broken pictures passed by, hosts, cells, areas."""

import collections
import csv
import json
import signal

import numpy as np
import pytest
import rasterio
import shapely

from tests.command_batch import run_commands, run_killed, run_together
from tests.test_hosts import free_address
from tests.tiny_model import write_tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
QUESTIONS = ("How many ships are there?", "Is there a bridge?")
NUM_SCENES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, five placed scenes and a broken one, questions, and an area over parts of the first scene."""
    folder = tmp_path_factory.mktemp("many")
    write_tiny_checkpoint(folder / "checkpoint")
    (folder / "scenes").mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_SCENES):
        place = {"crs": "EPSG:32617", "transform": rasterio.Affine(10, 0, 403_000 + 3000 * number, 0, -10, 3_286_000)}
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": 230, "height": 150} | place
        with rasterio.open(folder / "scenes" / f"s{number}.tif", "w", **profile) as raster:
            raster.write(rng.integers(0, 256, (3, 150, 230), dtype=np.uint8))
    (folder / "scenes" / "broken.tif").write_bytes((folder / "scenes" / "s0.tif").read_bytes()[:500])
    pixels = rng.integers(1, 256, (3, 150, 230), dtype=np.uint8)
    pixels[:, :, :115] = 0
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": 230, "height": 150, "nodata": 0}
    with rasterio.open(folder / "gap.tif", "w", **profile) as raster:
        raster.write(pixels)
    (folder / "questions.csv").write_text("question\n" + "\n".join(QUESTIONS) + "\n")
    # The left 100 pixels of the first scene, as the outline of a field.
    area = shapely.box(403_000, 3_284_500, 404_000, 3_286_000)
    crs = {"type": "name", "properties": {"name": "EPSG:32617"}}
    (folder / "area.geojson").write_text(json.dumps(json.loads(shapely.to_geojson(area)) | {"crs": crs}))
    return folder


def command(folder, output, *flags, images="scenes", questions="questions.csv"):
    given = [f"--checkpoint={folder}/checkpoint", "--max_new_tokens=2", f"--output_dir={folder}/{output}"]
    given.append("--questions_at_once=1")  # the program of a question alone
    given += [f"--images={folder}/{images}"] if images else []
    return [*given, *([f"--questions={folder}/{questions}"] if questions else []), *flags]


def lines_of(folder, output):
    """Return the last line of every question, by id, without its seconds."""
    files = sorted((folder / output).glob("answers*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {line["id"]: {k: v for k, v in line.items() if "seconds" not in k} for line in lines}


@pytest.fixture(scope="module")
def done(folder):
    """Command lines that share a process, and so what it traces: name -> (code, stdout, stderr)."""
    image = [f"--image={folder}/scenes/s0.tif"]
    lines = {
        "whole": command(folder, "whole"),
        "alone": [
            *(f"--checkpoint={folder}/checkpoint", "--max_new_tokens=2"),
            *(f"--image={folder}/scenes/s3.tif", f"--question={QUESTIONS[1]}"),
        ],
    }
    grids = {
        "plain": [*image, "--grid=2x3"],
        "area": [*image, "--grid=1x2", f"--aoi={folder}/area.geojson"],
        "gap": [f"--image={folder}/gap.tif", "--grid=1x2"],
    }
    lines |= {name: command(folder, f"grid-{name}", *flags, images=None) for name, flags in grids.items()}
    return dict(zip(lines, run_commands("experiments.answer", list(lines.values())), strict=True))


@pytest.fixture(scope="module")
def whole(folder, done):
    """A run over all scenes in one go: its lines, and what it printed."""
    code, out, err = done["whole"]
    assert code == 0, err
    return lines_of(folder, "whole"), out


def test_every_scene_is_answered_and_a_broken_one_recorded_and_passed_by(folder, whole):
    lines, out = whole
    assert collections.Counter(line["status"] for line in lines.values()) == {"answered": 10, "error": 2}
    assert "12 questions about 6 pictures, 0 of them answered before" in out and "10 answered, 2 failed; wrote" in out
    assert all("broken.tif" in line["error"] for line in lines.values() if line["status"] == "error")
    with (folder / "whole" / "answers.csv").open(newline="") as file:
        table = {row["id"]: row for row in csv.DictReader(file)}
    features = {
        item["properties"]["id"]: item
        for item in json.loads((folder / "whole" / "answers.geojson").read_text())["features"]
    }
    assert table.keys() == features.keys() == lines.keys()
    for id, line in lines.items():
        assert table[id]["answer"] == (line["answer"] or "") and table[id]["question"] in QUESTIONS
        assert features[id]["properties"]["answer"] == line["answer"]
    west = [shapely.from_geojson(json.dumps(features[f"s{n}.tif:1"]["geometry"])).bounds[0] for n in range(NUM_SCENES)]
    assert np.all(np.diff(west) > 0.03) and -82.01 < west[0] < -81.99


def test_one_scene_alone_gives_the_answer_that_it_gives_among_many(done, whole):
    code, out, err = done["alone"]
    assert code == 0, err
    assert f"Q: {QUESTIONS[1]}\nA: {whole[0]['s3.tif:2']['answer']}\n" in out


def test_a_killed_run_goes_on_and_ends_with_the_same_answers(folder, whole):
    log = folder / "killed" / "answers.jsonl"
    code, _, _ = run_killed("experiments.answer", command(folder, "killed"), log, 5)
    assert code == -signal.SIGKILL
    before = log.read_bytes()
    assert 5 <= before.count(b"\n") < 12 and not (folder / "killed" / "answers.csv").exists()
    ((code, out, err),) = run_commands("experiments.answer", [command(folder, "killed")])
    assert code == 0, err
    kept = before[: before.rfind(b"\n") + 1]
    assert log.read_bytes().startswith(kept)
    num_before = sum(json.loads(line)["status"] == "answered" for line in kept.splitlines())
    assert f"{num_before} of them answered before, 2 failed before and are asked again" in out
    assert lines_of(folder, "killed") == whole[0]
    for name in ("answers.csv", "answers.geojson"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_two_hosts_give_what_one_gives(folder, whole):
    hosts = [f"--coordinator={free_address()}", "--num_processes=2"]
    cases = [command(folder, "hosts", *hosts, f"--process_id={number}") for number in (0, 1)]
    done = run_together("experiments.answer", cases)
    assert [code for code, _, _ in done] == [0, 0], done
    assert "host 2 of 2 is done; host 1 writes" in done[1][1]
    assert lines_of(folder, "hosts") == whole[0]
    assert (folder / "hosts" / "answers.csv").read_bytes() == (folder / "whole" / "answers.csv").read_bytes()


def test_cells_cover_the_picture_and_share_the_budget_of_one(folder, done):
    assert done["plain"][0] == 0, done["plain"][2]
    lines = lines_of(folder, "grid-plain")
    assert len(lines) == 2 * 6 and {line["status"] for line in lines.values()} == {"answered"}
    of_first = [line for line in lines.values() if line["question"] == QUESTIONS[0]]
    # Budgets 12 and 30 over six cells; the release's rules fill them.
    assert [line["tokens_kept"] for line in of_first] == [[2, 5]] * 6
    covered = np.zeros((150, 230), int)
    for line in of_first:
        col, row, width, height = line["window"]
        covered[row : row + height, col : col + width] += 1
        assert (line["cell"][0] - 1, line["cell"][1] - 1) == (row // 75, col // 76)
    assert (covered == 1).all()
    assert "s0.tif row 2 column 3: Is there a bridge?\n" in done["plain"][1]
    features = json.loads((folder / "grid-plain" / "answers.geojson").read_text())["features"]
    areas = [shapely.from_geojson(json.dumps(item["geometry"])).area for item in features]
    np.testing.assert_allclose(areas, np.mean(areas), rtol=0.05)


def test_cells_of_an_area_lie_in_it(folder, done):
    assert done["area"][0] == 0, done["area"][2]
    lines = lines_of(folder, "grid-area").values()
    assert {tuple(line["window"]) for line in lines} == {(0, 0, 50, 150), (50, 0, 50, 150)}
    assert {tuple(line["tokens_kept"]) for line in lines} == {(6, 15)}


def test_a_cell_without_data_is_said_so_and_not_asked_again(folder, done):
    code, out, err = done["gap"]
    assert code == 0, err
    assert [line["status"] for line in lines_of(folder, "grid-gap").values()] == ["no_data"] * 2 + ["answered"] * 2
    assert "2 answered, 2 without data; wrote" in out and "pixels of gap.tif (x to the right, y down)" in out


MANY, ONE = "--images=OUT/scenes", "--image=OUT/scenes/s0.tif"
# Beside a question and an output directory, unless "-" leaves them out.
BAD = {
    f"{MANY} -output_dir": "--output_dir: name the directory",
    f"{MANY} {ONE}": "--image, --images: give one",
    f"{MANY} -question": "--questions: no question",
    "--images=OUT/*.jp2": "--images=OUT/*.jp2: names no picture",
    "--questions=OUT/questions.csv": "--images: name the pictures",
    f"{MANY} --questions=OUT/no.csv": "OUT/no.csv: No such file",
    f"{ONE} --grid=3": "--grid=3: write ROWSxCOLS",
    f"{ONE} --grid=1x200": "--grid=1x200: OUT/scenes/s0.tif: cells of 1.15 pixels",
    f"{ONE} --grid=7x7": "--grid: 49 cells share budgets of [12, 30]",
    "--image=OUT/questions.csv --grid=2x2": "questions.csv: not an image",
    f"{MANY} --label_map=x.png --partition=sam": "--label_map: is for single images",
    f"{MANY} --profile": "--profile: is for single images",
    f"{ONE} --coordinator=here:1 --num_processes=2": "--coordinator: hosts share many pictures",
    f"{MANY} --output_dir=OUT/whole": "holds a run with other settings",
}


def test_bad_input_gets_one_line_that_names_it(folder, whole):
    cases = []
    for words in BAD:
        flags = ["--output_dir=OUT/x", *words.split(), "--question=How?"]
        left_out = {f"-{flag}" for flag in flags if not flag.startswith("--")}
        kept = [flag for flag in flags if flag.startswith("--") and flag.partition("=")[0] not in left_out]
        cases.append([f"--checkpoint={folder}/checkpoint", *(flag.replace("OUT", str(folder)) for flag in kept)])
    for words, (code, _, err) in zip(BAD, run_commands("experiments.answer", cases), strict=True):
        assert code == 1 and err.startswith("error: ") and err.count("\n") == 1, (words, code, err)
        assert BAD[words].replace("OUT", str(folder)) in err, (words, err)
    assert not (folder / "x").exists()
