"""What all config dataclasses share: checks that name the field at fault, and building from parsed JSON."""

import dataclasses
import math
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


def from_dict(cls: type, values: Any, where: str) -> Any:
    """Build a config dataclass from parsed JSON: exact fields of the right types, nested dataclasses, tuples."""
    require(isinstance(values, dict), where or "config", values, "must be a JSON object")
    types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    require(not unknown, f"{where or 'config'}", unknown, f"unknown fields; known are {', '.join(sorted(types))}")
    built = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        built[name] = typed(types[name], value, path)
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"{where or 'config'}: {error}") from None


def typed(kind: Any, value: Any, path: str) -> Any:
    """Return a JSON value as the field's type: a dataclass, bool, int, float, text, or a tuple of these or of ints."""
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(is_number and math.isfinite(value), path, value, "must be a finite number")
        return value
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value, path)
    if typing.get_origin(kind) is tuple and dataclasses.is_dataclass(typing.get_args(kind)[0]):
        require(isinstance(value, list), path, value, "must be a list of JSON objects")
        return tuple(from_dict(typing.get_args(kind)[0], item, path) for item in value)
    if typing.get_origin(kind) is tuple:
        is_list = isinstance(value, list) and all(type(item) is int for item in value)
        require(is_list, path, value, "must be a list of whole numbers")
        return tuple(value)
    kind = kind if kind in (bool, int) else str  # a Literal is text, too; its choices are checked by the dataclass
    require(type(value) is kind, path, value, f"must be {'text' if kind is str else kind.__name__}")
    return value
