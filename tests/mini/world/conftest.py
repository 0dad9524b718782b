"""Scenes that several files look at, made once."""

import pytest

from bat_jax.mini.world.splits import scenes_with_questions

POOL_SIZE = 300


@pytest.fixture(scope="session")
def pool():
    """The first training scenes with their questions."""
    return tuple(scenes_with_questions(range(POOL_SIZE)))
