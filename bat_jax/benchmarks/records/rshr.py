"""RSHR-Bench, multiple choice (= XHRBench): 17 sub-tasks, 1,932 questions, 342 of them turns of 114 dialogues.

Category strings: a scorer that others wrote for XHRBench; its misspellings are said to stand in the data, so both
spellings are read. Counts: derived from the step of the published percentages, and MRJC's is the least certain, since
many published numbers of that column repeat those of REL. Rows are read by the fields that the release's evaluation
script reads, since the columns of RSHR-Bench itself could not be seen.

The benchmark's own thirteen prompts stand in an appendix that we could not read, and its scorer is not published: only
the release's text is offered, and set equality of letters, which is all that is known of the scorer, is the release's
rule. Averages are macro: "P.Avg.", "R.Avg." and the mean over all 14.
"""

from collections.abc import Mapping
from typing import Any

from bat_jax.benchmarks.file_benchmark import FileBenchmark, number_of_images, number_of_options
from bat_jax.benchmarks.letters import release_official
from bat_jax.benchmarks.question_prompts import release_question
from bat_jax.benchmarks.record import MULTI_TURN, PERCEPTION, REASONING, SubTask, spelling


def reason_to_leave_out(fields: Mapping[str, Any]) -> str | None:
    """Leave out what is no multiple choice."""
    has_options = "conversations" in fields or fields.get("options", fields.get("multi-choice options"))
    return None if has_options else "no options"


def _sub(abbreviation: str, group: str, category: str, count: int, *aliases: str) -> SubTask:
    num_turns = 3 if group == MULTI_TURN else 1
    return SubTask(
        abbreviation=abbreviation, category=category, group=group, count=count, num_turns=num_turns, aliases=aliases
    )


BENCHMARK = FileBenchmark(
    name="rshr",
    title="RSHR-Bench (XHRBench)",
    aliases=("rshr_bench",),
    subtasks=(
        _sub("COL", PERCEPTION, "color", 200),
        _sub("SHP", PERCEPTION, "shape", 100),
        _sub("DET", PERCEPTION, "detection", 100),  # a figure of the benchmark's paper calls it orientation
        _sub("OC", PERCEPTION, "object_clasfication", 200, "object_classification"),
        _sub("REL", PERCEPTION, "relation", 200),
        _sub("OGD", PERCEPTION, "object_grounding", 200),
        _sub("RG", PERCEPTION, "regional_grouding", 70, "regional_grounding"),
        _sub("OCN", PERCEPTION, "object_counting", 200),
        _sub("RCN", PERCEPTION, "regionla_counting", 100, "regional_counting"),
        _sub("AD", REASONING, "anomaly_detection", 50),
        _sub("FP", REASONING, "future_prediction_two_image", 50),
        _sub("MRJC", REASONING, "multi_region_join_contrast", 20),
        _sub("MRJCS", REASONING, "multi_region_join_contrast_singal", 50, "multi_region_join_contrast_single"),
        _sub("OSJ", REASONING, "object_state_judgement", 50),
        _sub("MAD", MULTI_TURN, "multturn_anomaly_detection", 60, "multiturn_anomaly_detection"),
        _sub("MTFP", MULTI_TURN, "multitrun-future_prediction", 150, "multiturn_future_prediction"),
        _sub("MOSJ", MULTI_TURN, "multiturn_object_state_judgement", 132),
    ),
    spelling=lambda category: spelling(category).replace("-", "_"),
    reason_to_leave_out=reason_to_leave_out,
    prompts={"release": release_question},
    text_options=("release",),
    max_new_tokens=512,  # as the release's script
    official=release_official,
    lets_several=True,
    averaging="paper",
    averagings={"paper": "macro", "leaderboard": "macro"},
    breakdowns={"Options offered": number_of_options, "Images shown": number_of_images},
    description="The multiple-choice questions of RSHR-Bench (XHRBench).",
    how_to_get="the folder of hf download RL-MIND/XHRBench --repo-type dataset: dataset.json and images/",
)
