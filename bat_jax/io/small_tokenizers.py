"""The word-level tokenizer of a closed world, in the Hugging Face format that `io.prompts.load_tokenizer` reads.

Qwen2's special tokens are added after the base vocabulary, as in Qwen2, so that `vocab_size` leaves them out.
"""

import json
import pathlib
from collections.abc import Iterable

import tokenizers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
UNKNOWN = "<unk>"
# The ChatML template's own words; a closed vocabulary needs them beside the world's.
TEMPLATE_WORDS = ("\n", "system", "You", "are", "a", "helpful", "assistant", ".", "user")


def write_word_tokenizer(directory: pathlib.Path, words: Iterable[str]) -> int:
    """Write a tokenizer of whole words ("built-up" is one), single signs and newlines; spaces only separate.

    The template's words are added to `words`; ids follow the sorted order, so the same words give the same file. Any
    other word becomes <unk>. Returns the number of ids, special tokens included.
    """
    vocabulary = [UNKNOWN, *sorted({*words, *TEMPLATE_WORDS} - {UNKNOWN})]
    model = tokenizers.models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN)
    tokenizer = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [split(tokenizers.Regex(r"\n|\w+(?:-\w+)*|[^\s\w]"), "isolated"), split(tokenizers.Regex(r"[ \t]+"), "removed")]
    )
    save(tokenizer, directory, {"unk_token": UNKNOWN})
    return len(vocabulary) + len(SPECIAL_TOKENS)


def save(tokenizer: tokenizers.Tokenizer, directory: pathlib.Path, settings: dict[str, str]) -> None:
    """Write tokenizer.json and tokenizer_config.json, with the special tokens and `settings`, into a new folder."""
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    content = {
        **settings,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(content, indent=2) + "\n")
