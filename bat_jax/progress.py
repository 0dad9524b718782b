"""How far a long command is: tqdm's bar on a terminal; in a pipe or a file, a line at least every minute.

study: 120 of 4932 answers (2 %), 01:00 so far, about 40:05 left
"""

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

SAY_EVERY_S = 60.0


class Progress(tqdm):
    """A tqdm that speaks to a pipe or a file in lines; its arguments are tqdm's.

    A short command stays silent there: the first line comes after a minute, and one at the end if any came before.
    """

    def __init__(
        self, iterable: Iterable[Any] | None = None, *, wait: Callable[[float], bool] | None = None, **options: Any
    ):
        """Begin.

        Args:
          wait: waits so many seconds, and returns whether it was told to stop meanwhile; by default a clock's.
        """
        file = options.setdefault("file", sys.stderr)
        self._is_bar = bool(getattr(file, "isatty", lambda: False)())
        self._has_said = False
        self._stop = threading.Event()
        super().__init__(iterable, **options)
        if not self.disable and not self._is_bar:
            # A thread, since a single step may take longer than a minute.
            threading.Thread(target=self._speak, args=(wait or self._stop.wait,), daemon=True).start()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, on a terminal."""
        if self._is_bar:
            super().display(msg, pos)

    def close(self) -> None:
        """End, with a last line where there were others; again is nothing."""
        if not self.disable and not self._is_bar:
            self._stop.set()
            if self._has_said:
                self._say()
            self.fp = io.StringIO()  # tqdm ends a bar with signs of a terminal
        super().close()

    def _speak(self, wait: Callable[[float], bool]) -> None:
        while not wait(SAY_EVERY_S):
            self._has_said = True
            self._say()

    def _say(self) -> None:
        print(self.line(), file=self.fp, flush=True)

    def line(self) -> str:
        """Return what is done, of how much, since when, and how long the rest will take at this pace."""
        facts = self.format_dict
        done, total, elapsed = facts["n"], facts["total"], facts["elapsed"]
        size = (lambda number: tqdm.format_sizeof(number)) if facts["unit_scale"] else str
        unit = facts["unit"] if facts["unit_scale"] else f" {facts['unit']}s"
        share = f" of {size(total)}{unit} ({done / total:.0%})" if total else unit
        pace = (done - facts["initial"]) / elapsed if elapsed else 0.0
        left = f"about {tqdm.format_interval((total - done) / pace)} left" if total and pace else "no estimate yet"
        so_far = f"{tqdm.format_interval(elapsed)} so far"
        head = f"{facts['prefix'].removesuffix(': ')}: " if facts["prefix"] else ""
        return ", ".join(part for part in (f"{head}{size(done)}{share}", so_far, left, facts["postfix"]) if part)
