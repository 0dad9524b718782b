"""XLRS-Bench-lite: 13 sub-tasks, 3,080 questions.

Category strings: `TASK_PAIRs` of lmms-eval's XLRS task; counts: counted. The first half of a category is not the
paper's group: "Counting/Counting with changing detection" and "Counting/Counting with complex reasoning" are reasoning
in the paper, so a category is looked up by its full string.

Prompts are quoted exactly, missing blanks included. "official" is lmms-eval's XLRS task: nothing between the question
and "The choices are listed below:", "(A, B, C, D)" for two options too, and no line break before "The answer(s)" of
the multi-answer ending. (The README of XLRS-Bench differs from that code: a blank before "The choices", no empty line
before the ending, and no "The answer(s) is(are):".) "vlmevalkit" is the question and a text that the data holds ready.

The paper's "w.Avg." is micro (its own row of 44.0, weighted by the counts); the benchmark's own table prints macro, and
lmms-eval's task macro over all 13, a sub-task that was not run counting 0.
"""

import re

from bat_jax.benchmarks.file_benchmark import FileBenchmark, number_of_images
from bat_jax.benchmarks.letters import without_phrases
from bat_jax.benchmarks.question_prompts import Options, listed, release_question
from bat_jax.benchmarks.record import PERCEPTION, REASONING, SubTask, Task

SINGLE = (
    "\nSelect the best answer for the multiple-choice question based on the image. Only respond with the letter"
    " corresponding to the correct answer (A, B, C, D).\nThe answer is:"
)
MULTIPLE = (
    "\nSelect the best answer(s) for the multiple-choice question based on the image. There may be more than one"
    " correct option. Only respond with the letter(s) corresponding to the correct answer(s) (A, B, C, D), with"
    " multiple choices separated by spaces.The answer(s) is(are):"
)


def official_prompt(question: str, options: Options, is_multi_answer: bool) -> str:
    """Return what lmms-eval's XLRS task asks."""
    ending = MULTIPLE if is_multi_answer else SINGLE
    return f"{question}The choices are listed below:\n" + "\n".join(listed(options)) + f"\n{ending}"


def vlmevalkit_prompt(question: str, options: Options, is_multi_answer: bool) -> str:
    """Return question and ready text.

    Raises:
      ValueError: the data has no ready text.
    """
    del is_multi_answer  # the ready text says it
    if not isinstance(options, str):
        raise ValueError(f"options={options!r}: VLMEvalKit's form of XLRS-Bench holds options and ending as one text")
    return question + options


def xlrs_letters(output: str, options: tuple[str, ...] = ()) -> str:
    """Read letters as XLRS-Bench's scorer does (lmms-eval and VLMEvalKit, identical).

    Known phrases go; without a capital A-E left there is no answer; letters in parentheses, of either case, count
    alone where there are any; otherwise every letter a-e or A-E anywhere counts. The options do not matter.
    """
    del options
    text = without_phrases(output)
    if not re.search("[A-E]", text):
        return ""
    found = re.findall(r"\(([A-Ea-e])\)", text) or re.findall("[A-Ea-e]", text)
    return "".join(sorted({letter.upper() for letter in found}))


def first_half(task: Task) -> str:
    """Return the data's own group of a category."""
    return task.facts["category"].partition("/")[0].strip()


def _sub(abbreviation: str, group: str, category: str, count: int, is_multi_answer: bool = False) -> SubTask:
    return SubTask(
        abbreviation=abbreviation, category=category, group=group, count=count, is_multi_answer=is_multi_answer
    )


BENCHMARK = FileBenchmark(
    name="xlrs",
    title="XLRS-Bench-lite",
    aliases=("xlrs_lite", "xlrs_bench"),
    subtasks=(
        _sub("OC", PERCEPTION, "Counting/Overall counting", 60),
        _sub("RC", PERCEPTION, "Counting/Regional counting", 100),
        _sub("OLUC", PERCEPTION, "Land use classification/Overall Land use classification", 100, is_multi_answer=True),
        _sub("RLUC", PERCEPTION, "Land use classification/Regional Land use classification", 200),
        _sub("OCC", PERCEPTION, "Object properties/Object classification", 800),
        _sub("OCL", PERCEPTION, "Object properties/Object color", 800),
        _sub("OMS", PERCEPTION, "Object properties/Object motion state", 60),
        _sub("OSR", PERCEPTION, "Object spatial relationship/Object spatial relationship", 500),
        _sub("AD", REASONING, "Complex reasoning/Anomaly Detection and Interpretation", 100),
        _sub("ECR", REASONING, "Complex reasoning/Environmental condition reasoning", 100),
        _sub("RP", REASONING, "Complex reasoning/Route planning", 100),
        _sub("RCCD", REASONING, "Counting/Counting with changing detection", 60),
        _sub("CCR", REASONING, "Counting/Counting with complex reasoning", 100),
    ),
    prompts={"official": official_prompt, "vlmevalkit": vlmevalkit_prompt, "release": release_question},
    text_options=("vlmevalkit",),
    official=xlrs_letters,
    averaging="paper",
    averagings={"paper": "micro", "leaderboard": "macro"},
    breakdowns={"First half of the category": first_half, "Images shown": number_of_images},
    description="XLRS-Bench-lite: 13 sub-tasks on ultra-high-resolution remote-sensing images.",
    how_to_get="the folder of hf download initiacms/XLRS-Bench-lite --repo-type dataset, or of XLRS-Bench-lite_VLM",
)
