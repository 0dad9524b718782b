"""Files of the wheels in requirements.txt; the packages are not imported, because their dependencies are not there."""

import importlib.util
import pathlib

import pytest


def wheel_file(package: str, name: str) -> pathlib.Path:
    """Return a file of an installed package; skip the test where the package is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed: make test EXTRAS=test,parity,real", allow_module_level=True)
    return pathlib.Path(spec.origin).parent / name
