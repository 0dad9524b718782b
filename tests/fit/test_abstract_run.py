"""A path on shapes: what is held, what a stage needs beside it, and that each program is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bat_jax.engine.absent import absent_mesh
from bat_jax.fit.abstract_run import AbstractRun, Programs, bytes_of
from tests.absent_compiler import needs_gpu_compiler

ROWS = jax.ShapeDtypeStruct((1000, 8), jnp.float32)
SIZE = 32_000


def double(rows):
    return 2 * rows


def add(first, second):
    return first + second


@pytest.fixture
def run():
    compiled = []
    run = AbstractRun(Mesh(np.array(jax.devices()[:1]), ("model",)), Programs(compiled.append))
    run.compiled = compiled
    return run


def test_a_stage_needs_what_is_held_its_results_and_what_comes_from_the_host(run):
    weights = run.hold(ROWS)
    result = run.stage("add", add, (), weights, ROWS)
    row = run.rows["add"]
    assert (row.held, row.arguments, row.outputs, row.temporaries) == (SIZE, 2 * SIZE, SIZE, 0)
    assert row.peak == 3 * SIZE, "weights, the other operand for as long as the stage runs, the result"
    assert run.held == 2 * SIZE and result.shape == ROWS.shape


def test_results_are_held_until_the_end_of_the_scope_that_they_are_made_in(run):
    run.stage("double", double, (), ROWS)
    with run.scope():
        results = [run.stage("double", double, (), ROWS) for _ in range(2)]
        assert run.held == 3 * SIZE and run.rows["double"].calls == 3
        assert run.rows["double"].peak == (2 + 1 + 1) * SIZE, "of the last call: two results before, operand, result"
    assert run.held == SIZE
    run.hold(results[0])
    assert run.held == 2 * SIZE


def test_what_is_held_twice_counts_once(run):
    result = run.stage("double", double, (), ROWS)
    run.hold((result, [result]))
    assert run.held == SIZE


def test_a_program_is_compiled_once_for_its_shapes(run):
    run.stage("first", double, (), ROWS)
    run.stage("second", double, (), ROWS)
    run.stage("third", double, (), ROWS.update(shape=(10, 8)))
    assert run.compiled == ["first", "third"]


def test_what_a_program_writes_into_an_argument_needs_no_room_of_its_own(run):
    state = run.hold(ROWS)
    run.stage("double", double, (), state, donate_argnums=0)
    assert run.rows["double"].peak == SIZE


def test_the_peak_is_that_of_the_stage_that_needs_most(run):
    with run.scope():
        run.stage("large", lambda rows: jnp.tile(rows, (4, 1)), (), ROWS)
    run.stage("small", double, (), ROWS)
    assert run.peak.name == "large" and run.peak.peak == 5 * SIZE


def test_a_program_that_a_compiler_refuses_as_too_large_counts_with_what_the_compiler_says(run, monkeypatch):
    def refuse(*args, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in hbm. Used 20.5G of 15.7G hbm.")

    monkeypatch.setattr("bat_jax.fit.abstract_run.compile_for", refuse)
    result = run.stage("double", double, (), ROWS)
    assert run.rows["double"].peak == int(20.5 * 2**30) and result.shape == ROWS.shape


def test_another_failure_of_a_compiler_is_not_taken_for_that(run, monkeypatch):
    def fail(*args, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr("bat_jax.fit.abstract_run.compile_for", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run.stage("double", double, (), ROWS)


@needs_gpu_compiler
def test_on_a_mesh_a_leaf_counts_with_its_part():
    run = AbstractRun(absent_mesh("h200", {"model": 4}), Programs())
    cut = ROWS.update(sharding=NamedSharding(run.mesh, PartitionSpec("model")))
    assert bytes_of(run.hold(cut)) == SIZE / 4 == run.held
    run.stage("double", double, (), cut)
    assert run.rows["double"].outputs == SIZE / 4, "the result lies as its operand does"
