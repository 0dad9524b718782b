"""The LLaVA reader: quirks of known files, broken records, files of any length, the order of an epoch."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bat_jax.data import llava
from bat_jax.data.llava import LlavaFile, RecordError, batch_indices, epoch_order, parse_record

QA = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "Two"}]


def texts(values):
    return [(turn.role, turn.text) for turn in parse_record(values, 0).turns]


def written(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_records_are_read_from_a_list_and_from_lines(tmp_path):
    records = [{"id": number, "image": f"{number}.png", "conversations": QA} for number in range(5)]
    as_list = LlavaFile(written(tmp_path, json.dumps(records, indent=2)))
    assert [as_list[index].id for index in (4, 0, 2)] == ["4", "0", "2"] and len(as_list) == 5
    parsed = [as_list[index] for index in range(5)]
    as_lines = LlavaFile(written(tmp_path, "\n".join(json.dumps(record) for record in records)))
    assert [as_lines[index] for index in range(5)] == parsed


@pytest.mark.parametrize("block", [1, 7, 64])
def test_brackets_and_quotes_inside_text_end_no_record(tmp_path, monkeypatch, block):
    """Also where a block of the file ends inside a string or between a backslash and a quote."""
    monkeypatch.setattr(llava, "_BLOCK_BYTES", block)
    hard = 'a "quote", }]{[ \\ and "\\" é \n'
    turns = [QA[0], {"from": "gpt", "value": hard}]
    source = LlavaFile(written(tmp_path, [{"id": "a", "image": "x", "conversations": turns}] * 3))
    assert len(source) == 3 and all(source[index].turns[1].text == hard for index in range(3))


def spans_of_json(text, start):
    """Return the bytes of the objects that stand one after another from a character on, as json itself ends them."""
    decoder, spans = json.JSONDecoder(), []
    while (start := text.find("{", start)) >= 0:
        _, end = decoder.raw_decode(text, start)
        spans.append([len(text[:place].encode()) for place in (start, end)])
        start = end
    return spans


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")) | st.text('"\\\\{}[], \n'),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text('a"\\\\}é', max_size=3), items, max_size=3),
    max_leaves=8,
)


@given(
    records=st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), min_size=1, max_size=4),
    indent=st.sampled_from([None, 1]),
    is_ascii=st.booleans(),
    is_list=st.booleans(),
    block=st.integers(1, 40),
)
def test_spans_are_those_of_json_for_any_nested_records_and_any_block(
    tmp_path_factory, records, indent, is_ascii, is_list, block
):
    options = {"indent": indent, "ensure_ascii": is_ascii}
    lines = "\n".join(json.dumps(record, **options) for record in records)
    text = json.dumps(records, **options) if is_list else lines
    path = tmp_path_factory.getbasetemp() / "spans.json"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llava, "_BLOCK_BYTES", block)
        assert llava.record_spans(path).tolist() == spans_of_json(text, 0)


@pytest.mark.parametrize("part", ["QUJD", '\\"', "\\\\"])
def test_a_string_of_megabytes_takes_a_few_blocks_of_memory(tmp_path, part):
    text = '[{"image": "' + part * (2**23 // len(part)) + '"}, {}]'
    (tmp_path / "long.json").write_text(text)
    tracemalloc.start()
    try:
        spans = llava.record_spans(tmp_path / "long.json").tolist()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spans == [[1, len(text) - 5], [len(text) - 3, len(text) - 1]]
    assert peak < 4 * llava._BLOCK_BYTES


@pytest.mark.parametrize(
    ("values", "images"),
    [
        ({"image": "a.png"}, ("a.png",)),
        ({"image": ["./d\\a.png"]}, ("d/a.png",)),
        ({"images": ["a.png"]}, ("a.png",)),
    ],
)
def test_images_come_as_text_or_list_and_with_any_slash(values, images):
    assert parse_record(values | {"conversations": QA}, 0).images == images


def test_quirks_of_conversations_are_accepted():
    turns = [("user", "<image>\nHow many?"), ("assistant", "Two")]
    assert texts({"image": "a", "conversations": json.dumps(QA)}) == turns
    roles = [{"role": "user", "content": QA[0]["value"]}, {"role": "assistant", "content": "Two"}]
    assert texts({"image": "a", "conversations": roles}) == turns
    assert texts({"image": "a", "conversations": [{"from": "gpt", "value": "Hello"}, *QA]}) == turns
    without = [{"from": "human", "value": "How many?"}, QA[1]]
    assert texts({"image": "a", "conversations": without}) == turns
    middle = [{"from": "human", "value": "How <image> many?"}, QA[1]]
    assert texts({"image": "a", "conversations": middle})[0] == ("user", "<image>\nHow  many?")
    assert texts({"image": ["a", "b"], "conversations": QA})[0] == ("user", "<image>\n<image>\nHow many?")
    assert texts({"image": "a", "conversations": [*QA, {"from": "human", "value": "And?"}]}) == turns
    assert parse_record({"image": "a", "conversations": QA}, 12).id == "12"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no JSON object"),
        ({"image": "a"}, "must be a list of turns"),
        ({"image": 3, "conversations": QA}, "image=3"),
        ({"conversations": QA}, "names no image"),
        ({"image": "a", "conversations": [QA[0], QA[0], QA[1]]}, "take turns"),
        ({"image": "a", "conversations": [{"from": "robot", "value": "x"}]}, "known `from`"),
        ({"image": "a", "conversations": [QA[0]]}, "no question with an answer"),
        ({"image": "a", "conversations": QA, "target_boxes": [[0, 0, 2, 1]]}, "target_boxes"),
    ],
)
def test_a_wrong_record_is_refused_with_its_reason(values, reason):
    with pytest.raises(RecordError, match=reason):
        parse_record(values, 0)


def test_one_broken_record_leaves_the_others_readable(tmp_path):
    good = json.dumps({"id": "g", "image": "a", "conversations": QA})
    source = LlavaFile(written(tmp_path, f"[{good}, {{broken: 1}}, {good}]"))
    assert len(source) == 3 and source[2].id == "g"
    with pytest.raises(RecordError, match="no valid JSON"):
        source[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "holds no records"), ("[]", "holds no records"), ('[{"id": 1}', "cut off"), ('[{"id": "1', "cut off")],
)
def test_a_file_that_is_no_list_of_records_is_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        LlavaFile(written(tmp_path, content))


def test_every_epoch_shows_every_record_once_in_its_own_order():
    orders = [epoch_order(50, seed=3, epoch=epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[1], epoch_order(50, seed=3, epoch=1))
    batches = [batch_indices(50, 16, 3, position) for position in range(8)]
    assert [len(batch) for batch in batches] == [16, 16, 16, 2] * 2
    assert [index for batch in batches[4:] for index in batch] == orders[1].tolist()
