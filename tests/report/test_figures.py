"""The paper's figures: what they draw against brute force, the command as it is typed, one clear line for bad input."""

import copy
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from bat_jax.config import SELECTIONS, ScaleSpec
from bat_jax.io.views import pad_to_square
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.question import first_of_each
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import render
from bat_jax.report.answer_page import About, Ask
from bat_jax.report.figures.cards import compare
from bat_jax.report.figures.figure import counts_text
from bat_jax.report.figures.page import write_figures
from bat_jax.report.figures.record import FIGURES
from bat_jax.report.figures.records.figure_7 import NUM_NEIGHBOURS, check_installed, plane, same_region_share
from bat_jax.report.figures.records.figure_8 import importance_on
from bat_jax.report.figures.seen import seen_picture
from bat_jax.report.figures.subject import Subject
from bat_jax.report.layers import KEPT, MERGED, Backdrop, font, token_fate, window_in, wrap
from bat_jax.report.pictures import region_panels
from tests import selection_example
from tests.command_batch import run_commands
from tests.tiny_model import load_tiny, write_tiny_checkpoint

SEED = 2_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Room for 85 % pruning and one length of prompts: all tests share the compiled programs."""
    loaded = load_tiny(tmp_path_factory.mktemp("figures") / "checkpoint", stages_apart=True)
    scales = (ScaleSpec(size_px=112, budget=16), ScaleSpec(size_px=224, budget=40))
    return loaded.configured(loaded.cfg.with_settings(mask_padding=True, scales=scales))


@pytest.fixture(scope="module")
def subject(model):
    """A rendered scene with those of its questions whose prompts are of one padded length."""
    scene = generate_scene(SEED)
    sub_tasks = ("object_colour", "object_class", "anomaly", "location", "overall_land_use")
    shown = [question for question in first_of_each(generate_questions(scene)) if question.sub_task in sub_tasks]
    asks = [Ask(question.prompt(), question) for question in shown]
    return Subject(model, render(scene, 448), asks, max_new_tokens=2)


@pytest.fixture(scope="module")
def wide(model):
    """A picture of noise, 4 : 3, of which padding is masked, with questions of the user's."""
    pixels = np.random.default_rng(0).integers(0, 256, (450, 600, 3), dtype=np.uint8)
    return Subject(
        model, pixels, [Ask(f"{name}? " + "Only one word. " * 5) for name in ("ships", "cars")], max_new_tokens=2
    )


@pytest.mark.parametrize("selection", ["uhr_bat", "background"])
def test_what_is_seen_is_kept_pixels_over_mean_colours_over_black(wide, selection):
    asked = wide.ask(wide.asks[0], selection)
    scene, selections = wide.scene(), asked.answer.selections[0]
    pixels = seen_picture(scene, wide.backdrop, selections).astype(int)
    assert pixels.shape == (432, 576, 3)
    colours = np.zeros((16, 16, 3))
    is_pixels = np.zeros((16, 16), int)
    for want in (MERGED, KEPT):
        for scale, grid in enumerate(scene.grids):
            side, chosen = grid.full_side, selections[scale]
            fate = token_fate(scene.scales[scale], chosen).fate
            group = np.asarray(scene.scales[scale].region_id) if chosen.group is None else chosen.group
            square = pad_to_square(np.asarray(wide.backdrop.view(side * 14)), wide.cfg.vision.pad_colour).astype(float)
            place = grid.rows_and_cols()
            means = np.array([square[r * 14 : r * 14 + 14, c * 14 : c * 14 + 14].mean(axis=(0, 1)) for r, c in place])
            for token in np.flatnonzero(fate == want):
                rows, columns = (slice(i * 16 // side, (i + 1) * 16 // side) for i in place[token])
                if want == MERGED:
                    colours[rows, columns] = means[(fate == MERGED) & (group == group[token])].mean(axis=0)
                else:
                    is_pixels[rows, columns] = side * 14
    for row in range(12):
        for column in range(16):
            cell = pixels[row * 36 : row * 36 + 36, column * 36 : column * 36 + 36]
            if size := is_pixels[row + 2, column]:
                view = wide.backdrop.crop(size_px=int(size))[row * 36 : row * 36 + 36, column * 36 : column * 36 + 36]
                np.testing.assert_array_equal(cell, view)
            else:
                np.testing.assert_allclose(cell, np.broadcast_to(colours[row + 2, column], cell.shape), atol=1.1)
    assert (is_pixels == 0).any() and (selection == "background" or (is_pixels > 0).any())


def test_a_window_shows_its_part_of_the_whole(wide):
    asked = wide.ask(wide.asks[0])
    window = (0.25, 0.5, 0.75, 1.0)
    near = seen_picture(wide.scene(), wide.backdrop, asked.answer.selections[0], window)
    whole = seen_picture(wide.scene(), wide.backdrop, asked.answer.selections[0])
    is_black = (near == 0).all(axis=-1)
    np.testing.assert_array_equal(is_black[1::2, 1::2], (whole == 0).all(axis=-1)[216:, 144:432])
    assert window_in([(0.5, 0.5, 0.75, 0.75), (0.8, 0.1, 0.9, 0.2)], window) == ((0.5, 0.0, 1.0, 0.5),)


def test_answers_are_those_of_a_model_that_encodes_anew(model, subject):
    budgets = subject.pruned_budgets(0.9)
    assert sum(budgets) == 32
    cfg = model.cfg.with_settings(selection="background")
    anew = (
        model.configured(cfg)
        .encode(subject.views.source)
        .ask(subject.asks[0].prompt, budgets=budgets, max_new_tokens=2)
    )
    found = subject.ask(subject.asks[0], "background", budgets).answer
    np.testing.assert_array_equal(anew.token_ids, found.token_ids)
    for one, other in zip(anew.selections[0], found.selections[0], strict=True):
        np.testing.assert_array_equal(one.keep_index[one.mask], other.keep_index[other.mask])
        np.testing.assert_array_equal(one.group, other.group)


def test_baselines_have_our_budget_and_one_encoded_picture(model, subject):
    num_calls = model.stages.num_calls["vision_tower"]
    compared = compare(subject, subject.asks[0])
    assert model.stages.num_calls["vision_tower"] == num_calls
    assert [len(compared), compared[0].name, compared[-1].name] == [6, "UHR-BAT (ours)", "112 px view alone, all of it"]
    assert all(one.asked.num_kept <= 56 for one in compared[:-1])
    assert compared[-1].asked.answer.tokens_kept[0] == (64, 0)


def test_an_added_selection_answers_on_the_cards_by_its_title(subject):
    with SELECTIONS.added(selection_example.record()):
        names = {one.name: one.asked for one in compare(subject, subject.asks[0])}
    assert names[selection_example.TITLE].answer.tokens_kept == ((16, 40),)


def test_counts_name_rows_and_the_tokens_in_them(wide):
    assert wide.num_tokens == 48 + 192
    asked = wide.ask(wide.asks[0], "topk", (4, 9))
    assert counts_text(wide, asked) == "13 of 240 tokens"
    asked = wide.ask(wide.asks[0], "pooling", (4, 9))
    rows = sum(int(np.sum(one.mask)) for one in asked.answer.selections[0])
    assert counts_text(wide, asked) == f"{rows} of 240 tokens: 0 by themselves, {rows} means of 240"


def test_importance_on_the_evidence_is_that_of_the_tokens_that_its_boxes_touch(subject):
    ask = next(ask for ask in subject.asks if ask.boxes)
    grid = subject.scene().grids[0].to_grid(subject.ask(ask).answer.anchor_importance[0])
    touched = np.zeros((8, 8), bool)
    for left, top, right, bottom in ask.boxes:
        for row in range(8):
            for column in range(8):
                is_hit = left < (column + 1) / 8 and column / 8 < right and top < (row + 1) / 8 and row / 8 < bottom
                touched[row, column] |= is_hit
    np.testing.assert_allclose(
        importance_on(subject, ask), (grid[touched].sum() / grid.sum(), touched.mean()), rtol=1e-5
    )


def test_without_evidence_the_most_important_token_is_enlarged(wide):
    grid = wide.scene().grids[0].to_grid(wide.ask(wide.asks[0]).answer.anchor_importance[0])
    row, column = np.unravel_index(np.argmax(grid[1:7]), (6, 8))
    left, top, right, bottom = wide.zoom(wide.asks[0])
    assert left >= 0 and top >= 0 and right <= 1 and bottom <= 1
    assert left <= (column + 0.5) / 8 <= right and top <= (row + 0.5) / 6 <= bottom


def test_figures_of_places_take_another_place_before_the_same_one_again(subject):
    subject = copy.copy(subject)
    subject.asks = tuple(Ask("", question) for question in first_of_each(generate_questions(generate_scene(SEED))))
    asks = subject.local_asks(len(subject.asks))
    places = [subject.zoom(ask) for ask in asks]
    num_places = len(set(places))
    assert len(set(places[:num_places])) == num_places < len(places)
    assert set(asks) == {ask for ask in subject.asks if ask.boxes}
    assert asks[0] == next(ask for ask in subject.asks if ask.boxes)


def test_share_of_neighbours_in_the_same_region_against_a_loop():
    rng = np.random.default_rng(0)
    points, label = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 4, 60)
    shares = []
    for index in range(60):
        distance = np.sqrt(((points - points[index]) ** 2).sum(axis=1))
        nearest = [other for other in np.argsort(distance) if other != index][:NUM_NEIGHBOURS]
        shares.append(np.mean(label[nearest] == label[index]))
    assert same_region_share(points, label) == pytest.approx(np.mean(shares))
    assert same_region_share(points + 100 * (label % 2)[:, None], label % 2) == 1


def test_clusters_far_apart_stay_apart_in_the_plane():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 30)
    rows = (rng.normal(size=(60, 8)) + 20 * label[:, None]).astype(np.float32)
    assert same_region_share(plane(rows), label) > 0.95


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    with pytest.raises(ValueError, match=r"figure 7: .*bat_jax\[figures\]"):
        check_installed()


def test_wrapped_lines_fit_and_keep_every_word():
    letters, text = font(14), "a few words of several lengths, and\none break; Donaudampfschifffahrt stays whole"
    lines = wrap(text, 100, letters)
    assert " ".join(lines).split() == text.split()
    assert all(letters.getlength(line) <= 100 or " " not in line for line in lines)
    assert wrap("short\n\nlast", 500, letters) == ["short", "", "last"]


def test_a_backdrop_s_cells_are_the_tokens_of_the_padded_square(wide):
    rows, columns = Backdrop(wide.scene()).cells(8)
    np.testing.assert_array_equal(rows.ravel(), np.repeat(np.arange(1, 7), 72))
    np.testing.assert_array_equal(columns, np.repeat(np.arange(8), 72))


def test_every_figure_is_drawn_listed_and_on_the_page(subject, tmp_path):
    pytest.importorskip("sklearn")
    drawn = []
    record = {"packages": {}, "seed": 0, "device": "", "cpu_count": 1, "bat_jax": "", "python": "", "date": ""}
    about = About(notice="", checkpoint="tiny", record=record)
    write_figures(tmp_path, subject, FIGURES.names, about, lambda figure: drawn.append(figure.number))
    written = json.loads((tmp_path / "figures.json").read_text())
    assert [item["figure"] for item in written] == drawn == ["5", "6", "7", "8", "9", "10", "11", "12", "pipeline"]
    page = (tmp_path / "figures.html").read_text()
    for item in written:
        assert set(item) == {"figure", "title", "caption", "png"} and item["caption"]
        assert (f"Figure {item['figure']}. " if item["figure"].isdigit() else "") + item["title"] in page
        with Image.open(tmp_path / item["png"]) as picture:
            assert min(picture.size) > 400
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    assert page.count("<section") == len(subject.asks)
    assert page.count("Ways to choose the tokens") == 4
    assert "http:" not in page and "https:" not in page


def test_the_pipeline_shows_every_step_of_every_view_and_what_is_left(subject):
    """Two views: five rows of panels of the picture's size, the last of four panels; regions in their colours."""
    figure = FIGURES["pipeline"].draw(subject)
    side, gap = subject.backdrop.square_px, 18
    assert figure.image.width == 4 * (side + gap) + gap and figure.image.height > 5 * side
    pixels = np.asarray(figure.image)
    asked = subject.ask(subject.local_asks(1)[0])
    left = seen_picture(subject.scene(), subject.backdrop, asked.answer.selections[0], subject.zoom(asked.ask))
    place = pixels[:, 3 * (side + gap) + gap :][:, :side]
    rows = [row for row in range(4 * side, len(pixels) - side) if (place[row] == left[0]).all()]
    assert any((place[row : row + side] == left).all() for row in rows)
    regions = region_panels(subject.scene(), subject.backdrop)[1].pixels
    second = pixels[:, side + 2 * gap :][:, :side]
    rows = [row for row in range(2 * side, 4 * side) if (second[row] == regions[0]).all()]
    assert any((second[row : row + side] == regions).all() for row in rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run the command on a small rendering, on a picture and on bad input: name -> (code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("figures-command")
    write_tiny_checkpoint(folder / "checkpoint")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "own.png")
    base = [f"--checkpoint={folder}/checkpoint", f"--output_dir={folder}/OUT", "--render_px=448", "--max_new_tokens=2"]
    own = [f"--image={folder}/own.png", "--question=Where is <the> harbour?"]
    cases = {
        "scene": [*base, "--figure=12", "--figure=6"],
        "own": [*base, *own, "--figure=6"],
        "no output": base[:1],
        "no checkpoint": base[1:],
        "no question": [*base, own[0]],
        "no image": [*base, own[1]],
        "empty question": [*base, own[0], "--question= "],
        "no such figure": [*base, "--figure=4"],
        "output in use": [*base[:1], f"--output_dir={folder}"],
        "missing image": [*base, "--image=nowhere.png", own[1]],
        "no such devices": [*base, "--mesh=data=64"],
    }
    lines = [[item.replace("OUT", name.replace(" ", "-")) for item in case] for name, case in cases.items()]
    return folder, dict(zip(cases, run_commands("experiments.figures", lines), strict=True))


def test_the_command_writes_figures_their_list_and_one_page(runs):
    folder, results = runs
    code, out, err = results["scene"]
    assert code == 0, err
    written = json.loads((folder / "scene/figures.json").read_text())
    assert [item["figure"] for item in written] == ["6", "12"]
    names = {path.name for path in (folder / "scene").iterdir()}
    assert names == {item["png"] for item in written} | {"figures.json", "figures.html", "run.json"}
    assert f"figure 12: {written[-1]['title']}" in out
    page = (folder / "scene/figures.html").read_text()
    for question in first_of_each(generate_questions(generate_scene(SEED))):
        assert question.text in page and f"the truth is <b>{question.answer} ({question.answer_word})</b>" in page


def test_the_command_takes_a_picture_of_the_user(runs):
    folder, results = runs
    assert results["own"][0] == 0, results["own"][2]
    written = json.loads((folder / "own/figures.json").read_text())
    assert [item["png"] for item in written] == ["figure6.png"]
    record = json.loads((folder / "own/run.json").read_text())
    assert record["picture"] == "own.png" and record["config"]["decoder"]["width"] == 32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no output", "--output_dir"),
        ("no checkpoint", "--checkpoint"),
        ("no question", "--question"),
        ("no image", "--image"),
        ("empty question", "--question"),
        ("no such figure", "--figure"),
        ("output in use", "--overwrite"),
        ("missing image", "nowhere.png"),
        ("no such devices", "--mesh=data=64: needs 64 devices"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(runs, name, message):
    folder, results = runs
    code, _, err = results[name]
    assert code in (1, 2)
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ") and message in err
    assert not (folder / name.replace(" ", "-")).exists()
