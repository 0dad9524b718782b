"""The log of the test split: which checkpoint was asked when, and what came out. It only ever grows.

    {"event": "begun", "date", "weights", "checkpoint"}               before the first question
    {"event": "finished", "date", "weights", "checkpoint", ...}       with numbers, once all is answered and written

`weights` and `checkpoint` are fingerprints (`weights_digest`, `checkpoint_digest`); the first decides, since a config
is written anew when its fields change. Both lines have the date of the run's first start.
"""

import json
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from bat_jax.io.output_files import write_text
from bat_jax.study.measured.comparison import Records
from bat_jax.study.measured.coverage import UHR_BAT
from bat_jax.study.measured.study_results import Results


def read(log: pathlib.Path) -> list[dict[str, Any]]:
    """Return the lines of a log, none where there is no file."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def check_unasked(log: pathlib.Path, weights: str, begun: str = "") -> None:
    """Refuse weights that were asked before, unless the run that asks them goes on.

    Args:
      weights: their fingerprint. begun: date of the first start of the run that is there, if one is.

    Raises:
      ValueError: the log has them as finished, or as begun in a run that is not this one.
    """
    for line in read(log):
        if line["weights"] != weights or (line["event"] == "begun" and line["date"] == begun):
            continue
        raise ValueError(
            f"{log}: the test split is asked once per released checkpoint, and one with weights "
            f"{weights[:12]} was asked on {line['date'][:10]}"
        )


def append(log: pathlib.Path, event: str, date: str, weights: str, **numbers: Any) -> None:
    """Add a line; "begun" is not written twice for the same run."""
    line: Mapping[str, Any] = {"event": event, "date": date, "weights": weights, **numbers}
    before = read(log)
    if line not in before:
        log.parent.mkdir(parents=True, exist_ok=True)
        write_text(log, "".join(json.dumps(one) + "\n" for one in [*before, line]))


def accuracy(results: Results) -> dict[str, dict[str, Any]]:
    """Return what the checkpoint's own settings got right, in percent beside chance, by budget.

    "own" is its own budget; others are totals of the paper's, as figure 1 has them.
    """

    def of(budgets: tuple[int, ...], records: Records) -> dict[str, Any]:
        right = statistics.fmean(bool(record["is_right"]) for record in records.values())
        chance = statistics.fmean(results.chance[id] for id in records)
        found = {"right": round(100 * right, 2), "chance": round(100 * chance, 2)}
        return {"tokens": sum(budgets), "questions": len(records), **found}

    budgets = {
        cell.column: of(cell.budgets, records)
        for cell, records in results.series("selections", "figure1")
        if cell.name == UHR_BAT
    }
    return {"own": of(results.cfg.compressor.budgets, results.own())} | budgets
