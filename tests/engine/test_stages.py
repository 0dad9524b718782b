"""Stages: what is compiled, and what is found again."""

import threading
import time
from concurrent import futures

import jax
import jax.numpy as jnp
import pytest

from bat_jax.engine import stages as stages_module
from bat_jax.engine.stages import OutOfMemoryError, Stages, host_memory_bytes, memory_advice


def test_another_models_stages_find_a_program_by_its_function_settings_and_shapes():
    traced = []

    def scaled(factor, values):
        traced.append((factor, values.shape))
        return factor * values

    for stages in (Stages(), Stages()):
        assert stages.run("scaled", scaled, (2,), jnp.arange(3)).tolist() == [0, 2, 4]
        assert stages.run("scaled", scaled, (2,), jnp.arange(3) + 1).tolist() == [2, 4, 6]
        assert stages.num_compiles == {"scaled": 1} and stages.num_calls == {"scaled": 2}
    assert traced == [(2, (3,))]
    assert stages.run("scaled", scaled, (3,), jnp.arange(3)).tolist() == [0, 3, 6]
    assert stages.run("scaled", scaled, (2,), jnp.arange(2)).tolist() == [0, 2]
    assert traced == [(2, (3,)), (3, (3,)), (2, (2,))] and stages.num_compiles == {"scaled": 3}


def test_threads_that_want_a_program_compile_it_once_and_have_clocks_of_their_own():
    stages, traced, together = Stages(), [], threading.Barrier(4)

    def scaled(values):
        traced.append(values.shape)
        time.sleep(0.05)  # the others come meanwhile
        return 2 * values

    def work(number):
        together.wait()
        result = stages.run("scaled", scaled, (), jnp.full(3, number)).tolist()
        seconds = dict(stages.run_seconds), dict(stages.compile_seconds)
        stages.reset_clocks()
        return result, *seconds

    with futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert [result for result, *_ in found] == [[2 * number] * 3 for number in range(4)]
    assert traced == [(3,)] and stages.num_compiles == {"scaled": 1} and stages.num_calls == {"scaled": 4}
    assert all(running["scaled"] > 0 for _, running, _ in found) and any(compiling for *_, compiling in found)
    assert not stages.run_seconds and not stages.compile_seconds


def test_a_program_that_does_not_compile_fails_for_each_and_is_tried_again():
    stages, failing = Stages(), [True]

    def scaled(values):
        if failing:
            raise ValueError("no such program")
        return 2 * values

    for _ in range(2):
        with pytest.raises(ValueError, match="no such program"):
            stages.run("scaled", scaled, (), jnp.arange(3))
    failing.clear()
    assert stages.run("scaled", scaled, (), jnp.arange(3)).tolist() == [0, 2, 4]
    assert stages.num_compiles == {"scaled": 1}


def test_a_program_that_the_machine_can_never_hold_is_refused_before_it_runs(monkeypatch):
    def sorted_twice(values):
        return jnp.sort(jnp.sort(values, axis=0), axis=1)

    monkeypatch.setattr(stages_module, "host_memory_bytes", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match=r"the program 'sorted' needs .* GB, the machine has"):
        Stages().run("sorted", sorted_twice, (), jnp.ones((64, 64)))
    monkeypatch.undo()
    assert Stages().run("sorted", sorted_twice, (), jnp.ones((64, 64))).shape == (64, 64)
    assert host_memory_bytes() > 2**28


def test_a_full_device_is_one_line_and_other_errors_of_it_stay():
    with pytest.raises(OutOfMemoryError) as info:
        with memory_advice("budgets 3,7", "take fewer"):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")
    assert str(info.value) == "out of memory with budgets 3,7: take fewer (Out of memory allocating 9 bytes.)"
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        with memory_advice("budgets 3,7", "take fewer"):
            raise jax.errors.JaxRuntimeError("INTERNAL: no")
