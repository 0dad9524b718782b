"""Stages: what is compiled, and what is found again."""

import threading
import time
from concurrent import futures

import jax.numpy as jnp
import pytest

from bat_jax.engine.stages import Stages


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
