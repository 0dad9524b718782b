"""The output directory of a run: what decides its results, every start of it, one writer, files written whole.

    with RunDirectory.open(path, "evaluate", settings, seed=0) as run:
        ...  # writes in run.path

    DIR/run.json         {"settings": {...}, "starts": [{"date", "flags", "device", "packages", ...}, ...]}
    DIR/inputs.json      name -> bytes of pictures that the run reads, null where one was missing
    DIR/.run.lock        held by the process that writes; hidden files are no results
    .DIR.new/            beside DIR: a run that replaces the one in DIR once it is complete

`settings` is everything that can change a result: config, recipe, seeds and prompts by value, weights and data by
content. A directory is opened again only under equal settings; what differs is named and nothing is touched. The
version of bat_jax is one of them; other source files of the same version are a warning, and each start holds their
digest. Where files stand, flags, device and packages are kept with the start and never compared.
"""

import contextlib
import datetime
import fcntl
import functools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import jax

import bat_jax
from bat_jax.io.output_files import beside, fits, replace_dir, restore, write_json
from bat_jax.io.sources import package_version, source_digest

RUN = "run"
RUN_FILE = f"{RUN}.json"
INPUTS_FILE = "inputs.json"
PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "transformers", "numpy", "pillow", "rasterio")

_REPLACEMENT = ".replacement"


def run_record(seed: int) -> dict[str, Any]:
    """Return versions, device, date and seed of this process, ready for JSON."""
    device = jax.devices()[0]
    return {
        "bat_jax": bat_jax.__version__,
        "source": source_digest(),
        "commit": source_commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": f"{device.platform}: {device.device_kind}",
        "num_devices": jax.device_count(),
        "cpu_count": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }


def package_versions(record: Mapping[str, Any]) -> str:
    """Return "jax 0.10.2, numpy 2.4.6", the packages of a run that were installed."""
    return ", ".join(f"{name} {version}" for name, version in record["packages"].items() if version)


@functools.cache
def source_commit() -> str | None:
    """Return the git commit of bat_jax's source files, "+" behind it where they have changed; None without git."""
    root = pathlib.Path(bat_jax.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return None if done.returncode else done.stdout.strip()

    # Installed below somebody else's repository, the files are none of its own.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if git("status", "--porcelain", "--", ".") else commit


def differing(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield "name: before -> now" for everything in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differing(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name}: {json.dumps(before)} -> {json.dumps(now)}"


def shard_file(stem: str, suffix: str, index: int = 1, num_shards: int = 1) -> str:
    """Return "predictions.jsonl", or "predictions-002-of-004.jsonl" for one of several processes."""
    part = "" if num_shards == 1 else f"-{index:03d}-of-{num_shards:03d}"
    return f"{stem}{part}{suffix}"


def stored_runs(path: pathlib.Path, command: str) -> list[dict[str, Any]]:
    """Return {"settings", "starts"} of a directory's run, one for each of its shards; empty where there is no run.

    Raises:
      ValueError: the run is another command's, or of an earlier version that kept other records.
    """
    runs = []
    for file in sorted(path.glob(f"{RUN}*.json")):
        try:
            runs.append(json.loads(file.read_text()))
            is_ours = runs[-1]["settings"]["command"] == command and isinstance(runs[-1]["starts"], list)
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            raise _foreign(path)
    return runs


def _foreign(path: pathlib.Path) -> ValueError:
    return ValueError(f"{path}: is not empty and no run of this command; choose another")


def working_path(path: pathlib.Path) -> pathlib.Path:
    """Return where the run that is being made for `path` writes: `path`, or beside it what will replace it."""
    other = beside(path, "new")
    return other if (other / _REPLACEMENT).exists() else path


class RunDirectory:
    """A run's output directory, open for writing; leaving the context without an error completes a replacement.

    Attributes:
      path: where to write; see `working_path`.
      settings: as stored. starts: all starts of this process's shard, this one last.
    """

    def __init__(self, target: pathlib.Path, path: pathlib.Path, own: Sequence[str]):
        """Keep the names; `open` does the work."""
        self.path, self._target, self._own = path, target, tuple(own)
        self.settings: dict[str, Any] = {}
        self.starts: list[dict[str, Any]] = []
        self._locks: list[BinaryIO] = []

    @classmethod
    def open(
        cls,
        path: pathlib.Path,
        command: str,
        settings: Mapping[str, Any],
        *,
        seed: int,
        facts: Mapping[str, Any] | None = None,
        inputs: Mapping[str, int | None] | None = None,
        shard: tuple[int, int] = (1, 1),
        resume: bool = True,
        overwrite: bool = False,
        own: Sequence[str] = (),
        ignored: Sequence[str] = (),
        finished: str = "",
    ) -> "RunDirectory":
        """Check the directory, lock it and record this start; on an error nothing in it has changed.

        Args:
          command: whose run it is. settings: see above. seed: for the start's record.
          facts: what else to keep of this start, such as where checkpoint and data stand now.
          inputs: of `input_sizes`; one that was missing may have come back, one of another size is refused.
          shard: (i, n) where n processes share the run, each with its own lock and run file.
          resume: go on with a run that is there; False refuses one.
          overwrite: make the run beside and put it in the place of the one that is there when it is complete.
          own: for a command with `overwrite`: patterns of the files that a run leaves; others survive it.
          ignored: patterns of files that do not make a directory another's.
          finished: name of a file or folder whose presence leaves a run nothing to do.

        Raises:
          ValueError: the directory holds something else or a run under other settings, or is being written.
        """
        path = pathlib.Path(path)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: is a file")
        stored = json.loads(json.dumps({"command": command, "bat_jax": bat_jax.__version__} | dict(settings)))
        sizes = dict(inputs or {})
        restore(path)
        with contextlib.ExitStack() as on_error:
            work, is_new = _choose(path, stored, sizes, resume, overwrite, own, ignored)
            if finished and work == path and (path / finished).exists():
                raise ValueError(f"{path}: is finished; nothing is left to do")
            run = cls(path, work, own)
            on_error.callback(run.close)
            if work != path:
                run._locks += [_locked(lock) for lock in sorted(path.glob(f".{RUN}*.lock"))]
            if is_new and work.exists() and work != path:
                run._locks += [_locked(lock) for lock in sorted(work.glob(f".{RUN}*.lock"))]
                shutil.rmtree(work)
            work.mkdir(parents=True, exist_ok=True)
            if work != path:
                (work / _REPLACEMENT).touch()
            run._locks.append(_locked(work / shard_file(f".{RUN}", ".lock", *shard)))
            # Another process may have begun a run since.
            _check_same(path, work, stored, sizes, own)
            run._record_start(shard_file(RUN, ".json", *shard), stored, sizes, dict(facts or {}), seed)
            on_error.pop_all()
        return run

    def _record_start(
        self, name: str, settings: dict[str, Any], inputs: dict[str, int | None], facts: dict[str, Any], seed: int
    ) -> None:
        file = self.path / name
        before = json.loads(file.read_text())["starts"] if file.exists() else []
        start = {"flags": sys.argv[1:]} | facts | run_record(seed)
        if before and before[-1]["source"] != start["source"]:
            print(
                f"warning: {self._target}: bat_jax's source files have changed since the run's last start "
                f"({before[-1]['date']})",
                file=sys.stderr,
            )
        self.settings, self.starts = settings, [*before, start]
        # First: to a process that looks meanwhile, a directory with other files and no run in it is somebody else's.
        write_json(file, {"settings": settings, "starts": self.starts})
        if inputs:
            known = {key: size for key, size in inputs.items() if size is not None}
            write_json(self.path / INPUTS_FILE, inputs | _stored_inputs(self.path) | known)

    def close(self) -> None:
        """Let another process open the directory."""
        for lock in self._locks:
            lock.close()
        self._locks.clear()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None and self.path != self._target:
                replace_dir(self.path, self._target, (f".{RUN}*.lock", *self._own))
                (self._target / _REPLACEMENT).unlink()
                self.path = self._target
        finally:
            self.close()


def _choose(
    path: pathlib.Path,
    settings: dict[str, Any],
    inputs: dict[str, int | None],
    resume: bool,
    overwrite: bool,
    own: Sequence[str],
    ignored: Sequence[str],
) -> tuple[pathlib.Path, bool]:
    """Return where to work and whether a new run begins there; changes nothing."""
    has_run, other = bool(stored_runs(path, settings["command"])), working_path(path)
    if not has_run and path.exists() and not all(fits(item, (".*", *ignored)) for item in path.iterdir()):
        raise _foreign(path)
    if has_run and not resume and not overwrite:
        raise ValueError(f"{path}: is not empty; give --overwrite or --resume")
    goes_on = resume and other != path and not _changes(other, settings, inputs)
    if goes_on or (overwrite and has_run):
        return beside(path, "new"), not goes_on
    _check_same(path, path, settings, inputs, own)
    return path, not has_run


def _changes(work: pathlib.Path, settings: dict[str, Any], inputs: dict[str, int | None]) -> list[str]:
    changes = [
        text for stored in stored_runs(work, settings["command"]) for text in differing(stored["settings"], settings)
    ]
    before = _stored_inputs(work)
    both = [name for name, size in inputs.items() if size is not None and before.get(name) is not None]
    changes += differing({name: before[name] for name in both}, {name: inputs[name] for name in both}, "inputs")
    return list(dict.fromkeys(changes))


def _check_same(
    path: pathlib.Path,
    work: pathlib.Path,
    settings: dict[str, Any],
    inputs: dict[str, int | None],
    own: Sequence[str],
) -> None:
    """Raise ValueError where a run in `work` has other settings."""
    changes = _changes(work, settings, inputs)
    if changes:
        hint = "choose another directory" + (", or give --overwrite" if own else "")
        raise ValueError(f"{path}: holds a run with other settings ({'; '.join(changes)}); {hint}")


def _stored_inputs(work: pathlib.Path) -> dict[str, int | None]:
    file = work / INPUTS_FILE
    return json.loads(file.read_text()) if file.exists() else {}


def _locked(path: pathlib.Path) -> BinaryIO:
    file = path.open("ab")
    try:
        claim(file, path)
    except BaseException:
        file.close()
        raise
    return file


def claim(file: BinaryIO, path: pathlib.Path) -> None:
    """Lock an open file against other processes until it is closed or the process ends.

    Raises:
      ValueError: another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path}: another process is writing here; wait for it, or give each its --shard") from None
