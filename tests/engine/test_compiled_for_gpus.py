"""What XLA makes of the model's programs for a GPU that is not here: which buffers stand in the token loop."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.engine.absent import absent_mesh, compile_for, results_of
from bat_jax.engine.generate import generate
from bat_jax.engine.mesh import mesh_axes, params_at
from bat_jax.nn.decoder import layers_apart
from bat_jax.nn.int8 import int8_product
from bat_jax.ops.attention import weighted_attention_row
from bat_jax.ops.fused_attention import fused_attention
from bat_jax.ops.kmeans import ScaledRows, kmeans_of_scaled
from bat_jax.ops.on_mesh import rows_on_mesh
from bat_jax.ops.segment import segment_sum_of_tokens
from tests.absent_compiler import needs_gpu_compiler

pytestmark = needs_gpu_compiler
ITEM_BYTES = {"bf16": 2, "f32": 4, "s32": 4, "u32": 4, "u8": 1, "s8": 1, "pred": 1}
# These name what already stands in memory.
NO_BUFFER = {"parameter", "get-tuple-element", "tuple", "while", "conditional", "bitcast"}
MIB = 2**20


@pytest.fixture(autouse=True)
def users_precision():
    """Of products, which tests otherwise ask for at its highest."""
    with jax.default_matmul_precision("default"):
        yield


def shape(*sizes, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(sizes, dtype)


def buffers_in_loops(text):
    """Return (bytes, instruction) of every array that an instruction inside a loop's body produces."""
    fused = set(re.findall(r"calls=%?([\w.-]+)", text)) | set(re.findall(r"to_apply=%?([\w.-]+)", text))
    found, is_inside = [], False
    for line in text.splitlines():
        if start := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            is_inside = not start[1] and start[2] not in fused
        made = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\(", line)
        if is_inside and made and made[3] not in NO_BUFFER:
            for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", made[2]):
                count = math.prod(int(size) for size in sizes.split(",") if size)
                found.append((count * ITEM_BYTES.get(kind, 8), made[1]))
    return found


def two_layers(weights):
    """Return the networks of the 7B with two decoder layers at full width, their parameters, and a prompt."""
    cfg = BatConfig.uhr_bat_7b()
    cfg = dataclasses.replace(
        cfg,
        decoder=dataclasses.replace(cfg.decoder, num_layers=2),
        compressor=dataclasses.replace(cfg.compressor, importance_layer=-1),
    ).networks.with_weights(weights)
    params = jax.eval_shape(layers_apart, {"decoder": bat.loaded_shapes(cfg)["decoder"]})
    return cfg, params, bat.Spliced(shape(1, 3078, 3584), shape(1, dtype=jnp.int32))


def drawing():
    number = shape(dtype=jnp.float32)
    return shape(2, dtype=jnp.int32), number, number, jax.eval_shape(lambda: jax.random.key(0))


@pytest.mark.parametrize("weights", ["stored", "int8"])
def test_a_token_moves_no_layers_weights_and_no_whole_cache_but_multiplies_where_they_stand(weights):
    """Behind 3,078 rows; the library's own workspace is 4 MiB."""
    cfg, params, prompt = two_layers(weights)
    logits, cache = jax.eval_shape(functools.partial(bat.prefill, cfg, 32), params, prompt)
    text = compile_for("h200", generate, params, logits, cache, *drawing(), static=(cfg, 32)).as_text()
    buffers = buffers_in_loops(text)
    layer_bytes = 2 * 3584 * 18944
    assert len(buffers) > 50 and layer_bytes > 100 * MIB
    assert max(buffers)[0] <= 4 * MIB, sorted(buffers)[-5:]


def collectives(program):
    """Return (kind, bytes of the result, whose it is) of everything that is sent between devices."""
    found = []
    for line in program.as_text().splitlines():
        sent = re.match(r"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ((?:all|collective|reduce-scatter)[\w-]*)\(", line)
        if sent and not sent[2].endswith("-done"):
            kind, sizes = re.findall(r"(\w+)\[([\d,]*)\]", sent[1])[-1]
            count = math.prod(int(size) for size in sizes.split(",") if size)
            owner = re.search(r"layers_(\d)/(?:self_attn|mlp)/(\w+)", line)
            found.append((sent[2].removesuffix("-start"), count * ITEM_BYTES[kind], owner and owner[0]))
    return found


@pytest.mark.parametrize(("model", "weights"), [(4, "stored"), (2, "int8")])
def test_a_layer_on_a_mesh_sums_over_devices_twice_and_sends_nothing_else(model, weights):
    """In the prompt and in the token loop; each device's arguments are its part of the weights."""
    cfg, params, prompt = two_layers(weights)
    mesh = absent_mesh("h100", mesh_axes(cfg, {"data": 1, "model": model}))
    placed = jax.tree.map(lambda leaf, where: leaf.update(sharding=where), params, params_at(mesh, params))
    prefill = compile_for(mesh, bat.prefill, placed, prompt, static=(cfg, 32))
    token_loop = compile_for(mesh, generate, placed, *results_of(prefill), *drawing(), static=(cfg, 32))
    twice = [("all-reduce", f"layers_{i}/{name}") for i in (0, 1) for name in ("self_attn/o_proj", "mlp/down_proj")]
    for program, rest in ((prefill, ["logits"]), (token_loop, ["lookup", "logits"])):
        sent = collectives(program)
        assert [(kind, owner) for kind, _, owner in sent if owner] == twice
        assert [kind for kind, _, owner in sent if not owner] == ["all-gather"] * len(rest)
        assert max(num_bytes for kind, num_bytes, _ in sent if kind == "all-gather") <= 4 * cfg.decoder.vocab_size
    weight_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    held = token_loop.memory_analysis().argument_size_in_bytes
    cache_bytes = 2 * 2 * 3136 * 4 * 128 * 2
    assert held == pytest.approx((weight_bytes + cache_bytes) / model, rel=0.005)


def test_tokens_of_a_scene_are_whole_on_no_device_of_a_mesh():
    """20,736 tokens are clustered and merged and some are gathered; the assigned blocks' features are float32."""
    mesh = absent_mesh("h100", {"data": 4, "heads": 1, "copies": 1})

    def of_scene(tokens, first_centres, index, weight):
        tokens = rows_on_mesh(tokens)
        rows = ScaledRows(tokens, weight, jnp.stack([weight, weight], axis=1))
        label = kmeans_of_scaled(rows, weight > 0, first_centres, 600, 10).label
        return label, segment_sum_of_tokens(tokens, label, 600), tokens[index]

    tokens = shape(20_736, 1024).update(sharding=NamedSharding(mesh, PartitionSpec(("data", "heads", "copies"))))
    others = shape(600, 1026, dtype=jnp.float32), shape(300, dtype=jnp.int32), shape(20_736, dtype=jnp.float32)
    program = compile_for(mesh, of_scene, tokens, *others)
    sent = collectives(program)
    assert {kind for kind, _, _ in sent} <= {"all-reduce", "all-gather"} and len(sent) >= 3
    assert max(num_bytes for _, num_bytes, _ in sent) <= 4 * 600 * 1027
    assert max(buffers_in_loops(program.as_text()))[0] < 2 * 20_736 * 1024
    assert program.memory_analysis().argument_size_in_bytes < 2 * 20_736 * 1024 / 3


def test_two_passes_over_int8_matrices_hold_no_copies_of_them_from_one_to_the_other():
    """As a question's importance and its prompt do; a copy kept for the second pass would be all of the model."""

    def passes(first, second, matrices, scale):
        for rows in matrices:
            first = int8_product(first, rows, scale)
        second += jnp.sum(first)
        for rows in matrices:
            second = int8_product(second, rows, scale)
        return second

    matrices = [shape(3584, 3584, dtype=jnp.int8)] * 6
    arrays = shape(64, 3584), shape(96, 3584), matrices, shape(3584, dtype=jnp.float32)
    copy_bytes = 2 * 3584**2
    assert compile_for("h200", passes, *arrays).memory_analysis().temp_size_in_bytes < 2 * copy_bytes


def test_the_triton_kernel_compiles_for_the_models_shapes_without_their_scores_and_so_does_one_row_of_importance():
    """All at once: the decoder's prompt, its row, and the tower's tiles, whose 577 rows fill no block."""

    def together(query, key, row_weight, tiles):
        causal = fused_attention("pallas", query, key, key, is_causal=True)
        row = weighted_attention_row(query, key, None, row_weight, is_one_row=True)
        return causal, row, fused_attention("pallas", tiles, tiles, tiles, is_causal=False)

    rows = shape(1, 3078, 28, 128), shape(1, 3078, 4, 128), shape(1, 3078, dtype=jnp.float32)
    memory = compile_for("h200", together, *rows, shape(8, 577, 16, 64)).memory_analysis()
    decoder_scores, tower_scores = 4 * 28 * 3078**2, 4 * 8 * 16 * 577**2
    assert memory.temp_size_in_bytes < min(decoder_scores, tower_scores) / 1.5
