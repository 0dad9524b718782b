"""Every reader of text takes UTF-8 in any script, with or without a mark, with any line end, and refuses the rest."""

import codecs
import json

import pytest

from bat_jax.benchmarks.containers import data_files, read_rows
from bat_jax.config import BatConfig
from bat_jax.data.llava import LlavaFile
from bat_jax.evals.scenes import read_rows as read_question_rows
from bat_jax.io.areas import read_area
from bat_jax.io.hf_fields import read_json as read_object
from bat_jax.io.label_maps import read_label_map
from bat_jax.io.small_tokenizers import write_word_tokenizer
from bat_jax.io.tokenizer_file import TokenizerFile
from bat_jax.text_files import decode, read_json, read_text

# Latin, Cyrillic, Chinese, Arabic, Devanagari, and a sign outside of the first 65,536.
SCRIPTS = "Où sont les bateaux? Где суда? 船在哪里? أين السفن؟ जहाज़ कहाँ हैं? 🚢"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4943162336\n"


def conversation(text):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "A"}]
    return {"id": "1", "conversations": turns}


def rows_of(path):
    return [row.fields for row in read_rows(data_files(path))]


def label_map_of(path):
    return int(read_label_map(path, (4, 4)).max())


def area_of(path):
    return read_area(path).shape.area


def token_of(path):
    folder = path.parent / "tokenizer"
    path.replace(folder / "tokenizer.json")
    return TokenizerFile.read(folder).convert_tokens_to_ids("суда")


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
MASK = {"segmentation": {"size": [4, 4], "counts": [0, 16]}, "area": 16, "bbox": [0, 0, 4, 4]}
# name -> (file name, text, reader, what it gives)
READERS = {
    "text": ("a.txt", f"one\n{SCRIPTS}\n", read_text, f"one\n{SCRIPTS}\n"),
    "json": ("a.json", json.dumps({"a": SCRIPTS}, ensure_ascii=False, indent=1), read_json, {"a": SCRIPTS}),
    "config": ("config.json", BatConfig.mini().to_json() + f"\n{' ' * 80}", BatConfig.load, BatConfig.mini()),
    "object": ("b.json", json.dumps({"a": SCRIPTS}, ensure_ascii=False, indent=1), read_object, {"a": SCRIPTS}),
    "llava": (
        "c.json",
        json.dumps([conversation(SCRIPTS)], ensure_ascii=False, indent=1),
        lambda path: LlavaFile(path)[0].turns[0].text,
        SCRIPTS,
    ),
    "list": ("d.json", json.dumps([{"q": SCRIPTS}], ensure_ascii=False, indent=1), rows_of, [{"q": SCRIPTS}]),
    "lines": (
        "e.jsonl",
        "".join(json.dumps({"q": text}, ensure_ascii=False) + "\n" for text in ("first", SCRIPTS)),
        rows_of,
        [{"q": "first"}, {"q": SCRIPTS}],
    ),
    "table": (
        "f.tsv",
        f'index\tq\n0\tfirst\n1\t"{SCRIPTS}"\n',
        rows_of,
        [{"index": "0", "q": "first"}, {"index": "1", "q": SCRIPTS}],
    ),
    "questions": (
        "i.csv",
        f'image,question\na.png,first\na.png,"{SCRIPTS}"\n',
        lambda path: [row.question for row in read_question_rows(path)],
        ["first", SCRIPTS],
    ),
    "area": ("g.geojson", json.dumps(SQUARE | {"name": SCRIPTS}, ensure_ascii=False, indent=1), area_of, 1.0),
    "masks": ("h.json", json.dumps({"annotations": [MASK]}, indent=1) + f"\n{' ' * 80}", label_map_of, 1),
}


def write(path, text, encoding, newline="\n"):
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_utf8_with_and_without_a_mark_and_both_line_ends(tmp_path, name, encoding, newline):
    file, text, read, expected = READERS[name]
    assert read(write(tmp_path / file, text, encoding, newline)) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "pointer"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_other_encodings_and_lfs_pointers_in_one_line_that_names_the_file(
    tmp_path, name, encoding
):
    file, text, read, _ = READERS[name]
    text = text.replace(SCRIPTS, "Où sont les bateaux?").replace(" " * 80, '{"é": 1}')
    path = write(tmp_path / file, POINTER if encoding == "pointer" else text, encoding.replace("pointer", "utf-8"))
    with pytest.raises(ValueError) as info:
        read(path)
    message = str(info.value)
    assert str(path) in message and len(message.splitlines()) == 1
    assert ("git lfs pull" if encoding == "pointer" else "save it as UTF-8") in message


def test_a_tokenizer_is_read_as_any_other_text(tmp_path):
    write_word_tokenizer(tmp_path / "tokenizer", ["суда", "船"])
    text = (tmp_path / "tokenizer" / "tokenizer.json").read_text("utf-8")
    expected = json.loads(text)["model"]["vocab"]["суда"]
    assert token_of(write(tmp_path / "t.json", text, "utf-8-sig", "\r\n")) == expected
    for content, message in ((POINTER.encode(), "git lfs pull"), (text.encode("utf-16"), "save it as UTF-8")):
        (tmp_path / "t.json").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            token_of(tmp_path / "t.json")


def test_a_multibyte_sign_on_the_border_of_two_blocks_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("bat_jax.data.llava._BLOCK_BYTES", 7)
    path = write(tmp_path / "a.json", json.dumps([conversation(SCRIPTS)], ensure_ascii=False), "utf-8")
    assert LlavaFile(path)[0].turns[0].text == SCRIPTS


def test_a_part_of_a_file_is_named_with_the_line_of_the_bad_byte():
    with pytest.raises(ValueError, match=r"^rows.csv: row 3: is no text in UTF-8 \(byte 0xe9 in line 2\)"):
        decode("a\ncafé".encode("latin-1"), "rows.csv: row 3")
    assert decode(codecs.BOM_UTF8 + "é".encode(), "x") == "é"
