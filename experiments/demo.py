"""Ask a small trained UHR-BAT about an ultra-high-resolution picture, and write a report that shows how it got there.

    python -m experiments.demo                                            # a scene of the UHR-Mini development split
    python -m experiments.demo --image=FILE --question="What is there?"   # a picture of yours

The scene is rendered once, at 8192 x 8192. Its questions are chosen by a rule that knows nothing of the answers: of
each sub-task in SHOWN_SUB_TASKS the scene's first question that needs no circle drawn into the picture. Everything runs
through experiments.answer, whose flags (budgets, scales, seed ...) work here too.
"""

import pathlib
import time

from absl import flags
from PIL import Image

from bat_jax.io.output_files import check_output_dir, staged_file
from bat_jax.io.shipped import MINI, checkpoint_folder
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.question import LETTERS, first_of_each
from bat_jax.mini.world.questions import generate_questions
from bat_jax.mini.world.render import MAX_SIDE_PX, MIN_SIDE_PX, render
from bat_jax.mini.world.splits import SPLITS
from bat_jax.report.answer_page import Ask, Asked, summary
from . import answer, answer_many, cli

OWN_PICTURE = (
    "The shipped model knows only the small made-up world that it was trained on: its answers about real photographs "
    "mean nothing. For answers that do, name another model with --checkpoint."
)
DEMO_DIR = flags.DEFINE_string("demo_dir", "demo", "Everything the demo makes goes here.")
SCENE_SEED = flags.DEFINE_integer(
    "scene_seed",
    SPLITS["development"][0],
    f"Which scene: {SPLITS['development'][0]} to {SPLITS['development'][-1]}, the development split.",
    lower_bound=SPLITS["development"][0],
    upper_bound=SPLITS["development"][-1],
)
RENDER_PX = flags.DEFINE_integer(
    "render_px", 8192, "Pixels a side of the rendered scene.", lower_bound=MIN_SIDE_PX, upper_bound=MAX_SIDE_PX
)

flags.set_default(answer.MAX_NEW_TOKENS, 12)


def rendered_scene(folder: pathlib.Path, seed: int, side: int) -> str:
    """Return the file of the rendered scene; it is made the first time."""
    path = folder / f"scene-{seed}-{side}.png"
    if not path.exists():
        start = time.perf_counter()
        with staged_file(path) as stage:
            Image.fromarray(render(generate_scene(seed), side)).save(stage, compress_level=1)
        print(f"rendered {path} in {time.perf_counter() - start:.1f} s", flush=True)
    return str(path)


def print_asked(number: int, asked: Asked, num_tokens: int) -> None:
    """Print one question of the scene, the answer beside the truth, tokens and seconds."""
    question, truth = asked.truth.question, asked.truth
    options = "   ".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=False))
    run, compiling = (sum(s.values()) for s in (asked.answer.run_seconds, asked.answer.compile_seconds))
    print(f"\n{number}. {question.text}   [{question.sub_task.replace('_', ' ')}]\n   {options}")
    verdict = "right" if truth.is_right else "WRONG"
    print(f"   answer {asked.answer_text}, truth {truth.right_text}: {verdict}")
    print(
        f"   {asked.num_kept:,} of {num_tokens:,} tokens kept; {run:.2f} s, compiling {compiling:.2f} s",
        flush=True,
    )


def ask_scene(checkpoint: str, folder: pathlib.Path) -> None:
    """Ask the chosen questions of the rendered scene and say how many answers are right."""
    output = answer.OUTPUT_DIR.value
    check_output_dir(pathlib.Path(output or folder / "report"), answer.OVERWRITE.value or output is None)
    session = answer.Session.open(checkpoint, [rendered_scene(folder, SCENE_SEED.value, RENDER_PX.value)])
    questions = first_of_each(generate_questions(generate_scene(SCENE_SEED.value)))
    print(f"\n{len(questions)} questions about scene {SCENE_SEED.value} of UHR-Mini's development split")
    asked = []
    for number, question in enumerate(questions, 1):
        ask = Ask(question.prompt(), question)
        asked.append(Asked(ask=ask, answer=session.ask(ask.prompt)))
        print_asked(number, asked[-1], session.num_tokens)
    print(f"\n{summary(asked)}")
    session.report(pathlib.Path(output or folder / "report"), asked)


def main(_: list[str]) -> None:
    """Ask about the user's picture if there is one, else about the rendered scene."""
    if answer_many.is_asked():
        raise ValueError("--images, --questions, --grid: are of experiments.answer; leave them out")
    folder = pathlib.Path(DEMO_DIR.value)
    is_shipped = not answer.CHECKPOINT.value
    checkpoint = answer.CHECKPOINT.value or str(checkpoint_folder(MINI))
    if not answer.IMAGE.value and not answer.QUESTION.value:
        ask_scene(checkpoint, folder)
        return
    images = answer.IMAGE.value or [rendered_scene(folder, SCENE_SEED.value, RENDER_PX.value)]
    notice = OWN_PICTURE if is_shipped and answer.IMAGE.value else ""
    if notice:
        print(f"{notice}\n", flush=True)
    output = answer.OUTPUT_DIR.value or str(folder / f"report-{pathlib.Path(images[0]).stem}")
    overwrite = answer.OVERWRITE.value or not answer.OUTPUT_DIR.value
    answer.answer_questions(checkpoint, images, answer.QUESTION.value or [], output, overwrite, notice)


if __name__ == "__main__":
    cli.run(main)
