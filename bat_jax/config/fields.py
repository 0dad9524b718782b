"""What all config dataclasses share: checks that name the field at fault, and building from parsed JSON."""

import dataclasses
import json
import math
import types
import typing
from typing import Any


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raise a ValueError that names the field at fault, what came and what is allowed."""
    if not condition:
        raise ValueError(f"{field}={value!r}: {allowed}")


def require_positive(obj: Any, *fields: str) -> None:
    for field in fields:
        value = getattr(obj, field)
        require(value > 0, f"{type(obj).__name__}.{field}", value, "must be positive")


def require_choice(obj: Any, field: str, choices: tuple[str, ...]) -> None:
    value = getattr(obj, field)
    require(value in choices, f"{type(obj).__name__}.{field}", value, f"must be one of {', '.join(choices)}")


def from_json(cls: type, text: str, what: str) -> Any:
    """Build a config dataclass from JSON text.

    Args:
      what: what the text is, for messages.

    Raises:
      ValueError: the text is no JSON object, or a field is missing, unknown, of a wrong type or out of range; names it.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is no valid JSON: {error}") from None
    require(isinstance(values, dict), what, values, "must be a JSON object")
    return from_dict(cls, values, "", what)


def from_dict(cls: type, values: Any, where: str, what: str = "config") -> Any:
    """Build a config dataclass from parsed JSON: exact fields of the right types, nested dataclasses, tuples."""
    require(isinstance(values, dict), where or what, values, "must be a JSON object")
    hints = typing.get_type_hints(cls)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(kinds))
    require(not unknown, where or what, unknown, f"unknown fields; known are {', '.join(sorted(kinds))}")
    built = {name: typed(kinds[name], value, f"{where}.{name}" if where else name) for name, value in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"{where or what}: {error}") from None


def typed(kind: Any, value: Any, path: str) -> Any:
    """Return a JSON value as the field's type: a dataclass, bool, int, float, text, a tuple of these, or None."""
    if typing.get_origin(kind) is types.UnionType:  # such as int | None
        if value is None and type(None) in typing.get_args(kind):
            return None
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_dict(kind, value, path)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        names = {int: "whole numbers", float: "numbers"}
        require(isinstance(value, list), path, value, f"must be a list of {names.get(item, 'JSON objects')}")
        return tuple(typed(item, part, path) for part in value)
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(is_number and math.isfinite(value), path, value, "must be a finite number")
        return float(value)
    kind = kind if kind in (bool, int) else str  # a Literal is text, too; its choices are checked by the dataclass
    require(type(value) is kind, path, value, f"must be {'text' if kind is str else kind.__name__}")
    return value
