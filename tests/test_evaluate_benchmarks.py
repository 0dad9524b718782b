"""experiments.evaluate on the benchmarks' files, as a user types it, with one tiny model for all of them."""

import json

import pytest

from bat_jax.benchmarks.file_benchmark import FileBenchmark
from bat_jax.benchmarks.record import OTHER, SubTask
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.benchmarks.samples import read_fields
from tests.benchmarks import benchmark_files as files
from tests.command_batch import run_commands
from tests.tiny_model import write_tiny_checkpoint

# A benchmark that nothing else in the project knows: rows, categories, question and scorer of its own.
HARBOURS = FileBenchmark(
    name="harbours",
    title="Harbours of the world",
    subtasks=(
        SubTask(abbreviation="quays", category="Wo liegt der Kai?", group=OTHER, count=2),
        SubTask(abbreviation="ships", category="ships!", group=OTHER),
    ),
    parse=lambda fields, number: read_fields(
        fields, number, id="nr", question="ask", options="choices", answer="right", category=("kind",)
    ),
    prompts={"short": lambda question, options, is_multi_answer: f"{question} {' / '.join(options)}?"},
    max_new_tokens=2,
    official=lambda output, options: "AB"[len(output) % 2],
    breakdowns={"Number in the question": lambda task: task.id},
)
ENTRY_POINTS = "[bat_jax.benchmarks]\nharbours = tests.test_evaluate_benchmarks:HARBOURS\n"


def write_harbours(folder):
    """Write two rows, and a distribution that names the benchmark as its entry point."""
    folder.mkdir()
    rows = [("1", "Wo liegt der Kai?", "Left"), ("2", "Ships!", "B")]
    rows = [
        {"nr": n, "image": "1.png", "ask": f"Ask {n}", "choices": ["Left", "Right"], "kind": k, "right": r}
        for n, k, r in rows
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "1.png").write_bytes(files.picture(1, "PNG"))
    (folder / "harbours-1.0.dist-info").mkdir()
    (folder / "harbours-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: harbours\nVersion: 1.0\n")
    (folder / "harbours-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    write_harbours(folder / "harbours")
    write_tiny_checkpoint(folder / "checkpoint")
    files.write_xlrs_tree(folder / "xlrs")
    (folder / "outside").mkdir()
    rows = (folder / "harbours" / "rows.json").read_text().replace("1.png", "../harbours/1.png")
    (folder / "outside" / "rows.json").write_text(rows)
    files.write_xlrs_jsonl(folder / "vlm")
    files.write_mme_json(folder / "mme")
    files.write_rshr_json(folder / "rshr")
    files.write_llava(folder / "llava")
    return folder


def command(folder, output, benchmark, data=None, **flags):
    given = {
        "checkpoint": folder / "checkpoint",
        "benchmark": benchmark,
        "data": folder / data if data else None,
        "output_dir": folder / "runs" / output,
        "max_new_tokens": 2,
    } | flags
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


@pytest.fixture(scope="module")
def done(folder):
    """Run all command lines: name -> (code, stdout, stderr)."""
    cases = {
        "xlrs": command(folder, "xlrs", "xlrs", "xlrs", set="images=all"),
        "xlrs again": command(folder, "xlrs", "xlrs", "xlrs", set="images=all"),
        "xlrs part": command(folder, "part", "xlrs", "vlm", shard="1/2", prompt="vlmevalkit"),
        "mme": command(folder, "mme", "mme_rs_lite", "mme", prompt="official"),
        "rshr": command(folder, "rshr", "rshr", "rshr", leak_hint=True),
        "llava": command(folder, "llava", "llava", "llava"),
        "own": command(folder, "own", "harbours", "harbours", max_new_tokens=None),
        "unknown": command(folder, "bad", "vqa", "xlrs"),
        "merge": [f"--output_dir={folder}/runs/part", "--merge"],
        "no data": command(folder, "bad", "xlrs"),
        "scenes of files": command(folder, "bad", "xlrs", "xlrs", split="test"),
        "files of scenes": command(folder, "bad", "uhr_mini", "xlrs", split="test"),
        "prompt": command(folder, "bad", "rshr", "rshr", prompt="official"),
        "conversations": command(folder, "bad", "xlrs", "llava", prompt="official"),
        "hint": command(folder, "bad", "xlrs", "xlrs", leak_hint=True),
        "other data": command(folder, "xlrs", "xlrs", "vlm", set="images=all"),
        "outside": command(folder, "bad", "harbours", "outside", max_new_tokens=None),
        "outside, allowed": command(folder, "outside", "harbours", "outside", allow_outside_paths=True),
    }
    results = run_commands("experiments.evaluate", list(cases.values()), path=folder / "harbours")
    return dict(zip(cases, results, strict=True))


def lines_of(folder, output):
    return [json.loads(line) for line in (folder / "runs" / output / "predictions.jsonl").read_text().splitlines()]


def metrics_of(folder, output):
    return json.loads((folder / "runs" / output / "metrics.json").read_text())


def test_xlrs_is_asked_picture_by_picture_and_two_images_share_the_budget(done, folder):
    code, out, err = done["xlrs"]
    assert code == 0, err
    lines = {line["id"]: line for line in lines_of(folder, "xlrs")}
    assert {id: (line["sub_task"], line["status"]) for id, line in lines.items()} == {
        "0": ("OCC", "answered"),
        "1": ("OLUC", "answered"),
        "2": ("OMS", "answered"),
        "3": ("RCCD", "answered"),
    }
    assert lines["0"]["picture"] == lines["2"]["picture"] == "dota/P1.png"
    assert lines["1"]["picture"] == "dota/P1.png#2", "the same name, other pixels"
    assert {tuple(line["tokens_kept"]) for line in lines.values()} == {(12, 30)}
    assert lines["3"]["facts"]["num_images"] == 2 and lines["0"]["prompt_style"] == "official"
    metrics = metrics_of(folder, "xlrs")
    assert metrics["overall"]["total"] == 4 and metrics["averaging"] == "paper"
    assert (
        metrics["subtasks"]["OLUC"]["chance"] == pytest.approx(1 / 15) and metrics["subtasks"]["OMS"]["chance"] == 0.5
    )
    table = (folder / "runs" / "xlrs" / "table.md").read_text()
    assert table.startswith("# XLRS-Bench-lite: ") and "| reasoning, micro | 1 |" in table and table in out
    assert "4 of them answered before" in done["xlrs again"][1]


def test_shards_and_ready_made_prompts(done, folder):
    assert done["xlrs part"][0] == 0, done["xlrs part"][2]
    assert done["merge"][0] == 0, done["merge"][2]
    status = metrics_of(folder, "part")["status"]
    assert status["answered"] + status["missing"] == 4 and 0 < status["answered"] < 4 and status["error"] == 0


def test_mme_counts_a_lost_picture_as_wrong_and_goes_on(done, folder):
    assert done["mme"][0] == 0, done["mme"][2]
    metrics = metrics_of(folder, "mme")
    assert metrics["benchmark"] == "mme_realworld" and metrics["status"] == {"answered": 2, "missing": 0, "error": 1}
    lost = metrics["errors"]["perception/remote_sensing/position/4"]
    assert lost.startswith("picture: ImageError: ") and "lost.png: does not exist" in lost
    assert metrics["overall"]["num_errors"] == 1 and metrics["subtasks"]["Position"]["accuracy"] == 0
    assert "3 questions (Lite), 1 rows left out (not remote sensing)" in done["mme"][1]


def test_rshr_counts_dialogues_apart_and_leads_with_the_mean_of_sub_tasks(done, folder):
    assert done["rshr"][0] == 0, done["rshr"][2]
    metrics = metrics_of(folder, "rshr")
    assert metrics["status"]["answered"] == 8 and metrics["overall"]["total"] == 5
    report = metrics["rules"]["official"]
    assert report["dialogues"]["total"] == 1 and report["dialogues"]["chance"] == 1 / 4**3
    assert metrics["headline"] == report["macro"]
    table = (folder / "runs" / "rshr" / "table.md").read_text()
    assert "percent right, mean of sub-tasks" in table.splitlines()[0] and "| MTEM@1 | 1 |" in table
    assert "with the release's hint" in table


def test_llava_conversations_are_choices_or_open(done, folder):
    assert done["llava"][0] == 0, done["llava"][2]
    metrics = metrics_of(folder, "llava")
    totals = {name: cell["total"] for name, cell in metrics["subtasks"].items()}
    assert totals == {"choice": 1, "open": 2} and metrics["overall"]["total"] == 3
    assert sorted(metrics["breakdowns"]["Category"]) == ["change", "colour"]


def test_a_benchmark_of_another_package_is_measured_from_its_record_alone(done, folder):
    code, out, err = done["own"]
    assert code == 0, err
    lines = lines_of(folder, "own")
    assert [(line["id"], line["sub_task"], line["truth"], line["prompt_style"]) for line in lines] == [
        ("1", "quays", "Left", "short"),
        ("2", "ships", "B", "short"),
    ]
    assert [line["verdicts"]["official"]["letters"] for line in lines] == [
        "AB"[len(line["output"]) % 2] for line in lines
    ]
    metrics = metrics_of(folder, "own")
    assert (metrics["benchmark"], metrics["averaging"], metrics["overall"]["total"]) == ("harbours", "micro", 2)
    table = (folder / "runs" / "own" / "table.md").read_text()
    assert table.startswith("# Harbours of the world: ") and table in out
    assert "| quays | 1 |" in table and "| ships | 1 |" in table and "| Number in the question | n |" in table
    assert "not the expected numbers: quays 1 of 2" in table


def test_a_registered_benchmark_is_there_as_long_as_it_is_registered():
    with BENCHMARKS.added(HARBOURS):
        assert BENCHMARKS["harbours"].prompt("short", "Where", ["a", "b"]) == "Where a / b?"
    assert "harbours" not in BENCHMARKS


BAD = {
    "unknown": "benchmark='vqa': must be one of harbours, llava, mme_realworld",
    "no data": "--data: name the file or folder of xlrs",
    "scenes of files": "--split: is not for --benchmark=xlrs",
    "files of scenes": "--data: is not for --benchmark=uhr_mini",
    "prompt": "--prompt=official: rshr offers release",
    "conversations": "category",
    "hint": "needs prompt=release",
    "other data": "data_sha256",
    "outside": "../harbours/1.png: leads out of",
}


def test_data_names_files_elsewhere_only_where_the_flag_allows_it(done, folder):
    assert done["outside, allowed"][0] == 0, done["outside, allowed"][2]
    assert [line["output"] for line in lines_of(folder, "outside")] == [
        line["output"] for line in lines_of(folder, "own")
    ]


def test_bad_input_gets_one_line_and_writes_nothing(done, folder):
    for name, message in BAD.items():
        code, _, err = done[name]
        assert code == 1 and len(err.strip().splitlines()) == 1 and message in err, (name, err)
    assert not (folder / "runs" / "bad").exists()
