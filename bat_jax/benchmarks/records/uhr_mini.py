"""UHR-Mini: the synthetic world of `bat_jax.mini.world`, 12 sub-tasks, 4,588 questions in its development split.

A scene gives one picture for all questions without a mark, and one more for each red circle that a question draws.
Categories and groups are those of the benchmarks that ask the like: anomaly and route planning are reasoning (XLRS),
all else is perception, spatial relation (XLRS), existence (RSHR's detection) and location (MME) included. Columns have
the sub-tasks' own names. It stands in no paper; both published averages mean what they mean for XLRS-Bench, whose form
it has, and its answers are read as that benchmark's scorer reads them.

As a TensorFlow dataset an example is a scene with all its questions; pictures are stored without circles. A question
with `marker_radius` > 0 (in decimetres) wants its circle drawn:
`render(generate_scene(example["scene_seed"]), side, Marker(...))`.
"""

import dataclasses
import functools
import io
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from bat_jax.benchmarks.letters import AnswerKey
from bat_jax.benchmarks.record import PERCEPTION, REASONING, Benchmark, Picture, SubTask, Task, TfdsConfig, is_prepared
from bat_jax.benchmarks.records.xlrs import xlrs_letters
from bat_jax.data.llava import Record, parse_record
from bat_jax.mini.world.exports import llava_turns
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.question import SUB_TASKS, PromptStyle, Question
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import MIN_SIDE_PX, render
from bat_jax.mini.world.splits import FIXED_SETS, SPLITS, parse_seeds, scenes_with_questions, seeds_of
from bat_jax.mini.world.world import Marker, canonical_json, content_hash

NAME = "uhr_mini"
# Sub-tasks whose questions may have objects beside the one that is asked for.
CROWDED = ("object_class", "object_colour", "existence", "motion_state")
_QUESTION = {
    "question_id": str,
    "sub_task": str,
    "category": str,
    "template": str,
    "text": str,
    "options": str,  # joined by newlines: their number varies
    "answer": str,
    "answer_word": str,
    "site_ids": str,  # joined by spaces, as are object_ids
    "object_ids": str,
    "boxes": str,  # JSON: [[left, top, right, bottom], ...] in decimetres
    "num_distractors": int,
    "marker_x": int,
    "marker_y": int,
    "marker_radius": int,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UhrMiniConfig(TfdsConfig):
    """How many scenes of each split, and whether pictures are stored.

    Attributes:
      image_side: side of the stored PNG in pixels; 0 stores none, since every picture follows from its seed.
      num_train, num_validation, num_development, num_test: the first so many seeds of each split.
    """

    image_side: int = 0
    num_train: int = 10_000
    num_validation: int = 500
    num_development: int = len(SPLITS["development"])
    num_test: int = len(SPLITS["test"])

    def __post_init__(self):
        if self.image_side and self.image_side < MIN_SIDE_PX:
            raise ValueError(f"image_side={self.image_side}: must be 0 (no pictures) or at least {MIN_SIDE_PX}")
        for split in SPLITS:
            self.seeds(split)

    def seeds(self, split: str) -> range:
        return seeds_of(split, getattr(self, f"num_{split}"))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class UhrMini(Benchmark):
    """Scenes painted as they are asked for, or read from the TensorFlow dataset."""

    settings: ClassVar[tuple[str, ...]] = ("scene_seeds", "render_px", "data", "tfds_dir", "split")

    def open(self, settings: Mapping[str, Any]) -> tuple[Iterable[Picture], str]:
        side, style = settings["render_px"], settings["prompt"]
        if is_prepared(settings.get("data")):
            return self._open_prepared(settings, style)
        seeds = parse_seeds(settings["scene_seeds"])
        return pictures(seeds, side, style), f"{describe_seeds(seeds)}, painted at {side} px"

    def _open_prepared(self, settings: Mapping[str, Any], style: PromptStyle) -> tuple[Iterable[Picture], str]:
        from bat_jax.benchmarks.prepared import open_prepared  # tensorflow_datasets is imported where it is used

        prepared = open_prepared(self, settings["data"], settings["tfds_dir"])
        source = prepared.source(settings["split"])
        if source[0]["scene_seed"] not in SPLITS[settings["split"]]:
            raise ValueError(f"{prepared.text}: its scenes are not of the {settings['split']} split; prepare it anew")
        stored = prepared.source(settings["split"], decode_images=True)
        side = settings["render_px"]
        is_stored = side == getattr(prepared.config, "image_side", 0)

        def load(number: int, seed: int, marker: Marker | None) -> np.ndarray:
            if marker is None and is_stored:
                return stored[number]["image"]
            return render(generate_scene(seed), side, marker)

        def found() -> Iterator[Picture]:
            for number, example in enumerate(source):
                seed = int(example["scene_seed"])
                yield from scene_pictures(seed, questions_of(example), functools.partial(load, number, seed), style)

        how = "stored" if is_stored else "painted"
        return found(), f"{prepared.text}: {len(source)} scenes of {settings['split']}, {how} at {side} px"

    @property
    def tfds_configs(self) -> tuple[UhrMiniConfig, ...]:
        few: dict[str, Any] = {"num_train": 4, "num_validation": 2, "num_development": 2, "num_test": 2}
        return (
            UhrMiniConfig(name="scenes", description="Seeds and questions; no pictures."),
            UhrMiniConfig(
                name="images_1344", description="With pictures of 1344 pixels.", image_side=1344, num_train=1_000
            ),
            UhrMiniConfig(name="tiny", description="A few scenes at 224 pixels, to try things.", image_side=224, **few),
        )

    def tfds_features(self, config: UhrMiniConfig) -> dict[str, Any]:
        side = config.image_side
        return {"scene_seed": int, "questions": [_QUESTION]} | ({"image": (side, side, 3)} if side else {})

    def tfds_metadata(self, config: UhrMiniConfig) -> dict[str, str]:
        """Return the checksums of the fixed splits, and a hash of each split's recipe: seeds and first questions."""
        checksums = {f"whole_{split}_checksum": fixed.checksum for split, fixed in FIXED_SETS.items()}
        for split in SPLITS:
            seeds = config.seeds(split)
            recipe = [seeds.start, seeds.stop, generate_questions(generate_scene(seeds.start))]
            checksums[f"{split}_checksum"] = content_hash(recipe)
        return checksums

    def tfds_examples(
        self, config: UhrMiniConfig, manual_dir: str
    ) -> Mapping[str, Iterable[tuple[int, dict[str, Any]]]]:
        del manual_dir  # nothing is downloaded
        return {split: _examples(config.seeds(split), config.image_side) for split in SPLITS}

    def conversation_of(self, example: Mapping[str, Any], images: tuple[str, ...]) -> Record:
        """Return the questions without a circle as the turns of one conversation."""
        asked = [question for question in questions_of(example) if question.marker is None]
        turns = [turn for question in asked for turn in llava_turns(question)]
        return parse_record({"id": str(example["scene_seed"]), "image": list(images), "conversations": turns}, 0)


def pictures(seeds: range, side: int, prompt_style: PromptStyle = "release") -> Iterator[Picture]:
    """Yield the pictures of scenes, made as they are asked for; pixels are painted when a picture is loaded.

    Args:
      seeds: which scenes.
      side: pixels a side of every picture.
      prompt_style: how questions ask; "word" asks for the option's text instead of its letter.
    """
    for scene, questions in scenes_with_questions(seeds):
        yield from scene_pictures(scene.seed, questions, functools.partial(render, scene, side), prompt_style)


def scene_pictures(
    seed: int, questions: Sequence[Question], load: Callable[[Marker | None], np.ndarray], prompt_style: PromptStyle
) -> Iterator[Picture]:
    """Yield the pictures of a scene, the one without a circle first; `load` returns that of a circle, or without."""
    by_marker: dict[Marker | None, list[Question]] = {None: []}
    for question in questions:
        by_marker.setdefault(question.marker, []).append(question)
    for number, (marker, asked) in enumerate(by_marker.items()):
        if asked:
            yield Picture(
                key=f"{seed}-{number}" if number else str(seed),
                scene=str(seed),
                load=functools.partial(load, marker),
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
    return BENCHMARK.task(
        question.category,
        id=question.question_id,
        text=question.prompt(prompt_style),
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


def questions_of(example: Mapping[str, Any]) -> tuple[Question, ...]:
    """Return the questions of an example of the TensorFlow dataset."""
    rows = example["questions"]
    made = []
    for number in range(len(rows["text"])):
        row = {name: column[number] for name, column in rows.items()}
        text = {name: row[name].decode() for name, kind in _QUESTION.items() if kind is str}
        marker = Marker(x=int(row["marker_x"]), y=int(row["marker_y"]), radius=int(row["marker_radius"]))
        made.append(
            Question(
                question_id=text["question_id"],
                scene_seed=int(example["scene_seed"]),
                sub_task=text["sub_task"],
                template=text["template"],
                text=text["text"],
                options=tuple(text["options"].split("\n")),
                answer=text["answer"],
                site_ids=tuple(map(int, text["site_ids"].split())),
                object_ids=tuple(map(int, text["object_ids"].split())),
                boxes=tuple(tuple(box) for box in json.loads(text["boxes"])),
                num_distractors=int(row["num_distractors"]),
                marker=marker if marker.radius else None,
            )
        )
    return tuple(made)


def _examples(seeds: range, image_side: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for scene, questions in scenes_with_questions(seeds):
        example: dict[str, Any] = {"scene_seed": scene.seed, "questions": [_row(question) for question in questions]}
        if image_side:
            example["image"] = picture = io.BytesIO()
            Image.fromarray(render(scene, image_side)).save(picture, "PNG")
            picture.seek(0)
        yield scene.seed, example


def _row(question: Question) -> dict[str, Any]:
    marker = question.marker
    return {
        "question_id": question.question_id,
        "sub_task": question.sub_task,
        "category": question.category,
        "template": question.template,
        "text": question.text,
        "options": "\n".join(question.options),
        "answer": question.answer,
        "answer_word": question.answer_word,
        "site_ids": " ".join(map(str, question.site_ids)),
        "object_ids": " ".join(map(str, question.object_ids)),
        "boxes": canonical_json(question.boxes),
        "num_distractors": question.num_distractors,
        "marker_x": marker.x if marker else 0,
        "marker_y": marker.y if marker else 0,
        "marker_radius": marker.radius if marker else 0,
    }


def _distractors(task: Task) -> str | None:
    return f"{task.sub_task}: {task.facts['num_distractors']}" if task.sub_task in CROWDED else None


def _form(task: Task) -> str:
    return task.facts["template"].rpartition("/")[0]


def _sub(name: str, count: int, group: str = PERCEPTION, is_multi_answer: bool = False) -> SubTask:
    return SubTask(
        abbreviation=name,
        category=SUB_TASKS[name].category,
        group=group,
        count=count,
        is_multi_answer=is_multi_answer,
        aliases=(name,),
    )


BENCHMARK = UhrMini(
    name=NAME,
    title="UHR-Mini",
    subtasks=(
        _sub("overall_counting", 200),
        _sub("regional_counting", 400),
        _sub("overall_land_use", 200, is_multi_answer=True),
        _sub("regional_land_use", 389),
        _sub("object_class", 600),
        _sub("object_colour", 600),
        _sub("motion_state", 400),
        _sub("existence", 600),
        _sub("location", 200),
        _sub("spatial_relation", 399),
        _sub("anomaly", 400, REASONING),
        _sub("route_planning", 200, REASONING),
    ),
    prompts=dict.fromkeys(typing.get_args(PromptStyle)),
    max_new_tokens=8,
    official=xlrs_letters,
    averagings={"paper": "micro", "leaderboard": "macro"},
    breakdowns={"Objects beside the one asked for": _distractors, "Form of the question": _form},
    description="Synthetic ultra-high-resolution scenes seen from above, with multiple-choice questions in the "
    "sub-tasks of XLRS-Bench, MME-RealWorld and RSHR-Bench, and options balanced so that guessing by language gives "
    "chance.",
)
