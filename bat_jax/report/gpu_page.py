"""What experiments.benchmark_7b measured on a device, as one page (docs/gpu.md)."""

from collections.abc import Mapping
from typing import Any

from bat_jax.report.markdown import table_lines
from bat_jax.runs import package_versions

Entry = Mapping[str, Any]
_STAGE_COLUMNS = ("calls", "run_s", "floor_s", "ratio", "tflop", "tflop_per_s", "peak_gb")


def page(record: Entry) -> str:
    """Return the page of a record that the benchmark wrote; steps that failed or were not reached are named."""
    steps = record["steps"]
    failed = {name: entry["failed"] for name, entry in steps.items() if "failed" in entry}
    good = {name: entry for name, entry in steps.items() if "failed" not in entry}
    lines = ["# UHR-BAT on a device", "", *_introduction(record)]
    if "machine" in good:
        lines += ["", "## The machine", "", *_machine(good["machine"])]
    if "questions" in good:
        lines += ["", "## Questions", "", *_questions(good)]
    if "int8 weights" in good:
        lines += ["", "## int8 weights", "", *_int8(good)]
    if "stages" in good:
        lines += ["", "## Stages", "", *_stages(good["stages"])]
    for name, entry in good.items():
        if "choices" in entry:
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", *_choices(entry)]
    missing = [f"{name}: {why}" for name, why in failed.items()]
    missing += [f"the run was stopped {record['stopped']}"] if "stopped" in record else []
    if missing:
        lines += ["", "## Not measured", "", *(f"- {item}" for item in missing)]
    return "\n".join(lines) + "\n"


def _introduction(record: Entry) -> list[str]:
    flags = f"XLA_FLAGS={record['xla_flags']} " if record["xla_flags"] else ""
    return [
        f"Measured on {record['date'][:10]} with random weights ({record['model']}) on {record['device']}, "
        f"{package_versions(record)}, seed {record['seed']}, one run of {record['seconds']:.0f} s, a picture of "
        f"{record['image_px']} x {record['image_px']} pixels:",
        "",
        "```",
        f"{flags}{record['command']}",
        "```",
        "",
        "Seconds are medians of warm runs, compiling apart. A floor is what a stage's operations or bytes take at the "
        "rates measured here, whichever takes longer; a ratio is the time over its floor. What was expected of each "
        "change stands in [predictions.md](predictions.md).",
    ]


def _machine(entry: Entry) -> list[str]:
    rows = [
        ("products in the model's dtype", f"{entry['product_flops'] / 1e12:.4g} TFLOP/s"),
        ("products in float32", f"{entry['float32_flops'] / 1e12:.4g} TFLOP/s"),
        ("copying (read and written)", f"{entry['bytes_per_s'] / 1e9:.4g} GB/s"),
        ("uploading the picture", f"{entry['upload_s']:.4g} s for {entry['uploaded_gb']:.3g} GB"),
    ]
    return table_lines(("what", "measured"), rows)


def _questions(good: Mapping[str, Entry]) -> list[str]:
    found, rows = good["questions"], []
    for name, title in (("first", "a first question on a picture"), ("further", "each further one")):
        cells = (found[f"{name}_s"], found[f"{name}_floor_s"], found[f"{name}_ratio"])
        rows.append((title, *(f"{value:.4g}" for value in cells)))
    for name, entry in good.items():
        if name.endswith("kept tokens"):
            cells = (entry["further_s"], entry["floor_s"], entry["further_s"] / entry["floor_s"])
            rows.append((f"a further one, {name}", *(f"{value:.4g}" for value in cells)))
    lines = table_lines(("", "seconds", "floor", "ratio"), rows)
    if "first question, compiling" in good:
        lines += ["", f"Compiling took {good['first question, compiling']['compile_s']:.3g} s, once a process."]
    peak = found.get("peak_gb")
    held = "is not counted by this device" if peak is None else f"had reached {peak:.4g} GB"
    return [*lines, "", f"Memory {held}; the model's sum is {found['memory_model_gb']['sum']:.4g} GB (docs/cost.md)."]


def _int8(good: Mapping[str, Entry]) -> list[str]:
    found, rows = good["int8 weights"], []
    as_stored = {**good.get("weights", {}), **good.get("questions", {})}
    if "decoding" in good:
        as_stored["token_loop"] = good["decoding"]["choices"]["default"]
    for name, entry in (("as stored", as_stored), ("int8", found)):
        loop = entry.get("token_loop", {})
        cells = [entry.get(key) for key in ("weights_gb", "compiled_peak_gb")]
        cells += [entry.get(f"{part}_{what}") for part in ("first", "further") for what in ("s", "ratio")]
        cells += [loop.get(key) for key in ("token_s", "floor_s", "ratio")]
        rows.append((name, *("" if cell is None else f"{cell:.4g}" for cell in cells)))
    columns = ("weights, GB", "peak, GB", "first question, s", "ratio", "further one, s", "ratio")
    return [
        *table_lines(("decoder's matrices", *columns, "token, s", "floor", "ratio"), rows),
        "",
        "The peak is what the weights take, a scene, and the larger program's temporaries and outputs as compiled. A "
        f"token's floor counts int8 bytes. Compiling took {found['compile_s']:.3g} s.",
    ]


def _stages(entry: Entry) -> list[str]:
    rows = []
    for row in entry["stages"]:
        cells = (row.get(column) for column in _STAGE_COLUMNS)
        rows.append((row["stage"], *("" if cell is None else f"{cell:.4g}" for cell in cells)))
    return table_lines(("stage", *_STAGE_COLUMNS), rows)


def _choices(entry: Entry) -> list[str]:
    columns = list(dict.fromkeys(key for found in entry["choices"].values() for key in found if key != "failed"))
    rows = []
    for name, found in entry["choices"].items():
        if "failed" in found:
            rows.append((name, f"failed: {found['failed']}", *[""] * (len(columns) - 1)))
        else:
            rows.append((name, *(f"{found[column]:.4g}" for column in columns)))
    taken = ["", f"Taken: {entry['taken']}."] if "taken" in entry else []
    return [*table_lines(("", *columns), rows), *taken]
