"""tokenizer.json read without transformers, beside transformers' own reading of the same folder."""

import json
import shutil

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from bat_jax.io.prompts import load_tokenizer
from bat_jax.io.small_tokenizers import write_word_tokenizer
from bat_jax.io.tokenizer_file import TokenizerFile
from tests.golden.golden_vectors import DEV
from tests.tiny_model import write_byte_tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<unk>", "the ship", "\n", " n't , it 's"]),
    )
).map(lambda parts: "".join(parts).encode("utf-8", "ignore").decode())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three kinds of folder: whole words, bytes, and Qwen2's class with the files that older versions write beside."""
    root = tmp_path_factory.mktemp("tokenizers")
    write_word_tokenizer(root / "words", ["the", "ship", "n't", ","])
    write_byte_tokenizer(root / "bytes", ["How many ships are there?"], 320)
    (root / "qwen").mkdir()
    for name in FILES:
        shutil.copy(DEV / "checkpoint" / name, root / "qwen" / name)
    return [root / name for name in ("words", "bytes", "qwen")]


@pytest.fixture(scope="module")
def pairs(folders):
    return [(TokenizerFile.read(folder), transformers.AutoTokenizer.from_pretrained(folder)) for folder in folders]


def test_ids_of_special_tokens_are_those_of_transformers(pairs):
    for ours, theirs in pairs:
        for name in ("vocab_size", "unk_token", "unk_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.get_added_vocab() == theirs.get_added_vocab() and len(ours) == len(theirs)
        tokens = ["<|im_end|>", "<|endoftext|>", "ship", "no such token"]
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)


@given(text=TEXTS)
def test_texts_have_the_ids_and_ids_the_texts_of_transformers(pairs, text):
    for ours, theirs in pairs:
        ids = ours.encode(text)
        assert ids == theirs.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "setting",
    [
        {"clean_up_tokenization_spaces": True},
        {"tokenizer_class": "LlamaTokenizer"},
        {"add_bos_token": True, "bos_token": "<|im_start|>"},
        {"eos_token": "</s>"},
        {"added_tokens_decoder": {"3": {"content": "<more>"}}},
        {"a_setting_of_tomorrow": 1},
    ],
)
def test_settings_that_ask_for_more_are_left_to_transformers(folders, tmp_path, setting):
    shutil.copytree(folders[0], tmp_path / "copy")
    config = tmp_path / "copy" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | setting))
    assert TokenizerFile.read(tmp_path / "copy") is None


def test_a_folder_without_tokenizer_json_is_left_to_transformers(tmp_path):
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt"):
        shutil.copy(DEV / "checkpoint" / name, tmp_path / name)
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, transformers.PreTrainedTokenizerBase) and tokenizer.encode("<|im_end|>") == [511]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("tokenizer_config.json", '{"eos_token": {"special": true}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": [3]}'),
    ],
)
def test_a_broken_file_is_named(folders, tmp_path, name, text):
    shutil.copytree(folders[0], tmp_path / "copy")
    (tmp_path / "copy" / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        load_tokenizer(tmp_path / "copy")


@pytest.mark.parametrize(
    "setting", [{"tokenizer_class": "PreTrainedTokenizerFast"}, {"tokenizer_class": "NoSuchClass"}]
)
def test_a_folder_of_which_transformers_makes_nothing_is_named_in_one_line(tmp_path, setting):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(setting))
    with pytest.raises(ValueError) as info:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(info.value) and len(str(info.value).splitlines()) == 1
