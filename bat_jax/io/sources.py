"""The code that runs: bat_jax's own source files by content, other packages by version."""

import functools
import importlib.metadata
import pathlib

import bat_jax
from bat_jax.io.digests import tree_digest


@functools.cache
def source_digest(parts: tuple[str, ...] = ()) -> str:
    """Return the digest of bat_jax's source files, or of those of some parts ("ops", "encoding")."""
    root = pathlib.Path(bat_jax.__file__).parent
    files = [file for part in parts for file in (root / f"{part}.py", *(root / part).rglob("*.py"))]
    return tree_digest(root, files if parts else root.rglob("*.py"))


def package_version(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
