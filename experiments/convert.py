"""Convert a Hugging Face checkpoint (LongVA-7B or UHR-BAT) for bat_jax, or a bat_jax folder back.

    python -m experiments.convert --source=RL-MIND/UHR-BAT --output=checkpoints/uhr_bat_7b
    python -m experiments.convert --source=DIR --vision_tower=openai/clip-vit-large-patch14-336 --output=DIR
    python -m experiments.convert --source=checkpoints/uhr_bat_7b --output=DIR --to_hf

A source is a folder, or ORG/NAME on the Hugging Face hub; --vision_tower is for one that holds no tower.
Sizes come from config.json. The command ends with a check: every tensor is read back and compared with the source.
"""

import pathlib
import re
import threading
import time

from absl import flags

from bat_jax.io import convert as conversion
from bat_jax.progress import Progress
from . import cli

FLAGS = flags.FLAGS
_SOURCE = flags.DEFINE_string("source", None, "Folder, or ORG/NAME on the Hugging Face hub.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
_VISION_TOWER = flags.DEFINE_string(
    "vision_tower", None, "CLIP folder or hub id: its config.json, and its weights where the source holds none."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, sorted(conversion.DTYPES), "Store all weights in this dtype; default: as the source has them."
)
_TO_HF = flags.DEFINE_bool("to_hf", False, "Write a bat_jax folder back as Hugging Face safetensors.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier conversion at --output.")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# No pickled weights (*.bin, *.pt): they are never loaded, so they need not be fetched.
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.jinja"]


class AnonymousMemory:
    """Samples a process's anonymous memory (RssAnon: without memory-mapped files) while the context is open; Linux.

    Attributes:
      peak_bytes: the largest value seen; 0 where it cannot be measured.
    """

    def __init__(self, pid: int | str = "self", interval_s: float = 0.02):
        self.peak_bytes = 0
        self._status = pathlib.Path(f"/proc/{pid}/status")
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                match = re.search(r"RssAnon:\s+(\d+) kB", self._status.read_text())
            except OSError:  # no /proc, or the process has ended
                return
            if match:
                self.peak_bytes = max(self.peak_bytes, int(match[1]) * 1024)


def fetch(name: str, flag: str) -> pathlib.Path:
    """Return the folder of a name: itself if it exists, else a download from the Hugging Face hub.

    Raises:
      FileNotFoundError: no such folder, and no hub id or no connection.
    """
    path = pathlib.Path(name)
    if path.exists() or not _HUB_ID.fullmatch(name):
        if not path.is_dir():
            raise FileNotFoundError(f"--{flag}={name}: no such folder")
        return path
    import huggingface_hub  # heavy, and only this branch needs it

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_PATTERNS))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"--{flag}={name}: no such folder, and it cannot be fetched from the Hugging Face hub ({reason})"
        ) from None


def _print_report(report: conversion.ConversionReport, seconds: float, peak_bytes: int) -> None:
    print(f"{'part':<18}{'parameters':>16}{'bytes':>18}")
    for part, (num_params, num_bytes) in report.parts.items():
        print(f"{part:<18}{num_params:>16,}{num_bytes:>18,}")
    num_params, num_bytes = (sum(column) for column in zip(*report.parts.values(), strict=True))
    print(f"{'all':<18}{num_params:>16,}{num_bytes:>18,}")
    print(f"absent, so off:    {', '.join(report.absent) or 'nothing'}")
    for note in report.notes:
        print(f"note:              {note}")
    exactness = "bit for bit" if report.max_abs_error == 0 else f"max abs error {report.max_abs_error:.3e}"
    print(f"check:             {report.num_checked} tensors read back, {exactness}")
    peak = f"{peak_bytes / 1e9:.2f} GB at most" if peak_bytes else "not measured on this system"
    print(f"anonymous memory:  {peak}")
    print(f"time:              {seconds:.1f} s")


def main(argv: list[str]) -> None:
    del argv
    if _TO_HF.value and (_DTYPE.value or _VISION_TOWER.value):
        raise ValueError("--to_hf writes back what is stored; leave --dtype and --vision_tower out")
    start = time.perf_counter()
    with AnonymousMemory() as memory, Progress(unit="B", unit_scale=True) as bar:

        def progress(purpose: str, done: int, total: int) -> None:
            if bar.desc != f"{purpose}: ":
                bar.reset(total)
                bar.set_description(purpose, refresh=False)
            bar.n = done
            bar.refresh()

        if _TO_HF.value:
            report = conversion.convert_back(
                _SOURCE.value, _OUTPUT.value, overwrite=_OVERWRITE.value, progress=progress
            )
        else:
            source = fetch(_SOURCE.value, "source")
            tower = fetch(_VISION_TOWER.value, "vision_tower") if _VISION_TOWER.value else None
            report = conversion.convert(
                source, _OUTPUT.value, tower, _DTYPE.value, overwrite=_OVERWRITE.value, progress=progress
            )
    _print_report(report, time.perf_counter() - start, memory.peak_bytes)


if __name__ == "__main__":
    # Here and not above: the benchmark imports this file.
    flags.mark_flags_as_required(["source", "output"])
    cli.run(main)
