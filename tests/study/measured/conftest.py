"""What the tests of comparisons share."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def keep_garbage():
    """statsmodels' multipletests collects garbage at every call, which takes half a second where JAX is loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *args: 0)
        yield
