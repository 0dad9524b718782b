"""The tables of sub-tasks: strings, numbers, and which spellings are read."""

import pytest

from bat_jax.benchmarks import categories


@pytest.mark.parametrize(
    ("name", "count", "perception", "reasoning"),
    [
        ("xlrs_lite", 3080, 2620, 460),
        ("mme_rs_lite", 150, 150, 0),
        ("mme_rs", 3738, 3738, 0),
        ("rshr", 1932, 1370, 220),
        ("uhr_mini", 4588, 3988, 600),
    ],
)
def test_counts_sum_to_the_published_sizes(name, count, perception, reasoning):
    entry = categories.benchmark(name)
    sums = [sum(item.count for item in entry.in_group(group)) for group in ("perception", "reasoning", "multi-turn")]
    assert (entry.count, *sums) == (count, perception, reasoning, count - perception - reasoning)


def test_columns_stand_in_the_papers_order():
    def columns(name):
        return " ".join(item.abbreviation for item in categories.benchmark(name).subtasks)

    assert columns("xlrs_lite") == "OC RC OLUC RLUC OCC OCL OMS OSR AD ECR RP RCCD CCR"
    assert columns("mme_rs") == columns("mme_rs_lite") == "Position Color Count"
    assert columns("rshr") == "COL SHP DET OC REL OGD RG OCN RCN AD FP MRJC MRJCS OSJ MAD MTFP MOSJ"


def test_facts_of_single_subtasks():
    def having(test):
        published = [entry for name, entry in categories.BENCHMARKS.items() if name != "uhr_mini"]
        return {item.abbreviation for entry in published for item in entry.subtasks if test(item)}

    assert having(lambda item: item.is_multi_answer) == {"OLUC"}
    assert having(lambda item: item.num_images == 2) == {"RCCD", "FP"}
    assert having(lambda item: item.num_options == 2) == {"OMS"}
    assert having(lambda item: item.num_options == 5) == {"Position", "Color", "Count"}
    assert having(lambda item: item.num_turns == 3) == {"MAD", "MTFP", "MOSJ"}
    turns = categories.benchmark("rshr").in_group(categories.MULTI_TURN)
    assert [item.count // item.num_turns for item in turns] == [20, 50, 44]


def test_counting_under_xlrs_counting_is_reasoning_where_the_paper_says_so():
    for category, abbreviation, group in [
        ("Counting/Overall counting", "OC", "perception"),
        ("Counting/Counting with changing detection", "RCCD", "reasoning"),
        ("Counting/Counting with complex reasoning", "CCR", "reasoning"),
        ("Object properties/Object classification", "OCC", "perception"),
    ]:
        found = categories.subtask("xlrs_lite", category)
        assert (found.abbreviation, found.group) == (abbreviation, group)


@pytest.mark.parametrize(
    ("name", "written", "abbreviation"),
    [
        ("xlrs_lite", "land use classification/overall  land use Classification ", "OLUC"),
        ("xlrs_lite", "Complex reasoning / Route planning", "RP"),
        ("mme_rs_lite", "Color", "Color"),
        ("mme_rs", " position", "Position"),
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
    assert categories.subtask(name, written).abbreviation == abbreviation


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("xlrs_lite", "Overall counting"),  # half of the string
        ("xlrs_lite", "OC"),
        ("xlrs_lite", "Counting/Overall countin"),
        ("xlrs_lite", "Counting_Overall counting"),
        ("mme_rs", "Perception/Remote Sensing"),
        ("mme_rs", "colour"),
        ("rshr", "regionla_grounding"),
        ("rshr", "object classification"),
        ("rshr", ""),
    ],
)
def test_other_spellings_are_errors_of_one_line(name, written):
    with pytest.raises(ValueError) as error:
        categories.subtask(name, written)
    message = str(error.value)
    assert repr(written) in message and categories.benchmark(name).subtasks[-1].category in message
    assert "\n" not in message


def test_unknown_benchmarks_are_errors():
    with pytest.raises(
        ValueError, match="benchmark='xlrs': is unknown; known are xlrs_lite, mme_rs_lite, mme_rs, rshr"
    ):
        categories.subtask("xlrs", "color")


def test_other_counts_warn():
    counts = {item.abbreviation: item.count for item in categories.benchmark("mme_rs_lite").subtasks}
    assert categories.count_warnings("mme_rs_lite", counts) == ()
    assert categories.count_warnings("mme_rs_lite", {**counts, "Color": 49}) == (
        "mme_rs_lite: Color has 49 questions, 50 are expected",
    )
