"""Small tokenizers in Hugging Face format: byte-level BPE for the demo, word-level for a closed world.

Both write `tokenizer.json` and `tokenizer_config.json`, which `io.prompts.load_tokenizer` reads. Qwen2's special tokens
are added after the base vocabulary, as in Qwen2, so that `vocab_size` leaves them out.
"""

import json
import pathlib
from collections.abc import Iterable

import tokenizers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
UNKNOWN = "<unk>"
# The ChatML template's own words; a closed vocabulary needs them beside the world's.
TEMPLATE_WORDS = ("\n", "system", "You", "are", "a", "helpful", "assistant", ".", "user")


def write_byte_tokenizer(directory: pathlib.Path, corpus: Iterable[str], vocab_size: int) -> None:
    """Write a byte-level BPE tokenizer trained on `corpus`, with at most `vocab_size` ids."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    _save(tokenizer, directory, {})


def write_word_tokenizer(directory: pathlib.Path, words: Iterable[str]) -> int:
    """Write a tokenizer of whole words ("built-up" is one), single signs and newlines; spaces only separate.

    Args:
      words: the world's vocabulary; the template's words are added. Ids follow the sorted order, so the same words give
        the same file. Any other word becomes <unk>.

    Returns:
      The number of ids, special tokens included.
    """
    vocabulary = [UNKNOWN, *sorted({*words, *TEMPLATE_WORDS} - {UNKNOWN})]
    model = tokenizers.models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN)
    tokenizer = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [split(tokenizers.Regex(r"\n|\w+(?:-\w+)*|[^\s\w]"), "isolated"), split(tokenizers.Regex(r"[ \t]+"), "removed")]
    )
    _save(tokenizer, directory, {"unk_token": UNKNOWN})
    return len(vocabulary) + len(SPECIAL_TOKENS)


def _save(tokenizer: tokenizers.Tokenizer, directory: pathlib.Path, settings: dict[str, str]) -> None:
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
