"""What a decoder's config.json may say: read as the family it names, or refused in one line."""

import pytest

from bat_jax.config import BatConfig, DecoderConfig
from bat_jax.io import hf_config
from bat_jax.io.hf_decoder import decoder_config


@pytest.mark.parametrize("flags", [{}, {"qkv_bias": False}, {"qkv_bias": False, "qk_norm": True, "head_dim": 64}])
def test_config_to_hf_and_back(flags):
    config = BatConfig.uhr_bat_7b(decoder=DecoderConfig(**flags))
    values, clip_values = hf_config.config_to_hf(config)
    assert decoder_config(values, "config.json") == config.decoder
    assert hf_config.vision_config(clip_values, "config.json", values["mm_vision_select_layer"]) == config.vision


def _decoder_values(model_type, **changes):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    sizes |= {"vocab_size": 50, "max_position_embeddings": 4096, "model_type": model_type, "rope_theta": 5e5}
    return sizes | changes


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
MROPE = {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]}


@pytest.mark.parametrize(
    ("model_type", "change", "supported"),
    [
        ("llama4", {}, "'llava_qwen', 'llava_llama', 'llava_qwen3', 'qwen2', 'llama', 'mistral', 'qwen3'"),
        (None, {}, "'llava_qwen', "),
        (["llama"], {}, "'llava_qwen', "),
        ("qwen2", {"rope_scaling": YARN}, "plain RoPE"),
        ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, "plain RoPE"),
        ("qwen2", {"rope_scaling": MROPE}, "plain RoPE"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "plain RoPE"),
        ("llava_llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "plain RoPE"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "plain RoPE"),
        ("llama", {"rope_scaling": "linear"}, "plain RoPE"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}, "plain RoPE"),
        ("qwen3", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "plain RoPE"),
        ("llama", {"attention_bias": True}, "False"),
        ("qwen3", {"attention_bias": True}, "False"),
        ("llama", {"mlp_bias": True}, "False"),
        ("llama", {"hidden_act": "gelu"}, "'silu'"),
        ("qwen2", {"use_sliding_window": True}, "False"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "'full_attention' in every layer"),
        ("qwen2", {"layer_types": 3}, "'full_attention' in every layer"),
        ("mistral", {"sliding_window": 1024}, "none, or at least max_position_embeddings=4096"),
        ("llama", {"partial_rotary_factor": 0.5}, "1.0"),
        ("mistral", {"num_local_experts": 8}, "none of it"),
        ("qwen3", {"num_experts": 128}, "none of it"),
        ("llama", {"quantization_config": {"bits": 4}}, "none of it"),
        ("llama", {"tie_word_embeddings": "yes"}, "True, False"),
    ],
    ids=str,
)
def test_a_decoder_that_is_not_computed_is_refused_in_one_line(model_type, change, supported):
    with pytest.raises(ValueError) as info:
        decoder_config(_decoder_values(model_type, **change), "config.json")
    name, value = next(iter(change.items()), ("model_type", model_type))
    assert str(info.value).startswith(f"config.json: {name}={value!r} is not supported; supported: {supported}")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("model_type", "change", "expected"),
    [
        ("qwen2", {"sliding_window": 131072, "use_sliding_window": False}, (True, False, 16, 5e5)),
        (
            "qwen2",
            {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            (True, False, 16, 1e6),
        ),
        ("qwen3", {"head_dim": 32, "attention_bias": False}, (False, True, 32, 5e5)),
        ("mistral", {"sliding_window": 4096, "head_dim": None}, (False, False, 16, 5e5)),
        ("llama", {"rope_theta": None, "mlp_bias": False, "rope_scaling": None}, (False, False, 16, 1e4)),
    ],
    ids=str,
)
def test_flags_of_a_decoder_follow_its_model_type_and_fields(model_type, change, expected):
    cfg = decoder_config(_decoder_values(model_type, **change), "config.json")
    assert (cfg.qkv_bias, cfg.qk_norm, cfg.head_dim, cfg.rope_theta) == expected
