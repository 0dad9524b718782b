"""Turn the released SFT set's metadata.parquet into LLaVA conversation JSON.

    python -m experiments.prepare_sft --metadata=train/metadata.parquet --output=sft.json
    python -m experiments.prepare_sft --metadata=train/metadata.parquet --output=sft.json --keep_images_prefix

Columns read: `image_paths` (a list or JSON text; else `file_name`, and `second_image_path`), `conversations` (a list or
JSON text; else `prompt` or `question` with `answer`), `id`, `source_dataset`. A row that makes no conversation is left
out, counted and printed, as is one whose image leads out of the table's folder. Needs pyarrow
(pip install 'bat_jax[benchmarks]').
"""

import json
import pathlib
from typing import Any

from absl import flags

from bat_jax.benchmarks.columns import parquet_rows
from bat_jax.data.llava import IMAGE_TOKEN, RecordError, clean_path, parse_record
from bat_jax.io.data_paths import leads_out
from bat_jax.io.output_files import staged_file
from bat_jax.progress import Progress
from . import cli
from .path_flags import ALLOW_OUTSIDE_PATHS

METADATA = flags.DEFINE_string("metadata", None, "metadata.parquet of the released set.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
KEEP_IMAGES_PREFIX = flags.DEFINE_bool("keep_images_prefix", False, "Keep `images/` in front of image names.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --output.")

_SHOWN = 5


def record_of(row: dict[str, Any], number: int, keep_images_prefix: bool, folder: pathlib.Path) -> dict[str, Any]:
    """Return a row as a LLaVA record; `folder` is the table's.

    Raises:
      RecordError: says what the row lacks, or which image leads out of the folder.
    """
    name = row.get("id")
    record: dict[str, Any] = {"id": number if name is None or name == "" else name}
    images = _listed(row.get("image_paths"), "image_paths")
    images = images or [row.get("file_name"), row.get("second_image_path")]
    images = [clean_path(image) for image in images if image]
    if not images:
        raise RecordError("names no image")
    for image in images:
        if leads_out(folder / image, folder) and not ALLOW_OUTSIDE_PATHS.value:
            raise RecordError(f"image {image}: leads out of {folder}; --allow_outside_paths keeps such rows")
    if not keep_images_prefix:
        images = [image.removeprefix("images/") for image in images]
    record["image"] = images[0] if len(images) == 1 else images
    conversations = _listed(row.get("conversations"), "conversations")
    if not conversations:
        question, answer = row.get("prompt") or row.get("question"), row.get("answer")
        if not question or answer is None:
            raise RecordError("has neither conversations nor prompt (or question) and answer")
        if not question.startswith(IMAGE_TOKEN):
            question = f"{IMAGE_TOKEN}\n{question}"
        conversations = [{"from": "human", "value": question}, {"from": "gpt", "value": str(answer)}]
    record["conversations"] = conversations
    if row.get("source_dataset"):
        record["source_dataset"] = row["source_dataset"]
    parse_record(record, number)
    return record


def _listed(value: Any, column: str) -> list:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise RecordError(f"{column}: is text that is no JSON") from None
    return [value] if isinstance(value, str) and value else list(value or [])


def prepare(metadata: pathlib.Path, output: pathlib.Path, keep_images_prefix: bool) -> tuple[int, list[str]]:
    """Write the records; returns (how many, what was wrong with the rows that were left out)."""
    problems, count = [], 0
    with staged_file(output) as stage, open(stage, "w", encoding="utf-8") as file:
        file.write("[")
        for number, (row, _) in enumerate(Progress(parquet_rows(metadata), unit="row")):
            try:
                record = record_of(row, number, keep_images_prefix, metadata.parent)
            except RecordError as error:
                problems.append(f"row {number}: {error}")
                continue
            file.write(("," if count else "") + "\n" + json.dumps(record, ensure_ascii=False))
            count += 1
        file.write("\n]\n")
        if not count:
            raise ValueError(f"--metadata={metadata}: no row can be used; {problems[0] if problems else 'it is empty'}")
    return count, problems


def main(_: list[str]) -> None:
    """Convert what the flags name."""
    if not METADATA.value or not OUTPUT.value:
        raise ValueError("--metadata, --output: give both")
    output = pathlib.Path(OUTPUT.value)
    if output.exists() and not OVERWRITE.value:
        raise ValueError(f"--output={output}: exists; give --overwrite to replace it")
    if not pathlib.Path(METADATA.value).is_file():
        raise ValueError(f"--metadata={METADATA.value}: no such file")
    count, problems = prepare(pathlib.Path(METADATA.value), output, KEEP_IMAGES_PREFIX.value)
    print(f"{count} records written to {output}, {len(problems)} rows left out")
    for problem in problems[:_SHOWN]:
        print(f"  {problem}")
    if len(problems) > _SHOWN:
        print(f"  and {len(problems) - _SHOWN} more")


if __name__ == "__main__":
    cli.run(main)
