"""The cost model against XLA's own count of compiled programs, and against sums done by hand at the 7B sizes.

XLA counts the body of a while loop once, however often it runs. So scanned layers are compared with a single layer (a
scan of length one has no loop), attention with at most one block of 512 queries a span, K-means with one assignment.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest

from bat_jax import model
from bat_jax.config import BatConfig, CompressorConfig, DecoderConfig, ScaleSpec, VisionConfig
from bat_jax.engine import cost
from bat_jax.nn.decoder import MAX_UNROLLED_LAYERS, Decoder, KVCache, layers_apart
from bat_jax.nn.mlp import GeluMlp
from bat_jax.ops.interpolate import resize_bilinear
from bat_jax.ops.kmeans import nearest_centre
from bat_jax.ops.segment import _one_hot_sum
from tests.command_batch import run_commands

# Wide enough that products outweigh norms and softmax; one layer each, see above.
VISION = VisionConfig(width=512, num_layers=1, num_heads=4, mlp_dim=2048, image_size_px=112, select_layer=-1)
DECODER = DecoderConfig(
    width=512,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=128,
    mlp_dim=2048,
    vocab_size=2048,
    max_positions=4096,
)
SMALL = BatConfig(
    vision=VISION,
    decoder=DECODER,
    compressor=CompressorConfig.release(
        scales=(ScaleSpec(size_px=224, budget=64), ScaleSpec(size_px=448, budget=128)),
        num_clusters=32,
        token_mlp=False,
        scale_embedding_in_attention="as_set",
    ),
)
TWO_LAYERS = dataclasses.replace(SMALL, decoder=dataclasses.replace(DECODER, num_layers=2))
ROOT = pathlib.Path(__file__).parents[2]
LARGE = BatConfig.uhr_bat_7b()


@functools.cache
def params():
    return jax.eval_shape(lambda key: model.init_params(SMALL, key), jax.random.key(0))


@functools.cache
def apart():
    return jax.eval_shape(lambda key: layers_apart(model.init_params(TWO_LAYERS, key)), jax.random.key(0))


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def counted(function, *arguments):
    """Return XLA's count of a compiled program."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def close(value):
    return pytest.approx(value, rel=0.03)


def test_the_towers_layer_costs_what_xla_counts():
    tiles = shape(4, 112, 112, 3, dtype=jnp.uint8)
    part = functools.partial(model.encode_tiles, SMALL)
    expected = cost.vision_tower(SMALL, 4).flops + cost.projector(SMALL, 4 * 64).flops
    assert counted(part, params(), tiles, shape(256, 3)) == close(expected)


def test_the_projector_costs_what_xla_counts():
    """At the real widths: erf is a polynomial of some 60 operations, 1 % there and more in a narrow layer."""
    mlp = GeluMlp(LARGE.projector)
    weights = jax.eval_shape(mlp.init, jax.random.key(0), shape(1, 1024))
    assert counted(mlp.apply, weights, shape(32, 1024)) == close(cost.projector(LARGE, 32).flops)


def test_the_token_mlp_costs_what_xla_counts():
    mlp = GeluMlp(LARGE.token_mlp)
    weights = jax.eval_shape(mlp.init, jax.random.key(0), shape(1, 3584))
    assert counted(mlp.apply, weights, shape(32, 3584)) == close(cost.token_mlp(LARGE, 32).flops)


def test_the_scale_embedding_costs_what_xla_counts():
    """The resize of a 64 x 64 grid to a tile's 24 x 24; the addition to the view's tokens is one operation an entry."""
    adding = LARGE.num_tokens(1344) * 3584
    found = counted(lambda grid: resize_bilinear(grid, 24), shape(64, 64, 3584))
    assert found == close(cost.scale_embedding(LARGE, 1344).flops - adding)


def decoder_pass(weights, embeddings, cache, row_weight):
    """Run the decoder and return all it computes: with one layer, XLA would drop what no one reads."""
    output = Decoder(DECODER).apply({"params": weights}, embeddings, None, cache, row_weight=row_weight)
    return output.hidden, output.importance, output.cache.key


def cache_of(num_slots):
    keys = shape(DECODER.num_layers, 1, num_slots, DECODER.num_kv_heads, DECODER.head_dim)
    return KVCache(keys, keys, shape(1, dtype=jnp.int32))


def test_all_rows_of_a_decoder_cost_what_xla_counts():
    found = counted(decoder_pass, params()["decoder"], shape(1, 272, 512), None, None)
    assert found == close(cost.decoder(SMALL, 272).flops)


def test_the_anchor_prefix_costs_what_xla_counts():
    """Of the last layer only keys and values are in the cache, and only they are computed."""
    arguments = shape(16, dtype=jnp.int32), shape(256, 512), shape(256, dtype=bool)
    found = counted(functools.partial(model.anchor_cache, TWO_LAYERS), apart(), *arguments)
    assert found == close(cost.anchor_prefix(TWO_LAYERS, 16).flops)


def test_the_question_pass_costs_what_xla_counts():
    """The scores stand twice in the program, for mixing and for importance; XLA computes them once."""
    found = counted(decoder_pass, params()["decoder"], shape(1, 64, 512), cache_of(16 + 256 + 64), shape(1, 64))
    assert found == close(cost.question_pass(SMALL, 16, 64).flops)


@pytest.mark.parametrize("new_slots", [0, 32])
def test_prefill_costs_what_xla_counts(new_slots):
    """Of the last layer all rows' keys and values, and one row of the rest."""
    spliced = model.Spliced(shape(1, 384, 512), shape(1, dtype=jnp.int32))
    part = functools.partial(model.prefill, TWO_LAYERS, new_slots)
    found, wanted = counted(part, apart(), spliced), cost.prefill(TWO_LAYERS, 384, new_slots).flops
    assert found == close(wanted)
    assert wanted < 0.65 * (cost.decoder(TWO_LAYERS, 384).flops + cost.head(TWO_LAYERS, 1).flops)


def test_a_decode_step_costs_what_xla_counts():
    part = functools.partial(model.decode_step, SMALL)
    assert counted(part, params(), shape(1, dtype=jnp.int32), cache_of(256)) == close(
        cost.decode_step(SMALL, 256).flops
    )


def test_one_lloyd_step_costs_what_xla_counts():
    """Distances, and one-hot sums of bfloat16 (float32 takes three such products), apart: neither holds a loop here."""
    rows, centres = shape(2048, 514), shape(64, 514)
    assign = counted(nearest_centre, rows, centres, shape(64, dtype=bool))
    small = shape(2048, 514, dtype=jnp.bfloat16)
    adding = counted(lambda v, i: _one_hot_sum(v, i, 64), small, shape(2048, dtype=jnp.int32))
    assert assign + adding == close(cost.kmeans_step(SMALL, 2048, 64, "product").flops)


@pytest.mark.parametrize(("num_layers", "num_counted"), [(2, 2), (MAX_UNROLLED_LAYERS + 1, 1)])
def test_a_loop_is_counted_once_by_xla_and_unrolled_layers_each(num_layers, num_counted):
    """Why the tests above use one layer: layers that are scanned in a loop count as one."""
    deep = dataclasses.replace(SMALL, decoder=dataclasses.replace(DECODER, num_layers=num_layers))
    weights = jax.eval_shape(lambda key: model.init_params(deep, key), jax.random.key(0))
    spliced = model.Spliced(shape(1, 64, 512), shape(1, dtype=jnp.int32))
    found = counted(functools.partial(model.prefill, deep, 0), weights, spliced)
    wanted = dataclasses.replace(SMALL, decoder=dataclasses.replace(DECODER, num_layers=num_counted))
    assert found == close(cost.decoder(wanted, 64).flops + cost.head(wanted, 1).flops)


@pytest.mark.parametrize(
    ("flags", "in_heads"),
    [
        ({}, 128 * (28 + 2 * 4)),
        ({"qkv_bias": False}, 0),
        ({"qkv_bias": False, "qk_norm": True, "head_dim": 64}, 2 * 64),
    ],
    ids=["Qwen2", "Llama", "Qwen3"],
)
def test_parameters_are_those_of_the_7b_model_and_of_other_decoders(flags, in_heads):
    decoder = dataclasses.replace(LARGE.decoder, **flags)
    projections = 2 * 3584 * decoder.head_dim * (28 + 4) + 3 * 3584 * 18944
    assert cost.parameter_counts(dataclasses.replace(LARGE, decoder=decoder)) == {
        "vision_tower": 290_909_184,
        "projector": 16_522_240,
        "decoder": 28 * (projections + in_heads + 2 * 3584) + 3584 + 2 * 152_064 * 3584,
        "scale_embedding": (48**2 + 3 * 64**2) * 3584,
        "token_mlp": 2 * (3584**2 + 3584),
    }


def test_the_sums_at_7b_done_by_hand():
    # a layer: q and o 3584^2 each, k and v 3584 x 512 each, three of 3584 x 18944: 233,046,016
    assert cost.decoder_parameters(LARGE) == 28 * 233_046_016 == 6_525_288_448
    # 228 tiles x 577 tokens x 24 layers x 2 x 12,582,912 = 79.46e12; patches 228 x 576 x 2 x 588 x 1024 = 0.158e12
    tower = cost.vision_tower(LARGE, 228, 24)
    assert tower.linear == pytest.approx(79.46e12 + 0.158e12, rel=1e-4)
    assert tower.attention == pytest.approx(4 * 577**2 * 1024 * 24 * 228)
    assert cost.projector(LARGE, 131_328).flops == 2 * 131_328 * (1024 * 3584 + 3584**2)
    assert cost.kv_bytes(LARGE, 1000) == 2 * 28 * 1000 * 4 * 128 * 2
    assert (cost.num_tiles(LARGE), cost.total_tokens(LARGE)) == (228, 131_328)


def test_a_thousand_kept_tokens_cost_the_papers_14_19_tflops_when_attention_is_left_out():
    """2 x (6.5253e9 decoder + 0.5450e9 head) + 4 x 3584^2 token MLP = 14.19e9 a token."""
    text = cost.Text()
    slope = cost.tflops(cost.release_path(LARGE, 6000, text)) - cost.tflops(cost.release_path(LARGE, 5000, text))
    assert slope == pytest.approx(14.19, abs=0.005)
    with_attention = cost.tflops(cost.release_path(LARGE, 6000, text, "causal")) - cost.tflops(
        cost.release_path(LARGE, 5000, text, "causal")
    )
    assert with_attention > 16


def test_attention_is_counted_as_said():
    pairs = 4 * 28 * 128 * 28
    assert cost.decoder(LARGE, 100).attention == pairs * 100 * 100
    assert cost.decoder(LARGE, 400).attention == pairs * 100 * (100 + 200 + 300 + 400)  # four spans
    assert cost.decoder(LARGE, 4002).attention == pairs * (1002 * (1001 + 2002 + 3003) + 1000 * 4002)  # two blocks each
    assert cost.decoder(LARGE, 601, 700).attention == pairs * 602 * 700  # two blocks, all keys
    assert cost.decoder(LARGE, 600, attention="all").attention == pairs * 600 * 600
    assert cost.decoder(LARGE, 500, attention="causal").attention == pairs * 500 * 501 / 2
    assert cost.decoder(LARGE, 10, 500, "causal").attention == pairs * (10 * 490 + 55)
    assert cost.decoder(LARGE, 500, 500, "none").attention == 0


def test_encoding_once_with_23_layers_is_cheaper_by_one_pass_and_a_layer():
    text = cost.Text()
    release = {s.name: s.flops for s in cost.release_path(LARGE, 4000, text, "all")}
    ours = {s.name: s.flops for s in cost.image_half(LARGE, text)}
    patches = 228 * 2 * 576 * 588 * 1024
    assert (ours["vision tower"] - patches) / (release["vision tower"] / 2 - patches) == pytest.approx(23 / 24)
    assert release["projector"] == 2 * ours["projector"]


def test_memory_of_weights_and_training():
    total = sum(cost.parameter_counts(LARGE).values())
    assert cost.inference_memory(LARGE, 3000, cost.Text())["weights"] == 2 * total
    assert sum(cost.training_memory(LARGE, 2).values()) == pytest.approx(62.3e9, rel=0.005)


def test_kmeans_reads_the_tokens_as_they_are_once_a_step_and_holds_no_rows_of_its_own():
    """As compiled for an H200, see tests/test_image_on_gpu.py; a CPU's float32 rows are read twice."""
    step = functools.partial(cost.kmeans_step, LARGE, 82_944, 600)
    centres = 2 * 4 * 600 * 3586
    assert step("product").bytes == 2 * 82_944 * 3586 + centres
    assert step("scatter").bytes == 2 * 4 * 82_944 * 3586 + centres
    held = sum(cost.inference_memory(LARGE, 3000, cost.Text()).values())
    assert held == pytest.approx(17.6e9, rel=0.001), "weights 16.0, tokens 0.94, caches 0.31, tower 0.17, scores 0.18"


def test_int8_takes_a_byte_off_every_number_of_the_decoders_matrices_and_adds_scales():
    int8, text = LARGE.with_weights("int8"), cost.Text()
    plain, held = (cost.inference_memory(cfg, 3000, text) for cfg in (LARGE, int8))
    embedding_and_head, scales = 2 * 152064 * 3584, 28 * (36 * 128 + 2 * 3584 + 2 * 18944) + 2 * 152064
    assert plain["weights"] - held["weights"] == cost.decoder_parameters(LARGE) + embedding_and_head - 4 * scales
    assert sum(held.values()) < 10e9
    step, half = (cost.decode_step(cfg, 3000).bytes for cfg in (LARGE, int8))
    assert step - half == cost.decoder_parameters(LARGE) + embedding_and_head / 2


@pytest.mark.parametrize("name", ["cost", "paper_audit"])
def test_the_documents_are_what_the_commands_write(tmp_path, name):
    module = {"cost": "experiments.cost", "paper_audit": "experiments.audit_paper"}[name]
    output = tmp_path / "report.md"
    ((code, out, err),) = run_commands(module, [[f"--output={output}"]])
    assert code == 0, err
    assert out == output.read_text(encoding="utf-8")
    assert out == (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"], "the temporary name is gone"
