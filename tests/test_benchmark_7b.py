"""experiments.benchmark_7b on a model of two narrow layers: what it records, and what it does when something fails."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.engine import cost
from bat_jax.model import init_params
from bat_jax.nn.decoder import layers_apart
from bat_jax.report.gpu_page import page
from experiments import benchmark_7b
from tests.command_batch import run_commands
from tests.tiny_model import tiny_config

CONFIG = dataclasses.replace(tiny_config(), compute_dtype="bfloat16")
PREFIX, ANSWER = 14, 3


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The record of a whole run in which the tower's attention fails, and the benchmark that made it."""
    path = tmp_path_factory.mktemp("benchmark") / "record.json"
    settings = {"image_px": 300, "answer_tokens": ANSWER, "seed": 0, "max_seconds": 600, "output": path}
    benchmark = benchmark_7b.ShapesBenchmark(CONFIG, (24, 60), **settings)

    def fail():
        raise NotImplementedError("no such\nattention")

    benchmark.tower_attention = fail
    assert benchmark.run() == 1
    return json.loads(path.read_text()), benchmark


def test_a_step_that_fails_leaves_its_reason_and_the_next_ones_run(measured):
    steps = measured[0]["steps"]
    failed = {name: entry["failed"] for name, entry in steps.items() if "failed" in entry}
    assert failed == {"attention of the tower": "NotImplementedError: no such attention"}
    assert list(steps)[-1] == "tower, 8 tiles at once" and steps["84 kept tokens"]["further_s"] > 0


def test_an_image_and_a_question_are_one_program_each_and_stages_come_after(measured):
    steps = measured[0]["steps"]
    assert [row["stage"] for row in steps["first question, compiling"]["stages"]] == ["image", "question"]
    compiling, warm = steps["stages, compiling"], steps["stages"]
    assert compiling["compile_s"] > 0 == warm["compile_s"]
    assert {"vision_tower", "region_partition", "prefill", "generate"} <= {row["stage"] for row in warm["stages"]}
    assert sum(row["run_s"] for row in warm["stages"]) + warm["outside_s"] == pytest.approx(warm["wall_s"])


def test_the_operations_of_all_stages_are_those_of_the_cost_model(measured):
    text = cost.Text(prefix=PREFIX, question=64, answer=ANSWER)
    wanted = cost.image_half(CONFIG, text, sums="scatter") + cost.question_half(CONFIG, 42, text, sums="scatter")
    stages = measured[0]["steps"]["stages"]["stages"]
    assert sum(row.get("tflop", 0) for row in stages) == pytest.approx(cost.tflops(wanted))


def test_floors_are_operations_or_bytes_at_the_rates_that_were_measured(measured):
    steps = measured[0]["steps"]
    machine, rows = steps["machine"], {row["stage"]: row for row in steps["stages"]["stages"]}
    prefill = rows["prefill"]
    by_operations = prefill["tflop"] * 1e12 / machine["product_flops"]
    assert prefill["floor_s"] >= by_operations * 0.999
    assert prefill["ratio"] == pytest.approx(prefill["run_s"] / prefill["floor_s"])
    questions = steps["questions"]
    names = ("anchor_importance", "preserve_merge", "token_mlp", "prefill", "generate")
    floors = [rows[name]["floor_s"] for name in names if "floor_s" in rows[name]]
    assert questions["further_floor_s"] == pytest.approx(sum(floors))
    assert questions["first_floor_s"] > questions["further_floor_s"]


def test_the_page_names_what_was_measured_and_what_failed(measured):
    text = page(measured[0])
    assert "## Stages" in text and "| prefill | 1 |" in text and "## Decoding" in text
    assert "- attention of the tower: NotImplementedError: no such attention" in text
    assert f"{measured[0]['image_px']} x {measured[0]['image_px']} pixels" in text


def test_questions_are_asked_together_in_one_program_for_every_number_of_them(measured):
    entry = measured[0]["steps"]["questions together"]
    assert measured[1].stages.num_compiles["questions"] == 1
    for number, row in entry["choices"].items():
        assert row["question_s"] == pytest.approx(row["all_s"] / int(number)) == pytest.approx(1 / row["per_s"])
    assert "## Questions together" in page(measured[0])


def test_int8_halves_the_decoders_bytes_and_its_question_and_tokens_are_measured_beside_their_own_floors(measured):
    record, benchmark = measured
    floats, int8 = (record["steps"][name] for name in ("weights", "int8 weights"))
    assert int8["weights_gb"] == pytest.approx(int8["model_gb"]) and int8["weights_gb"] < floats["weights_gb"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(benchmark.model.params["decoder"])} >= {"int8"}
    loop, stored = int8["token_loop"], record["steps"]["decoding"]["choices"]["default"]
    assert loop["floor_s"] < stored["floor_s"] and loop["ratio"] == pytest.approx(loop["token_s"] / loop["floor_s"])
    assert int8["further_s"] > 0 and int8["compiled_peak_gb"] > int8["weights_gb"]
    row = next(line for line in page(record).splitlines() if line.startswith("| int8 |"))
    assert f"| {loop['token_s']:.4g} |" in row and f"| {int8['weights_gb']:.4g} |" in row


def test_our_attention_is_as_near_to_float32_as_bfloat16_allows(measured):
    choices = measured[0]["steps"]["attention of the decoder, 120 rows"]["choices"]
    assert 0 < choices["plain"]["max_error"] < 0.03
    assert "cuDNN" in choices["cudnn"]["failed"] and "failed" in choices["pallas"]


def test_random_weights_have_the_models_shapes_and_the_configs_dtype():
    params = benchmark_7b.random_params(CONFIG, seed=1)
    wanted = jax.eval_shape(lambda: layers_apart(init_params(CONFIG, jax.random.key(0))))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, jnp.bfloat16), wanted)
    matrix = np.asarray(params["decoder"]["layers_0"]["mlp"]["up_proj"]["kernel"], np.float32)
    assert abs(matrix.mean()) < 0.001 and matrix.std() == pytest.approx(0.02, rel=0.05)
    assert abs(np.corrcoef(matrix[0].ravel(), matrix[1].ravel())[0, 1]) < 0.1
    assert np.all(np.asarray(params["decoder"]["norm"]["scale"]) == 1)


def test_the_command_ends_in_time_with_what_it_has(tmp_path):
    folder = f"--output={tmp_path}"
    stopped = ["--config=mini", "--image_px=300", "--max_seconds=4", f"--output={tmp_path / 'record.json'}"]
    (code, out, _), (code_folder, _, err) = run_commands("experiments.benchmark_7b", [stopped, [folder]])
    record = json.loads((tmp_path / "record.json").read_text())
    assert code == 1 and record["stopped"].startswith("at 4 s, in ") and "stopped at 4 s" in out
    assert record["device"].startswith("cpu") and record["seconds"] >= 4
    assert not any(repr(name) in record["stopped"] for name in record["steps"]), "what it was at has no result"
    assert (code_folder, err) == (1, f"error: --output={tmp_path}: is a folder; name a file\n")
