"""What a run's directory says about the run: versions, device, time, seed; and files written whole or not at all."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax

import bat_jax
from bat_jax.io.params import PARAMS_FOLDER

RUN_FILE = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "transformers", "numpy", "pillow", "rasterio")


def run_record(seed: int) -> dict[str, Any]:
    """Return versions, device, date and seed of this process, ready for JSON."""
    device = jax.devices()[0]
    return {
        "bat_jax": bat_jax.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": f"{device.platform}: {device.device_kind}",
        "num_devices": jax.device_count(),
        "cpu_count": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }


def package_versions(record: Mapping[str, Any]) -> str:
    """Return "jax 0.10.2, numpy 2.4.6", the packages of a run that were installed."""
    return ", ".join(f"{name} {version}" for name, version in record["packages"].items() if version)


def _version(package: str) -> str | None:
    """Return an installed package's version; None for one that is not there, such as a reader this run does without."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def fingerprint(checkpoint: pathlib.Path) -> str:
    """Return what tells checkpoints apart, wherever they stand: config, tokenizer, names and sizes of weight files.

    A weight file's name is drawn anew whenever weights are written.
    """
    digest = hashlib.sha256((checkpoint / "config.json").read_bytes())
    for path in sorted((checkpoint / "tokenizer").iterdir()):
        digest.update(path.read_bytes())
    for path in sorted((checkpoint / PARAMS_FOLDER).rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(checkpoint).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def differing(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield "name: before -> now" for everything in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differing(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name}: {json.dumps(before)} -> {json.dumps(now)}"


def check_same_run(path: pathlib.Path, settings: Mapping[str, Any], replaces: str | None = None) -> None:
    """Refuse an output directory that holds answers made under other settings than a resumed run's.

    Args:
      replaces: pattern of files that the run writes anew at its end; a directory of these alone counts as empty.

    Raises:
      ValueError: names --output_dir and what differs.
    """
    file = path / RUN_FILE
    if not file.exists():
        kept = path.iterdir() if path.exists() else ()
        if any(not (replaces and item.match(replaces)) for item in kept):
            raise ValueError(f"--output_dir={path}: is not empty and no run of this command; choose another")
        return
    changes = "; ".join(differing(json.loads(file.read_text())["settings"], dict(settings)))
    if changes:
        raise ValueError(f"--output_dir={path}: holds answers under other settings ({changes}); choose another")


def check_output_dir(path: pathlib.Path, overwrite: bool) -> None:
    """Refuse an output directory that cannot be written or holds files already.

    Raises:
      ValueError: names --output_dir and what to do.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"output_dir={path}: is a file")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"output_dir={path}: is not empty; give --overwrite to replace files in it")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"output_dir={path}: cannot be written below {parent}")


@contextlib.contextmanager
def staged_dir(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary directory beside `path`; at the end its files move into `path`, on an error they vanish.

    Other files in `path` stay as they are.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield stage
        path.mkdir(exist_ok=True)
        for file in sorted(stage.iterdir()):
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def staged_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary name beside `path` that becomes `path` at the end and vanishes on an error."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield stage
        os.replace(stage, path)
    finally:
        stage.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with staged_file(path) as stage:
        stage.write_text(json.dumps(content, indent=2) + "\n")
