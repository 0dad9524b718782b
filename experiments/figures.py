"""Redo the paper's figures of pictures, regions, tokens and answers on a checkpoint (5 to 12), and draw its steps.

    python -m experiments.figures --checkpoint=checkpoints/uhr-bat-mini --output_dir=figures
    python -m experiments.figures --checkpoint=DIR --image=harbour.tif --question="How many ships are moored?" \
        --figure=8 --figure=10 --output_dir=figures

Without --image the picture is a scene of UHR-Mini with its own questions, chosen as experiments.demo chooses them.
Writes figureN.png (NAME.png of a figure that the paper has not), figures.json (number, title, caption, file of each),
figures.html (one file, no network) and run.json. Figures 1, 3 and 4 are of accuracy: experiments.ablate draws them.
"""

import dataclasses
import pathlib
import time

from absl import flags

from bat_jax.io.images import SourceImage
from bat_jax.io.output_files import check_output_dir, staged_dir, write_json
from bat_jax.mini.world.layout import MAX_SEED, generate_scene
from bat_jax.mini.world.masks import instance_map
from bat_jax.mini.world.question import first_of_each
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import MAX_SIDE_PX, MIN_SIDE_PX, render
from bat_jax.mini.world.splits import SPLITS
from bat_jax.pipeline import BatModel
from bat_jax.report.answer_page import About, Ask
from bat_jax.report.figures.figure import Figure
from bat_jax.report.figures.page import write_figures
from bat_jax.report.figures.record import FIGURES
from bat_jax.report.figures.subject import Subject
from bat_jax.runs import run_record
from . import cli
from . import compressor_flags as compressor
from .mesh_flags import mesh_of_flags

CHECKPOINT = flags.DEFINE(
    cli.CheckpointParser(), "checkpoint", None, "Directory that convert or a training wrote, or uhr-bat-mini."
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Write the figures here.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files in a directory that is not empty.")
FIGURE = flags.DEFINE_multi_enum(
    "figure", None, FIGURES.names, "A figure by its number; may be repeated. Default: all."
)
SCENE_SEED = flags.DEFINE_integer(
    "scene_seed",
    SPLITS["development"][0],
    "Which scene of UHR-Mini, where no --image is given.",
    lower_bound=0,
    upper_bound=MAX_SEED,
)
RENDER_PX = flags.DEFINE_integer(
    "render_px", 4032, "Pixels a side of the rendered scene.", lower_bound=MIN_SIDE_PX, upper_bound=MAX_SIDE_PX
)
IMAGE = flags.DEFINE_string("image", None, "An image file instead of a scene; needs --question.")
QUESTION = flags.DEFINE_multi_string("question", [], "Question about --image; several times to ask several.")
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 12, "Most tokens of an answer.", lower_bound=1)


def check_flags() -> None:
    """Refuse flags that do not fit each other, before anything is read.

    Raises:
      ValueError: names the flag.
    """
    for flag in (CHECKPOINT, OUTPUT_DIR):
        if not flag.value:
            raise ValueError(f"--{flag.name}: give one")
    if IMAGE.value and not QUESTION.value:
        raise ValueError("--question: ask at least one question about --image")
    if QUESTION.value and not IMAGE.value:
        raise ValueError("--question: goes with --image; a scene brings its own questions")
    cli.check_questions(QUESTION.value)
    check_output_dir(pathlib.Path(OUTPUT_DIR.value), OVERWRITE.value)
    for figure in chosen_figures():
        FIGURES[figure].check_installed()


def chosen_figures() -> list[str]:
    """Return the figures that the flag names, in their own order; all where it names none."""
    return [name for name in FIGURES.names if name in (FIGURE.value or FIGURES.names)]


def main(_: list[str]) -> None:
    """Draw what the flags ask for."""
    check_flags()
    output = pathlib.Path(OUTPUT_DIR.value)
    cfg = compressor.configure(BatModel.read_config(CHECKPOINT.value))
    mesh = mesh_of_flags(cfg)
    if IMAGE.value:
        image: SourceImage = compressor.read_source(IMAGE.value, cfg)
        name, options = pathlib.Path(IMAGE.value).name, compressor.encode_options(image, 0, 1)
        asks = [Ask(question) for question in QUESTION.value]
    else:
        scene, side = generate_scene(SCENE_SEED.value), RENDER_PX.value
        pixels = render(scene, side)
        image = SourceImage(pixels=pixels, valid=None, full_size=(side, side), note="")
        name, options = f"scene {SCENE_SEED.value} of UHR-Mini", compressor.encode_options(image, 0, 1)
        if options["label_map"] is None:
            options["label_map"] = instance_map(scene, side)
        asks = [Ask(question.prompt(), question) for question in first_of_each(generate_questions(scene))]
    start = time.perf_counter()

    def say(figure: Figure) -> None:
        print(f"figure {figure.number}: {figure.title} ({time.perf_counter() - start:.0f} s)", flush=True)

    model = BatModel.load(CHECKPOINT.value, cfg=cfg, stages_apart=True, mesh=mesh)
    subject = Subject(model, image, asks, name=name, max_new_tokens=MAX_NEW_TOKENS.value, **options)
    record = run_record(compressor.SEED.value)
    numbers = chosen_figures()
    with staged_dir(output) as stage:
        write_figures(stage, subject, numbers, About(notice="", checkpoint=CHECKPOINT.value, record=record), say)
        write_json(stage / "run.json", {"picture": name, "config": dataclasses.asdict(cfg)} | record)
    print(f"wrote {len(numbers)} figures, figures.html and figures.json to {output}")


if __name__ == "__main__":
    cli.run(main)
