"""Read the decoder of a GGUF file (llama.cpp's format) as the checkpoint it was made from: names, config, float32.

A tensor is dequantised when it is read; `io.convert.convert_decoder` does the rest, as strictly as for safetensors. The
`gguf` package reads the format: pip install 'bat_jax[gguf]'.
"""

import pathlib
import re
from typing import Any

import numpy as np

from bat_jax.io.safetensors import TensorFolder, TensorInfo
from bat_jax.text_files import is_lfs_pointer, lfs_problem

# (GGUF's name, the checkpoint's); `{layer}` stands for a number. What has no row here keeps its name, and no row of the
# conversion table takes it.
_NAMES = (
    (r"token_embd", "model.embed_tokens"),
    (r"output_norm", "model.norm"),
    (r"output", "lm_head"),
    (r"blk\.(\d+)\.attn_norm", r"model.layers.\1.input_layernorm"),
    (r"blk\.(\d+)\.attn_([qkv])", r"model.layers.\1.self_attn.\2_proj"),
    (r"blk\.(\d+)\.attn_([qk]_norm)", r"model.layers.\1.self_attn.\2"),
    (r"blk\.(\d+)\.attn_output", r"model.layers.\1.self_attn.o_proj"),
    (r"blk\.(\d+)\.ffn_norm", r"model.layers.\1.post_attention_layernorm"),
    (r"blk\.(\d+)\.ffn_(gate|up|down)", r"model.layers.\1.mlp.\2_proj"),
)
# Field of config.json -> GGUF's metadata, behind "ARCHITECTURE.".
_FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "num_local_experts": "expert_count",
}


class GgufFile(TensorFolder):
    """A file's tensors by their checkpoint's names.

    Attributes:
      path: the file. infos: name -> its shape, and float32, which `read` gives.
      config: what config.json said, as far as the metadata holds it.
    """

    def __init__(self, path: str | pathlib.Path):
        """Read metadata and shapes.

        Raises:
          FileNotFoundError: no such file.
          ValueError: the gguf package is missing, or this is no GGUF file or a damaged one.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        with path.open("rb") as file:
            if is_lfs_pointer(file.read(100)):
                raise ValueError(lfs_problem(path))
        try:
            import gguf
        except ImportError:
            raise ValueError(f"{path}: reading it needs gguf; pip install 'bat_jax[gguf]'") from None
        try:
            reader = gguf.GGUFReader(path)
            is_short = (name for name in reader.fields if not name.startswith("tokenizer."))
            fields = {name: reader.fields[name].contents() for name in is_short}
        except (ValueError, KeyError, IndexError, OSError, OverflowError) as error:
            raise ValueError(f"{path}: no GGUF file, or a damaged one ({error})") from None
        self._tensors = {_name(tensor.name): tensor for tensor in reader.tensors}
        self._dequantize = gguf.dequantize
        shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in self._tensors.items()}
        dtype = np.dtype(np.float32)
        super().__init__(path, {name: TensorInfo(name, shapes[name], dtype, path, 0, 0) for name in shapes})
        self.config = _config(fields, self.infos)

    def read(self, name: str) -> np.ndarray:
        """Return a tensor dequantised, rows of queries and keys in the checkpoint's order.

        Raises:
          ValueError: the gguf package cannot dequantise its type.
        """
        tensor = self._tensors[name]
        try:
            array = self._dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise ValueError(f"{self.path}: {tensor.name}: type {kind} cannot be dequantised") from None
        array = array.reshape(self.infos[name].shape)
        part = re.search(r"\.([qk])_proj\.", name)
        if part and self.config["model_type"] == "llama":
            heads = self.config["num_attention_heads" if part[1] == "q" else "num_key_value_heads"]
            array = _pairs_apart(array, heads)
        return array


def _name(name: str) -> str:
    stem, dot, kind = name.rpartition(".")
    for pattern, main in _NAMES:
        if match := re.fullmatch(pattern, stem):
            return match.expand(main) + dot + kind
    return name


def _pairs_apart(array: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo llama.cpp's order of a head's rows: RoPE's pairs (i, i + H/2) stand side by side there, for Llama only."""
    pairs = array.reshape(num_heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _config(fields: dict[str, Any], infos: dict[str, TensorInfo]) -> dict[str, Any]:
    kind = fields.get("general.architecture")
    config = {name: fields.get(f"{kind}.{key}") for name, key in _FIELDS.items()} | {"model_type": kind}
    embedding = infos.get("model.embed_tokens.weight")
    scaling = fields.get(f"{kind}.rope.scaling.type")
    rotated, head_dim = fields.get(f"{kind}.rope.dimension_count"), config["head_dim"]
    if head_dim is None and config["hidden_size"] and config["num_attention_heads"]:
        head_dim = config["hidden_size"] // config["num_attention_heads"]
    return config | {
        "num_local_experts": config["num_local_experts"] or None,
        "partial_rotary_factor": rotated / head_dim if rotated and head_dim else None,
        "rope_scaling": {"type": scaling} if scaling not in (None, "none") else None,
        "tie_word_embeddings": "lm_head.weight" not in infos,
        "vocab_size": embedding.shape[0] if embedding else None,
    }
