"""What a benchmark is: its sub-tasks and how it is asked, read and averaged; and what it yields, pictures with tasks.

Every benchmark is one record in one file (`bat_jax.benchmarks.records`), found by its name (`registry`).
"""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bat_jax.benchmarks.letters import AnswerKey, Reading, release_verdict
from bat_jax.data.llava import Record
from bat_jax.io.images import SourceImage

PERCEPTION, REASONING, MULTI_TURN = "perception", "reasoning", "multi-turn"
OTHER = "other"  # neither of the first two, but counted overall
MEANS = ("micro", "macro", "macro_all")

Loaded = np.ndarray | SourceImage | tuple[np.ndarray | SourceImage, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubTask:
    """A column of a benchmark's table.

    Attributes:
      abbreviation: the column's head in the papers.
      category: exactly as the data holds it.
      group: PERCEPTION, REASONING, MULTI_TURN or OTHER.
      count: questions (turns, where group is MULTI_TURN) to expect. 0: any.
      num_turns: of a dialogue, where group is MULTI_TURN and the data does not say.
      is_multi_answer: whether several options may be right together.
      aliases: other spellings of `category` that are read.
    """

    abbreviation: str
    category: str
    group: str
    count: int = 0
    is_multi_answer: bool = False
    num_turns: int = 1
    aliases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One question about a picture.

    Attributes:
      id: unique over the benchmark. text: the whole prompt of the user. category: as the data spells it.
      sub_task: abbreviation of the category's sub-task. question: what scoring needs to know.
      prompt_style: how `text` asks.
      chance: how often a guess is right; None: by the number of options.
      dialogue: of a turn, whatever tells its dialogue from others. num_turns: of that dialogue; None: as its sub-task
        says.
      shared_with: texts of other questions about the picture that tokens are chosen for together (`BatModel.ask`).
      facts: anything else that JSON can hold; goes into the question's line.
    """

    id: str
    text: str
    category: str
    sub_task: str
    question: AnswerKey
    prompt_style: str
    chance: float | None = None
    dialogue: str | None = None
    num_turns: int | None = None
    shared_with: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, or several that are shown together, and its questions.

    Attributes:
      key: unique. load: returns the pixels, (H, W, 3) uint8 or a SourceImage; a tuple of them for several.
      scene: the same for pictures whose questions lean the same way, since they show the same; by default the key.
      label_map: returns the region labels of a single picture for partition "sam", (H, W); None under the others.
      files: what `load` and `label_map` read on their own, apart from the data's files.
      ask_options: options of `ask` that are this picture's own.
    """

    key: str
    load: Callable[[], Loaded]
    tasks: tuple[Task, ...]
    scene: str = ""
    label_map: Callable[[], np.ndarray] | None = None
    files: tuple[pathlib.Path, ...] = ()
    ask_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "scene", self.scene or self.key)


Breakdowns = Mapping[str, Callable[[Task], str | None]]


def spelling(category: str) -> str:
    """Return the form in which two spellings of a category are the same: capitals and extra blanks do not count."""
    return "/".join(part.strip() for part in " ".join(category.split()).lower().split("/"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsConfig:
    """One way of preparing a benchmark as a TensorFlow dataset.

    Attributes:
      name: "" where there is but one.
      allow_outside_paths: take in images that the data names outside of its folder.
    """

    name: str = ""
    description: str = ""
    allow_outside_paths: bool = False


def is_prepared(data: str | None) -> bool:
    """Return whether --data names a TensorFlow dataset ("tfds", "tfds:NAME", "tfds:NAME/CONFIG") and no file."""
    return (data or "").partition(":")[0] == "tfds"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark(abc.ABC):
    """A benchmark: everything that is its own.

    Attributes:
      name: its one name in flags, settings and results, and as a TensorFlow dataset.
      title: for tables. aliases: names that are read for `name`.
      subtasks: in the order of the papers' columns.
      variants: other sizes in which it is distributed: name -> questions of the sub-tasks, in their order.
      spelling: the form in which two spellings of a category are the same.
      prompts: ways of asking, the default first.
      max_new_tokens: most tokens of an answer, by default.
      official: (output, options) -> letters, as the benchmark's own scorer reads them.
      release: (output, question, scores of the first step's letters) -> verdict of the release's script.
      lets_several: whether several letters are read, where the data does not say which questions have several answers.
      averaging: of a run's headline: "micro", "macro", "macro_all", or a name in `averagings`.
      averagings: "paper" and "leaderboard", where these are published -> the mean that they are.
      breakdowns: title of a table -> the row that a task stands in; None: in none.
      description, how_to_get: of the TensorFlow dataset; the latter says what --manual_dir is.
    """

    name: str
    title: str
    subtasks: tuple[SubTask, ...]
    prompts: Mapping[str, Any]
    official: Callable[[str, tuple[str, ...]], str]
    aliases: tuple[str, ...] = ()
    variants: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    spelling: Callable[[str], str] = spelling
    max_new_tokens: int = 64
    release: Callable[[str, AnswerKey, Mapping[str, float] | None], Reading] = release_verdict
    lets_several: bool = False
    averaging: str = "micro"
    averagings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    breakdowns: Breakdowns = dataclasses.field(default_factory=dict)
    description: str = ""
    how_to_get: str = ""
    # Settings that `open` reads; the flags of these names are the benchmark's.
    settings: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def open(self, settings: Mapping[str, Any]) -> tuple[Iterable[Picture], str]:
        """Return (pictures with their questions, one line on what they are) for what JSON holds of a run.

        Raises:
          ValueError: the data cannot be read or asked; names file, row and field.
        """

    def tfds_config_of(self, data: str) -> TfdsConfig:
        """Return which TensorFlow dataset "tfds", "tfds:NAME" or "tfds:NAME/CONFIG" means.

        Raises:
          ValueError: it is another benchmark's, or there is no such config.
        """
        key, _, config = data.partition(":")[2].partition("/")
        if key not in ("", self.name, *self.aliases):
            raise ValueError(f"data={data}: is not of {self.name}; give tfds or tfds:{self.name}")
        found = {item.name: item for item in self.tfds_configs} | {"": self.tfds_configs[0]}
        if config not in found:
            raise ValueError(f"data={data}: must be tfds:{self.name} and one of {', '.join(filter(None, found))}")
        return found[config]

    @property
    def tfds_configs(self) -> Sequence[TfdsConfig]:
        """Ways of preparing it as a TensorFlow dataset, the default first."""
        return (TfdsConfig(),)

    @abc.abstractmethod
    def tfds_features(self, config: Any) -> dict[str, Any]:
        """Return what an example holds: name -> str, bytes, int, bool, a list of one of them, a dict, or (H, W, 3)."""

    @abc.abstractmethod
    def tfds_examples(self, config: Any, manual_dir: str) -> Mapping[str, Iterable[tuple[int, dict[str, Any]]]]:
        """Return the examples of every split, each with its number."""

    def tfds_metadata(self, config: Any) -> dict[str, str]:
        """Return what the dataset's info says about how it was made."""
        del config
        return {}

    @abc.abstractmethod
    def conversation_of(self, example: Mapping[str, Any], images: tuple[str, ...]) -> Record:
        """Return an example of the TensorFlow dataset as a conversation to train on; `images` are the names to give.

        Raises:
          ValueError: it holds none.
        """

    @functools.cached_property
    def _by_spelling(self) -> dict[str, SubTask]:
        return {self.spelling(text): item for item in self.subtasks for text in (item.category, *item.aliases)}

    def subtask(self, category: str) -> SubTask:
        """Look up the sub-task of a category string, as the data holds it in full.

        Raises:
          ValueError: the category is unknown; abbreviations are no categories.
        """
        found = self._by_spelling.get(self.spelling(category))
        if found is None:
            known = ", ".join(repr(item.category) for item in self.subtasks)
            raise ValueError(f"category={category!r}: {self.name} has no such category; known are {known}")
        return found

    def task(self, category: str, **fields: Any) -> Task:
        """Return a Task of the category's sub-task.

        Raises:
          ValueError: the category is unknown.
        """
        return Task(category=category, sub_task=self.subtask(category).abbreviation, **fields)

    def in_group(self, group: str) -> tuple[SubTask, ...]:
        return tuple(subtask for subtask in self.subtasks if subtask.group == group)

    def counts(self, variant: str = "", group: str | None = None) -> dict[str, int]:
        """Return abbreviation -> questions to expect, of a group or all; variant "" is what the sub-tasks name."""
        sizes = self.variants[variant] if variant else tuple(item.count for item in self.subtasks)
        pairs = zip(self.subtasks, sizes, strict=True)
        return {item.abbreviation: size for item, size in pairs if group in (None, item.group)}

    def variant_of(self, num_questions: int) -> str:
        """Return the smallest variant that data of so many questions may be; "" for the full size."""
        sizes = {name: sum(sizes) for name, sizes in self.variants.items()}
        return min((name for name in sizes if num_questions <= sizes[name]), key=sizes.__getitem__, default="")

    def count_notes(self, found: Mapping[str, int]) -> tuple[str, ...]:
        """Say which sub-tasks have another number of questions than expected; `found` is by abbreviation."""
        wanted = self.counts(self.variant_of(sum(found.values())))
        return tuple(
            f"{name} {found.get(name, 0)} of {count}"
            for name, count in wanted.items()
            if count and found.get(name, 0) != count
        )

    def mean_of(self, averaging: str) -> str:
        """Return "micro", "macro" or "macro_all": what an averaging means here.

        Raises:
          ValueError: it is unknown, or the benchmark has no published average of that name.
        """
        if averaging in MEANS:
            return averaging
        if averaging not in ("paper", "leaderboard"):
            raise ValueError(f"averaging={averaging!r}: must be one of {', '.join((*MEANS, 'paper', 'leaderboard'))}")
        if averaging not in self.averagings:
            raise ValueError(
                f"averaging={averaging!r}: {self.name} has no published average; give {' or '.join(MEANS)}"
            )
        return self.averagings[averaging]
