"""Small tokenizers, loaded as any other Hugging Face tokenizer."""

import pytest

from bat_jax.config import PromptConfig
from bat_jax.io.prompts import build_prompt, end_of_turn_id, load_tokenizer, mask_added_tokens
from bat_jax.io.small_tokenizers import TEMPLATE_WORDS, write_word_tokenizer
from tests.tiny_model import write_byte_tokenizer

WORDS = ["What", "colour", "is", "the", "ship", "at", "harbour", "?", "red", "A", "B"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    directory = tmp_path_factory.mktemp("words") / "tokenizer"
    size = write_word_tokenizer(directory, WORDS)
    tokenizer = load_tokenizer(directory)
    assert size == len(tokenizer)
    return tokenizer


def test_a_word_is_a_token_and_the_prompt_holds_no_unknown(words):
    prompt = build_prompt(words, "What colour is the ship at the harbour?\nA. red", 1, PromptConfig())
    tokens = words.convert_ids_to_tokens(prompt.pieces[1].tolist())
    expected = ["\n", "What", "colour", "is", "the", "ship", "at", "the", "harbour", "?", "\n", "A", ".", "red"]
    assert tokens == [*expected, "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"]
    assert words.unk_token_id not in [*prompt.pieces[0], *prompt.pieces[1]]


def test_words_outside_the_vocabulary_are_unknown(words):
    assert words.convert_ids_to_tokens(words.encode("the zebra")) == ["the", "<unk>"]


def test_answers_decode_to_words(words):
    assert words.decode(words.encode("the ship is red")) == "the ship is red"


def test_special_tokens_stand_outside_the_base_vocabulary(words):
    assert words.vocab_size == len({*WORDS, *TEMPLATE_WORDS}) + 1
    assert end_of_turn_id(words) >= words.vocab_size
    masked = mask_added_tokens(words, build_prompt(words, "What", 1, PromptConfig()).pieces[0])
    assert set(masked[masked >= words.vocab_size]) == {words.eos_token_id}


def test_the_same_words_give_the_same_file(tmp_path):
    write_word_tokenizer(tmp_path / "first", WORDS)
    write_word_tokenizer(tmp_path / "second", reversed(WORDS))
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("first", "second"))
    assert first == second


def test_byte_tokenizer_reads_any_text_back(tmp_path):
    write_byte_tokenizer(tmp_path / "bytes", ["How many ships are there?"], 320)
    tokenizer = load_tokenizer(tmp_path / "bytes")
    assert len(tokenizer) <= 320
    text = "Wie viele Schiffe? 船 <|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
