"""Write scenes as files in the benchmarks' formats: pictures, LLaVA conversations, XLRS-style records, label maps.

```
  output_dir/
    images/2000000.png        the scene; 2000000-1.png, ... with the red circle of one question
    llava.json                [{"id", "image", "conversations": [{"from", "value"}, ...], "category", "source_dataset"}]
    xlrs.json                 [{"index", "path", "question", "multi-choice options", "answer", "category", ...}]
    label_maps/2000000.png    ids per pixel (or .npz), as `bat_jax.io.label_maps.read_label_map` reads them
```
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from bat_jax.io.output_files import check_output_dir
from bat_jax.mini.world.masks import instance_map
from bat_jax.mini.world.question import SUB_TASKS, PromptStyle, Question, lettered
from bat_jax.mini.world.render import MAX_SIDE_PX, MIN_SIDE_PX, render
from bat_jax.mini.world.splits import scenes_with_questions
from bat_jax.mini.world.world import Marker, WorldScene

FORMATS = ("llava", "xlrs", "label_maps")
LABEL_SUFFIXES = ("png", "npz")
SOURCE = "uhr_mini"


def export(
    output_dir: pathlib.Path,
    seeds: range,
    side: int,
    formats: tuple[str, ...] = FORMATS,
    label_suffix: str = "png",
    prompt_style: PromptStyle = "release",
    progress: Callable[[], object] = lambda: None,
) -> int:
    """Write scenes, and return the number of questions. The folder appears whole at the end, or not at all.

    Args:
      output_dir: a folder that does not exist, or is empty. seeds: which scenes. side: pixels a side.
      formats: some of FORMATS. label_suffix: "png" (16 bits) or "npz". progress: called after every scene.

    Raises:
      ValueError: a setting is out of range, or the folder cannot be written or holds files; one line, nothing written.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ValueError(f"formats={','.join(formats)!r}: must be some of {', '.join(FORMATS)}")
    if label_suffix not in LABEL_SUFFIXES:
        raise ValueError(f"label_suffix={label_suffix!r}: must be one of {', '.join(LABEL_SUFFIXES)}")
    if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
        raise ValueError(f"side={side}: must lie in {MIN_SIDE_PX} .. {MAX_SIDE_PX} pixels")
    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise ValueError(f"output_dir={output_dir}: is not empty; name a new folder")
    check_output_dir(output_dir, overwrite=True)
    output_dir = output_dir.absolute()
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{output_dir.name}."
        # Once renamed there is nothing left to clean up.
        with tempfile.TemporaryDirectory(prefix=prefix, dir=output_dir.parent, ignore_cleanup_errors=True) as name:
            folder = pathlib.Path(name)
            num = _write(folder, seeds, side, formats, label_suffix, prompt_style, progress)
            folder.chmod(0o755)
            os.replace(folder, output_dir)
    except OSError as error:
        raise ValueError(f"output_dir={output_dir}: cannot be written ({error.strerror or error})") from error
    return num


def llava_turns(question: Question, prompt_style: PromptStyle = "release") -> list[dict[str, str]]:
    """Return a question and its answer as two turns of a conversation."""
    return [
        {"from": "human", "value": question.prompt(prompt_style)},
        {"from": "gpt", "value": question.answer_word if prompt_style == "word" else question.answer},
    ]


def llava_record(question: Question, image: str, prompt_style: PromptStyle = "release") -> dict[str, Any]:
    """Return a question as a conversation; `image` is relative to the image folder."""
    asked, answer = llava_turns(question, prompt_style)
    return {
        "id": question.question_id,
        "image": image,
        "conversations": [{**asked, "value": f"<image>\n{asked['value']}"}, answer],
        "category": question.category,
        "source_dataset": SOURCE,
    }


def xlrs_record(question: Question, index: int, path: str) -> dict[str, Any]:
    """Return a question with the field names of XLRS-Bench; `image` lists files where the original embeds bytes."""
    return {
        "index": index,
        "path": path,
        "question": question.text,
        "multi-choice options": lettered(question.options),
        "answer": question.answer,
        "category": question.category,
        "l2-category": SUB_TASKS[question.sub_task].l2_category,
        "image": [path],
    }


def write_label_map(path: pathlib.Path, scene: WorldScene, side: int) -> None:
    """Write `instance_map` as a 16-bit .png, or as an .npz with the array `label_map`."""
    ids = instance_map(scene, side).astype(np.uint16)
    if path.suffix == ".npz":
        np.savez_compressed(path, label_map=ids)
    else:
        Image.fromarray(ids).save(path)


def _write(
    folder: pathlib.Path,
    seeds: range,
    side: int,
    formats: tuple[str, ...],
    label_suffix: str,
    prompt_style: PromptStyle,
    progress: Callable[[], object],
) -> int:
    llava: list[dict[str, Any]] = []
    xlrs: list[dict[str, Any]] = []
    has_questions = bool({"llava", "xlrs"} & set(formats))
    (folder / "images").mkdir()
    if "label_maps" in formats:
        (folder / "label_maps").mkdir()
    for scene, questions in scenes_with_questions(seeds):
        paths: dict[Marker | None, str] = {}
        for marker in (None, *(question.marker for question in questions if has_questions)):
            if marker not in paths:
                number = f"-{len(paths)}" if paths else ""
                paths[marker] = f"images/{scene.seed}{number}.png"
                Image.fromarray(render(scene, side, marker)).save(folder / paths[marker])
        for question in questions:
            path = paths.get(question.marker, "")
            llava.append(llava_record(question, path, prompt_style))
            xlrs.append(xlrs_record(question, len(xlrs), path))
        if "label_maps" in formats:
            write_label_map(folder / "label_maps" / f"{scene.seed}.{label_suffix}", scene, side)
        progress()
    for name, records in (("llava", llava), ("xlrs", xlrs)):
        if name in formats:
            text = json.dumps(records, indent=1, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return len(llava) if has_questions else 0
