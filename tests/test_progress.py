"""A long command speaks at least every minute where its output is a pipe or a file, and stays a bar on a terminal."""

import ast
import io
import pathlib
import queue
import threading

import pytest

from bat_jax.progress import SAY_EVERY_S, Progress

ROOT = pathlib.Path(__file__).parents[1]


class Clock:
    """Seconds that pass when the test says so: `wait` is told of them, and returns when a minute of them is over."""

    def __init__(self):
        self.now, self._over, self._idle = 0.0, queue.Queue(), threading.Event()

    def wait(self, seconds):
        assert seconds == SAY_EVERY_S == 60
        self._idle.set()
        return self._over.get(timeout=30)

    def pass_minute(self, stop=False):
        self._idle.wait(30)
        self._idle.clear()
        self.now += 60
        self._over.put(stop)
        if not stop:
            self._idle.wait(30)


@pytest.fixture
def clock():
    return Clock()


def begin(clock, file, **options):
    bar = Progress(file=file, wait=clock.wait, **options)
    bar._time = lambda: clock.now
    bar.start_t = 0.0
    return bar


def test_a_file_gets_a_line_a_minute_with_what_is_done_of_how_much_and_what_is_left(clock):
    file = io.StringIO()
    bar = begin(clock, file, total=30, unit="answer", desc="study")
    clock.pass_minute()
    bar.update(10)
    clock.pass_minute()
    clock.pass_minute()
    bar.set_postfix_str("50.0% right")
    bar.update(20)
    clock.pass_minute(stop=True)
    bar.close()
    bar.close()
    assert file.getvalue().splitlines() == [
        "study: 0 of 30 answers (0%), 01:00 so far, no estimate yet",
        "study: 10 of 30 answers (33%), 02:00 so far, about 04:00 left",
        "study: 10 of 30 answers (33%), 03:00 so far, about 06:00 left",
        "study: 30 of 30 answers (100%), 04:00 so far, about 00:00 left, 50.0% right",
    ]


def test_what_was_done_by_an_earlier_run_does_not_count_as_pace(clock):
    file = io.StringIO()
    bar = begin(clock, file, total=100, initial=90, unit="step")
    bar.update(2)
    clock.pass_minute()
    clock.pass_minute(stop=True)
    assert file.getvalue() == "92 of 100 steps (92%), 01:00 so far, about 04:00 left\n"


def test_bytes_have_units_and_an_unknown_total_no_estimate(clock):
    file = io.StringIO()
    bar = begin(clock, file, total=15e9, unit="B", unit_scale=True, desc="writing")
    bar.update(5e9)
    clock.pass_minute()
    bar.total = None
    clock.pass_minute()
    clock.pass_minute(stop=True)
    assert file.getvalue().splitlines() == [
        "writing: 5.00G of 15.0GB (33%), 01:00 so far, about 02:00 left",
        "writing: 5.00GB, 02:00 so far, no estimate yet",
    ]


def test_a_short_command_says_nothing_and_a_loop_gives_what_it_was_given(capfd):
    file = io.StringIO()
    assert list(Progress(range(5), file=file)) == [0, 1, 2, 3, 4] and file.getvalue() == ""
    assert list(Progress(range(5))) == [0, 1, 2, 3, 4]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_has_the_bar_and_no_lines(clock):
    file = io.StringIO()
    file.isatty = lambda: True
    with Progress(total=4, file=file, unit="scene", wait=clock.wait, mininterval=0) as bar:
        bar.update(2)
    assert "2/4" in file.getvalue() and " of " not in file.getvalue()


def test_disabled_progress_starts_no_thread(clock):
    before = threading.active_count()
    with Progress(total=4, file=io.StringIO(), wait=clock.wait, disable=True):
        assert threading.active_count() == before


def test_no_command_and_no_part_goes_round_it():
    """tqdm's own bars write nothing to a pipe, or signs of a terminal; no bar depends on a terminal being there."""
    for path in [*(ROOT / "bat_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        if path.name == "progress.py":
            continue
        source = path.read_text(encoding="utf-8")
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
        assert not calls & {"tqdm", "trange", "tqdm.tqdm"} and "isatty" not in source, path
