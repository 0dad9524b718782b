"""The transformers decoder of one of our decoder configs."""

import transformers

from bat_jax.config import DecoderConfig


def transformers_decoder(cfg: DecoderConfig):
    """Return the same sizes as an untrained Qwen2, Qwen3 or Llama, with eager attention so that its weights show."""
    name = "Qwen2" if cfg.qkv_bias else "Qwen3" if cfg.qk_norm else "Llama"
    settings = getattr(transformers, f"{name}Config")(
        hidden_size=cfg.width,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        num_key_value_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        intermediate_size=cfg.mlp_dim,
        vocab_size=cfg.vocab_size,
        rms_norm_eps=cfg.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta},
        tie_word_embeddings=cfg.tie_word_embeddings,
        attn_implementation="eager",
    )
    return getattr(transformers, f"{name}ForCausalLM")(settings)
