"""Stages: what is compiled, and what is found again."""

import jax.numpy as jnp

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
