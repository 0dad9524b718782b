"""Ask questions of ultra-high-resolution images.

    python -m experiments.answer --checkpoint=DIR --image=FILE --question="How many ships are there?"
    python -m experiments.answer --checkpoint=DIR --images=FOLDER --questions=FILE.csv --output_dir=DIR

Prints each answer, the tokens kept per scale and the seconds of image and question (compiling apart), with --profile
those of every stage. With --output_dir it writes answer.json, report.html (all in one file, no network) and pictures:
importance over the image, the fate of every token per scale, the region map; and for map software tokens.geojson,
tokens.gpkg and rasters of importance and regions (docs/map.md). Many pictures, or one in cells: --images, --grid
(answer_many.py).
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from bat_jax.asking import Answer
from bat_jax.engine.stages import peak_device_bytes, peak_host_bytes
from bat_jax.io.output_files import check_output_dir, staged_dir, write_json
from bat_jax.pipeline import BatModel, Scene
from bat_jax.report.answer_page import About, Ask, Asked, write_report
from bat_jax.report.map_files import coordinates_of, write_map_files
from bat_jax.runs import run_record
from . import answer_many, cli, host_flags
from . import compressor_flags as compressor
from .area_flags import area_of_flags, read_part
from .mesh_flags import mesh_of_flags
from .scene_cache_flags import scene_cache

CHECKPOINT = flags.DEFINE(cli.CheckpointParser(), "checkpoint", None, "Directory that convert wrote, or uhr-bat-mini.")
IMAGE = flags.DEFINE_multi_string("image", None, "Image file; several times for questions on several images.")
QUESTION = flags.DEFINE_multi_string("question", None, "Question; several times to ask several.")
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "Most tokens of an answer.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0: greedy; else sampling temperature.", lower_bound=0.0)
TOP_P = flags.DEFINE_float("top_p", 1.0, "Sample from the smallest set of tokens that reaches this probability.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Write answer.json, report.html, pictures and files for map software here."
)
PROFILE = flags.DEFINE_bool("profile", False, "Run stage by stage and say what each takes; slower, the same answers.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files in a directory that is not empty.")


def drawing() -> dict[str, Any]:
    """Return the options of `BatModel.ask` that the flags decide.

    Raises:
      ValueError: one is out of range.
    """
    if not 0 < TOP_P.value <= 1:
        raise ValueError(f"--top_p={TOP_P.value}: must be in (0, 1]")
    return {
        "max_new_tokens": MAX_NEW_TOKENS.value,
        "temperature": TEMPERATURE.value,
        "top_p": TOP_P.value,
        "seed": compressor.SEED.value,
    }


def seconds_table(title: str, run: dict[str, float], compiling: dict[str, float]) -> str:
    """Return lines of seconds per stage, running and compiling apart."""
    lines = [f"  {title:<20} {'run s':>8} {'compile s':>10}"]
    for name, seconds in run.items():
        lines.append(f"    {name:<18} {seconds:8.3f} {compiling.get(name, 0.0):10.3f}")
    lines.append(f"    {'total':<18} {sum(run.values()):8.3f} {sum(compiling.values()):10.3f}")
    return "\n".join(lines)


def describe(answer: Answer, scenes: Sequence[Scene]) -> str:
    """Return the lines printed for one answer."""
    lines = [f"A: {answer.text}"]
    for image, kept in enumerate(answer.tokens_kept):
        sizes = zip(scenes[image].scales_px, kept, scenes[image].grids, strict=True)
        parts = [f"{size} px {count} of {grid.num_tokens}" for size, count, grid in sizes]
        prefix = f"image {image + 1}: " if len(scenes) > 1 else ""
        lines.append(f"  tokens kept: {prefix}{', '.join(parts)}; together {sum(kept)}")
    lines.append(f"  prompt of {answer.prompt_tokens} tokens, answer of {answer.token_ids.size}")
    lines.append(seconds_table("question", answer.run_seconds, answer.compile_seconds))
    return "\n".join(lines)


def answer_record(asked: Asked, scenes: Sequence[Scene]) -> dict:
    """Return what answer.json says about one question; the truth and the verdict where they are known."""
    answer = asked.answer
    record = {
        "question": asked.ask.prompt,
        "answer": answer.text,
        "token_ids": answer.token_ids.tolist(),
        "tokens_kept": answer.kept_of(scenes),
        "prompt_tokens": answer.prompt_tokens,
        "run_seconds": answer.run_seconds,
        "compile_seconds": answer.compile_seconds,
    }
    if asked.truth:
        question = asked.truth.question
        record |= {"question_id": question.question_id, "truth": question.answer, "is_right": asked.truth.is_right}
    return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A loaded checkpoint and encoded images, ready for questions; what the flags say holds for all of it."""

    checkpoint: str
    model: BatModel
    images: tuple[str, ...]
    scenes: tuple[Scene, ...]
    drawing: Mapping[str, Any]

    @classmethod
    def open(cls, checkpoint: str, images: Sequence[str]) -> "Session":
        """Read config and images, then the weights; encode every image once and print the seconds.

        Raises:
          ValueError: a flag, the checkpoint or an image is at fault; before weights are read.
        """
        options_of_ask = drawing()
        cfg, cache = compressor.configure(BatModel.read_config(checkpoint)), scene_cache()
        mesh = mesh_of_flags(cfg)
        area = area_of_flags()
        sources = [read_part(path, cfg, area) for path in images]
        options = [compressor.encode_options(source, i, len(sources)) for i, source in enumerate(sources)]
        model = BatModel.load(checkpoint, cfg=cfg, stages_apart=PROFILE.value, scene_cache=cache, mesh=mesh)
        scenes = []
        for path, source, option in zip(images, sources, options, strict=True):
            scene = model.encode(source, **option)
            scenes.append(scene)
            note = f" ({scene.note})" if scene.note else ""
            print(f"{path}: {scene.image_size[0]} x {scene.image_size[1]} px{note}")
            print(seconds_table("image, once", scene.run_seconds, scene.compile_seconds), flush=True)
        found = {"images": tuple(images), "scenes": tuple(scenes), "drawing": options_of_ask}
        return cls(checkpoint=checkpoint, model=model, **found)

    @property
    def num_tokens(self) -> int:
        """Tokens of all views of all images, before the compressor."""
        return sum(grid.num_tokens for scene in self.scenes for grid in scene.grids)

    def ask(self, question: str) -> Answer:
        """Ask about all images at once."""
        return self.model.ask(self.scenes, question, **self.drawing)

    def report(self, output: pathlib.Path, asked: Sequence[Asked], notice: str = "") -> None:
        """Write answer.json, report.html and pictures into `output`, and say so."""
        run = run_record(compressor.SEED.value)
        record = {
            "images": [
                {"file": file, "size": list(scene.image_size), "note": scene.note}
                for file, scene in zip(self.images, self.scenes, strict=True)
            ],
            "answers": [answer_record(item, self.scenes) for item in asked],
            "encode_run_seconds": [scene.run_seconds for scene in self.scenes],
            "encode_compile_seconds": [scene.compile_seconds for scene in self.scenes],
            "num_compiles": dict(self.model.stages.num_compiles),
            "peak_host_bytes": peak_host_bytes(),
            "peak_device_bytes": peak_device_bytes(),
            "config": dataclasses.asdict(self.model.cfg),
        } | run
        with staged_dir(output) as stage:
            write_json(stage / "answer.json", record)
            about = About(notice=notice, checkpoint=self.checkpoint, record=run)
            write_report(stage, self.model.cfg, self.images, self.scenes, asked, about)
            for index, (file, scene) in enumerate(zip(self.images, self.scenes, strict=True)):
                suffix = f"_image{index + 1}" if len(self.scenes) > 1 else ""
                write_map_files(stage, pathlib.Path(file).name, scene, asked, image=index, suffix=suffix)
            num_pictures = len(list(stage.glob("*.png")))
        print(f"\nwrote report.html, answer.json and {num_pictures} pictures to {output}")
        for file, scene in zip(self.images, self.scenes, strict=True):
            print(f"  tokens.geojson and others for map software: {coordinates_of(scene.georeference, file)}")


def answer_questions(
    checkpoint: str, images: list[str], questions: list[str], output_dir: str | None, overwrite: bool, notice: str = ""
) -> None:
    """Encode every image once, ask every question, print what comes and write the report.

    Everything that can be checked is checked before weights are read.

    Args:
      notice: a warning for the top of the report.
    """
    if not images:
        raise ValueError("--image: give an image file")
    if not questions:
        raise ValueError("--question: ask at least one question")
    cli.check_questions(questions)
    if output_dir is not None:
        check_output_dir(pathlib.Path(output_dir), overwrite)
    session = Session.open(checkpoint, images)
    asked = []
    for question in questions:
        asked.append(Asked(ask=Ask(question), answer=session.ask(question)))
        print(f"\nQ: {question}\n{describe(asked[-1].answer, session.scenes)}", flush=True)
    peak = peak_device_bytes()
    device_memory = "" if peak is None else f"; peak device memory {peak / 2**30:.2f} GiB"
    num_programs = sum(session.model.stages.num_compiles.values())
    print(f"\n{num_programs} programs compiled; peak host memory {peak_host_bytes() / 2**30:.2f} GiB{device_memory}")
    if output_dir is not None:
        session.report(pathlib.Path(output_dir), asked, notice)


def main(_: list[str]) -> None:
    """Answer what the flags ask."""
    if not CHECKPOINT.value:
        raise ValueError("--checkpoint: give a directory written by experiments.convert")
    if answer_many.is_asked():
        if PROFILE.value:
            raise ValueError("--profile: is for single images; leave it out")
        asked = (CHECKPOINT.value, IMAGE.value or [], QUESTION.value or [])
        answer_many.answer_many(*asked, OUTPUT_DIR.value, OVERWRITE.value, drawing())
        return
    if host_flags.has_hosts():
        raise ValueError("--coordinator: hosts share many pictures; give --images")
    answer_questions(CHECKPOINT.value, IMAGE.value or [], QUESTION.value or [], OUTPUT_DIR.value, OVERWRITE.value)


if __name__ == "__main__":
    cli.run(main)
