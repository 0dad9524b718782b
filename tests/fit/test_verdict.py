"""Verdicts: what names of devices mean, what fits, the most that does, and the least time."""

import dataclasses

import pytest

from bat_jax.config import BatConfig
from bat_jax.engine import cost
from bat_jax.engine.devices import GIB, find_device
from bat_jax.fit.abstract_run import Programs, StageRow
from bat_jax.fit.verdict import (
    FitVerdict,
    FitWork,
    judge,
    largest,
    least_seconds,
    parse_target,
    with_kept,
)
from tests.absent_compiler import needs_gpu_compiler
from tests.fit.shapes_alone import ShapesAlone
from tests.tiny_model import tiny_config

WORK = FitWork(cfg=tiny_config(), text=cost.Text(answer=3), tile_batch=8, image_px=300)


@pytest.mark.parametrize(
    ("device", "mesh", "name", "axes"),
    [
        ("h200", None, "h200", (1, 1)),
        ("a100-40", None, "a100-40", (1, 1)),
        ("a100-40-8", None, "a100-40", (1, 8)),
        ("v5e-4", None, "v5e", (1, 4)),
        ("v5e-8", "data=2,model=4", "v5e", (2, 4)),
        ("h100", "model=4", "h100", (1, 4)),
    ],
)
def test_a_name_and_a_mesh_say_which_devices(device, mesh, name, axes):
    target = parse_target(device, mesh)
    assert (target.device, target.axes["data"], target.axes["model"]) == (name, *axes)


@pytest.mark.parametrize(
    ("device", "mesh", "message"),
    [
        ("h300", None, "device=h300: is not known; known are .*h200"),
        ("a100", None, "device=a100: is not known; known are .*a100-80"),
        ("v5e-x", None, "device=v5e-x: is not known"),
        ("h200", "rows=2", "mesh=rows=2: need axes as data=1,model=4"),
        ("h200", "model=0", "mesh=model=0: need axes"),
        ("v5e-4", "data=2,model=4", "mesh=data=2,model=4: has 8 devices, device=v5e-4 has 4"),
    ],
)
def test_a_name_that_means_nothing_is_refused(device, mesh, message):
    with pytest.raises(ValueError, match=message):
        parse_target(device, mesh)


def test_the_most_that_fits_is_found_by_few_trials():
    """Peaks of 100 + n / 2, and a little more that grows with the square."""
    tried = []

    def peak_of(n):
        tried.append(n)
        return 100 + n // 2 + n * n // 100_000

    assert largest(peak_of, 10, peak_of(10), 1000, usable=10_000) == 1000, "everything fits"
    found = largest(peak_of, 10, peak_of(10), 10_000, usable=1100)
    best = max(n for n in range(10, 10_000) if peak_of(n) <= 1100)
    assert 0.95 * best <= found <= best
    tried.clear()
    largest(peak_of, 10, 105, 10_000, usable=1100)
    assert len(tried) <= 5
    assert largest(peak_of, 10, 105, 10, usable=1100) == 10


def test_more_kept_tokens_are_shared_as_the_budgets_are_until_a_scale_is_full():
    cfg = BatConfig.uhr_bat_7b()
    counts = [cfg.num_tokens(size) for size in cfg.compressor.sizes_px]
    for kept in (3000, 6000, 30_000, 100_000, sum(counts)):
        budgets = with_kept(cfg, kept).compressor.budgets
        assert sum(budgets) == kept and all(0 < b <= count for b, count in zip(budgets, counts, strict=True))
    assert with_kept(cfg, 6000).compressor.budgets == (160, 640, 1200, 4000)


def test_the_least_time_is_the_longer_of_operations_and_bytes():
    facts = find_device("h200")
    stages = {
        "vision_tower": cost.Stage("vision_tower", 989e12, 0, 1),
        "prefill": cost.Stage("prefill", 989e12, 0, 1),
        "generate": cost.Stage("generate", 1, 0, 4.8e12),
        "region_partition": cost.Stage("region_partition", 989e12 / 3, 0, 1),
    }
    one = {"data": 1, "model": 1}
    assert least_seconds(stages, facts, one) == pytest.approx(dict.fromkeys(stages, 1))
    eight = {"vision_tower": 1 / 8, "prefill": 1 / 4, "generate": 1 / 4, "region_partition": 1}
    assert least_seconds(stages, facts, {"data": 2, "model": 4}) == pytest.approx(eight)
    assert least_seconds(stages, find_device("t4"), one)["region_partition"] == pytest.approx(989 / 3 / 8.1)


def verdict_of(peak):
    row = StageRow(name="prefill", calls=1, peak=peak)
    return FitVerdict(
        target=parse_target("rtx4090", None),
        work=WORK,
        rows=(row,),
        weight_bytes=1,
        seconds={"generate": 1.0},
        costs={},
    )


@pytest.mark.parametrize(
    ("peak", "words"),
    [
        (10 * GIB, "rtx4090 (data=1,model=1): fits: 10.7 of 24.7 GB a device, in prefill; 14.0 GB to spare"),
        (20 * GIB, "3.2 GB to spare; set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95"),
        (24 * GIB, "rtx4090 (data=1,model=1): DOES NOT FIT: 25.8 of 24.7 GB a device, in prefill; 1.1 GB too little"),
    ],
)
def test_the_answer_is_one_line(peak, words):
    verdict = verdict_of(peak)
    assert verdict.answer().endswith(words) and "\n" not in verdict.answer()
    assert verdict.fits == ("DOES NOT" not in words)


@needs_gpu_compiler
def test_an_answer_of_the_compiler_for_a_card_has_every_stage_and_adds_up():
    entry = judge(parse_target("a6000", None), WORK, Programs(), search=False).to_json()
    assert entry["fits"] and entry["device"] == "a6000" and entry["mesh"] == {"data": 1, "model": 1}
    assert entry["peak_gb"] == max(row["peak_gb"] for row in entry["stages"])
    assert entry["spare_gb"] == pytest.approx(entry["usable_gb"] - entry["peak_gb"])
    rows = {row["stage"]: row for row in entry["stages"]}
    assert list(rows) == ["views", "image", "question"]
    least = entry["least"]
    assert rows["question"]["least_s"] == pytest.approx(least["further_question_s"])
    assert rows["image"]["least_s"] + rows["question"]["least_s"] == pytest.approx(least["first_question_s"])
    wanted = cost.image_half(WORK.cfg, WORK.text) + cost.question_half(WORK.cfg, 42, WORK.text)
    assert rows["image"]["tflop"] + rows["question"]["tflop"] == pytest.approx(cost.tflops(wanted))


@needs_gpu_compiler
def test_stages_apart_have_what_is_held_meanwhile_and_the_cost_models_work():
    work = dataclasses.replace(WORK, stages_apart=True)
    entry = judge(parse_target("h200", None), work, ShapesAlone(), search=False).to_json()
    rows = {row["stage"]: row for row in entry["stages"]}
    costs = cost.pipeline_stages(WORK.cfg, WORK.text)
    assert {"views", "first_centres", "splice", *costs} < set(rows) and entry["stages_apart"]
    for name, own in costs.items():
        assert (rows[name]["tflop"], rows[name]["moved_gb"]) == (own.flops / cost.TERA, own.bytes / cost.GIGA)
    assert sum(rows[name]["least_s"] for name in costs) == pytest.approx(entry["least"]["first_question_s"])
    after_tower = rows["scale_embedding"]["held_gb"] - entry["weights_gb"]
    assert after_tower * cost.GIGA > 320 * (32 + 16) * 4, (
        "features of all views' 320 tokens stay until the scene is made"
    )
