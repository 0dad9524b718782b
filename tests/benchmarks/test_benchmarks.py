"""Benchmarks read back from files in their real forms: every field a literal, every picture byte for byte."""

import json
import string
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bat_jax.benchmarks.answer_readers import RULES, judge
from bat_jax.benchmarks.file_benchmark import BenchmarkData
from bat_jax.benchmarks.letters import AnswerKey
from bat_jax.benchmarks.record import TfdsConfig
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.benchmarks.samples import labelled_lines, parse_options
from bat_jax.io.images import decode_image
from tests.benchmarks import benchmark_files as files


def read(name, path, **options):
    data = BenchmarkData(BENCHMARKS[name], path, **options)
    return list(data), data


def seeds_of(samples, form="JPEG", seeds=range(40)):
    """Return which pictures the samples show, by their bytes."""
    known = {files.picture(seed, form): seed for seed in seeds}
    return [[known[image.read()] for image in sample.images] for sample in samples]


def test_xlrs_saved_tree_is_read_in_order_with_its_pictures_byte_for_byte(tmp_path):
    samples, data = read("xlrs", files.write_xlrs_tree(tmp_path / "XLRS-Bench-lite"))
    assert [file.name for file in data.files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert [(sample.id, sample.answer, sample.category) for sample in samples] == [
        ("0", "B", "Object properties/Object classification"),
        ("1", "ABD", "Land use classification/Overall Land use classification"),
        ("2", "A", "Object properties/Object motion state"),
        ("3", "C", "Counting/Counting with changing detection"),
    ]
    assert samples[0].question == "Question 0? Bounding box: [2559,1895,2610,1928]"
    assert samples[0].options == ("(A) Red", "(B) Dark green", "(C) Blue", "(D) White")
    assert samples[2].options == ("(A) Yes", "(B) No") and samples[0].options_text is None
    assert seeds_of(samples) == [[1], [2], [1], [3, 4]]
    assert [image.name for image in samples[3].images] == ["hrscd/14.png"] * 2
    assert samples[3].place.endswith("data-00001-of-00002.arrow: row 0") and data.left_out == {}


def test_a_jpeg_named_png_is_decoded_by_its_bytes(tmp_path):
    samples, _ = read("xlrs", files.write_xlrs_tree(tmp_path / "tree") / "train")
    assert samples[0].images[0].name.endswith(".png")
    assert samples[0].images[0].load().pixels.shape == (40, 48, 3)
    png = files.picture(9, "PNG")
    expected = np.random.default_rng(9).integers(0, 256, (40, 48, 3), np.uint8)
    assert np.array_equal(decode_image(png, "x").pixels, expected)
    with pytest.raises(ValueError, match=r"^P1.png: broken or truncated JPEG") as error:
        decode_image(files.picture(1)[:200], "P1.png")
    assert "bat_jax-" not in str(error.value)


def test_xlrs_parts_hold_options_as_one_text_and_come_by_number(tmp_path):
    samples, data = read("xlrs", files.write_xlrs_jsonl(tmp_path / "vlm"))
    assert [file.name[-11:] for file in data.files] == ["part2.jsonl", "art10.jsonl"]
    assert [sample.id for sample in samples] == ["0", "1", "2", "3"]
    assert samples[2].options == ("(A) Yes", "(B) No")
    assert samples[2].options_text.startswith(" The choices are listed below:\n(A) Yes\n(B) No\nSelect the best answer")
    assert seeds_of(samples) == [[1], [2], [1], [3, 4]]
    assert [image.name for image in samples[0].images] == ["dota/P1.png"]


def test_mme_original_form_finds_its_folder_and_leaves_other_domains_out(tmp_path):
    samples, data = read("mme_realworld", files.write_mme_json(tmp_path / "lite"))
    assert [(sample.id, sample.category, sample.answer) for sample in samples] == [
        ("perception/remote_sensing/color/1", "color", "B"),
        ("perception/remote_sensing/count/2", "count", "E"),
        ("perception/remote_sensing/position/4", "position", "D"),
    ]
    assert samples[0].question == "What color is number 1?"
    assert samples[0].options[4] == "(E) This image doesn't feature the color."
    assert data.left_out == {"not remote sensing": 1}
    assert seeds_of(samples[:1], "PNG") == [[5]] and samples[0].images[0].path.parent.name == "imgs"
    with pytest.raises(ValueError, match=r"lost.png: does not exist"):
        samples[2].images[0].load()


def test_mme_parquet_and_tsv_hold_base64(tmp_path):
    samples, data = read("mme_realworld", files.write_mme_parquet(tmp_path / "lmms"))
    assert [sample.id for sample in samples] == [str(number) for number in range(10)]
    assert {sample.category for sample in samples} == {"color"} and data.left_out == {"not remote sensing": 1}
    assert seeds_of(samples[::-1]) == [[seed] for seed in range(9, -1, -1)] and samples[4].images[0].name == "4.jpg"
    samples, _ = read("mme_realworld", files.write_mme_tsv(tmp_path / "mme_realworld_lite.tsv"))
    assert [(sample.id, sample.options[1], sample.answer) for sample in samples] == [
        ("7", "(B) Dark green", "C"),
        ("8", "(B) Dark green", "C"),
    ]
    assert samples[1].question == "What color\tis number 8?" and seeds_of(samples) == [[7], [7]]


def test_rshr_takes_every_spelling_of_options_and_answers(tmp_path):
    samples, data = read("rshr", files.write_rshr_json(tmp_path / "XHRBench"))
    assert [sample.id for sample in samples] == ["17", "18", "19", "20", "21", "30", "30#2", "30#3"]
    assert [sample.answer for sample in samples[:5]] == ["B) Dark green", "(C)", ("A", "D"), "A", "B"]
    assert samples[0].options == samples[1].options == ("Red", "Dark green", "Blue", "White")
    assert samples[2].options[1] == "(B) Dark green" and samples[3].options == ("Yes", "No")
    assert samples[4].options == ("(A) Yes", "(B) No") and samples[4].options_text == "A. Yes B. No"
    assert samples[1].category == "object_clasfication"
    assert seeds_of(samples, "PNG")[:5] == [[11], [11], [11], [11], [11, 12]]
    samples, data = read("rshr", files.write_rshr_parquet(tmp_path / "test-00000.parquet"))
    assert seeds_of(samples) == [[20], [20, 21]] and data.left_out == {"no options": 1}


def test_llava_conversations_are_choices_where_lines_have_letters(tmp_path):
    folder = files.write_llava(tmp_path / "llava")
    samples, _ = read("llava", folder / "conversations.json")
    assert [sample.options for sample in samples] == [("(A) Red", "(B) Dark green"), (), ()]
    assert [sample.answer for sample in samples] == ["B", "A harbour.", "nothing"]
    assert [sample.category for sample in samples] == ["colour", "", "change"]
    assert samples[0].conversation == files.LLAVA_CHOICE and seeds_of(samples) == [[31], [31], [31, 32]]
    samples, _ = read("llava", folder, image_folder=folder / "images")
    assert samples[1].images[0].path == folder / "images" / "1.jpg"


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("(A) Red\n(B) Blue\nSelect (A, B).", ("(A) Red", "(B) Blue")),
        ("A. Red B. Blue", ("(A) Red", "(B) Blue")),
        ("['(A) it\\'s', '(B) no']", ("(A) it's", "(B) no")),
        ({"b": "Blue", "A": "Red", "C": ""}, ("Red", "Blue")),
    ],
)
def test_options_are_read_from_any_form(value, options):
    assert parse_options(value)[0] == options


def test_a_letter_in_a_sentence_is_no_option():
    assert labelled_lines("Is it vitamin A. or B?") == () and labelled_lines("I. Look.\nA. one\nSay why.") == ()
    assert parse_options("A. vitamin E. of plants B. none")[0] == ("(A) vitamin E. of plants", "(B) none")


FORMS = ("({})", "{}.", "{})", "{}:")


@pytest.mark.parametrize("count", [2, 6, 8, 26])
@pytest.mark.parametrize("form", FORMS)
def test_options_up_to_z_are_read_in_every_form_and_count_as_right(tmp_path, form, count):
    letters = string.ascii_uppercase[:count]
    lines = "\n".join(f"{form.format(letter)} thing {letter}" for letter in letters)
    expected = tuple(f"({letter}) thing {letter}" for letter in letters)
    assert labelled_lines(f"Which?\n{lines}\nAnswer with the letter.") == parse_options(lines)[0] == expected
    assert labelled_lines(f"Which?\r\n{lines}".replace("\n", "\r\n")) == expected
    assert parse_options(" ".join(lines.split("\n")))[0] == expected
    (tmp_path / "a.jpg").write_bytes(files.picture(1))
    path = tmp_path / "q.json"
    truths = (letters[-1], f"{form.format(letters[-1])} thing", letters[-1].lower())
    turns = [[{"from": "human", "value": f"<image>\nWhich?\n{lines}"}, {"from": "gpt", "value": t}] for t in truths]
    path.write_text(json.dumps([{"image": "a.jpg", "conversations": both} for both in turns]))
    for sample in read("llava", path)[0]:
        task = BENCHMARKS["llava"].task_of(sample, "release")
        assert sample.options == expected and task.question.answer_form == "letters"
        # The release's script counts the letters of a truth's words, too.
        rules = [rule for rule in RULES if rule != "release" or len(sample.answer) == 1]
        for output, is_right in ((letters[-1], True), (letters[0], False)):
            found = judge(output, task.question)
            assert [found[rule].is_right for rule in rules] == [is_right] * len(rules)


@pytest.mark.parametrize("labels", ["ABD", "ABCA", "ABAB", "AC", "abc", "AABB"])
@pytest.mark.parametrize("form", FORMS)
def test_labels_that_are_not_a_b_c_in_order_are_refused_and_none_is_dropped(tmp_path, form, labels):
    lines = "\n".join(f"{form.format(letter)} thing" for letter in labels)
    with pytest.raises(ValueError, match=f"options: labels are {', '.join(labels)}; want A, B, C"):
        labelled_lines(f"Which?\n{lines}")
    with pytest.raises(ValueError, match="options"):
        parse_options(lines)
    (tmp_path / "a.jpg").write_bytes(files.picture(1))

    def asked(truth):
        turns = [{"from": "human", "value": f"<image>\nWhich?\n{lines}"}, {"from": "gpt", "value": truth}]
        (tmp_path / "q.json").write_text(json.dumps([{"image": "a.jpg", "conversations": turns}]))
        return read("llava", tmp_path / "q.json")[0]

    for truth in (labels[-1], f"{form.format(labels[-1])} thing"):
        with pytest.raises(ValueError, match=r"q.json: row 0: options: labels are"):
            asked(truth)
    assert asked("Two ships.")[0].options == (), "an open answer needs no options"


def test_more_options_than_letters_are_refused():
    with pytest.raises(ValueError, match="must be 2 to 26"):
        AnswerKey(benchmark="llava", truth="A", options=tuple(map(str, range(27))))


def changed(key, value):
    rows = [dict(row) for row in files.RSHR_ROWS[:2]]
    rows[1] = rows[1] | {key: value} if value is not None else {k: v for k, v in rows[1].items() if k != key}
    return json.dumps(rows)


BAD_FILES = {
    "category": ("data.json", changed("category", "colour"), "data.json: row 1: category='colour': rshr has no such"),
    "answer": ("data.json", changed("answer", None), "data.json: row 1: answer: is missing or empty"),
    "answer type": ("data.json", changed("answer", 3), "data.json: row 1: answer=3: must be text or a list of texts"),
    "options": ("data.json", changed("options", {"A": "x", "C": "y"}), "row 1: options=['A', 'C']: letters must be"),
    "no image": ("data.json", changed("images", []), "data.json: row 1: image: is missing or empty"),
    "no image file": ("data.json", json.dumps(files.RSHR_ROWS[:1]), "none of its image files is in"),
    "nothing": ("data.json", '[{"id": 1, "question": "open?"}]', "holds no question of rshr; left out: {'no options'"),
    "cut off": ("data.json", '[{"id": 1}, {"id"', "data.json: ends inside a record"),
    "line": ("data.jsonl", '{"id": 1}\n[3]\n', "data.jsonl: row 1 is no JSON object"),
    "torn line": ("data.jsonl", '{"id": 1}\n{"id"\n', "data.jsonl: row 1 is no valid JSON"),
    "table": ("data.tsv", "index\timage\n1\n", "data.tsv: row 0 has 1 fields, the head has 2"),
    "reference": ("data.tsv", "index\timage\toptions\n1\t9\tx\n", "row 0: its image is that of index 9, which no"),
    "arrow": ("data.arrow", "nonsense", "data.arrow: is no whole Arrow stream"),
    "parquet": ("data.parquet", "nonsense", "data.parquet: is no Parquet file"),
    "suffix": ("data.zip", "", "data.zip: is none of a folder with dataset_dict.json"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_cannot_be_read_is_one_line_with_file_row_and_field(name, tmp_path):
    file, content, message = BAD_FILES[name]
    (tmp_path / file).write_text(content)
    if name in ("category", "answer", "answer type", "options", "no image"):
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "P1.png").write_bytes(files.picture(1, "PNG"))
    with pytest.raises(ValueError) as error:
        read("rshr", tmp_path / file)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def outside(tmp_path):
    """Return (row of a file, how its image is named) for files beside the data's folder, and write that folder."""
    folder = files.write_rshr_json(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes(files.picture(1, "PNG"))
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    return folder, ["../secret.png", str(tmp_path / "secret.png"), "images/link.png", "linked/secret.png"]


def test_an_image_outside_of_the_datas_folder_stops_the_command_unless_it_is_allowed(outside):
    folder, names = outside
    record = BENCHMARKS["rshr"]
    for name in names:
        (folder / "dataset.json").write_text(json.dumps([files.RSHR_ROWS[0] | {"images": [name]}]))
        with pytest.raises(ValueError) as error:
            read("rshr", folder)
        assert f"dataset.json: row 0: {name}: leads out of {folder}; --allow_outside_paths" in str(error.value)
        with pytest.raises(ValueError, match="leads out of"):
            list(record.tfds_examples(TfdsConfig(), str(folder))["test"])
        anywhere = TfdsConfig(allow_outside_paths=True)
        ((_, example),) = record.tfds_examples(anywhere, str(folder))["test"]
        assert example["images"] == [files.picture(1, "PNG")]


def test_a_name_that_climbs_and_comes_back_is_inside(outside):
    folder, _ = outside
    (folder / "dataset.json").write_text(json.dumps([files.RSHR_ROWS[0] | {"images": ["images/../images/P1.png"]}]))
    samples, _ = read("rshr", folder)
    assert seeds_of(samples, "PNG") == [[11]]
    (folder.parent / "way").symlink_to(folder)
    assert seeds_of(read("rshr", folder.parent / "way")[0], "PNG") == [[11]]


@pytest.mark.parametrize("named", ["dataset_dict.json", "state.json"])
def test_a_saved_tree_names_no_files_outside_of_it(named, tmp_path):
    tree, other = (files.write_xlrs_tree(tmp_path / name) for name in ("tree", "other"))
    if named == "state.json":
        names = [str(other / "train" / "data-00000-of-00002.arrow")]
        (tree / "train" / named).write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    else:
        (tree / named).write_text('{"splits": ["../other/train"]}')
    with pytest.raises(ValueError, match=f"{named} names .*other/train.*, which leads out of the folder"):
        BenchmarkData(BENCHMARKS["xlrs"], tree)


def test_folders_and_keys_that_do_not_do(tmp_path):
    for path, message in ((tmp_path, "holds no data"), (tmp_path / "none", "does not exist")):
        with pytest.raises(ValueError, match=message):
            BenchmarkData(BENCHMARKS["xlrs"], path)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(ValueError, match=r"several files that could be meant \(a.json, b.json\)"):
        BenchmarkData(BENCHMARKS["xlrs"], tmp_path)
    with pytest.raises(ValueError, match="image_folder=nowhere: is no folder"):
        BenchmarkData(BENCHMARKS["xlrs"], tmp_path / "a.json", "nowhere")
    tree = files.write_xlrs_tree(tmp_path / "tree")
    (tree / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 files are missing, such as data-00001-of-00002.arrow"):
        BenchmarkData(BENCHMARKS["xlrs"], tree)


def test_without_pyarrow_the_extra_to_install_is_named(tmp_path, monkeypatch):
    path = files.write_rshr_parquet(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'bat_jax\[benchmarks\]'"):
        read("rshr", path)


def test_pictures_are_not_touched_before_they_are_asked_for(tmp_path):
    tree = files.write_xlrs_tree(tmp_path / "tree")
    stream = tree / "train" / "data-00000-of-00002.arrow"
    content = stream.read_bytes()
    damaged = content.replace(files.picture(1), b"\0" * len(files.picture(1)))
    assert damaged != content
    stream.write_bytes(damaged)
    samples, _ = read("xlrs", tree)
    assert samples[1].images[0].load().pixels.shape == (40, 48, 3)
    with pytest.raises(ValueError, match=r"dota/P1.png: not an image"):
        samples[0].images[0].load()


def test_a_name_without_bytes_is_an_error_of_that_picture(tmp_path):
    rows = [files.XLRS_ROWS[0] | {"image": [{"bytes": None, "path": "/elsewhere/P1.png"}]}]
    schema = pa.Table.from_pylist(files.XLRS_ROWS[:1]).schema
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    samples, _ = read("xlrs", tmp_path / "x.arrow")
    with pytest.raises(ValueError, match="holds a name and no bytes"):
        samples[0].images[0].load()
    assert Image.MAX_IMAGE_PIXELS is not None, "the limit of the process stays as it was"
