"""TFDS builder `uhr_mini`: one example a scene, with all its questions, stored as array_record.

    builder = UhrMini(config="scenes", data_dir=...)       # seeds and questions; render as you read
    builder.download_and_prepare()                         # nothing is downloaded
    source = builder.as_data_source(split="test")          # random access, no TensorFlow

Pictures are stored without markers. A question with `marker_radius` > 0 (in decimetres) wants its circle drawn:
`render(generate_scene(example["scene_seed"]), side, Marker(...))`.
"""

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.question import Question
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import MIN_SIDE_PX, render
from bat_jax.mini.world.splits import SPLITS, TEST_CHECKSUM, seeds_of
from bat_jax.mini.world.world import canonical_json, content_hash

_DESCRIPTION = """
Synthetic ultra-high-resolution scenes seen from above, with multiple-choice questions in the sub-tasks of XLRS-Bench,
MME-RealWorld and RSHR-Bench, and options balanced so that guessing by language gives chance.
"""


@dataclasses.dataclass(kw_only=True)
class UhrMiniConfig(tfds.core.BuilderConfig):
    """How many scenes of each split, and whether pictures are stored.

    Attributes:
      image_side: side of the stored PNG in pixels; 0 stores none, since every picture follows from its seed.
      num_train, num_validation, num_test: the first so many seeds of each split.
    """

    image_side: int = 0
    num_train: int = 10_000
    num_validation: int = 500
    num_test: int = len(SPLITS["test"])

    def __post_init__(self):
        if self.image_side and self.image_side < MIN_SIDE_PX:
            raise ValueError(f"image_side={self.image_side}: must be 0 (no pictures) or at least {MIN_SIDE_PX}")
        for split in SPLITS:
            seeds_of(split, self.num_scenes(split))

    def num_scenes(self, split: str) -> int:
        return getattr(self, f"num_{split}")


class UhrMini(tfds.core.GeneratorBasedBuilder):
    """The UHR-Mini world. `builder.info.metadata` says which recipe
    each split was made by (a hash of its seeds and first questions), and the checksum of the whole fixed test set."""

    name = "uhr_mini"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First release."}  # noqa: RUF012 (the base class wants a plain dict)
    BUILDER_CONFIGS = [  # noqa: RUF012
        UhrMiniConfig(name="scenes", description="Seeds and questions; no pictures."),
        UhrMiniConfig(
            name="images_1344", description="With pictures of 1344 pixels.", image_side=1344, num_train=1_000
        ),
        UhrMiniConfig(
            name="tiny",
            description="A few scenes at 224 pixels, to try things.",
            image_side=224,
            num_train=4,
            num_validation=2,
            num_test=2,
        ),
    ]

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text, number = tfds.features.Text(), np.int32
        questions = {
            "question_id": text,
            "sub_task": text,
            "category": text,
            "template": text,
            "text": text,
            "options": text,  # joined by newlines: their number varies
            "answer": text,
            "answer_word": text,
            "site_ids": text,  # joined by spaces, as are object_ids
            "object_ids": text,
            "boxes": text,  # JSON: [[left, top, right, bottom], ...] in decimetres
            "num_distractors": number,
            "marker_x": number,
            "marker_y": number,
            "marker_radius": number,
        }
        features: dict[str, Any] = {"scene_seed": np.int64, "questions": tfds.features.Sequence(questions)}
        side = self.builder_config.image_side
        if side:
            features["image"] = tfds.features.Image(shape=(side, side, 3), encoding_format="png")
        checksums = {f"{split}_checksum": self._checksum(split) for split in SPLITS}
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(fixed_test_set_checksum=TEST_CHECKSUM, **checksums),
        )

    def _checksum(self, split: str) -> str:
        """Hash the split's recipe: its seeds and the questions of its first scene."""
        seeds = seeds_of(split, self.builder_config.num_scenes(split))
        return content_hash([seeds.start, seeds.stop, generate_questions(generate_scene(seeds.start))])

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        cfg = self.builder_config
        return {split: self._generate_examples(seeds_of(split, cfg.num_scenes(split))) for split in SPLITS}

    def _generate_examples(self, seeds: range) -> Iterator[tuple[int, dict[str, Any]]]:
        for seed in seeds:
            scene = generate_scene(seed)
            rows = [_row(question) for question in generate_questions(scene)]
            example: dict[str, Any] = {"scene_seed": seed, "questions": rows}
            if self.builder_config.image_side:
                picture = io.BytesIO()
                Image.fromarray(render(scene, self.builder_config.image_side)).save(picture, "PNG")
                picture.seek(0)
                example["image"] = picture
            yield seed, example


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
