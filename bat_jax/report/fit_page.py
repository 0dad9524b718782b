"""What experiments.fit found: a table of stages for the terminal, and docs/fit.md over many devices."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bat_jax.report.markdown import table_lines
from bat_jax.runs import package_versions

Entry = Mapping[str, Any]
_COLUMNS = ("arguments_gb", "outputs_gb", "temporaries_gb", "held_gb", "peak_gb", "tflop", "moved_gb", "least_s")
# Of the state that was measured last; a run of another state belongs here with its own compiled peak.
_MEASURED = (
    "The last run on a device ([docs/gpu.md](gpu.md), one H200, 2026-11-28, 3,000 kept tokens) peaked at 20.62 GB, in "
    "K-means of the largest view. The programs of that day, compiled in the same way, have their peak in the same "
    "stage, at 20.69 GB, of which 0.08 are views on the device, which that run made on the host: 20.61 against 20.62. "
    "K-means has been rewritten since and holds no float32 rows; the peaks above are of the programs as they are now, "
    "which have not been measured."
)
_LIMITS = {
    "kept": "kept tokens",
    "tiles": "tiles at once on a device",
    "picture": "pixels a side of the largest view",
    "questions": "questions at once",
}
_APART = (
    "Each stage compiled by itself (`--stages_apart`), as `BatModel(stages_apart=True)` runs them: sizes of the call "
    "with the highest peak, operations, bytes and seconds of all calls together, where the cost model counts them. The "
    "peaks are not those of the programs above: between stages all views' features and all results stand in memory, "
    "and within a program XLA lets go of what nothing reads any more."
)


def stage_lines(entry: Entry) -> list[str]:
    """Return a table of an answer's stages, and what else it says, as lines of plain text."""
    lines = [f"  {'stage':<18}{'calls':>6}" + "".join(f"{name:>15}" for name in _COLUMNS)]
    for row in entry["stages"]:
        cells = "".join(f"{'' if row.get(name) is None else format(row[name], '.4g'):>15}" for name in _COLUMNS)
        lines.append(f"  {row['stage']:<18}{row['calls']:>6}{cells}")
    lines.append(f"  weights {entry['weights_gb']:.2f} GB a device")
    if "least" in entry:
        least = entry["least"]
        lines.append(
            f"  at least {_ms(least['first_question_s'])} ms for the first question, "
            f"{_ms(least['further_question_s'])} ms for a further one, {_ms(least['token_s'])} ms a token"
        )
    for name, limit in entry.get("most", {}).items():
        lines.append(f"  fits with up to {limit['number']:,} {_LIMITS[name]}, {_tried(limit)}")
    return lines


def page(entries: Sequence[Entry]) -> str:
    """Return docs/fit.md: answering and training on all devices, one's programs and stages, and measured peaks."""
    training = [entry for entry in entries if "train" in entry]
    one = [entry for entry in entries if "train" not in entry and entry["questions_at_once"] == 1]
    answering = [entry for entry in one if not _way(entry)]
    apart = [entry for entry in one if entry["stages_apart"] and not entry["layers"]]
    many = [entry for entry in entries if "train" not in entry and entry["questions_at_once"] > 1]
    lines = ["# Will it fit, what will it cost", "", *_introduction(entries)]
    if answering or apart:
        in_one = {_place(entry) for entry in answering}
        others = [entry for entry in apart if _place(entry) not in in_one]
        lines += ["", "## Answering", "", *_answering([*answering, *others])]
        searched = [entry for entry in one if "picture" in entry["most"]]
        if searched:
            lines += ["", "## The largest picture", "", *_pictures(searched)]
    if many:
        places = {_place(entry) for entry in many}
        alone = [entry for entry in answering if _place(entry) in places]
        lines += ["", "## Questions at once", "", *_questions([*alone, *many])]
    if answering:
        lines += ["", "## Programs of one device", "", *_stages(answering[0])]
    if apart:
        lines += ["", "## Stages", "", _APART]
        for entry in apart:
            lines += ["", *_stages(entry)]
    if training:
        lines += ["", "## Training", "", *_training(training)]
    lines += ["", "## Compiled and measured", "", _MEASURED]
    return "\n".join(lines) + "\n"


def _introduction(entries: Sequence[Entry]) -> list[str]:
    runs = sorted({f"{entry['run']['date'][:10]}, {package_versions(entry['run'])}" for entry in entries})
    return [
        "**Compiled by XLA for devices that were not there, nothing measured**, by `python -m experiments.fit` "
        f"({'; '.join(runs)}). The compiler is all that is needed: `pip install 'bat_jax[fit]'` for GPUs, "
        "`pip install 'bat_jax[fit-tpu]'` for TPUs, best in an environment of its own, because JAX remarks on a plugin "
        "without its driver in every command (`JAX_PLATFORMS=cpu` shortens the remark). Every command can write a page "
        "like this one (`--write_docs=FILE`), and of answers that earlier ones wrote with `--output` (`--join=FILES`).",
        "",
        "```",
        "python -m experiments.fit --config=7b --device=a6000",
        "python -m experiments.fit --config=7b --device=h100 --mesh=data=2,model=4 --budgets=180,1320,1600,8000",
        "python -m experiments.fit --config=7b --device=h200 --stages_apart",
        "python -m experiments.fit --config=7b --device=h100 --search=kept,tiles,picture",
        "python -m experiments.fit --config=7b --device=h100 --mesh=data=2 --stages_apart --layers=2 --search=picture",
        "python -m experiments.fit --config=7b --device=rtx4090 --questions_at_once=1,8,16 --search=questions",
        "python -m experiments.fit --config=7b --device=a6000 --train=release_7b --train=accumulation=16",
        "```",
        "",
        "The programs of `BatModel` (views, an image, a question) are compiled for the device, and each one's outputs "
        "and temporaries are added to what is held at that moment (weights, the scene). The peak is the highest sum. "
        "Attention is counted in its plain form; a fused one, where the device has it, needs less. Of a card's memory "
        "1 GiB is taken off for the driver and libraries (half of it on a TPU), which is assumed; JAX itself takes "
        "75 % of a GPU's memory unless `XLA_PYTHON_CLIENT_MEM_FRACTION` says otherwise, and an answer above that says "
        "so. Fragmentation is not counted.",
        "",
        "Seconds are the least that a stage can take: its operations over the data sheet's rate for dense products "
        "(K-means and merging: float32's or a third of bfloat16's), or its bytes over the memory's bandwidth, "
        "whichever is longer. Nothing reaches that; [docs/gpu.md](gpu.md) says what was measured. Several devices are "
        "assumed to share evenly what they share, and to talk for nothing.",
        "",
        "A mesh is that of `experiments.answer --mesh=data=D,model=M` and of `experiments.evaluate`: `model` devices "
        "share the decoder, attention by heads, the MLP by its rows, the head by tokens, the embedding by its width; "
        "eight take the 7B's four key-value heads in pairs. A decoder layer then has two all-reduces, behind `o_proj` "
        "and behind `down_proj`, in the prompt and in the token loop, and no other (read from the compiled programs by "
        "`tests/engine/test_compiled_for_gpus.py`); beside them the row that is looked up and the logits are gathered. "
        "All devices share a picture's tiles and the rows of a scene's tokens, in K-means and in merging, too: what a "
        "picture takes shrinks with their number, but for the picture itself, its views and one batch of tiles, which "
        "each holds whole, as it does the tower. A scale whose tokens the devices do not divide is whole on each. "
        "Training cuts the decoder by the same rules, and batch and optimiser over `data`, as its recipe says.",
    ]


def _tried(limit: Mapping[str, Any]) -> str:
    """Return what a limit rests on, in words."""
    if limit["is_all"]:
        return "all there can be"
    tried = ", ".join(f"{trial['number']:,} {trial['peak_gb']:.1f} GB" for trial in limit["compiled"])
    return f"of those compiled ({tried})"


def _answering(entries: Sequence[Entry]) -> list[str]:
    sizes = ("device", "mesh", "GB usable", "weights", "peak GB", "in", "fits", "spare", "most kept", "most tiles")
    head = (*sizes, "first question, ms", "further", "a token")
    rows = []
    for entry in entries:
        least = entry["least"]
        rows.append(
            (
                entry["title"],
                _mesh(entry),
                f"{entry['usable_gb']:.1f}",
                f"{entry['weights_gb']:.1f}{'' if entry['weights'] == 'stored' else ' ' + entry['weights']}",
                f"{entry['peak_gb']:.1f}",
                entry["peak_stage"].replace("_", " ") + _way(entry),
                "yes" if entry["fits"] else "**no**",
                f"{entry['spare_gb']:.1f}",
                *(_most(entry, name) for name in ("kept", "tiles")),
                *(_ms(least[key]) for key in ("first_question_s", "further_question_s", "token_s")),
            )
        )
    first = entries[0]
    text = first["text"]
    lines = [
        f"{first['config']}, {first['kept_tokens']:,} kept tokens ({'/'.join(map(str, first['budgets']))}), a picture "
        f"of {first['image_px']} x {first['image_px']} pixels, {first['tile_batch']} tiles at once "
        f"(and no more on each of several devices), "
        f"{text['prefix'] + text['question']} text tokens, {text['answer']} of answer; GB a device (10^9 bytes). Most "
        "kept tokens, and most tiles at once on a device, each with all else as it is: the highest number that was "
        "compiled and fits, where by a straight line through its neighbours less than 5 % more would; `all` is as many "
        "as the decoder has positions for, or all that the views have; blank where none was searched.",
        "",
        *table_lines(head, rows),
    ]
    shared = [f"{e['title']} from {e['compiled_for']}" for e in entries if e["compiled_for"] != e["device"]]
    if shared:
        lines += ["", f"Compiled once for an architecture, only memory and rates are their own: {', '.join(shared)}."]
    return lines


def _most(entry: Entry, name: str) -> str:
    limit = entry["most"].get(name)
    return "" if limit is None else f"{limit['number']:,}{' (all)' if limit['is_all'] else ''}"


def _end_of_line(entry: Entry, trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> int:
    """Return the tokens at which a straight line through two peaks meets what is usable."""
    place = trials.index(best)
    weights = {"num_tokens": 0, "peak_gb": entry["weights_gb"]}
    (other,) = trials[place + 1 : place + 2] or trials[:place][-1:] or [weights]
    grown = (best["peak_gb"] - other["peak_gb"]) / (best["num_tokens"] - other["num_tokens"])
    return int(best["num_tokens"] + (entry["usable_gb"] - best["peak_gb"]) / grown)


def _pictures(entries: Sequence[Entry]) -> list[str]:
    head = (
        "device",
        "mesh",
        "largest view, px",
        "tiles",
        "tokens",
        "peak GB",
        "in",
        "GB usable",
        "compiled for this",
        "end of the line",
    )
    rows, sentences = [], []
    for entry in entries:
        limit = entry["most"]["picture"]
        trials = sorted(limit["compiled"], key=lambda trial: trial["number"])
        best = next(trial for trial in trials if trial["number"] == limit["number"])
        side = f"{best['number']:,} x {best['number']:,}"
        counts = [f"{best[key]:,}" for key in ("num_tiles", "num_tokens")]
        peak = (f"{best['peak_gb']:.1f}", best["peak_stage"].replace("_", " "), f"{entry['usable_gb']:.1f}")
        tried = ", ".join(f"{trial['num_tokens']:,}: {trial['peak_gb']:.1f} GB" for trial in trials)
        way = _mesh(entry) + _way(entry)
        rows.append((entry["title"], way, side, *counts, *peak, tried, f"{_end_of_line(entry, trials, best):,}"))
        devices = math.prod(entry["mesh"].values())
        sentences.append(
            f"- {devices} x {entry['title']}, {way}: {side} pixels in {counts[0]} tiles, {counts[1]} tokens of all "
            "views."
        )
    first = entries[0]
    return [
        "How large a picture may be for the scene that is made of it: the largest view grows in steps of as many tiles "
        "as the devices share evenly, the picture is at least as large as that view, and all else stays (the other "
        f"views, {first['kept_tokens']:,} kept tokens, regions, tiles at once). The paper's four views have 131,328 "
        "tokens. It needs a setting without a scale embedding on the tokens (the release's), as a checkpoint's "
        "embedding knows its own views alone. A row says the largest picture that was compiled and fits. Nothing "
        "between the numbers under `compiled for this` (tokens of all views: peak) was compiled; the end of the line "
        "is where a straight one, through the largest that fits and its neighbour or the weights alone, meets what is "
        "usable. Searches that do not begin with 131,328 tokens were begun near their end (`--image_px=SIDE "
        "--scales=672,1344,2688,SIDE --budgets=80,320,600,2000` and `--tile_batch` as it is for the paper's views). `N "
        "layers`: only so many layers of tower and decoder were compiled (`--layers=N`), none of "
        "which knows how large the picture is, and what all others hold, weights and key-value caches, was added; not "
        "what more of them need meanwhile. A picture on the host, and the time that it takes, are not looked at.",
        "",
        *sentences,
        "",
        *table_lines(head, rows),
    ]


def _questions(entries: Sequence[Entry]) -> list[str]:
    head = (
        "device",
        "mesh",
        "questions",
        "peak GB",
        "in",
        "GB usable",
        "fits",
        "spare",
        "outputs",
        "temporaries",
        "most",
    )
    rows = []
    for entry in sorted(entries, key=lambda entry: (*_place(entry), entry["questions_at_once"])):
        (stage,) = [row for row in entry["stages"] if row["stage"] in ("question", "questions")]
        numbers = [f"{entry[key]:.1f}" for key in ("peak_gb", "usable_gb", "spare_gb")]
        sizes = [f"{stage[name]:.2f}" for name in ("outputs_gb", "temporaries_gb")]
        limit = entry["most"].get("questions")
        most = "" if limit is None else f"{limit['number']:,} ({_tried(limit)})"
        verdict = "yes" if entry["fits"] else "**no**"
        in_stage = entry["peak_stage"].replace("_", " ")
        count = str(entry["questions_at_once"])
        place = entry["title"], _mesh(entry), count
        rows.append((*place, numbers[0], in_stage, numbers[1], verdict, numbers[2], *sizes, most))
    return [
        "Several questions about one picture in one program (`scene.ask_many`, `--questions_at_once` of "
        "`experiments.evaluate`): each has a prompt, kept tokens and a key-value cache of its own, the scene is there "
        "once. Outputs and temporaries are that program's; `most` is the highest number that was compiled and fits, "
        "where by a straight line less than 5 % more would.",
        "",
        *table_lines(head, rows),
    ]


def _stages(entry: Entry) -> list[str]:
    head = (
        "stage",
        "calls",
        "arguments",
        "outputs",
        "temporaries",
        "held before",
        "peak",
        "TFLOP",
        "GB moved",
        "least ms",
    )
    rows = []
    for row in entry["stages"]:
        sizes = [f"{row[name]:.2f}" for name in _COLUMNS[:5]]
        work = [f"{row[name]:.2f}" if name in row else "" for name in ("tflop", "moved_gb")]
        least = _ms(row["least_s"]) if "least_s" in row else ""
        rows.append((row["stage"].replace("_", " "), str(row["calls"]), *sizes, *work, least))
    return [
        f"{entry['title']}, {_mesh(entry)}; GB; operations and bytes of [docs/cost.md](cost.md).",
        "",
        *table_lines(head, rows),
    ]


def _training(entries: Sequence[Entry]) -> list[str]:
    head = (
        "device",
        "mesh",
        "batch",
        "in parts",
        "sharding",
        "moments and weights",
        "GB usable",
        "peak GB",
        "fits",
        "spare",
    )
    rows = []
    for entry in entries:
        recipe = entry["train"]
        kept = "float32 master weights" if recipe["master_weights"] else "the checkpoint's dtype"
        numbers = [f"{entry[key]:.1f}" for key in ("usable_gb", "peak_gb")]
        verdict = "yes" if entry["fits"] else "**no**"
        counts = [str(recipe[key]) for key in ("batch_size", "accumulation", "sharding")]
        rows.append((entry["title"], _mesh(entry), *counts, kept, *numbers, verdict, f"{entry['spare_gb']:.1f}"))
    return [
        "One step of AdamW (float32 moments) over tower features, projector and the whole decoder, activations "
        "recomputed layer by layer. The paper claims training on one 48 GB card (App. A); the memory model of "
        "weights, gradients and moments alone is in [docs/cost.md](cost.md).",
        "",
        *table_lines(head, rows),
    ]


def _place(entry: Entry) -> tuple[str, str, str]:
    """Return where an answer's model is held, and how."""
    return entry["device"], _mesh(entry), entry["weights"]


def _way(entry: Entry) -> str:
    """Return how an answer was compiled, unless whole as one program an image and one a question."""
    apart = ", stages apart" if entry["stages_apart"] else ""
    return apart + (f", {entry['layers']} layers" if entry["layers"] else "")


def _mesh(entry: Entry) -> str:
    sizes = entry["mesh"]
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "1"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"
