"""Read the decoder of a Hugging Face config: the dense Llama family by `model_type`, plain or in a LLaVA checkpoint.

What is not computed is refused and not guessed: an unknown `model_type`, another activation, RoPE of another kind than
plain, sliding windows, experts, other biases. What is ignored: `rope_scaling` of LLaVA-Qwen checkpoints
(`ignored_fields` says why) and tokenizer_model_max_length (the length of training samples; the release's own budgets
exceed it), so `max_positions` is max_position_embeddings.
"""

from typing import Any, NamedTuple

from bat_jax.config import DecoderConfig
from bat_jax.io.hf_fields import Fields


class Family(NamedTuple):
    """What a decoder's `model_type` says without a field in config.json.

    rope_theta: the base where config.json names none. always_slides: `sliding_window` counts wherever it is set; in
    other families `use_sliding_window` turns it on.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    rope_theta: float | None = None
    always_slides: bool = False


# By `model_type`. A LLaVA checkpoint's comes first: the first name with the right flags is written back.
_LLAVA_QWEN = "llava_qwen"
FAMILIES = {
    _LLAVA_QWEN: Family(qkv_bias=True),
    "llava_llama": Family(rope_theta=1e4),
    "llava_qwen3": Family(qk_norm=True),
    "qwen2": Family(qkv_bias=True),
    "llama": Family(rope_theta=1e4),
    "mistral": Family(rope_theta=1e4, always_slides=True),
    "qwen3": Family(qk_norm=True),
}
# Fields that change what a decoder computes, with the values that ours computes; None is a field that is not there.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
    "num_local_experts": (None,),
    "num_experts": (None,),
    "n_routed_experts": (None,),
}
_PLAIN_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def ignored_fields(values: dict[str, Any]) -> list[str]:
    """Return a note for every field that would change the decoder and is left out on purpose."""
    if values.get("model_type") != _LLAVA_QWEN or not values.get("rope_scaling"):
        return []
    text = f"rope_scaling={values['rope_scaling']!r} is ignored: the model class of {_LLAVA_QWEN} checkpoints"
    return [f"{text} (LongVA, UHR-BAT) sets it to None before it builds the decoder"]


def _rope_theta(fields: Fields, default: float | None) -> float:
    """Return the base of plain RoPE; `rope_theta` may stand in `rope_parameters`, where transformers 5 writes it."""
    values = fields.values
    is_ignored = bool(ignored_fields(values))
    for name in ("rope_parameters",) if is_ignored else ("rope_scaling", "rope_parameters"):
        rope = values.get(name) or {}
        if not isinstance(rope, dict) or not set(rope) <= _PLAIN_ROPE:
            fields.refuse(name, "plain RoPE, an object with rope_type 'default' and rope_theta")
        inner = Fields(rope, f"{fields.where}: {name}")
        for key in ("rope_type", "type"):
            inner.only(key, ("default", None))
        inner.only("partial_rotary_factor", (1.0, None))
    at = values if values.get("rope_theta") else values.get("rope_parameters") or {}
    return Fields(at, fields.where).number("rope_theta", default)


def decoder_config(values: dict[str, Any], where: str) -> DecoderConfig:
    """Read a decoder of the Llama family from a plain or a LLaVA config.

    Args:
      values: the parsed config.json. where: the file's name, for errors.

    Raises:
      ValueError: a size is missing or out of range, or the decoder has a feature that ours lacks.
    """
    fields = Fields(values, where)
    family = FAMILIES[fields.only("model_type", tuple(FAMILIES))]
    for name, allowed in _ONLY.items():
        fields.only(name, allowed)
    if not family.qkv_bias:  # Qwen2 has its biases whatever this says; elsewhere it means one on o_proj, too
        fields.only("attention_bias", (False, None))
    kinds = values.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        fields.refuse("layer_types", "'full_attention' in every layer")
    max_positions = fields.integer("max_position_embeddings", values.get("tokenizer_model_max_length"))
    if family.always_slides and fields.integer("sliding_window", max_positions) < max_positions:
        fields.refuse("sliding_window", f"none, or at least max_position_embeddings={max_positions}")
    width, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    # Flooring would give a wrong head_dim silently.
    if not values.get("head_dim") and (num_heads <= 0 or width % num_heads):
        raise ValueError(f"{where}: num_attention_heads={num_heads}: must divide hidden_size={width}")
    return DecoderConfig(
        width=width,
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=fields.integer("head_dim", width // max(num_heads, 1)),
        mlp_dim=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope_theta=_rope_theta(fields, family.rope_theta),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        tie_word_embeddings=bool(fields.only("tie_word_embeddings", (True, False, None))),
        max_positions=max_positions,
    )
