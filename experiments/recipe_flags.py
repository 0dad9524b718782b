"""What turns --train name=value into a recipe's fields, the same for every command that has the flag."""

import ast
import dataclasses
import json
from collections.abc import Sequence

from bat_jax.train.recipe import TrainConfig


def with_fields(recipe: TrainConfig, items: Sequence[str], flag: str) -> TrainConfig:
    """Return the recipe with fields changed by "name=value" texts.

    Raises:
      ValueError: names the flag and the text.
    """
    values = dataclasses.asdict(recipe)
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or name not in values:
            raise ValueError(f"--{flag}={item}: need name=value with a name from {', '.join(values)}")
        try:
            values[name] = text if isinstance(values[name], str) else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise ValueError(f"--{flag}={item}: {text!r} is no value") from None
    return TrainConfig.from_json(json.dumps(values))
