"""A tokenizer.json read by the `tokenizers` library alone.

transformers' AutoTokenizer does the same for it, and imports torch where that is installed: 1.5 s of a start.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, SupportsInt

import tokenizers

from bat_jax import text_files
from bat_jax.io.hf_fields import read_json

# Classes of transformers that take tokenizer.json as it is, or make the same of it.
_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend", "Qwen2Tokenizer", "Qwen2TokenizerFast")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_LISTED = ("additional_special_tokens", "extra_special_tokens")
# Settings that change no id and no text; others are known only as unset.
_WITHOUT_EFFECT = (
    *("tokenizer_class", "model_max_length", "errors", "chat_template", "padding_side", "truncation_side"),
    *("backend", "is_local", "local_files_only", "model_input_names", "added_tokens_decoder"),
)
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


class TokenizerFile:
    """What prompts, answers and labels read of a tokenizer, under the names that transformers gives it.

    Attributes:
      backend_tokenizer: the library's own.
      unk_token, unk_token_id, eos_token_id, pad_token_id: None where there is none.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: Mapping[str, str]):
        """Wrap a tokenizer; `special` names its special tokens, such as {"eos_token": "<|im_end|>"}."""
        self.backend_tokenizer = backend
        self.unk_token = special.get("unk_token")
        self.unk_token_id, self.eos_token_id, self.pad_token_id = (
            backend.token_to_id(special[name]) if name in special else None
            for name in ("unk_token", "eos_token", "pad_token")
        )

    @classmethod
    def read(cls, directory: pathlib.Path) -> "TokenizerFile | None":
        """Read a folder's tokenizer.json, or return None where its settings ask for more than that file says.

        Raises:
          ValueError: a broken file; names it.
        """
        file, config = directory / "tokenizer.json", directory / "tokenizer_config.json"
        if not file.is_file() or not config.is_file():
            return None
        settings, text = read_json(config), text_files.read_text(file)
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{file}: {error}") from error
        try:
            special = {name: _added_token(settings[name]) for name in _NAMED if settings.get(name)}
            added = [
                *special.values(),
                *(_added_token(token) for name in _LISTED for token in settings.get(name) or ()),
            ]
            has_added = _has_added(backend, settings, directory)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{config}: a special token is neither text nor an object with its content") from error
        others = [name for name in settings if name not in (*_NAMED, *_LISTED, *_WITHOUT_EFFECT)]
        is_plain = (
            settings.get("tokenizer_class") in _CLASSES
            and not any(settings[name] for name in others)
            and all(backend.token_to_id(token.content) is not None for token in added)
            and has_added
        )
        if not is_plain:
            return None
        backend.add_special_tokens(added)
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, {name: token.content for name, token in special.items()})

    @property
    def vocab_size(self) -> int:
        """The size of the base vocabulary, without added tokens."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """Return the added tokens, special or not, with their ids."""
        added = self.backend_tokenizer.get_added_tokens_decoder()
        return {token.content: index for index, token in sorted(added.items())}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return a text's ids; `add_special_tokens`: with what the file puts around every text, if anything."""
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Iterable[SupportsInt], skip_special_tokens: bool = False) -> str:
        """Return the text of ids."""
        return self.backend_tokenizer.decode([int(index) for index in ids], skip_special_tokens=skip_special_tokens)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Return a token's id (or a list, of each), that of the unknown token for one that is not there, else None."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self.backend_tokenizer.token_to_id(tokens)
        return self.unk_token_id if index is None else index

    def convert_ids_to_tokens(self, ids: Iterable[SupportsInt]) -> list[str | None]:
        """Return the tokens of ids, None for an id that is not there."""
        return [self.backend_tokenizer.id_to_token(int(index)) for index in ids]


def _added_token(token: str | Mapping[str, Any]) -> tokenizers.AddedToken:
    if isinstance(token, str):
        return tokenizers.AddedToken(token, normalized=False, special=True)
    return tokenizers.AddedToken(
        token["content"], special=True, **{flag: token[flag] for flag in _FLAGS if flag in token and flag != "special"}
    )


def _has_added(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], directory: pathlib.Path) -> bool:
    """Tell whether the added tokens that stand beside tokenizer.json are those in it."""
    if "added_tokens_decoder" not in settings:
        return not any((directory / name).exists() for name in ("added_tokens.json", "special_tokens_map.json"))
    added = backend.get_added_tokens_decoder()
    return all(
        int(index) in added
        and added[int(index)].content == token["content"]
        and all(getattr(added[int(index)], flag) == token[flag] for flag in _FLAGS if flag in token)
        for index, token in settings["added_tokens_decoder"].items()
    )
