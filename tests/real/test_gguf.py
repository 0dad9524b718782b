"""Small GGUF files: everything in them is taken, nothing is guessed."""

import numpy as np
import pytest

from bat_jax.io import convert

gguf = pytest.importorskip("gguf")
WIDTH, HEADS, KV_HEADS, MLP, VOCAB = 32, 4, 2, 64, 50
SHAPES = {"token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,), "output": (VOCAB, WIDTH)}
SHAPES |= {f"blk.0.{name}_norm": (WIDTH,) for name in ("attn", "ffn")}
SHAPES |= {"blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (16, WIDTH), "blk.0.attn_v": (16, WIDTH)}
SHAPES |= {"blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (MLP, WIDTH), "blk.0.ffn_up": (MLP, WIDTH)}
SHAPES |= {"blk.0.ffn_down": (WIDTH, MLP)}


def write(path, change=lambda tensors: None, arch="llama", quantised=None, **metadata):
    """Write a one-layer decoder of random weights and return its tensors by GGUF's names."""
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    change(tensors)
    writer = gguf.GGUFWriter(path, arch)
    sizes = {"embedding_length": WIDTH, "block_count": 1, "attention.head_count": HEADS, "feed_forward_length": MLP}
    sizes |= {"attention.head_count_kv": KV_HEADS, "context_length": 128, "rope.dimension_count": 8}
    for name, value in sizes.items():
        writer.add_uint32(f"{arch}.{name}", value)
    writer.add_float32(f"{arch}.rope.freq_base", 5e5)
    for name, value in metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(f"{arch}.{name.replace('__', '.')}", value)
    for name, array in tensors.items():
        kind = quantised if array.ndim == 2 and name.startswith("blk") else None
        writer.add_tensor(name, gguf.quantize(array, kind) if kind else array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_every_tensor_is_taken_and_rows_of_queries_stand_in_the_checkpoints_order(tmp_path):
    tensors = write(tmp_path / "x.gguf")
    cfg, tree = convert.convert_decoder(tmp_path / "x.gguf")
    assert (cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.rope_theta) == (HEADS, KV_HEADS, 8, 5e5)
    assert not cfg.qkv_bias and not cfg.tie_word_embeddings
    np.testing.assert_array_equal(tree["lm_head"]["kernel"], tensors["output.weight"].T)
    attention = tree["layers"]["self_attn"]
    np.testing.assert_array_equal(attention["v_proj"]["kernel"][0], tensors["blk.0.attn_v.weight"].T)
    # In GGUF, dimensions 0 and 4 of a head of 8 are neighbours.
    order = [8 * head + place for head in range(HEADS) for place in (0, 2, 4, 6, 1, 3, 5, 7)]
    np.testing.assert_array_equal(attention["q_proj"]["kernel"][0], tensors["blk.0.attn_q.weight"][order].T)


def test_quantised_rows_are_what_gguf_dequantises(tmp_path):
    kind = gguf.GGMLQuantizationType.Q8_0
    tensors = write(tmp_path / "x.gguf", quantised=kind)
    _, tree = convert.convert_decoder(tmp_path / "x.gguf")
    up = tensors["blk.0.ffn_up.weight"]
    expected = gguf.dequantize(gguf.quantize(up, kind), kind)
    assert 0 < np.abs(expected - up).max() < 0.02
    np.testing.assert_array_equal(tree["layers"]["mlp"]["up_proj"]["kernel"][0], expected.T)


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: t.update({"rope_freqs.weight": np.ones(4, np.float32)}), {}, "rope_freqs.weight: no row of the"),
        (lambda t: t.pop("blk.0.ffn_up.weight"), {}, "without model.layers.0.mlp.up_proj.weight"),
        (lambda t: t.update({"blk.0.attn_q.bias": np.ones(32, np.float32)}), {}, "q_proj/bias: no part of the model"),
        (lambda t: None, {"arch": "gemma"}, "model_type='gemma' is not supported"),
        (lambda t: None, {"rope__scaling__type": "yarn"}, "rope_scaling: type='yarn' is not supported"),
        (lambda t: None, {"expert_count": 8}, "num_local_experts=8 is not supported"),
        (lambda t: None, {"attention__key_length": 16}, "partial_rotary_factor=0.5 is not supported"),
    ],
)
def test_what_is_not_computed_is_refused_in_one_line(tmp_path, change, metadata, message):
    write(tmp_path / "x.gguf", change, **metadata)
    with pytest.raises(ValueError) as info:
        convert.convert_decoder(tmp_path / "x.gguf")
    assert message in str(info.value) and "\n" not in str(info.value)


@pytest.mark.parametrize("keep", [0, 3, 10, 200, 5000, -20])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, keep):
    path = tmp_path / "x.gguf"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"x.gguf: no GGUF file, or a damaged one") as info:
        convert.convert_decoder(path)
    assert "\n" not in str(info.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.gguf: no such file"):
        convert.convert_decoder(tmp_path / "absent.gguf")
