"""Typed look-ups in a parsed Hugging Face JSON file; every error is one line that names the file and the field."""

import pathlib
import sys
from collections.abc import Collection
from typing import Any, NoReturn

from bat_jax import text_files


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      FileNotFoundError, ValueError: no such file, or no JSON object in it; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    values = text_files.read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a JSON object is needed, {type(values).__name__} came")
    return values


class Fields:
    """Typed look-ups in a parsed config.json; every error names the file and the field."""

    def __init__(self, values: dict[str, Any], where: str):
        self.values = values
        self.where = where

    def integer(self, name: str, default: Any = None) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if type(value) is not int:
            raise ValueError(f"{self.where}: {name}={value!r}: an integer is needed")
        return value

    def number(self, name: str, default: Any = None) -> float:
        value = self.values.get(name)
        value = default if value is None else value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= sys.float_info.max:  # NaN, infinity and an int of 400 digits, too
            raise ValueError(f"{self.where}: {name}={value!r}: a number is needed")
        return float(value)

    def triple(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        values = self.values.get(name)
        values = default if values is None else values
        if not isinstance(values, list | tuple) or len(values) != 3:
            raise ValueError(f"{self.where}: {name}={values!r}: three numbers, for R, G and B, are needed")
        channels = Fields({f"{name}[{index}]": value for index, value in enumerate(values)}, self.where)
        return tuple(map(channels.number, channels.values))

    def only(self, name: str, allowed: Collection[Any], default: Any = None) -> Any:
        value = self.values.get(name, default)
        # Of the same type, too: 1 == True.
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            self.refuse(name, ", ".join(repr(one) for one in allowed if one is not None) or "none of it")
        return value

    def refuse(self, name: str, supported: str) -> NoReturn:
        raise ValueError(f"{self.where}: {name}={self.values.get(name)!r} is not supported; supported: {supported}")
