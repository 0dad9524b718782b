"""The report of a run: pictures as PNG files and one HTML page about images, questions and answers.

    write_report(folder, cfg, [file], [scene], asked, about)

The page (html.py) and the PNG files (pictures.py) show the same panels, painted once.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from bat_jax.asking import Answer
from bat_jax.benchmarks.letters import strict_letters
from bat_jax.config import BatConfig
from bat_jax.encoding import SceneData
from bat_jax.mini.world import question as scene_question
from bat_jax.report import html, pictures
from bat_jax.report.layers import PADDING, Backdrop, UnitBox, draw_frames, token_fate
from bat_jax.report.pictures import Panel
from bat_jax.runs import package_versions

STAGE_WORDS = {
    "image": "all that an image costs, one program",
    "views": "views of every scale, cut into tiles",
    "vision_tower": "vision tower, all tiles of all views",
    "scale_embedding": "projector's tokens get their scale embedding",
    "first_centres": "first centres of K-means",
    "region_partition": "regions of every view",
    "anchor_prefix": "language model reads the coarsest view",
    "question": "all that a question costs, one program",
    "anchor_importance": "importance of the coarsest view's tokens",
    "importance_rows": "the layer and the questions that count",
    "preserve_merge": "keep, merge, cut at the budget",
    "token_mlp": "token MLP on what was kept",
    "splice": "tokens put into the prompt",
    "prefill": "language model reads the prompt",
    "generate": "language model writes the answer",
    "align_importance": "importance of every view, for this report",
    "count_rows": "tokens kept, for this report",
}
_PARTITION_WORDS = {
    "kmeans": "Tokens of one view that look alike and lie near each other (K-means)",
    "birch": "Tokens of one view that look alike and lie near each other (BIRCH)",
    "sam": "Tokens of one view with the same label in the label map",
    "grid": "Tokens of one view in the same square of a grid",
    "one": "All tokens of one view",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known about a question of a UHR-Mini scene, and how the answer compares.

    Attributes:
      question: as generated. chosen: the letters read from the answer, "" for none.
    """

    question: scene_question.Question
    chosen: str

    @classmethod
    def of(cls, question: scene_question.Question, output: str) -> "Truth":
        """Read the answer strictly: the letter (or letters) asked for and nothing else."""
        letters = scene_question.LETTERS[: len(question.options)]
        return cls(question=question, chosen=strict_letters(output, letters, question.sub_task == "overall_land_use"))

    @property
    def is_right(self) -> bool:
        return self.chosen == self.question.answer

    @property
    def right_text(self) -> str:
        """The truth in words: "B (blue)"."""
        return f"{self.question.answer} ({self.question.answer_word})"

    def answer_text(self, output: str) -> str:
        """The answer in words: "B (blue)", or what the model wrote where that is no option."""
        if not self.chosen:
            return output or "(nothing)"
        options = dict(zip(scene_question.LETTERS, self.question.options, strict=False))
        return f"{self.chosen} ({', '.join(options[letter] for letter in self.chosen)})"


class Ask(NamedTuple):
    """A question as the model gets it, and the scene's question that it comes from, if there is one."""

    prompt: str
    known: scene_question.Question | None = None

    @property
    def text(self) -> str:
        """The question alone, without options and instructions where these are known to be there."""
        return self.known.text if self.known else self.prompt

    @property
    def evidence(self) -> tuple[UnitBox, ...]:
        """Where the evidence is: the smallest things alone."""
        return pictures.evidence_boxes(self.known.unit_boxes) if self.known else ()

    @property
    def boxes(self) -> tuple[UnitBox, ...]:
        """The same, where it is a place in the picture and not nearly all of it."""
        boxes = self.evidence
        return boxes if boxes and pictures.is_local(pictures.evidence_frame(boxes)) else ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A question that was put to the model, and the answer."""

    ask: Ask
    answer: Answer

    @functools.cached_property
    def truth(self) -> Truth | None:
        return Truth.of(self.ask.known, self.answer.text) if self.ask.known else None

    @property
    def answer_text(self) -> str:
        return self.truth.answer_text(self.answer.text) if self.truth else self.answer.text

    @property
    def num_kept(self) -> int:
        return sum(map(sum, self.answer.tokens_kept))


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What else a page says: its notice ("" for none), the checkpoint's name, `run_record`'s content."""

    notice: str
    checkpoint: str
    record: Mapping[str, Any]


def write_report(
    folder: pathlib.Path,
    cfg: BatConfig,
    files: Sequence[str],
    scenes: Sequence[SceneData],
    asked: Sequence[Asked],
    about: About,
) -> None:
    """Write report.html and PNG files into a folder: image, regions, and importance, tokens, zoom of every question."""
    groups = []
    per_question: list[list[html.ImageGroup]] = [[] for _ in asked]
    for index, scene in enumerate(scenes):
        suffix = f"_image{index + 1}" if len(scenes) > 1 else ""
        backdrop = Backdrop(scene)
        picture = _overview(backdrop, asked if index == 0 else ())
        regions = pictures.region_panels(scene, backdrop)
        _save(Image.fromarray(picture.pixels), folder / f"image{suffix}.png")
        title = "Regions: they depend on the picture alone, not on the question"
        _save(pictures.sheet(title, regions, _columns(regions)), folder / f"regions{suffix}.png")
        groups.append(_image_groups(pathlib.Path(files[index]).name, scene, picture, regions))
        for number, item in enumerate(asked, 1):
            if index < len(item.answer.selections):  # the release uses the first image only
                panels = _QuestionPanels.of(scene, backdrop, item, index)
                panels.save(folder, item.ask.text, f"q{number}{suffix}", backdrop)
                per_question[number - 1] += panels.groups(index if len(scenes) > 1 else None)
    num_tokens = sum(grid.num_tokens for scene in scenes for grid in scene.grids)
    page = html.Page(
        title=_title(scenes, asked),
        lead="The model looks at the picture in several sizes, keeps the few tokens that matter to the question, and "
        "answers. This report shows what it kept, and why.",
        summary=summary(asked),
        notice=about.notice,
        steps=_steps(cfg, scenes),
        terms=_terms(cfg, any(item.ask.evidence for item in asked)),
        images=tuple(groups),
        questions=tuple(
            question_card(item, num_tokens, found) for item, found in zip(asked, per_question, strict=True)
        ),
        tables=(_seconds_table(scenes, asked), run_table(about)),
    )
    (folder / "report.html").write_text(html.render(page), encoding="utf-8")


def summary(asked: Sequence[Asked]) -> str:
    """Return how many answers are right, beside what guessing gets; without truths, how many there are."""
    truths = [item.truth for item in asked if item.truth]
    if not truths:
        return f"{len(asked)} question{'s' * (len(asked) != 1)}; the right answers are not known."
    num_right = sum(truth.is_right for truth in truths)
    guessing = sum(truth.question.chance for truth in truths)
    return f"{num_right} of {len(truths)} answers are right; guessing would get {guessing:.1f} on average."


@dataclasses.dataclass(frozen=True, kw_only=True)
class _QuestionPanels:
    """The panels of one question on one image."""

    importance: Panel
    fates: tuple[Panel, ...]
    zoom: tuple[Panel, ...]
    on_evidence: str
    has_padding: bool

    @classmethod
    def of(cls, scene: SceneData, backdrop: Backdrop, item: Asked, index: int) -> "_QuestionPanels":
        boxes = item.ask.evidence if index == 0 else ()
        frame = [pictures.evidence_frame(boxes)] if boxes and item.ask.boxes else []
        selections = item.answer.selections[index]
        fates = [token_fate(tokens, chosen) for tokens, chosen in zip(scene.scales, selections, strict=True)]
        return cls(
            importance=pictures.importance_panel(scene, backdrop, item.answer.anchor_importance[index], frame),
            fates=pictures.fate_panels(scene, backdrop, selections, frame),
            zoom=pictures.zoom_panels(scene, backdrop, boxes) if boxes else (),
            on_evidence=pictures.fates_in_boxes(scene, backdrop, selections, boxes) if boxes else "",
            has_padding=any(fate.counts[PADDING] for fate in fates),
        )

    @property
    def fate_swatches(self) -> tuple[pictures.Swatch, ...]:
        return pictures.FATE_SWATCHES[: None if self.has_padding else PADDING]

    def save(self, folder: pathlib.Path, title: str, name: str, backdrop: Backdrop) -> None:
        """Write the PNG files of the question."""
        beside = Panel(backdrop.picture(), "The picture.")
        heat = pictures.sheet(title, [beside, self.importance], 2, pictures.IMPORTANCE_SWATCHES)
        _save(heat, folder / f"importance_{name}.png")
        _save(
            pictures.sheet(title, self.fates, _columns(self.fates), self.fate_swatches), folder / f"tokens_{name}.png"
        )
        if self.zoom:
            _save(pictures.sheet(title, self.zoom, len(self.zoom)), folder / f"zoom_{name}.png")

    def groups(self, index: int | None) -> list[html.ImageGroup]:
        """Return what the page shows of the question."""
        of_image = "" if index is None else f", image {index + 1}"
        found = []
        if self.zoom:
            text = "The same place at three sizes. The white frame is around what the answer depends on."
            found.append(html.ImageGroup(heading="The evidence", text=text, figures=page_figures(self.zoom, 90)))
        found.append(
            html.ImageGroup(
                heading=f"What the question makes important{of_image}",
                text=self.importance.caption,
                figures=page_figures([self.importance], 84, has_caption=False),
                legend=pictures.IMPORTANCE_SWATCHES,
            )
        )
        found.append(
            html.ImageGroup(
                heading=f"What the language model reads{of_image}",
                text=f"Tokens on the evidence: {self.on_evidence}." if self.on_evidence else "",
                figures=page_figures(self.fates, 84),
                legend=self.fate_swatches,
            )
        )
        return found


def page_figures(panels: Sequence[Panel], quality: int, has_caption: bool = True) -> tuple[html.PageImage, ...]:
    return tuple(
        html.PageImage(jpeg=item.jpeg(quality), caption=item.caption if has_caption else "", alt=item.caption)
        for item in panels
    )


def _save(image: Image.Image, path: pathlib.Path) -> None:
    image.save(path, compress_level=2)


def _columns(panels: Sequence[Panel]) -> int:
    return 1 if len(panels) == 1 else 2


def _overview(backdrop: Backdrop, asked: Sequence[Asked]) -> Panel:
    """Return the picture with a numbered frame where the evidence of each question is."""
    numbers: dict[UnitBox, list[str]] = {}
    for number, item in enumerate(asked, 1):
        if item.ask.boxes:
            numbers.setdefault(pictures.evidence_frame(item.ask.boxes), []).append(str(number))
    shown = {box: ", ".join(found) for box, found in numbers.items()}
    caption = "Frames: where the evidence of each question is." if shown else ""
    return Panel(draw_frames(backdrop.picture(2), list(shown), list(shown.values())), caption)


def _image_groups(name: str, scene: SceneData, picture: Panel, regions: Sequence[Panel]) -> tuple[html.ImageGroup, ...]:
    width, height = scene.image_size
    note = f" ({scene.note})" if scene.note else ""
    return (
        html.ImageGroup(
            heading="The picture",
            text=f"{name}, {width} × {height} px{note}. {picture.caption}",
            figures=(html.PageImage(jpeg=picture.jpeg(86), caption="", alt=f"the picture {name}"),),
        ),
        html.ImageGroup(
            heading="Its regions",
            text="They depend on the picture alone, not on the question. Colours only tell neighbours apart.",
            figures=page_figures(regions, 84),
        ),
    )


def _title(scenes: Sequence[SceneData], asked: Sequence[Asked]) -> str:
    pictures_text = "one picture" if len(scenes) == 1 else f"{len(scenes)} pictures"
    return f"UHR-BAT: {len(asked)} question{'s' * (len(asked) != 1)} about {pictures_text}"


def _steps(cfg: BatConfig, scenes: Sequence[SceneData]) -> tuple[tuple[str, str], ...]:
    """Return the way from picture to answer in numbers."""
    width, height = scenes[0].image_size
    sizes, budgets = cfg.compressor.sizes_px, cfg.compressor.budgets
    num_tokens, patch = sum(map(cfg.num_tokens, sizes)), cfg.vision.patch_size_px
    share = 100 * sum(budgets) / num_tokens
    return (
        (f"{width} × {height} px", "the picture" if len(scenes) == 1 else "the first picture"),
        (f"{len(sizes)} views", f"of {', '.join(map(str, sizes))} px, cut into tiles of {cfg.vision.image_size_px} px"),
        (f"{num_tokens:,} tokens", f"one for every {patch} × {patch} px of every view"),
        (f"at most {sum(budgets):,} kept", f"{share:.1f} %: {' + '.join(map(str, budgets))}, chosen for each question"),
        ("an answer", "by a language model that reads the question and what was kept"),
    )


def _terms(cfg: BatConfig, has_evidence: bool) -> tuple[tuple[str, str], ...]:
    sizes = cfg.compressor.sizes_px
    terms = (
        (
            "View",
            f"The whole picture at one size. The model sees nothing finer than its {sizes[-1]} px view; the "
            f"{sizes[0]} px view is the anchor, which it looks at first.",
        ),
        (
            "Importance",
            "How much attention the language model, with the question in mind, pays to each token of the anchor. "
            "Finer views inherit it from the same place.",
        ),
        ("Region", f"{_PARTITION_WORDS[cfg.compressor.partition]}."),
        ("Kept", "The token goes to the language model by itself: it is important within its region."),
        (
            "Merged",
            "The less important tokens of a region go to it together, as one row, their mean. The count of tokens kept "
            "holds these rows too.",
        ),
        ("Dropped", "Not seen at this size: more important regions had used up the budget."),
    )
    frame = ("White frame", "Marks the evidence in these pictures. It is drawn afterwards; the model does not see it.")
    return (*terms, frame) if has_evidence else terms


def question_card(
    item: Asked, num_tokens: int, groups: Sequence[html.ImageGroup], compared: html.Table | None = None
) -> html.QuestionCard:
    """Return what a page says about a question: its options, the answer and the truth."""
    truth = item.truth
    options: list[html.Option] = []
    if truth:
        for letter, text in zip(scene_question.LETTERS, truth.question.options, strict=False):
            is_true, is_chosen = letter in truth.question.answer, letter in truth.chosen
            options.append(html.Option(letter=letter, text=text, is_true=is_true, is_chosen=is_chosen))
    return html.QuestionCard(
        kind=truth.question.sub_task.replace("_", " ") if truth else "",
        text=item.ask.text,
        options=tuple(options),
        answer=item.answer_text,
        truth=truth.right_text if truth else None,
        is_right=truth.is_right if truth else None,
        kept=f"{item.num_kept:,} of {num_tokens:,}",
        seconds=sum(item.answer.run_seconds.values()),
        groups=tuple(groups),
        compared=compared,
    )


def _seconds_table(scenes: Sequence[SceneData], asked: Sequence[Asked]) -> html.Table:
    """Return seconds per stage: of an image and of a question, on average."""
    rows = []
    for what, parts in (("image", scenes), ("question", [item.answer for item in asked])):
        names = list(dict.fromkeys(name for part in parts for name in part.run_seconds))
        total_run = total_compile = 0.0
        for name in names:
            run = sum(part.run_seconds.get(name, 0.0) for part in parts) / len(parts)
            compiling = sum(part.compile_seconds.get(name, 0.0) for part in parts)
            total_run, total_compile = total_run + run, total_compile + compiling
            rows.append((STAGE_WORDS.get(name, name), what, f"{run:.3f}", f"{compiling:.2f}"))
        rows.append(("all of these", what, f"{total_run:.3f}", f"{total_compile:.2f}"))
    return html.Table(
        title="Seconds per stage",
        header=("stage", "for each", "running, mean", "compiling, sum"),
        rows=tuple(rows),
    )


def run_table(about: About) -> html.Table:
    """Return what a page says about the run."""
    record = about.record
    versions = package_versions(record)
    rows = (
        ("Checkpoint", about.checkpoint),
        ("Seed", str(record["seed"])),
        ("Device", f"{record['device']}, {record['cpu_count']} CPU cores"),
        ("Versions", f"bat_jax {record['bat_jax']}, Python {record['python']}, {versions}"),
        ("Date", record["date"]),
    )
    return html.Table(title="The run", header=(), rows=rows)
