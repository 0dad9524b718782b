"""Compiling for devices that are not here: what is known of them, and what XLA makes of a program for them."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

from bat_jax.engine.absent import NoCompilerError, absent_mesh, compile_for
from bat_jax.engine.devices import DEVICES, find_device
from tests.absent_compiler import needs_gpu_compiler

SIDE = 512
MATRIX = jax.ShapeDtypeStruct((SIDE, SIDE), jnp.bfloat16)


def product(a, b):
    return a @ b


def chain(a, b):
    return jnp.tanh(a @ b) @ b


def test_a_device_that_is_not_known_is_told_those_that_are():
    with pytest.raises(ValueError, match=r"device=h300: is not known; known are .*h200.*a6000.*v5e"):
        find_device("h300")


def test_no_card_has_more_than_it_can():
    """A product of float32 is nowhere faster than one of bfloat16, and the reserve leaves nearly all memory."""
    for name, facts in DEVICES.items():
        assert 0 < facts.f32_flops <= facts.bf16_flops, name
        assert 0.9 * facts.memory_bytes < facts.usable_bytes < facts.memory_bytes, name
        assert bool(facts.target) == (facts.platform == "cuda") and bool(facts.topology) == (facts.platform == "tpu")


@pytest.mark.parametrize(("device", "extra"), [("h200", "fit"), ("v5e", "fit-tpu")])
def test_a_compiler_that_is_missing_is_named_with_its_extra(device, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoCompilerError, match=rf"pip install 'bat_jax\[{extra}\]'$"):
        compile_for(device, product, MATRIX, MATRIX)


@needs_gpu_compiler
def test_memory_is_that_of_the_arrays():
    memory = compile_for("h200", chain, MATRIX, MATRIX).memory_analysis()
    num_bytes = 2 * SIDE * SIDE
    assert memory.argument_size_in_bytes == 2 * num_bytes
    assert memory.output_size_in_bytes == num_bytes
    assert num_bytes <= memory.temp_size_in_bytes  # the product between, beside cuBLAS' own space


@needs_gpu_compiler
def test_a_donated_argument_is_written_in_place():
    memory = compile_for("h200", lambda a: a + 1, MATRIX, donate_argnums=0).memory_analysis()
    assert memory.alias_size_in_bytes == memory.output_size_in_bytes == 2 * SIDE * SIDE


@needs_gpu_compiler
def test_the_target_decides_the_program():
    """A T4 has no products of bfloat16, so XLA turns them into float32 there and nowhere newer."""
    texts = {name: compile_for(name, product, MATRIX, MATRIX).as_text() for name in ("t4", "a6000")}
    called = {name: re.findall(r"f32\[512,512\]", text) for name, text in texts.items()}
    assert called["t4"] and not called["a6000"]


@needs_gpu_compiler
def test_on_a_mesh_memory_is_counted_a_device():
    mesh = absent_mesh("h200", {"data": 1, "model": 4})
    columns = jax.ShapeDtypeStruct(
        MATRIX.shape, MATRIX.dtype, sharding=NamedSharding(mesh, PartitionSpec(None, "model"))
    )
    whole = NamedSharding(mesh, PartitionSpec())
    program = compile_for(mesh, product, MATRIX, columns, out_shardings=whole)
    assert program.memory_analysis().argument_size_in_bytes == 2 * SIDE * SIDE * (1 + 1 / 4)
    assert "all-gather" in program.as_text()


@needs_gpu_compiler
def test_what_is_static_comes_first():
    program = compile_for("h200", lambda power, a: a**power, MATRIX, static=(3,))
    assert program.memory_analysis().argument_size_in_bytes == 2 * SIDE * SIDE


@needs_gpu_compiler
def test_a_program_for_a_device_that_is_absent_is_not_cached_where_it_could_not_be_read(tmp_path):
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        compilation_cache.reset_cache()
        compile_for("h200", lambda a: a * 17 + 4, MATRIX)
        assert not list(tmp_path.iterdir())
        jax.jit(lambda a: a * 17 + 5)(jnp.ones(3)).block_until_ready()
        assert list(tmp_path.iterdir()), "programs of this machine still are"
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
        compilation_cache.reset_cache()
