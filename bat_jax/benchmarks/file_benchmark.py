"""A benchmark that comes as files, or as a TensorFlow dataset prepared from them: rows to samples, samples to tasks.

A row with a conversation holds a whole prompt, which is asked as the release's scripts ask it; only prompt "release"
takes such rows. The turns of dialogues are asked one by one, as by the release's script, without the turns before them.
A row may name its dialogue and the number of its turns (`samples.read_dialogue`). Where it does not, the turns of one
category about one picture are cut, in their order, into dialogues of as many turns as the sub-task has.
"""

import collections
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from bat_jax.benchmarks.containers import DataRow, data_files, read_rows
from bat_jax.benchmarks.letters import AnswerKey, truth_letters
from bat_jax.benchmarks.pictures import by_images, load_images
from bat_jax.benchmarks.question_prompts import Options, release_conversation, with_leaked_hint
from bat_jax.benchmarks.record import MULTI_TURN, Benchmark, Picture, Task, is_prepared
from bat_jax.benchmarks.samples import Sample, read_dialogue, read_row
from bat_jax.benchmarks.stored_images import StoredImage, image_in
from bat_jax.data.llava import Record, clean_path, parse_record

# Where images stand beside a file, if not in its own folder.
_IMAGE_FOLDERS = ("", "images", "imgs", "data", "data/imgs", "data/images")


def number_of_images(task: Task) -> str:
    """Return the row of a breakdown by images shown."""
    return str(task.facts["num_images"])


def number_of_options(task: Task) -> str:
    """Return the row of a breakdown by options offered."""
    return str(task.facts["num_options"])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FileBenchmark(Benchmark):
    """A benchmark whose questions are rows.

    Attributes:
      prompts: name -> function (question, options, is_multi_answer) that returns the text.
      parse: (fields of a row, its number) -> fields of a Sample, as `samples.read_row`.
      reason_to_leave_out: why a row is none of the benchmark's; None for one that is.
      text_options: prompts that take the options as the one text in which the data holds them, where it does.
    """

    parse: Callable[[Mapping[str, Any], int], dict[str, Any]] = read_row
    reason_to_leave_out: Callable[[Mapping[str, Any]], str | None] = lambda fields: None
    text_options: tuple[str, ...] = ()
    settings: ClassVar[tuple[str, ...]] = (
        "data",
        "tfds_dir",
        "image_folder",
        "allow_outside_paths",
        "leak_hint",
        "max_pixels",
        "most_px",
    )

    def open(self, settings: Mapping[str, Any]) -> tuple[Iterable[Picture], str]:
        left_out: Mapping[str, int] = {}
        if is_prepared(settings["data"]):
            from bat_jax.benchmarks.prepared import open_prepared  # tensorflow_datasets is imported where it is used

            prepared = open_prepared(self, settings["data"], settings.get("tfds_dir"))
            samples, where = prepared.samples(self.sample_of), prepared.text
        else:
            data = BenchmarkData(
                self,
                settings["data"],
                settings["image_folder"],
                allow_outside_paths=settings.get("allow_outside_paths", False),
            )
            samples, left_out, where = list(data), data.left_out, settings["data"]
        found = self.pictures(
            samples,
            settings["prompt"],
            leak_hint=settings["leak_hint"],
            max_pixels=settings["max_pixels"],
            most_px=settings.get("most_px"),
        )
        variant = self.variant_of(len(samples))
        facts = [f"{where}: {len(samples)} questions{variant and f' ({variant})'}"]
        facts += [f"{number} rows left out ({reason})" for reason, number in left_out.items()]
        if settings["leak_hint"]:
            facts.append("with the release's hint on the number of answers")
        counts = collections.Counter(self.subtask(self.category_of(sample)).abbreviation for sample in samples)
        if notes := self.count_notes(counts):
            facts.append(f"not the expected numbers: {', '.join(notes)}")
        return found, ", ".join(facts)

    def pictures(
        self,
        samples: Sequence[Sample],
        prompt_style: str,
        *,
        leak_hint: bool = False,
        max_pixels: int = 300_000_000,
        most_px: int | None = None,
    ) -> Iterator[Picture]:
        """Return pictures with their questions; every question is checked at once, no picture is decoded.

        Args:
          prompt_style: one of `prompts`. leak_hint: see `prompt`.
          max_pixels: larger images fail. most_px: of an image's long side; larger ones are down-sampled.

        Raises:
          ValueError: a sample cannot be asked; names file, row and field.
        """
        tasks = {sample.id: self.task_of(sample, prompt_style, leak_hint) for sample in samples}

        def grouped() -> Iterator[Picture]:
            for key, group in by_images(samples):
                yield Picture(
                    key=key,
                    load=functools.partial(load_images, group[0].images, max_pixels, most_px),
                    files=tuple(image.path for image in group[0].images if image.path is not None),
                    tasks=tuple(self._in_dialogues([(sample, tasks[sample.id]) for sample in group], key)),
                )

        return grouped()

    def task_of(self, sample: Sample, prompt_style: str, leak_hint: bool = False) -> Task:
        """Return a sample as a task.

        Raises:
          ValueError: it cannot be asked in this style, or its answer is none of its options; names file and row.
        """
        try:
            question = self.answer_key(sample)
            text = self._text(sample, prompt_style, leak_hint, question.is_multi_answer)
            return self.task(
                self.category_of(sample),
                id=sample.id,
                text=text,
                question=question,
                prompt_style=prompt_style,
                chance=0.0 if question.answer_form == "open" else None,
                facts={
                    "category": sample.category,
                    "num_options": len(sample.options),
                    "num_images": len(sample.images),
                },
            )
        except ValueError as error:
            raise ValueError(f"{sample.place}: {error}") from None

    def category_of(self, sample: Sample) -> str:
        """Return the category under which a sample is scored."""
        return sample.category

    def answer_key(self, sample: Sample) -> AnswerKey:
        """Return what scoring needs to know of a sample.

        Raises:
          ValueError: its category is unknown, or its answer is none of its options.
        """
        return self.choice(sample, self.subtask(sample.category).is_multi_answer)

    def choice(self, sample: Sample, is_multi_answer: bool) -> AnswerKey:
        """Return a sample's answer as one of its options, or several.

        Raises:
          ValueError: it is none of them.
        """
        return AnswerKey(
            benchmark=self.name,
            truth=sample.answer,
            options=sample.options,
            is_multi_answer=is_multi_answer,
            conversation=sample.conversation,
        )

    def prompt(
        self,
        style: str,
        question: str,
        options: Options,
        *,
        is_multi_answer: bool = False,
        truth: str | Sequence[str] | None = None,
        leak_hint: bool = False,
    ) -> str:
        """Return the text to ask.

        Args:
          style: one of `prompts`.
          question: as the data holds it; boxes in pixels stay as they are.
          options: as the data holds them, with their own "(A) " where they have it; one text for some styles.
          is_multi_answer: whether the sub-task allows several answers (a fact of the sub-task, never of the question).
          truth: the row's answer, read only for `leak_hint`.
          leak_hint: add the release's hint where the truth holds more than one letter. Style "release" only.

        Raises:
          ValueError: there is no such style, the options do not fit it, or `leak_hint` outside the release's style.
        """
        if leak_hint and (style != "release" or truth is None):
            raise ValueError(f"leak_hint=True: needs prompt=release and a truth, got prompt={style}, truth={truth!r}")
        if style not in self.prompts:
            raise ValueError(f"prompt={style}: {self.name} offers {', '.join(self.prompts)}")
        text = self.prompts[style](question, options, is_multi_answer)
        return text if truth is None or not leak_hint else with_leaked_hint(text, truth)

    def _text(self, sample: Sample, style: str, leak_hint: bool, is_multi_answer: bool) -> str:
        if sample.conversation is not None:
            if style != "release":
                raise ValueError(f"prompt={style}: the data holds whole prompts as conversations; use release")
            text = release_conversation(sample.conversation)
            return with_leaked_hint(text, sample.answer) if leak_hint else text
        options = sample.options_text if style in self.text_options and sample.options_text else sample.options
        return self.prompt(
            style,
            sample.question,
            options,
            is_multi_answer=is_multi_answer,
            truth=sample.answer if leak_hint else None,
            leak_hint=leak_hint,
        )

    def _in_dialogues(self, asked: Sequence[tuple[Sample, Task]], key: str) -> Iterator[Task]:
        """Yield the tasks about a picture, each turn with its dialogue."""
        num_seen: collections.Counter[str] = collections.Counter()
        for sample, task in asked:
            subtask = self.subtask(task.category)
            if subtask.group == MULTI_TURN:
                num_turns = sample.num_turns or subtask.num_turns
                name = sample.dialogue
                if not name:
                    number = num_seen[task.sub_task] // num_turns + 1
                    name = key if number == 1 else f"{key}, dialogue {number}"
                    num_seen[task.sub_task] += 1
                task = dataclasses.replace(task, dialogue=f"{task.sub_task} {name}", num_turns=num_turns)
            yield task

    def tfds_features(self, config: Any) -> dict[str, Any]:
        del config
        return {
            "id": str,
            "question": str,
            "options": [str],
            "options_text": str,  # "" where the data holds a list
            "answers": [str],  # as the data holds them: one text, or the items of a list
            "is_list": bool,
            "category": str,
            "conversation": str,  # "" where the data holds none
            "record": str,  # JSON of the whole conversation
            "dialogue": str,
            "num_turns": int,
            "image_names": [str],
            "images": [bytes],  # encoded
        }

    def tfds_examples(self, config: Any, manual_dir: str) -> Mapping[str, Iterable[tuple[int, dict[str, Any]]]]:
        data = BenchmarkData(self, manual_dir, allow_outside_paths=config.allow_outside_paths)
        return {"test": enumerate(map(example_of, data))}

    def sample_of(self, example: Mapping[str, Any], place: str, images: tuple[StoredImage, ...]) -> Sample:
        """Return an example of the TensorFlow dataset as the sample that it was made of."""
        answers = tuple(text.decode() for text in example["answers"])
        return Sample(
            id=example["id"].decode(),
            images=images,
            question=example["question"].decode(),
            options=tuple(text.decode() for text in example["options"]),
            options_text=example["options_text"].decode() or None,
            # Datasets of version 1.0.0 have neither is_list nor record, those before 1.3.0 no dialogue.
            answer=answers if example.get("is_list", len(answers) > 1) else answers[0],
            category=example["category"].decode(),
            place=place,
            conversation=example["conversation"].decode() or None,
            record=example.get("record", b"").decode(),
            dialogue=example.get("dialogue", b"").decode(),
            num_turns=int(example.get("num_turns", 0)),
        )

    def conversation_of(self, example: Mapping[str, Any], images: tuple[str, ...]) -> Record:
        """Return the whole conversation that the data holds, or the default prompt and the letters of the answer."""
        sample = self.sample_of(example, "", ())
        if sample.record:
            return parse_record({"id": sample.id, "image": list(images), **json.loads(sample.record)}, 0)
        task = self.task_of(sample, next(iter(self.prompts)))
        answer = " ".join(truth_letters(sample.answer, sample.options))
        turns = [{"from": "human", "value": task.text}, {"from": "gpt", "value": answer}]
        return parse_record({"id": sample.id, "image": list(images), "conversations": turns}, 0)


def example_of(sample: Sample) -> dict[str, Any]:
    """Return a sample as the TensorFlow dataset stores it.

    Raises:
      ValueError: an image cannot be read; names its row.
    """
    try:
        images = [image.read() for image in sample.images]
    except (ValueError, OSError) as error:
        raise ValueError(f"{sample.place}: {error}") from None
    is_list = not isinstance(sample.answer, str)
    return {
        "id": sample.id,
        "question": sample.question,
        "options": list(sample.options),
        "options_text": sample.options_text or "",
        "answers": list(sample.answer) if is_list else [sample.answer],
        "is_list": is_list,
        "category": sample.category,
        "conversation": sample.conversation or "",
        "record": sample.record,
        "dialogue": sample.dialogue,
        "num_turns": sample.num_turns,
        "image_names": [image.name for image in sample.images],
        "images": images,
    }


class BenchmarkData:
    """The questions in a benchmark's files, read as they are asked for; iterate to get Samples.

    Attributes:
      record: the benchmark. files: that hold the rows.
      left_out: reason -> number of rows, of the last complete iteration.
    """

    def __init__(
        self,
        record: FileBenchmark,
        path: str | pathlib.Path,
        image_folder: str | pathlib.Path | None = None,
        *,
        allow_outside_paths: bool = False,
    ):
        """Find the files.

        Args:
          path: the file or folder; see `containers`.
          image_folder: where image files stand. By default beside the data: its folder, or `images`, `imgs`, `data`,
            `data/imgs`, `data/images` in it; each image may stand in another one.
          allow_outside_paths: take images that the data names outside of that folder.

        Raises:
          ValueError: there is no such folder, or the path is no data.
        """
        self.record = record
        self.files = data_files(pathlib.Path(path))
        beside = self.files[0].parent
        self._root, self._allow_outside_paths = beside, allow_outside_paths
        self._folders = [beside / name for name in _IMAGE_FOLDERS]
        if image_folder is not None:
            if not pathlib.Path(image_folder).is_dir():
                raise ValueError(f"image_folder={image_folder}: is no folder")
            self._root = pathlib.Path(image_folder)
            self._folders = [self._root]
        self.left_out: collections.Counter[str] = collections.Counter()

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in the order of the files.

        Raises:
          ValueError: a row lacks a field, its category is unknown, its image stands outside of the folder, or not one
            image file exists; names row and field.
        """
        counts: collections.Counter[str] = collections.Counter()
        self.left_out.clear()
        tried = has_image = False
        for row in read_rows(self.files):
            reason = self.record.reason_to_leave_out(row.fields)
            if reason:
                self.left_out[reason] += 1
                continue
            try:
                sample = self._sample(row)
                self.record.subtask(self.record.category_of(sample))
            except ValueError as error:
                raise ValueError(f"{row.place}: {error}") from None
            tried = True
            has_image = has_image or any(image.path is None or image.path.is_file() for image in sample.images)
            counts[sample.id] += 1
            number = counts[sample.id]
            yield sample if number == 1 else dataclasses.replace(sample, id=f"{sample.id}#{number}")
        if tried and not has_image:
            raise ValueError(f"{self.files[0]}: none of its image files is in {self._folders[0]}; give image_folder")
        if not tried:
            raise ValueError(
                f"{self.files[0]}: holds no question of {self.record.name}; left out: {dict(self.left_out)}"
            )

    def _sample(self, row: DataRow) -> Sample:
        images = tuple(self._file(item) if isinstance(item, str) else item for item in row.images)
        if not images:
            raise ValueError("image: is missing or empty")
        turn = read_dialogue(row.fields) if self.record.in_group(MULTI_TURN) else {}
        return Sample(images=images, place=row.place, **turn, **self.record.parse(row.fields, row.number))

    def _file(self, text: str) -> StoredImage:
        """Find an image file; one that is nowhere gets its place in the first folder, and fails when it is read."""
        name = clean_path(text)
        folder = next((folder for folder in self._folders if (folder / name).is_file()), self._folders[0])
        return image_in(folder, name, root=self._root, allow_outside=self._allow_outside_paths)
