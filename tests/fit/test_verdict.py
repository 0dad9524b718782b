"""Verdicts: what names of devices mean, what fits, the most that does, and the least time."""

import dataclasses

import pytest

from bat_jax.engine import cost
from bat_jax.engine.devices import DEVICES, GIB, find_device
from bat_jax.fit.abstract_run import Programs, StageRow
from bat_jax.fit.verdict import (
    FitVerdict,
    judge,
    least_seconds,
    parse_target,
)
from bat_jax.fit.work import FitWork
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
    entry = judge(parse_target("a6000", None), WORK, Programs()).to_json()
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
    entry = judge(parse_target("h200", None), work, ShapesAlone()).to_json()
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


class HeldAlone(ShapesAlone):
    """Counts what is held; says what each search changed in the program of a question."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def find(self, name, mesh, function, static, args, options):
        if name in ("question", "questions"):
            self.asked.append((sum(static[0].compressor.budgets), static[0].compressor.sizes_px[-1]))
        return super().find(name, mesh, function, static, args, options)


def test_the_largest_picture_is_the_last_whose_views_and_weights_fit(monkeypatch):
    """A token brings its 14 x 14 pixels of three bytes, whether it is valid, and a sixteenth of a tile's padding."""
    monkeypatch.setattr("bat_jax.fit.inference.has_views_program", lambda platform: False)
    room, programs, target = 4_000_000, HeldAlone(), parse_target("a6000", None)
    start = judge(target, WORK, programs)
    facts = dataclasses.replace(DEVICES["a6000"], memory_bytes=start.peak.peak + room, reserved_bytes=0)
    monkeypatch.setitem(DEVICES, "a6000", facts)
    found = judge(target, WORK, programs, ["picture"]).most["picture"]
    best = next(trial for trial in found.trials if trial.number == found.number)
    fitting = 320 + room / (14 * 14 * 3 + 1 + 1 / 16)
    with_one_more_row = 64 + (found.number // 14 + 4) ** 2
    assert best.num_tokens <= fitting < max(1.05 * best.num_tokens, with_one_more_row) and not found.is_all
    assert best.num_tokens == 64 + (found.number // 14) ** 2 == 16 * best.num_tiles
    assert start.peak.name == "image" and (42, found.number) in programs.asked, "kept tokens stay"


def test_searches_end_where_more_means_nothing():
    entry = judge(parse_target("a6000", None), WORK, HeldAlone(), ["kept", "tiles"]).to_json()
    assert {name: (limit["number"], limit["is_all"]) for name, limit in entry["most"].items()} == {
        "kept": (320, True),
        "tiles": (20, True),
    }
    assert [trial["number"] for trial in entry["most"]["kept"]["compiled"]] == [42, 320]


def test_questions_at_once_have_no_least_time_and_say_so_in_the_answer():
    verdict = judge(parse_target("a6000", None), dataclasses.replace(WORK, questions_at_once=3), HeldAlone())
    entry = verdict.to_json()
    assert entry["questions_at_once"] == 3 and "least" not in entry
    assert [row["stage"] for row in entry["stages"]] == ["views", "image", "questions"]
    assert verdict.answer().startswith("a6000 (data=1,model=1, 3 questions at once): fits")


@needs_gpu_compiler
def test_few_layers_are_compiled_and_the_others_weights_and_caches_are_held():
    cfg = tiny_config()
    deep = dataclasses.replace(
        cfg,
        vision=dataclasses.replace(cfg.vision, num_layers=cfg.vision.num_layers + 3),
        decoder=dataclasses.replace(cfg.decoder, num_layers=7),
    )
    whole = dataclasses.replace(WORK, cfg=deep, stages_apart=True)
    few = dataclasses.replace(whole, layers=2)
    assert few.compiled_cfg.vision.num_run_layers == 2 == few.compiled_cfg.decoder.num_layers
    target = parse_target("h200", None)
    of_all, of_few = (judge(target, work, ShapesAlone()) for work in (whole, few))
    assert of_few.weight_bytes == of_all.weight_bytes
    rows = [{row.name: row.held for row in verdict.rows} for verdict in (of_all, of_few)]
    assert rows[0]["vision_tower"] == rows[1]["vision_tower"]
    padding = cost.kv_bytes(deep, 64)
    assert 0 <= rows[0]["generate"] - rows[1]["generate"] < padding, "but for slots that fill a cache up"
    assert of_few.to_json()["layers"] == 2
