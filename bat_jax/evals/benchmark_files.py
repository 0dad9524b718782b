"""The benchmarks' files as pictures with questions: what is asked, how it is scored, what the tables break down.

Questions about the same images are asked together. Image files are the same by their path; embedded images by their
content, which is read only where several rows give them one name.

    key            prompts                          scored as
    xlrs           official, vlmevalkit, release    xlrs_lite
    mme_realworld  official, vlmevalkit, release    mme_rs_lite up to 150 remote-sensing questions, else mme_rs
    rshr           release                          rshr
    llava          release                          llava

A record with a conversation holds a whole prompt, which is asked as the release's scripts ask it; only prompt "release"
takes such records. The turns of RSHR's dialogues are asked one by one, as by the release's script, without the turns
before them; those of one category about one picture are a dialogue.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from bat_jax.benchmarks import answer_readers, categories, question_prompts
from bat_jax.benchmarks.samples import SPELLED_AS, BenchmarkData, Sample
from bat_jax.benchmarks.stored_images import StoredImage
from bat_jax.evals.runner import Loaded, Picture, Task

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "xlrs": question_prompts.STYLES,
    "mme_realworld": question_prompts.STYLES,
    "rshr": ("release",),
    "llava": ("release",),
}


def scored_as(key: str, num_questions: int) -> str:
    """Return the key of categories.BENCHMARKS for a benchmark's data."""
    if key == "mme_realworld" and num_questions <= categories.benchmark("mme_rs_lite").count:
        return "mme_rs_lite"
    return SPELLED_AS.get(key, key)


def pictures(
    data: BenchmarkData, prompt_style: str, *, leak_hint: bool = False, max_pixels: int = 300_000_000
) -> tuple[Iterator[Picture], int]:
    """Return (pictures with their questions, number of questions); every question is checked, no picture decoded.

    Args:
      prompt_style: one of PROMPTS[data.key]. leak_hint: see `question_prompts.prompt`.
      max_pixels: larger images fail.

    Raises:
      ValueError: a row cannot be read or asked; names file, row and field.
    """
    samples = list(data)
    name = scored_as(data.key, len(samples))
    task = functools.partial(task_of, name=name, prompt_style=prompt_style, leak_hint=leak_hint)
    tasks = {sample.id: task(sample) for sample in samples}

    def grouped() -> Iterator[Picture]:
        for key, group in by_images(samples):
            images = group[0].images
            yield Picture(
                key=key,
                load=functools.partial(load_images, images, max_pixels),
                tasks=tuple(_in_dialogue(tasks[sample.id], key) for sample in group),
            )

    return grouped(), len(samples)


def load_images(images: Sequence[StoredImage], max_pixels: int) -> Loaded:
    """Decode a question's images in full."""
    loaded = tuple(image.load(max_pixels=max_pixels) for image in images)
    return loaded if len(loaded) > 1 else loaded[0]


def by_images(samples: Sequence[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    """Yield (unique key, questions about the same images), in the order of their first questions."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(str(image.path or image.name) for image in sample.images), []).append(sample)
    for group in groups.values():
        name = " + ".join(image.name for image in group[0].images if image.name) or f"question {group[0].id}"
        parts = [group]
        if len(group) > 1 and any(image.path is None for image in group[0].images):
            parts = _by_content(group)
        for number, part in enumerate(parts, start=1):
            yield (name if number == 1 else f"{name}#{number}"), part


def _by_content(samples: Sequence[Sample]) -> list[list[Sample]]:
    parts: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        try:
            content = tuple(hashlib.sha256(image.read()).hexdigest() for image in sample.images)
        except (ValueError, OSError):
            content = (sample.id,)  # alone, so that its failure is its own
        parts.setdefault(content, []).append(sample)
    return list(parts.values())


def task_of(sample: Sample, *, name: str, prompt_style: str, leak_hint: bool = False) -> Task:
    """Return a sample as a task of the benchmark `name` (a key of categories.BENCHMARKS).

    Raises:
      ValueError: it cannot be asked in this style, or its answer is none of its options; names file and row.
    """
    try:
        question = _open_or_choice(sample) if name == "llava" else _choice(sample, name)
        text = _text(sample, name, prompt_style, leak_hint, question.is_multi_answer)
    except ValueError as error:
        raise ValueError(f"{sample.place}: {error}") from None
    is_open = question.answer_form == "open"
    return Task(
        id=sample.id,
        text=text,
        category=("open" if is_open else "multiple choice") if name == "llava" else sample.category,
        question=question,
        prompt_style=prompt_style,
        chance=0.0 if is_open else None,
        facts={
            "category": sample.category,
            "num_options": len(sample.options),
            "num_images": len(sample.images),
            "place": sample.place,
        },
    )


def _choice(sample: Sample, name: str, *, is_multi_answer: bool | None = None) -> answer_readers.AnswerKey:
    if is_multi_answer is None:
        is_multi_answer = categories.subtask(name, sample.category).is_multi_answer
    return answer_readers.AnswerKey(
        benchmark=name,
        truth=sample.answer,
        options=sample.options,
        is_multi_answer=is_multi_answer,
        conversation=sample.conversation,
    )


def _open_or_choice(sample: Sample) -> answer_readers.AnswerKey:
    """Take a conversation as multiple choice where its lines have letters and its answer names one of them."""
    try:
        return _choice(sample, "llava", is_multi_answer=False)
    except ValueError:
        return answer_readers.AnswerKey(benchmark="llava", truth=sample.answer, options=(), answer_form="open")


def _text(sample: Sample, name: str, prompt_style: str, leak_hint: bool, is_multi_answer: bool) -> str:
    if sample.conversation is not None:
        if prompt_style != "release":
            raise ValueError(f"prompt={prompt_style}: the data holds whole prompts as conversations; use release")
        text = question_prompts.release_conversation(sample.conversation)
        return question_prompts.with_leaked_hint(text, sample.answer) if leak_hint else text
    if (name, prompt_style) == ("xlrs_lite", "vlmevalkit"):
        options: question_prompts.Options = sample.options_text
    else:
        options = sample.options_text if name == "rshr" and sample.options_text else sample.options
    return question_prompts.prompt(
        name,
        prompt_style,
        sample.question,
        options,
        is_multi_answer=is_multi_answer,
        truth=sample.answer if leak_hint else None,
        leak_hint=leak_hint,
    )


def _in_dialogue(task: Task, key: str) -> Task:
    found = categories.subtask(task.question.benchmark, task.category)
    if found.group != categories.MULTI_TURN:
        return task
    return dataclasses.replace(task, dialogue=f"{found.abbreviation} {key}")


def _number_of_images(task: Task) -> str:
    return str(task.facts["num_images"])


def _number_of_options(task: Task) -> str:
    return str(task.facts["num_options"])


def _first_half(task: Task) -> str:
    return task.facts["category"].partition("/")[0].strip()


# Key -> title of a table -> the row that a question stands in; None: in none.
BREAKDOWNS: Mapping[str, Mapping[str, Callable[[Task], str | None]]] = {
    "xlrs": {"First half of the category": _first_half, "Images shown": _number_of_images},
    "mme_realworld": {},
    "rshr": {"Options offered": _number_of_options, "Images shown": _number_of_images},
    "llava": {"Category": lambda task: task.facts["category"] or None, "Images shown": _number_of_images},
}
