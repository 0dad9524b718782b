"""The tables of sub-tasks: strings, numbers, and which spellings are read."""

import pathlib

import pytest

from bat_jax.benchmarks.registry import BENCHMARKS


@pytest.mark.parametrize(
    ("name", "variant", "count", "perception", "reasoning"),
    [
        ("xlrs", "", 3080, 2620, 460),
        ("mme_realworld", "Lite", 150, 150, 0),
        ("mme_realworld", "", 3738, 3738, 0),
        ("rshr", "", 1932, 1370, 220),
        ("uhr_mini", "", 4588, 3988, 600),
    ],
)
def test_counts_sum_to_the_published_sizes(name, variant, count, perception, reasoning):
    record = BENCHMARKS[name]
    sums = [sum(record.counts(variant, group).values()) for group in (None, "perception", "reasoning", "multi-turn")]
    assert tuple(sums) == (count, perception, reasoning, count - perception - reasoning)


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("xlrs_lite", "xlrs"),
        ("xlrs_bench", "xlrs"),
        ("mme_rs", "mme_realworld"),
        ("mme_rs_lite", "mme_realworld"),
        ("rshr_bench", "rshr"),
        ("llava_conversations", "llava"),
    ],
)
def test_a_benchmark_has_one_name_and_its_old_ones_are_read(old, name):
    assert BENCHMARKS[old] is BENCHMARKS[name] and BENCHMARKS[old].name == name
    assert BENCHMARKS.names == ("llava", "mme_realworld", "rshr", "uhr_mini", "xlrs")


def test_data_is_the_smallest_variant_that_it_may_be():
    sizes = [BENCHMARKS["mme_realworld"].variant_of(number) for number in (3, 150, 151, 3738)]
    assert sizes == ["Lite", "Lite", "", ""] and BENCHMARKS["xlrs"].variant_of(3) == ""


def test_columns_stand_in_the_papers_order():
    def columns(name):
        return " ".join(item.abbreviation for item in BENCHMARKS[name].subtasks)

    assert columns("xlrs") == "OC RC OLUC RLUC OCC OCL OMS OSR AD ECR RP RCCD CCR"
    assert columns("mme_realworld") == "Position Color Count"
    assert columns("rshr") == "COL SHP DET OC REL OGD RG OCN RCN AD FP MRJC MRJCS OSJ MAD MTFP MOSJ"


def test_several_options_may_be_right_in_one_sub_task_of_each():
    several = {
        (record.name, item.abbreviation) for record in BENCHMARKS for item in record.subtasks if item.is_multi_answer
    }
    assert several == {("xlrs", "OLUC"), ("uhr_mini", "overall_land_use")}


def test_counting_under_xlrs_counting_is_reasoning_where_the_paper_says_so():
    for category, abbreviation, group in [
        ("Counting/Overall counting", "OC", "perception"),
        ("Counting/Counting with changing detection", "RCCD", "reasoning"),
        ("Counting/Counting with complex reasoning", "CCR", "reasoning"),
        ("Object properties/Object classification", "OCC", "perception"),
    ]:
        found = BENCHMARKS["xlrs"].subtask(category)
        assert (found.abbreviation, found.group) == (abbreviation, group)


@pytest.mark.parametrize(
    ("name", "written", "abbreviation"),
    [
        ("xlrs", "land use classification/overall  land use Classification ", "OLUC"),
        ("xlrs", "Complex reasoning / Route planning", "RP"),
        ("mme_realworld", "Color", "Color"),
        ("mme_realworld", " position", "Position"),
        ("rshr", "object_clasfication", "OC"),
        ("rshr", "object_classification", "OC"),
        ("rshr", "regional_grouding", "RG"),
        ("rshr", "Regional-Grounding", "RG"),
        ("rshr", "regionla_counting", "RCN"),
        ("rshr", "regional_counting", "RCN"),
        ("rshr", "multi_region_join_contrast_singal", "MRJCS"),
        ("rshr", "multi_region_join_contrast_single", "MRJCS"),
        ("rshr", "multi_region_join_contrast", "MRJC"),
        ("rshr", "multturn_anomaly_detection", "MAD"),
        ("rshr", "multiturn_anomaly_detection", "MAD"),
        ("rshr", "multitrun-future_prediction", "MTFP"),
        ("rshr", "multitrun_future_prediction", "MTFP"),
        ("rshr", "multiturn-future-prediction", "MTFP"),
    ],
)
def test_documented_spellings_are_read(name, written, abbreviation):
    assert BENCHMARKS[name].subtask(written).abbreviation == abbreviation


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("xlrs", "Overall counting"),  # half of the string
        ("xlrs", "OC"),
        ("xlrs", "Counting/Overall countin"),
        ("xlrs", "Counting_Overall counting"),
        ("mme_realworld", "Perception/Remote Sensing"),
        ("mme_realworld", "colour"),
        ("rshr", "regionla_grounding"),
        ("rshr", "object classification"),
        ("rshr", ""),
    ],
)
def test_other_spellings_are_errors_of_one_line(name, written):
    with pytest.raises(ValueError) as error:
        BENCHMARKS[name].subtask(written)
    message = str(error.value)
    assert repr(written) in message and BENCHMARKS[name].subtasks[-1].category in message
    assert "\n" not in message


def test_unknown_benchmarks_are_errors():
    with pytest.raises(ValueError, match="benchmark='vqa': must be one of llava, mme_realworld, rshr, uhr_mini, xlrs"):
        BENCHMARKS["vqa"]


def test_other_counts_are_named():
    record = BENCHMARKS["mme_realworld"]
    assert record.count_notes(record.counts("Lite")) == record.count_notes(record.counts()) == ()
    assert record.count_notes({**record.counts("Lite"), "Color": 49}) == ("Color 49 of 50",)
    assert BENCHMARKS["llava"].count_notes({"open": 7}) == ()


def table_rows():
    """Return the rows of the table in docs/benchmarks.md."""
    rows = []
    for record in BENCHMARKS:
        sizes = [sum(record.counts(variant).values()) for variant in (*record.variants, "")]
        size = " or ".join(f"{number:,}" for number in sizes) if any(sizes) else "any"
        prompts = ", ".join(record.prompts)
        mean = record.mean_of(record.averaging)
        cells = (f"`{record.name}`", record.title, size, len(record.subtasks), prompts, record.max_new_tokens, mean)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def test_the_documents_table_is_that_of_the_records():
    lines = (pathlib.Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text().splitlines()
    head = lines.index("| benchmark | title | questions | sub-tasks | `--prompt` | tokens of an answer | headline |")
    assert lines[head + 2 : lines.index("", head)] == table_rows()
