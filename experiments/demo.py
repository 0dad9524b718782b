"""The main job from end to end: an ultra-high-resolution picture, a checkpoint, questions, answers, pictures.

    python -m experiments.demo [--image=FILE] [--output_dir=demo]

No trained checkpoint ships yet, so the weights are random and the answers mean nothing; everything else (views, tokens,
importance, regions, budget) is what a converted checkpoint goes through. It calls experiments.answer.
"""

import pathlib
import shutil

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFilter

from bat_jax.io.random_checkpoint import write_random_checkpoint
from bat_jax.report.run_record import staged_file
from experiments import answer, cli

DEMO_IMAGE_PX = 4096
QUESTIONS = (
    "How many ships are moored at the pier?",
    "Which land use covers most of the image?",
    "What colour is the field beside the river?",
)
DEMO_DIR = flags.DEFINE_string("demo_dir", "demo", "Everything the demo makes goes here.")

flags.set_default(answer.MAX_NEW_TOKENS, 12)


def render_scene(side: int, seed: int = 0) -> np.ndarray:
    """Return a (side, side, 3) uint8 picture of fields, a river, a road, a pier with ships, and noise."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), (96, 118, 72))
    draw = ImageDraw.Draw(image)
    cell = side // 8
    greens = [(122, 134, 72), (168, 158, 96), (88, 112, 58), (140, 120, 82), (70, 96, 52)]
    for row in range(8):
        for col in range(8):
            margin = int(rng.integers(2, 14))
            box = (col * cell + margin, row * cell + margin, (col + 1) * cell - margin, (row + 1) * cell - margin)
            draw.rectangle(box, fill=greens[int(rng.integers(len(greens)))])
    x = np.linspace(0, side, 200)
    river = [(float(a), float(0.62 * side + 0.07 * side * np.sin(a / side * 7))) for a in x]
    draw.line(river, fill=(52, 84, 110), width=side // 12, joint="curve")
    draw.line([(0, int(0.3 * side)), (side, int(0.22 * side))], fill=(120, 120, 118), width=side // 160)
    pier = int(0.4 * side)
    top = int(0.62 * side + 0.07 * side * np.sin(0.4 * 7)) - side // 24
    draw.rectangle((pier, top, pier + side // 200, top + side // 20), fill=(178, 172, 160))
    for ship in range(6):
        y = top + side // 100 + (ship // 2) * side // 64
        left = pier + side // 150 if ship % 2 else pier - side // 90
        hull = (left, y, left + side // 110, y + side // 400)
        draw.ellipse(hull, fill=[(230, 230, 228), (170, 50, 44), (236, 200, 70)][ship % 3])
    noise = Image.fromarray(rng.normal(128, 22, (side // 4, side // 4)).clip(0, 255).astype(np.uint8))
    grain = noise.resize((side, side), Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(1))
    shade = np.asarray(grain, np.int16)[..., None] - 128
    return (np.asarray(image, np.int16) + shade // 2).clip(0, 255).astype(np.uint8)


def main(_: list[str]) -> None:
    """Make what is missing below --demo_dir, then ask."""
    folder = pathlib.Path(DEMO_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "random-checkpoint"
    if not checkpoint.exists():
        unfinished = folder / ".random-checkpoint"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_random_checkpoint(unfinished).rename(checkpoint)
    images = answer.IMAGE.value
    if not images:
        image = folder / f"scene-{DEMO_IMAGE_PX}.png"
        if not image.exists():
            with staged_file(image) as stage:
                Image.fromarray(render_scene(DEMO_IMAGE_PX)).save(stage)
        images = [str(image)]
    report = answer.OUTPUT_DIR.value or str(folder / "report")
    print("The weights are RANDOM, so the answers mean nothing. Real ones: see checkpoints/README.md.\n", flush=True)
    answer.answer_questions(str(checkpoint), images, answer.QUESTION.value or list(QUESTIONS), report, overwrite=True)
    print("\nThe weights were random; the pictures show what the system does with a view.")


if __name__ == "__main__":
    cli.run(main)
