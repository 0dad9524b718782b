"""What a question of the UHR-Mini world is: its fields, its sub-tasks and their names in the benchmarks, its prompts.

Sub-tasks carry the category string of the benchmark that asks the like: XLRS-Bench's own strings ("Counting/Overall
counting"), MME-RealWorld's `position` for location, RSHR-Bench's `detection` for existence, which XLRS-Bench
does not ask.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bat_jax.mini.world.world import SIDE_DM, Box, Marker

LETTERS = "ABCD"
PromptStyle = Literal["release", "xlrs", "word"]

_RELEASE_TAIL = "Select the best answer based on the image. Answer with the option letter only."
_WORD_TAIL = "Answer with the option text only."
_XLRS_HEAD = "The choices are listed below:"
_XLRS_TAIL = (
    "\nSelect the best answer for the multiple-choice question based on the image. Only respond with the letter"
    " corresponding to the correct answer (A, B, C, D).\nThe answer is:"
)
_XLRS_TAIL_SEVERAL = (
    "\nSelect the best answer(s) for the multiple-choice question based on the image. There may be more than one"
    " correct option. Only respond with the letter(s) corresponding to the correct answer(s) (A, B, C, D), with"
    " multiple choices separated by spaces.The answer(s) is(are):"
)
PROMPT_TEXTS = (_RELEASE_TAIL, _WORD_TAIL, _XLRS_HEAD, _XLRS_TAIL, _XLRS_TAIL_SEVERAL)
_WORD = re.compile(r"[A-Za-z]+(?:-[a-z]+)*|[0-9]+|[^\sA-Za-z0-9]")


class WorldSubTask(NamedTuple):
    """A kind of question. `category` is the benchmark's own string, `l2_category` its second level."""

    category: str
    l2_category: str = "default"


SUB_TASKS = {
    "overall_counting": WorldSubTask("Counting/Overall counting"),
    "regional_counting": WorldSubTask("Counting/Regional counting"),
    "overall_land_use": WorldSubTask("Land use classification/Overall Land use classification"),
    "regional_land_use": WorldSubTask("Land use classification/Regional Land use classification"),
    "object_class": WorldSubTask("Object properties/Object classification"),
    "object_colour": WorldSubTask("Object properties/Object color"),
    "motion_state": WorldSubTask("Object properties/Object motion state"),
    "existence": WorldSubTask("detection"),
    "location": WorldSubTask("Perception/Remote Sensing", l2_category="position"),
    "spatial_relation": WorldSubTask("Object spatial relationship/Object spatial relationship"),
    "anomaly": WorldSubTask("Complex reasoning/Anomaly Detection and Interpretation"),
    "route_planning": WorldSubTask("Complex reasoning/Route planning"),
}
# What demonstrations show of a scene, in this order.
SHOWN_SUB_TASKS = (
    "object_colour",
    "object_class",
    "existence",
    "motion_state",
    "regional_counting",
    "anomaly",
    "location",
    "overall_land_use",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One multiple-choice question about one scene.

    Attributes:
      question_id: unique over all scenes: seed, sub-task, number.
      sub_task: a key of SUB_TASKS. template: which wording, "sub_task/form/variant".
      options: two to four texts without letters, in the order shown.
      answer: the right letter, or several in alphabetical order for overall_land_use ("ABD").
      site_ids, object_ids, boxes: the evidence. Boxes are (left, top, right, bottom) in dm, the smallest things first.
      num_distractors: objects on the question's sites that are not the answer's evidence.
      marker: the circle to draw into the picture; `render(scene, side, question.marker)`.
    """

    question_id: str
    scene_seed: int
    sub_task: str
    template: str
    text: str
    options: tuple[str, ...]
    answer: str
    site_ids: tuple[int, ...]
    object_ids: tuple[int, ...]
    boxes: tuple[Box, ...]
    num_distractors: int
    marker: Marker | None

    @property
    def form(self) -> str:
        """What is asked, without its wording: "object_class/site"."""
        return self.template.rpartition("/")[0]

    @property
    def category(self) -> str:
        return SUB_TASKS[self.sub_task].category

    @property
    def answer_words(self) -> tuple[str, ...]:
        """The right options' texts, in the order shown."""
        return tuple(self.options[LETTERS.index(letter)] for letter in self.answer)

    @property
    def answer_word(self) -> str:
        """The right option's text; several are joined by a comma and a space."""
        return ", ".join(self.answer_words)

    @property
    def unit_boxes(self) -> tuple[tuple[float, float, float, float], ...]:
        """The evidence's boxes as fractions of the picture's side, cut to [0, 1]."""

        def unit(value: int) -> float:
            return min(max(value / SIDE_DM, 0.0), 1.0)

        return tuple((unit(a), unit(b), unit(c), unit(d)) for a, b, c, d in self.boxes)

    @property
    def chance(self) -> float:
        """How often a guess is right that knows the form of the question but not the picture.

        overall_land_use has two or three right options of four, two in six cases of ten: 10 sets, all as frequent.
        """
        return 0.1 if self.sub_task == "overall_land_use" else 1 / len(self.options)

    def prompt(self, style: PromptStyle = "release") -> str:
        """Return the user's text: with options and the request for a letter ("word": for the option's text).

        "release" is how the authors' script asks `question`/`options` records, "xlrs" how XLRS-Bench's harness asks.
        """
        if style == "xlrs":
            tail = _XLRS_TAIL_SEVERAL if self.sub_task == "overall_land_use" else _XLRS_TAIL
            return f"{self.text}{_XLRS_HEAD}\n" + "\n".join(lettered(self.options)) + f"\n{tail}"
        if style not in ("release", "word"):
            raise ValueError(f"style={style!r}: must be release, xlrs or word")
        lines = [self.text, *(f"{LETTERS[i]}. {text}" for i, text in enumerate(self.options))]
        return "\n".join([*lines, _RELEASE_TAIL if style == "release" else _WORD_TAIL])


def first_of_each(questions: Sequence[Question]) -> list[Question]:
    """Return the first question without a marker of every shown sub-task: a choice that knows no answers."""
    firsts: dict[str, Question] = {}
    for question in questions:
        if question.marker is None:
            firsts.setdefault(question.sub_task, question)
    return [firsts[name] for name in SHOWN_SUB_TASKS if name in firsts]


def lettered(options: tuple[str, ...]) -> list[str]:
    """Return options as XLRS-Bench writes them: "(A) red"."""
    return [f"({LETTERS[i]}) {text}" for i, text in enumerate(options)]


def words(text: str) -> list[str]:
    """Split a text into words, numbers and single signs; "built-up" is one word, case is kept."""
    return _WORD.findall(text)
