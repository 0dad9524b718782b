"""UHR-BAT as a model of lmms-eval, under the name `bat_jax`.

    python -m lmms_eval --model bat_jax --model_args checkpoint=DIR --tasks mmerealworld_lite

`manifest` is this package's entry point in the group `lmms_eval.models`. lmms-eval calls it at every start, whatever
model is asked for; adapter.py, which imports JAX, is loaded for this one alone.
"""

from typing import Any

NAME = "bat_jax"


def manifest() -> Any:
    """Return what lmms-eval's registry wants to know: the model's name and its class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, simple_class_path=f"{__name__}.adapter.BatJax")
