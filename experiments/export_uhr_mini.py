"""Write scenes of the UHR-Mini world as pictures, questions in the benchmarks' formats and label maps.

    python -m experiments.export_uhr_mini --output_dir=DIR --num_scenes=2
    python -m experiments.export_uhr_mini --output_dir=DIR --scene_seeds=3000000:3000001 --side=448 --formats=llava

Scenes are the first of --split, or those of --scene_seeds=FROM:TO without TO.
"""

import pathlib

from absl import flags

from bat_jax.mini.world.exports import FORMATS, LABEL_SUFFIXES, export
from bat_jax.mini.world.splits import SPLITS, parse_seeds, seeds_of
from bat_jax.progress import Progress
from . import cli

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "A new folder for everything.")
_SPLIT = flags.DEFINE_enum("split", "development", list(SPLITS), "Which split to take scenes from.")
_NUM_SCENES = flags.DEFINE_integer("num_scenes", 10, "The first so many scenes of the split.", lower_bound=1)
_SCENE_SEEDS = flags.DEFINE_string("scene_seeds", None, "FROM:TO instead of --split; TO is not included.")
_SIDE = flags.DEFINE_integer("side", 1344, "Side of the pictures in pixels, 224 to 16384.")
_FORMATS = flags.DEFINE_list("formats", list(FORMATS), "What to write beside the pictures.")
_LABEL_FORMAT = flags.DEFINE_enum("label_format", "png", list(LABEL_SUFFIXES), "File form of the label maps.")
_PROMPT_STYLE = flags.DEFINE_enum(
    "prompt_style",
    "release",
    ["release", "xlrs", "word"],
    "How llava.json asks: for a letter, or for the option's text.",
)


def main(argv: list[str]) -> None:
    del argv
    seeds = parse_seeds(_SCENE_SEEDS.value) if _SCENE_SEEDS.value else seeds_of(_SPLIT.value, _NUM_SCENES.value)
    with Progress(total=len(seeds), unit="scene") as bar:
        num = export(
            pathlib.Path(_OUTPUT_DIR.value),
            seeds,
            _SIDE.value,
            tuple(_FORMATS.value),
            _LABEL_FORMAT.value,
            _PROMPT_STYLE.value,
            progress=bar.update,
        )
    print(f"{_OUTPUT_DIR.value}: {len(seeds)} scenes, {num} questions")


if __name__ == "__main__":
    flags.mark_flags_as_required(["output_dir"])
    cli.run(main)
