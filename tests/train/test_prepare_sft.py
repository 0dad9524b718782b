"""experiments.prepare_sft: every form of the released table's columns, and what becomes of rows that fit none."""

import json

import pytest

from bat_jax.data.llava import LlavaFile
from tests.command_batch import run_commands

pytest.importorskip("pyarrow")
import pyarrow as pa
import pyarrow.parquet

TURNS = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "B"}]
ROWS = [
    {"id": "12", "image_paths": json.dumps(["./images/a.jpg"]), "conversations": json.dumps(TURNS)},
    {"id": None, "image_paths": json.dumps(["images\\b.jpg", "c.jpg"]), "conversations": json.dumps(TURNS)},
    {"id": "q", "file_name": "images/d.jpg", "question": "What colour?", "answer": "red", "source_dataset": "XLRS"},
    {"id": "none", "image_paths": json.dumps(["e.jpg"])},
    {"id": "blind", "conversations": json.dumps(TURNS)},
    {"id": "out", "image_paths": json.dumps(["images/a.jpg", "../f.jpg"]), "conversations": json.dumps(TURNS)},
    {"id": "root", "image_paths": json.dumps(["/f.jpg"]), "conversations": json.dumps(TURNS)},
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    columns = sorted({name for row in ROWS for name in row})
    table = pa.table({name: pa.array([row.get(name) for row in ROWS], pa.string()) for name in columns})
    pyarrow.parquet.write_table(table, folder / "metadata.parquet")
    lists = pa.table({"id": [1], "image_paths": [["images/a.jpg"]], "conversations": [TURNS]})
    pyarrow.parquet.write_table(lists, folder / "lists.parquet")
    (folder / "text.parquet").write_text("no table")
    cases = [
        [f"--metadata={folder / 'metadata.parquet'}", f"--output={folder / 'sft.json'}"],
        [f"--metadata={folder / 'lists.parquet'}", f"--output={folder / 'l.json'}", "--keep_images_prefix"],
        [f"--metadata={folder / 'text.parquet'}", f"--output={folder / 'bad.json'}"],
        [f"--metadata={folder / 'metadata.parquet'}", f"--output={folder / 'sft.json'}"],
        [f"--metadata={folder / 'metadata.parquet'}", f"--output={folder / 'all.json'}", "--allow_outside_paths"],
    ]
    return folder, run_commands("experiments.prepare_sft", cases)


def test_rows_become_llava_records(ran):
    folder, results = ran
    assert results[0][0] == 0, results[0]
    records = json.loads((folder / "sft.json").read_text())
    question = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "red"}]
    assert records == [
        {"id": "12", "image": "a.jpg", "conversations": TURNS},
        {"id": 1, "image": ["b.jpg", "c.jpg"], "conversations": TURNS},
        {"id": "q", "image": "d.jpg", "conversations": question, "source_dataset": "XLRS"},
    ]
    source = LlavaFile(folder / "sft.json")
    assert [source[index].id for index in range(len(source))] == ["12", "1", "q"]


def test_rows_that_make_no_conversation_are_counted_and_named(ran):
    out = ran[1][0][1]
    assert "3 records written" in out and "4 rows left out" in out
    assert "row 3: has neither conversations" in out and "row 4: names no image" in out


def test_rows_whose_image_leads_out_of_the_folder_are_left_out_unless_allowed(ran):
    folder, results = ran
    for row, name in ((5, "../f.jpg"), (6, "/f.jpg")):
        assert f"row {row}: image {name}: leads out of {folder}; --allow_outside_paths" in results[0][1]
    assert results[4][0] == 0
    assert [record["id"] for record in json.loads((folder / "all.json").read_text())][-2:] == ["out", "root"]


def test_real_list_columns_are_read_too(ran):
    folder, results = ran
    assert results[1][0] == 0, results[1]
    records = json.loads((folder / "l.json").read_text())
    assert records == [{"id": 1, "image": "images/a.jpg", "conversations": TURNS}]


def test_what_is_no_table_or_would_be_overwritten_is_refused(ran):
    folder, results = ran
    assert results[2][0] == 1 and "no Parquet" in results[2][2] and not (folder / "bad.json").exists()
    assert results[3][0] == 1 and "--overwrite" in results[3][2]
