"""The transformers config of one of our decoder configs."""

import transformers

from bat_jax.config import DecoderConfig


def qwen2_settings(cfg: DecoderConfig) -> transformers.Qwen2Config:
    """Return the same sizes for transformers, with eager attention so that its weights can be read."""
    return transformers.Qwen2Config(
        hidden_size=cfg.width,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        num_key_value_heads=cfg.num_kv_heads,
        intermediate_size=cfg.mlp_dim,
        vocab_size=cfg.vocab_size,
        rms_norm_eps=cfg.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta},
        tie_word_embeddings=cfg.tie_word_embeddings,
        attn_implementation="eager",
    )
