"""UHR-Mini as a benchmark: the pictures of scenes with their questions, and what its tables break down.

A scene gives one picture for all questions without a mark, and one more for each red circle that a question draws.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

from bat_jax.benchmarks.answer_readers import AnswerKey
from bat_jax.evals.runner import Picture, Task
from bat_jax.mini.world.question import PromptStyle, Question
from bat_jax.mini.world.render import render
from bat_jax.mini.world.splits import SPLITS, scenes_with_questions
from bat_jax.mini.world.world import Marker

NAME = "uhr_mini"
# Sub-tasks whose questions may have objects beside the one that is asked for.
CROWDED = ("object_class", "object_colour", "existence", "motion_state")


def pictures(seeds: range, side: int, prompt_style: PromptStyle = "release") -> Iterator[Picture]:
    """Yield the pictures of scenes, made as they are asked for; pixels are painted when a picture is loaded.

    Args:
      seeds: which scenes.
      side: pixels a side of every picture.
      prompt_style: how questions ask; "word" asks for the option's text instead of its letter.
    """
    for scene, questions in scenes_with_questions(seeds):
        by_marker: dict[Marker | None, list[Question]] = {None: []}
        for question in questions:
            by_marker.setdefault(question.marker, []).append(question)
        for number, (marker, asked) in enumerate(by_marker.items()):
            if asked:
                yield Picture(
                    key=f"{scene.seed}-{number}" if number else str(scene.seed),
                    load=functools.partial(render, scene, side, marker),
                    tasks=tuple(task_of(question, prompt_style) for question in asked),
                )


def task_of(question: Question, prompt_style: PromptStyle = "release") -> Task:
    """Return a question of a scene as a task of the benchmark."""
    scored = AnswerKey(
        benchmark=NAME,
        truth=question.answer,
        options=question.options,
        is_multi_answer=question.sub_task == "overall_land_use",
        answer_form="texts" if prompt_style == "word" else "letters",
    )
    return Task(
        id=question.question_id,
        text=question.prompt(prompt_style),
        category=question.category,
        question=scored,
        prompt_style=prompt_style,
        chance=question.chance,
        facts={
            "template": question.template,
            "answer_text": question.answer_word,
            "num_options": len(question.options),
            "num_distractors": question.num_distractors,
        },
    )


def describe_seeds(seeds: range) -> str:
    """Say which scenes seeds are: "scenes 5 to 9, in the train split"."""
    text = f"scenes {seeds[0]} to {seeds[-1]}"
    for split, of_split in SPLITS.items():
        shared = range(max(seeds.start, of_split.start), min(seeds.stop, of_split.stop))
        if shared:
            how = "all of" if shared == of_split else "in" if shared == seeds else "partly in"
            return f"{text}, {how} the {split} split"
    return f"{text}, in no split"


def _distractors(task: Task) -> str | None:
    return f"{task.sub_task}: {task.facts['num_distractors']}" if task.sub_task in CROWDED else None


def _form(task: Task) -> str:
    return task.facts["template"].rpartition("/")[0]


# Title of a table -> the row that a question stands in; None: in none.
BREAKDOWNS: Mapping[str, Callable[[Task], str | None]] = {
    "Objects beside the one asked for": _distractors,
    "Form of the question": _form,
}
