"""Plain checkpoints as transformers writes them, through our converter, against the modules' own state_dict."""

import numpy as np
import pytest
from flax import traverse_util

from bat_jax.io import convert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def _clip_sizes():
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    }


def _decoder(family, **overrides):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rope_theta": 1e6}
    config = getattr(transformers, f"{family}Config")(**sizes, **heads, **overrides)
    return getattr(transformers, f"{family}ForCausalLM")(config)


def _state(module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().numpy() for name, tensor in module.state_dict().items()}


def _assert_equal(tree, state, wanted, num_layers):
    """`wanted`: leaf path -> (name with {} for the layer, function from the checkpoint's layout to ours)."""
    leaves = traverse_util.flatten_dict(tree, sep="/")
    assert set(leaves) == set(wanted)
    for path, (name, layout) in wanted.items():
        if "{}" in name:
            array = np.stack([layout(state[name.format(layer)]) for layer in range(num_layers)])
        else:
            array = layout(state[name])
        np.testing.assert_array_equal(leaves[path], array, err_msg=path)


def _keep(x):
    return x


def _transpose(x):
    return x.T


def _decoder_names(tied: bool, family: str):
    layer = "model.layers.{}."
    names = {
        "embed_tokens/embedding": ("model.embed_tokens.weight", _keep),
        "norm/scale": ("model.norm.weight", _keep),
        "layers/input_layernorm/scale": (layer + "input_layernorm.weight", _keep),
        "layers/post_attention_layernorm/scale": (layer + "post_attention_layernorm.weight", _keep),
        "layers/self_attn/o_proj/kernel": (layer + "self_attn.o_proj.weight", _transpose),
    }
    for part in "qkv":
        names[f"layers/self_attn/{part}_proj/kernel"] = (layer + f"self_attn.{part}_proj.weight", _transpose)
        if family == "Qwen2":
            names[f"layers/self_attn/{part}_proj/bias"] = (layer + f"self_attn.{part}_proj.bias", _keep)
    for part in "qk" if family == "Qwen3" else "":
        names[f"layers/self_attn/{part}_norm/scale"] = (layer + f"self_attn.{part}_norm.weight", _keep)
    for part in ("gate", "up", "down"):
        names[f"layers/mlp/{part}_proj/kernel"] = (layer + f"mlp.{part}_proj.weight", _transpose)
    if not tied:
        names["lm_head/kernel"] = ("lm_head.weight", _transpose)
    return names


@pytest.mark.parametrize(
    ("family", "tied", "max_shard_size"),
    [
        ("Qwen2", False, "20KB"),
        ("Qwen2", True, "1GB"),
        ("Llama", True, "1GB"),
        ("Mistral", False, "1GB"),
        ("Qwen3", False, "1GB"),
    ],
)
def test_a_decoder_checkpoint_equals_its_state_dict(tmp_path, family, tied, max_shard_size):
    overrides = {"sliding_window": None} if family == "Mistral" else {}
    module = _decoder(family, tie_word_embeddings=tied, **overrides)
    module.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    cfg, tree = convert.convert_decoder(tmp_path)
    assert (cfg.width, cfg.num_layers, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim) == (32, 2, 4, 2, 8)
    assert (cfg.mlp_dim, cfg.vocab_size, cfg.rope_theta, cfg.tie_word_embeddings) == (48, 50, 1e6, tied)
    assert (cfg.qkv_bias, cfg.qk_norm) == (family == "Qwen2", family == "Qwen3")
    _assert_equal(tree, _state(module), _decoder_names(tied, family), 2)


def test_bfloat16_is_kept(tmp_path):
    module = _decoder("Qwen2", tie_word_embeddings=False).to(torch.bfloat16)
    module.save_pretrained(tmp_path)
    _, tree = convert.convert_decoder(tmp_path)
    assert tree["norm"]["scale"].dtype.name == "bfloat16"
    embedding = tree["embed_tokens"]["embedding"].astype(np.float32)
    np.testing.assert_array_equal(embedding, _state(module)["model.embed_tokens.weight"])


def _vision_names(prefix: str):
    layer = prefix + "encoder.layers.{}."
    names = {
        "class_embedding": (prefix + "embeddings.class_embedding", _keep),
        "position_embedding": (prefix + "embeddings.position_embedding.weight", _keep),
        "patch_embedding/kernel": (prefix + "embeddings.patch_embedding.weight", lambda x: np.einsum("echw->hwce", x)),
    }
    norms = {"pre_layernorm": prefix + "pre_layrnorm"}
    norms |= {f"layers/layer_norm{i}": layer + f"layer_norm{i}" for i in (1, 2)}
    for path, name in norms.items():
        names |= {f"{path}/scale": (name + ".weight", _keep), f"{path}/bias": (name + ".bias", _keep)}
    linears = [f"self_attn/{part}_proj" for part in ("q", "k", "v", "out")] + ["mlp/fc1", "mlp/fc2"]
    for path in linears:
        name = layer + path.replace("/", ".")
        names[f"layers/{path}/kernel"] = (name + ".weight", _transpose)
        names[f"layers/{path}/bias"] = (name + ".bias", _keep)
    return names


@pytest.mark.parametrize(("select_layer", "num_run"), [(-1, 3), (-2, 2)])
def test_clip_vision_model_equals_its_state_dict(tmp_path, select_layer, num_run):
    module = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**_clip_sizes()))
    module.save_pretrained(tmp_path)
    cfg, tree = convert.convert_vision_tower(tmp_path, select_layer)
    assert (cfg.width, cfg.num_layers, cfg.num_run_layers, cfg.side) == (32, 3, num_run, 4)
    state = {name.removeprefix("vision_model."): array for name, array in _state(module).items()}
    _assert_equal(tree, state, _vision_names(""), num_run)


def test_full_clip_model_gives_its_vision_half(tmp_path):
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=_clip_sizes(), projection_dim=8)
    module = transformers.CLIPModel(config)
    module.save_pretrained(tmp_path)
    _, tree = convert.convert_vision_tower(tmp_path)
    _assert_equal(tree, _state(module), _vision_names("vision_model."), 2)
