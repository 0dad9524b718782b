"""The questions of the training pictures as token ids, in four forms, grouped by what they are about.

    open       the bare question; the answer is the word            (short: it teaches to look)
    word       with options, "Answer with the option text only."
    letter     with options, the release's prompt; the answer is the letter, as the benchmarks want it
    text_only  options, then "The answer is: red.", without a picture; the answer is the letter

A group is a set of questions that one selection of tokens serves: those about one site, or about one red circle, or one
question about several sites or the whole picture in all its wordings. Questions of a group stand on one image prefix.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from bat_jax.config import BatConfig
from bat_jax.io.output_files import staged_file
from bat_jax.io.prompts import END_OF_TURN, build_prompt, load_tokenizer
from bat_jax.mini.curriculum.picture_store import EVENT_ID, picture
from bat_jax.mini.world.question import SUB_TASKS, Question
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.world import SIDE_DM, Box, Marker, WorldScene, square
from bat_jax.train.batches import boxes_mask

FORMS = ("open", "word", "letter", "text_only")
TEXT_LENGTH = 64
OPEN_LENGTH = 32
KINDS = ("site", "circle", "wide")
_MOST_SITES, _MOST_OBJECTS = 6, 15
_AROUND_DM = 600  # the land around a site's pad is judged in a ring this wide
# How often a question is drawn among those of its group: what is asked rarely, or hard to learn, more often.
_DRAWN = {
    "object_colour": 3.0,
    "object_class": 3.0,
    "existence": 2.0,
    "location": 8.0,
    "motion_state": 2.0,
    "regional_land_use": 2.0,
    "anomaly": 8.0,
}
_WEIGHTS = np.array([_DRAWN.get(task, 1.0) for task in SUB_TASKS])
# Several options may be true in the open form of these.
_NO_OPEN_FORM = ("existence/which", "overall_land_use/set")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionGroup:
    """Questions that stand on one prefix, as arrays with a leading axis of questions.

    Attributes:
      kind: one of KINDS. target_mask (M1,) bool: anchor tokens where importance should lie; all False for none.
      site_ids: the sites that matter. sub_task (Q,): index into SUB_TASKS.
      objects (Q, 15) uint8: ids of the objects that the answer is read from (EVENT_ID: the event), 0 behind them.
      ids: per form (Q, T) uint8, question and answer, 0 behind their end. question_end, end (per form, Q): tokens of
        the question (up to and with "assistant\\n"), and of question and answer. end 0: there is no such form.
    """

    kind: str
    target_mask: np.ndarray
    site_ids: tuple[int, ...]
    sub_task: np.ndarray
    objects: np.ndarray
    ids: dict[str, np.ndarray]
    question_end: dict[str, np.ndarray]
    end: dict[str, np.ndarray]

    @property
    def weight(self) -> np.ndarray:
        """How often each question is drawn, (Q,)."""
        return _WEIGHTS[self.sub_task]


def target_boxes(scene: WorldScene, question: Question) -> list[Box]:
    """Return where a question's importance should lie, in dm: things the anchor shows, never the small objects."""
    if question.marker is not None:
        return [square(question.marker.x, question.marker.y, question.marker.radius)]
    if question.form == "overall_land_use/set":
        return []
    if question.form == "overall_counting/kind":
        return [site.box for site in scene.sites]
    named = [site for site in scene.sites if site.site_id in question.site_ids]
    if question.form == "regional_land_use/site":
        return [square(site.x, site.y, site.half + _AROUND_DM) for site in named]
    kinds = {site.kind for site in named}
    if question.form in ("anomaly/where", "route_planning/first"):
        kinds |= set(question.options)
    return [site.box for site in scene.sites if site.kind in kinds]


def answer_text(question: Question, form: str) -> str:
    """Return the wanted answer of a form: the word, or the letters with spaces between."""
    return " ".join(question.answer) if form in ("letter", "text_only") else question.answer_word


def prompt_text(question: Question, form: str) -> str:
    """Return the user's text of a form."""
    if form == "open":
        return question.text
    if form == "text_only":
        # Behind the options, where what a picture shows would be known, too (options.py).
        options = dataclasses.replace(question, text="").prompt().strip()
        return f"{options} The answer is: {question.answer_word}."
    return question.prompt("word" if form == "word" else "release")


def tokenized(tokenizer, cfg: BatConfig, text: str, answer: str, length: int) -> tuple[np.ndarray, int, int]:
    """Return (ids padded to `length`, end of the question, end of the answer) of what stands behind the image."""
    question = build_prompt(tokenizer, text, 1, cfg.prompt).pieces[-1]
    ids = [*question.tolist(), *tokenizer.encode(answer + END_OF_TURN, add_special_tokens=False)]
    if len(ids) > length:
        raise ValueError(f"question: has {len(ids)} tokens with its answer, {length} have room: {text!r}")
    padded = np.zeros(length, np.uint8)
    padded[: len(ids)] = ids
    return padded, question.size, len(ids)


def groups_of(
    cfg: BatConfig, tokenizer, scene: WorldScene, marker: Marker | None, rounds: Sequence[int]
) -> list[QuestionGroup]:
    """Return the groups of a picture: questions of several rounds, each wording once, about what the picture shows.

    Questions about a red circle are there only if they are about `marker`.
    """
    parts: dict[tuple, dict[tuple, Question]] = collections.defaultdict(dict)
    for number in rounds:
        for question in generate_questions(scene, number):
            if question.marker is not None and question.marker != marker:
                continue
            key = _group_key(question)
            parts[key].setdefault((question.text, question.options), question)
    return [_make_group(cfg, tokenizer, scene, key[0], list(asked.values())) for key, asked in sorted(parts.items())]


def _group_key(question: Question) -> tuple:
    """Questions with one key share a selection; the land around a site asks for more than the site."""
    if question.marker is not None:
        return ("circle",)
    if len(question.site_ids) == 1 and question.form != "anomaly/where":
        return ("site", question.site_ids[0], question.sub_task == "regional_land_use")
    return ("wide", question.sub_task, tuple(sorted(question.site_ids)))


def _make_group(cfg: BatConfig, tokenizer, scene: WorldScene, kind: str, asked: list[Question]) -> QuestionGroup:
    boxes = [
        (x0 / SIDE_DM, y0 / SIDE_DM, x1 / SIDE_DM, y1 / SIDE_DM)
        for item in asked
        for x0, y0, x1, y1 in target_boxes(scene, item)
    ]
    tasks = list(SUB_TASKS)
    ids: dict[str, np.ndarray] = {}
    question_end: dict[str, np.ndarray] = {}
    end: dict[str, np.ndarray] = {}
    for form in FORMS:
        length = OPEN_LENGTH if form == "open" else TEXT_LENGTH
        rows = []
        for item in asked:
            if form == "open" and item.form in _NO_OPEN_FORM:
                rows.append((np.zeros(length, np.uint8), 0, 0))
            else:
                rows.append(tokenized(tokenizer, cfg, prompt_text(item, form), answer_text(item, form), length))
        ids[form] = np.stack([row[0] for row in rows])
        question_end[form] = np.array([row[1] for row in rows], np.int32)
        end[form] = np.array([row[2] for row in rows], np.int32)
    objects = np.zeros((len(asked), _MOST_OBJECTS), np.uint8)
    for row, item in zip(objects, asked, strict=True):
        ids_shown = (EVENT_ID,) if item.sub_task == "anomaly" else item.object_ids
        row[: len(ids_shown)] = ids_shown
    sites = sorted({site_id for item in asked for site_id in item.site_ids})
    return QuestionGroup(
        kind=kind,
        target_mask=boxes_mask(cfg, list(dict.fromkeys(boxes)), (1, 1)),
        site_ids=tuple(sites),
        sub_task=np.array([tasks.index(item.sub_task) for item in asked], np.int32),
        objects=objects,
        ids=ids,
        question_end=question_end,
        end=end,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """The groups of every training picture, and the text before the image that all share."""

    groups: list[list[QuestionGroup]]
    prefix_ids: np.ndarray

    def save(self, path: pathlib.Path) -> None:
        """Write everything as one .npz: the questions of all groups behind each other, and how many each group has."""
        flat = [(index, group) for index, groups in enumerate(self.groups) for group in groups]
        sites = np.zeros((len(flat), _MOST_SITES), np.uint8)
        for row, (_, group) in zip(sites, flat, strict=True):
            row[: len(group.site_ids)] = group.site_ids
        arrays = {
            "prefix_ids": self.prefix_ids,
            "num_pictures": np.array(len(self.groups)),
            "picture": np.array([index for index, _ in flat]),
            "kind": np.array([KINDS.index(group.kind) for _, group in flat]),
            "count": np.array([group.sub_task.size for _, group in flat]),
            "target_mask": np.stack([group.target_mask for _, group in flat]),
            "site_ids": sites,
            "sub_task": np.concatenate([group.sub_task for _, group in flat]),
            "objects": np.concatenate([group.objects for _, group in flat]),
        }
        for name in ("ids", "question_end", "end"):
            for form in FORMS:
                arrays[f"{name}_{form}"] = np.concatenate([getattr(group, name)[form] for _, group in flat])
        with staged_file(path) as stage:
            np.savez(stage, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Bank":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        groups: list[list[QuestionGroup]] = [[] for _ in range(int(arrays["num_pictures"]))]
        ends = np.cumsum(arrays["count"])
        for row, (end, count) in enumerate(zip(ends, arrays["count"], strict=True)):
            part = slice(end - count, end)
            group = QuestionGroup(
                kind=KINDS[arrays["kind"][row]],
                target_mask=arrays["target_mask"][row],
                site_ids=tuple(int(site) for site in arrays["site_ids"][row] if site),
                sub_task=arrays["sub_task"][part],
                objects=arrays["objects"][part],
                **{
                    name: {form: arrays[f"{name}_{form}"][part] for form in FORMS}
                    for name in ("ids", "question_end", "end")
                },
            )
            groups[arrays["picture"][row]].append(group)
        return cls(groups=groups, prefix_ids=arrays["prefix_ids"])


def make_bank(
    cfg: BatConfig,
    tokenizer_dir: pathlib.Path,
    pictures: Sequence[int],
    num_rounds: int,
    pool: concurrent.futures.Executor | None = None,
) -> Bank:
    """Ask `num_rounds` rounds about training pictures (`pictures.picture`), in a pool's processes if there is one."""
    job = functools.partial(_picture_groups, cfg, tokenizer_dir, num_rounds)
    groups = list(pool.map(job, pictures, chunksize=16) if pool else map(job, pictures))
    prefix = build_prompt(load_tokenizer(tokenizer_dir), "?", 1, cfg.prompt).pieces[0]
    return Bank(groups=groups, prefix_ids=prefix)


def _picture_groups(cfg: BatConfig, tokenizer_dir: pathlib.Path, num_rounds: int, index: int) -> list[QuestionGroup]:
    item = picture(index)
    return groups_of(cfg, _tokenizer(tokenizer_dir), item.scene, item.marker, range(num_rounds))


@functools.cache
def _tokenizer(directory: pathlib.Path):
    return load_tokenizer(directory)
