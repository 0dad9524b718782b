"""The splits of the UHR-Mini world: disjoint ranges of scene seeds, and what the fixed ones are known by."""

from collections.abc import Iterator
from typing import NamedTuple

from bat_jax.mini.world.layout import MAX_SEED, generate_scene
from bat_jax.mini.world.question import Question
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.world import WorldScene, content_hash

SPLITS: dict[str, range] = {
    "train": range(1_000_000),
    "validation": range(1_000_000, 1_010_000),
    "development": range(2_000_000, 2_000_200),
    "test": range(4_000_000, 4_000_200),
}
# Seeds that belong to no split: for whoever wants scenes that nobody has seen.
FREE_SEEDS = range(3_000_000, 4_000_000)


class FixedSet(NamedTuple):
    """What the scenes and questions of a fixed split are known by.

    Attributes:
      num_questions: of all its scenes.
      checksum: SHA-256 over the canonical JSON of all scenes and questions; the same on every machine.
      first_signature: `render_signature` of its first scene; a machine that paints as it should differs by one level.
    """

    num_questions: int
    checksum: str
    first_signature: str


# Figures of the development split may steer what is made. The test split is asked once per released checkpoint.
FIXED_SETS: dict[str, FixedSet] = {
    "development": FixedSet(
        num_questions=4_588,
        checksum="ad1a2587cc71cc1b1447283a14ea7a766cdff78a792d98961762306de73c7e1a",
        first_signature=(
            "ab9475ad9470b19874b299759d907ba99373b09671b89d766d7077958c81ac9678b09875888074ab9677c4a982bea47d"
            "6a6e7662666f7c71729f8375b59b76c5aa83bda480a6988454596490725eb29679b69678b89775bba0799e8d72686c74"
            "39516a7d7469baa07ac29e80bd987caa95786f71586b6f736c73743f5a72556673868174627078686e736a6e776c7078"
            "b09874405871535c6b2c50722e52742c4f6f8c81719a8b75a4957c2f51723251702d51732f53752d51737d7b72ad9471"
        ),
    ),
    "test": FixedSet(
        num_questions=4_584,
        checksum="4e606acd14ff851a8dd352045a1bb2004d9f24643c45629ebb006c829c6f3461",
        first_signature=(
            "2c50722b4f712c5072345574787b78a69377ab926d86827e2b4f712d5173365675767b8564707e7a7d8590826f70737a"
            "2c50722b4f715a555b7e6e6a64707e6d717b6b6f786b6f782b4f712a4e704d5c6d867c72616c7a7a7f88767a836f737c"
            "3c5976455d7571747c757673a99578b199777374786f737c6f737c6569726d70798f8b80b09c7db69f7b6d715e747a83"
            "676b756a6e787d7471a09480ad9a7ca491733b55612b4f716d717a6e727c7b787b8d8a8099917e6c75762c50722c5072"
        ),
    ),
}


class SceneQuestions(NamedTuple):
    scene: WorldScene
    questions: tuple[Question, ...]


def seeds_of(split: str, num: int | None = None) -> range:
    """Return the first `num` seeds of a split, or all of them.

    Raises:
      ValueError: there is no such split, or it has fewer seeds.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    seeds = SPLITS[split]
    if num is None:
        return seeds
    if not 0 < num <= len(seeds):
        raise ValueError(f"num={num}: the split {split} has 1 to {len(seeds)} scenes to give")
    return seeds[:num]


def parse_seeds(text: str) -> range:
    """Read "FROM:TO" (TO is not included).

    Raises:
      ValueError: it is not two whole numbers in order, within what a scene accepts.
    """
    first, colon, last = text.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal() or not int(first) < int(last) <= MAX_SEED + 1:
        raise ValueError(f"scene_seeds={text!r}: write FROM:TO, two whole numbers, 0 <= FROM < TO <= {MAX_SEED + 1}")
    return range(int(first), int(last))


def scenes_with_questions(seeds: range) -> Iterator[SceneQuestions]:
    """Yield the scenes of seeds and their questions, made when they are needed (about 10 ms each)."""
    for seed in seeds:
        scene = generate_scene(seed)
        yield SceneQuestions(scene, generate_questions(scene))


def checksum(parts: tuple[SceneQuestions, ...]) -> str:
    """Return the SHA-256 of scenes and questions; compare a fixed split's with FIXED_SETS.

    Scenes and questions hold whole numbers and text alone, so this is exact: equal on every machine, and different as
    soon as any coordinate or word differs. Pixels are not part of it; see `bat_jax.mini.world.render.render_signature`.
    """
    return content_hash([[part.scene, part.questions] for part in parts])
