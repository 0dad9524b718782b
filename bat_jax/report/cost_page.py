"""What UHR-BAT-7B costs, computed from its config, beside the paper's Table 4 and its memory claims: docs/cost.md."""

import itertools
from collections.abc import Iterable, Sequence

from bat_jax.config import PAPER_BUDGETS, BatConfig
from bat_jax.engine import cost
from bat_jax.report.markdown import table_lines
from bat_jax.study.paper.published import TABLE_4, TABLES
from bat_jax.study.paper.statements import KEPT, line_fit

NO_TEXT = cost.Text(prefix=0, question=0, answer=0)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; floats get one decimal."""
    return table_lines(head, [[f"{c:.1f}" if isinstance(c, float) else str(c) for c in row] for row in rows])


def _table_4(cfg: BatConfig, text: cost.Text) -> list[str]:
    """Return Table 4 as published, the release's path and ours."""
    rows = []
    image = {kind: cost.tflops(cost.image_half(cfg, text, kind)) for kind in ("none", "computed")}
    for name, kept in KEPT.items():
        release = [cost.tflops(cost.release_path(cfg, kept, text, kind)) for kind in ("none", "all")]
        ours = [image[kind] + cost.tflops(cost.question_half(cfg, kept, text, kind)) for kind in ("none", "computed")]
        second = cost.tflops(cost.question_half(cfg, kept, text))
        rows.append((name, f"{TABLE_4.value(name, 'TFLOPs'):.2f}", *map(float, (*release, *ours, second))))
    head = ("kept", "published", "release, no attention", "release", "ours, no attention", "ours", "ours, 2nd question")
    return _table(head, rows)


def _slope(cfg: BatConfig) -> list[str]:
    """Return what 1,000 kept tokens cost, part by part, beside Table 4's steps."""
    kept = 1000
    body = cost.decoder(cfg, kept, attention="none").flops
    parts = [
        ("decoder layers", body),
        ("+ logits of every row", cost.head(cfg, kept).flops),
        ("+ token MLP (in the release, not in the paper)", cost.token_mlp(cfg, kept).flops),
    ]
    rows, total = [], 0.0
    for name, flops in parts:
        total += flops
        rows.append((name, f"{flops / cost.TERA:.2f}", f"{total / cost.TERA:.2f}"))
    names = list(KEPT)
    steps = []
    for first, second in itertools.pairwise(names):
        rise = TABLE_4.value(second, "TFLOPs") - TABLE_4.value(first, "TFLOPs")
        steps.append((f"{first} to {second}", f"{rise * 1000 / (KEPT[second] - KEPT[first]):.2f}"))
    attention = [
        cost.decoder(cfg, 12000, attention=kind).attention - cost.decoder(cfg, 5000, attention=kind).attention
        for kind in ("causal", "all")
    ]
    causal, every = (flops / cost.TERA / 7 for flops in attention)
    return [
        *_table(("TFLOPs per 1,000 kept tokens", "part", "sum"), rows),
        "",
        *_table(("step of Table 4", "TFLOPs per 1,000"), steps),
        "",
        f"Attention would add {causal:.2f} (causal) or {every:.2f} (all pairs) per 1,000 between 5k and 12k, rising "
        "with length. Table 4 shows no such rise, so its counter did not see attention, as counters miss what a fused "
        "kernel does. The decoder layers alone give 13.05, less than every step from 5k on; with the logits of every "
        "row and the release's token MLP the sum is 14.19, which three of those five steps are to the last digit. The "
        "other two are 0.06 and 0.11 off, as budgets filled a few rows short would make them. So the decoder explains "
        "the slope, if the logits of every row are part of it; the 4k row stands apart.",
    ]


def _intercept(cfg: BatConfig) -> list[str]:
    """Return what is left of Table 4 without kept tokens, beside the ways to encode an image."""
    per_token = cost.tflops(cost.release_path(cfg, 1000, NO_TEXT)) - cost.tflops(cost.release_path(cfg, 0, NO_TEXT))
    starts = {name: TABLE_4.value(name, "TFLOPs") - per_token * kept / 1000 for name, kept in KEPT.items()}
    others = [start for name, start in starts.items() if name != "4k"]
    published = sum(others) / len(others)
    rows = []
    ways: tuple[tuple[str, int, int, cost.Attention], ...] = (
        ("views twice, 24 layers, no attention", 2, 24, "none"),
        ("views twice, 23 layers, no attention", 2, 23, "none"),
        ("views once, 24 layers, no attention", 1, 24, "none"),
        ("views once, 23 layers, no attention", 1, 23, "none"),
        ("views twice, 24 layers, attention counted", 2, 24, "all"),
        ("views once, 24 layers, attention counted", 1, 24, "all"),
    )
    for label, encodings, layers, kind in ways:
        stages = cost.release_path(cfg, 0, NO_TEXT, kind, encodings, layers)
        found = cost.tflops(stages)
        rest = published - found
        rows.append((label, float(found), f"{rest:+.1f}", f"{1000 * rest / per_token / 2:.0f}"))
    stages = cost.release_path(cfg, 0, NO_TEXT)
    anchor = cost.num_tokens_of_anchor(cfg)
    maps = 4 * anchor**2 * cfg.decoder.num_heads * cfg.decoder.head_dim * cfg.decoder.num_layers / cost.TERA
    kmeans = cost.kmeans_step(cfg, cost.total_tokens(cfg), 600, "scatter").linear * 10 / cost.TERA
    once_more = published - cost.tflops(stages)
    fourth = (TABLE_4.value("4k", "TFLOPs") - published) / per_token
    parts = [(stage.name, float(stage.flops / cost.TERA)) for stage in stages if stage.flops]
    fit_all, fit = line_fit(TABLES), line_fit(TABLES, ("4k",))
    ends = (TABLE_4.value("12k", "TFLOPs") - TABLE_4.value("4k", "TFLOPs")) / 8
    return [
        f"Straight lines through Table 4: {fit_all[0]:.2f} per 1,000 + {fit_all[1]:.1f} with all seven rows, "
        f"{fit[0]:.2f} per 1,000 + {fit[1]:.1f} without the 4k row; the two end rows alone give "
        f"{ends:.2f} per 1,000 + {TABLE_4.value('4k', 'TFLOPs') - 4 * ends:.1f}. "
        f"With the slope of {per_token:.2f} each row leaves: "
        + ", ".join(f"{name} {start:.2f}" for name, start in starts.items())
        + f". All but 4k agree within {max(others) - min(others):.2f}; their mean is {published:.2f}. The 4k row has "
        f"{starts['4k'] - published:.1f} TFLOPs more than the others, as {fourth:.2f}k kept tokens would.",
        "",
        *_table(
            ("computed without text", "TFLOPs", "left of the published", "text rows a pass that would fill it"), rows
        ),
        "",
        "The parts of the first line: " + ", ".join(f"{name} {value:.1f}" for name, value in parts) + " TFLOPs.",
        "",
        "The last column divides what is left over the two decoder passes (anchor and answer). Only encoding every "
        "view twice leaves a length that a benchmark question with its options has; once leaves thousands of tokens, "
        "and counting all attention leaves less than nothing. So the double encoding explains the intercept: "
        f"{parts[0][1] + parts[1][1]:.1f} TFLOPs of {published:.1f} are the views, and half of that, "
        f"{(parts[0][1] + parts[1][1]) / 2:.1f}, is not needed.",
        "",
        "What stays open: the question's length in the paper's run is not published. The anchor pass must form its "
        f"attention maps; if its products were counted ({maps:.1f}), {1000 * (once_more - maps) / per_token / 2:.0f} "
        f"text rows a pass would be left instead of {1000 * once_more / per_token / 2:.0f}. Ten K-means steps at "
        f"k = 600 ({kmeans:.1f}) do not fit in: they were not counted, or another partition was timed.",
    ]


def _stages(cfg: BatConfig, kept: int, text: cost.Text) -> list[str]:
    """Return our stages at one budget: operations and bytes."""
    rows = []
    for half, some in (("image", cost.image_half(cfg, text)), ("question", cost.question_half(cfg, kept, text))):
        for stage in some:
            products, attention = (f"{flops / cost.TERA:.3f}" for flops in (stage.linear, stage.attention))
            rows.append((half, stage.name, products, attention, f"{stage.bytes / cost.GIGA:.2f}"))
        rows.append((half, "**all**", f"**{cost.tflops(some):.2f}** with attention", "", ""))
    return _table(("half", "stage", "products, TFLOPs", "attention, TFLOPs", "GB moved"), rows)


def _savings(cfg: BatConfig, text: cost.Text) -> list[str]:
    """Return what encode-once, the unused layers and the second question save."""
    count = cost.num_tiles(cfg)
    tower, projector = cost.vision_tower(cfg, count, 24).flops, cost.projector(cfg, cost.total_tokens(cfg)).flops
    layer = tower - cost.vision_tower(cfg, count, 23).flops
    anchor, prompt = text.prefix + cost.num_tokens_of_anchor(cfg), sum(PAPER_BUDGETS["default"]) + text.prompt
    unread = cost.decoder(cfg, anchor).flops - cost.anchor_prefix(cfg, text.prefix).flops
    but_one = cost.decoder(cfg, prompt).flops - cost.decoder(cfg, prompt, last_rows=1).flops
    logits = cost.head(cfg, 1).flops
    lines = _table(
        ("saved here against the release's path", "TFLOPs"),
        [
            ("views encoded once (tower of 24 layers and projector)", f"{(tower + projector) / cost.TERA:.1f}"),
            ("the tower's last layer, which no one reads", f"{layer / cost.TERA:.1f}"),
            ("logits of the anchor's rows", f"{cost.num_tokens_of_anchor(cfg) * logits / cost.TERA:.1f}"),
            ("logits of all but the last prompt row, per 1,000 rows", f"{1000 * logits / cost.TERA:.1f}"),
            ("the decoder's last layer over the anchor, but for keys and values", f"{unread / cost.TERA:.1f}"),
            (f"the same over all but the last of {prompt:,} prompt rows", f"{but_one / cost.TERA:.1f}"),
        ],
    )
    rows = []
    for name in ("default", "rshr", "xlrs"):
        kept = sum(PAPER_BUDGETS[name])
        release = cost.tflops(cost.release_path(cfg, kept, text, "all"))
        image, question = cost.tflops(cost.image_half(cfg, text)), cost.tflops(cost.question_half(cfg, kept, text))
        budget = "/".join(map(str, PAPER_BUDGETS[name]))
        rows.append(
            (budget, f"{kept:,}", *map(float, (release, image + question, question)), f"{release / question:.1f}x")
        )
    head = ("budget", "kept", "release, every question", "ours, first question", "ours, each further one")
    return [
        *lines,
        "",
        *_table((*head, "further one"), rows),
        "",
        "TFLOPs with attention, the release's of all pairs; K-means is in ours and not in the release's. Not saved "
        "yet: a fused causal kernel would save another fifth of prefill's attention.",
    ]


def _memory(cfg: BatConfig, text: cost.Text) -> list[str]:
    """Return the memory model beside the paper's two claims."""
    budgets = {name: sum(PAPER_BUDGETS[name]) for name in ("default", "xlrs")}
    held = {name: cost.inference_memory(cfg, kept, text) for name, kept in budgets.items()}
    rows = [(part, *(f"{held[name][part] / cost.GIGA:.2f}" for name in budgets)) for part in held["default"]]
    rows.append(("sum", *(f"{sum(h.values()) / cost.GIGA:.2f}" for h in held.values())))
    anchor = text.prompt + cost.num_tokens_of_anchor(cfg)
    maps = cfg.decoder.num_layers * cfg.decoder.num_heads * anchor**2 * 2
    every = {name: 4 * (kept + text.prompt) * cfg.decoder.vocab_size for name, kept in budgets.items()}
    total = sum(held["default"].values()) / cost.GIGA
    training = []
    for label, size in (("bfloat16", 2), ("float32", 4)):
        parts = cost.training_memory(cfg, size)
        training.append(
            (label, *(f"{value / cost.GIGA:.1f}" for value in parts.values()), f"{sum(parts.values()) / cost.GIGA:.1f}")
        )
    return [
        *_table(("GB (10^9 bytes), bfloat16", *(f"{kept:,} kept" for kept in budgets.values())), rows),
        "",
        "The sum is of what is listed: the runtime's own buffers, the tower's activations and copies made while tiles "
        "are joined come on top, so a measured peak will be higher; docs/gpu.md sets one beside it.",
        "",
        f"The paper claims about 30 GB at inference with 3,000 kept tokens (App. A), here {total:.1f}. Two things a "
        "PyTorch run may hold besides and this one does not: the attention maps of all 28 layers over the anchor, "
        f"{maps / cost.GIGA:.1f} GB in bfloat16, and float32 logits of every row, "
        f"{every['default'] / cost.GIGA:.1f} GB at 3,000 and {every['xlrs'] / cost.GIGA:.1f} GB at 11,100. With both "
        f"the sum would be {total + (maps + every['default']) / cost.GIGA:.1f}. Whether the paper's 30 GB hold "
        "them is not published.",
        "",
        *_table(("training, AdamW moments in", "weights", "gradients", "moments", "GB without activations"), training),
        "",
        "The paper claims training on one 48 GB card (App. A) and, elsewhere, batch 16 with ZeRO-2 (App. B). With the "
        "projector and the whole decoder trained, weights, gradients and moments alone are above 48 GB, and ZeRO-2 "
        "divides nothing on one card; it fits only with offloading, or with fewer weights trained than stated.",
    ]


def report(text: cost.Text) -> str:
    """Return the whole report as Markdown."""
    cfg = BatConfig.uhr_bat_7b("release")
    parts = [
        "# What UHR-BAT-7B costs",
        "**Computed from the model's sizes by `python -m experiments.cost`, not measured.** Counted are matrix "
        "products, two operations per multiply-add; tests compare the stages with XLA's own count on small shapes "
        "(within 3 %). "
        f"Release preset, four views (131,328 tokens, 228 tiles), {text.prefix} text tokens before the image, "
        f"{text.question} after it, {text.answer} in the answer. Attention of this project is counted as computed "
        "(prefill and anchor prefix in four spans of queries, each with all keys up to its end, masked afterwards), "
        "the release's with all pairs, unless a column says otherwise. K-means: 600 clusters, 10 steps, with the "
        "one-hot sums of an accelerator.",
        "## Table 4 of the paper, TFLOPs per sample",
        "\n".join(_table_4(cfg, text)),
        "Release: region partition and decode steps left out, logits of every row. Ours: everything, "
        "K-means (11.3) and decode steps included; the further question is with attention.",
        "## Does the decoder explain the slope?",
        "\n".join(_slope(cfg)),
        "## Does encoding every view twice explain the intercept?",
        "\n".join(_intercept(cfg)),
        "## What is saved, and what a second question costs",
        "\n".join(_savings(cfg, text)),
        "## Stages of this project at 3,000 kept tokens",
        "\n".join(_stages(cfg, 3000, text)),
        "## Memory",
        "\n".join(_memory(cfg, text)),
    ]
    return "\n\n".join(parts) + "\n"
