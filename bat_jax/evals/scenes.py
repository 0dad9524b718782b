"""Questions about many pictures, or about a picture's cells: who is asked what, and the files that hold the answers.

    files, rows = named_images("scenes/*.tif")
    asked = questions_of(files, [*rows, *read_rows(Path("questions.csv"))])

A table is a CSV file with the columns question, image and id, or some of them. A row without an image is asked of all.
An answer is a line of answers.jsonl as soon as it is given; answers.csv and answers.geojson are made of the lines at
the end.

    {"id", "image", "cell": [row, column] from 1, null for a whole picture, "question", "answer", "error",
     "status": "answered" | "no_data" | "error", "window": [col, row, width, height] in pixels of the file,
     "footprint": GeoJSON in longitudes and latitudes; both null where the file does not tell; "tokens_kept", and the
     seconds as in evals.runner}
"""

import csv
import dataclasses
import glob
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely

from bat_jax.io.areas import footprint
from bat_jax.io.bands import ImageError, NoDataError, Window
from bat_jax.io.data_paths import leads_out
from bat_jax.io.georeference import IDENTITY, NOWHERE, WGS84, Georeference
from bat_jax.io.images import SourceImage, file_place, is_image
from bat_jax.io.output_files import staged_file
from bat_jax.io.vector_files import Features, write_geojson
from bat_jax.text_files import decode

ANSWERS = "answers"
_COLUMNS = ("id", "image", "cell_row", "cell_column", "question", "answer", "status", "error")


class QuestionRow(NamedTuple):
    """A row of a table: the picture's name, "" for all; the question, "" for none; its id, "" for a number."""

    image: str
    question: str
    id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneQuestion:
    """A question about a picture; what the runner asks."""

    id: str
    text: str
    shared_with: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenePart:
    """A picture or one of its cells, with its questions, as `runner.run` takes it.

    Attributes:
      name: the picture's, as users know it. path: its file. page: of the file, from 1.
      cell: (row, column) from 1. window: of the file, None for all.
      load: reads the part. ask_options: options of `ask` that are the part's own.
    """

    name: str
    path: pathlib.Path
    page: int
    load: Callable[[], SourceImage]
    tasks: tuple[SceneQuestion, ...]
    cell: tuple[int, int] | None = None
    window: Window | None = None
    ask_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label_map: None = None

    @property
    def key(self) -> str:
        return self.name if self.cell is None else f"{self.name}:r{self.cell[0]}c{self.cell[1]}"


def read_rows(path: pathlib.Path, flag: str = "--questions") -> tuple[QuestionRow, ...]:
    """Read a table.

    Raises:
      ValueError: it cannot be read as one, or a row lacks what it needs; names the flag, file and line.
    """
    text = decode(path.read_bytes(), f"{flag}={path}")
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = reader.fieldnames or ()
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{flag}={path}: is no table of comma-separated text ({error})") from None
    if not {"question", "image"} & set(names):
        raise ValueError(f"{flag}={path}: its first line names no column question (or image): {','.join(names)}")
    rows = []
    for number, row in lines:
        cells = [(row.get(name) or "").strip() for name in QuestionRow._fields]
        if None in row or ("question" in names and not cells[1].replace("<image>", "").strip()):
            what = "has more fields than the first" if None in row else "has no question"
            raise ValueError(f"{flag}={path}: line {number} {what}")
        rows.append(QuestionRow(*cells))
    if not rows:
        raise ValueError(f"{flag}={path}: holds no row")
    return tuple(rows)


def named_images(
    text: str, *, allow_outside_paths: bool = False, flag: str = "--images"
) -> tuple[dict[str, pathlib.Path], tuple[QuestionRow, ...]]:
    """Return name -> file of the pictures that a folder, a glob or a table names, and the rows of a table.

    A folder's are those of its files that begin as a picture does, not its folders'. A name is the path below the
    folder, below a glob's part before the first wildcard, or below the table's folder.

    Raises:
      ValueError: there are none, or the table is at fault.
    """
    path = pathlib.Path(text)
    rows: tuple[QuestionRow, ...] = ()
    if path.is_dir():
        folder, found = path, [item for item in path.iterdir() if item.is_file() and is_image(item)]
    elif path.is_file() and path.suffix.lower() == ".csv":
        folder, rows = path.parent, read_rows(path, flag)
        if any(not row.image for row in rows):
            raise ValueError(f"{flag}={path}: a row names no image")
        found = [folder / row.image for row in rows]
        for item in found:
            if not allow_outside_paths and leads_out(item, folder):
                raise ValueError(f"{flag}={path}: {item} leads out of {folder}; give --allow_outside_paths to read it")
    else:
        fixed = []
        for part in path.parts:
            if glob.has_magic(part):
                break
            fixed.append(part)
        folder = pathlib.Path(*fixed)
        found = [pathlib.Path(item) for item in glob.glob(text, recursive=True) if os.path.isfile(item)]
    if not found:
        raise ValueError(
            f"{flag}={text}: names no picture; give a folder, a glob in quotes, or a CSV with column image"
        )
    return {pathlib.Path(os.path.relpath(item, folder)).as_posix(): item for item in sorted(found)}, rows


def questions_of(names: Iterable[str], rows: Sequence[QuestionRow]) -> dict[str, tuple[QuestionRow, ...]]:
    """Return name -> what is asked of the picture: rows of its own and those of all, in their order.

    Raises:
      ValueError: a row names another picture, two have one id, or there is no question.
    """
    found: dict[str, list[QuestionRow]] = {name: [] for name in names}
    for row in rows:
        if row.image and row.image not in found:
            raise ValueError(f"--questions: {row.image!r} is none of the pictures, such as {next(iter(found))!r}")
        if row.question:
            for name in [row.image] if row.image else found:
                found[name].append(row)
    own = [row.id for row in rows if row.id and row.question]
    if len(own) > len(set(own)):
        raise ValueError(f"--questions: id {max(own, key=own.count)!r} is given twice")
    if not any(found.values()):
        raise ValueError("--questions: no question is asked; give a table, or --question")
    return {name: tuple(asked) for name, asked in found.items()}


def scene_questions(key: str, asked: Sequence[QuestionRow], is_whole: bool) -> tuple[SceneQuestion, ...]:
    """Return a picture's or a cell's questions; an id is the row's own only where the row is asked once."""
    return tuple(
        SceneQuestion(
            id=row.id if row.id and row.image and is_whole else f"{key}:{row.id or number}", text=row.question
        )
        for number, row in enumerate(asked, 1)
    )


def answer_line(task: SceneQuestion, part: ScenePart, of_part: Mapping[str, Any], **outcome: Any) -> dict[str, Any]:
    """Return a question's line; see the module."""
    error = outcome.get("error")
    has_no_data = error is not None and error.startswith(f"picture: {NoDataError.__name__}: ")
    window, outline = _place(part)
    return {
        "id": task.id,
        "image": part.name,
        "cell": part.cell,
        "question": task.text,
        "status": "no_data" if has_no_data else "answered" if error is None else "error",
        "answer": outcome.get("output"),
        "error": error,
        "window": window,
        "footprint": outline,
        "tokens_kept": outcome.get("tokens_kept"),
        "seconds": outcome.get("seconds"),
        "compile_seconds": outcome.get("compile_seconds"),
        **of_part,
    }


def _place(part: ScenePart) -> tuple[Window | None, dict[str, Any] | None]:
    """Return a part's window and its footprint, None where the file does not tell."""
    try:
        size, place = file_place(part.path, part.page)
    except (ImageError, OSError):
        return part.window, None
    window = part.window or (0, 0, *size)
    return window, footprint(place, window)


def write_answers(directory: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> str:
    """Write answers.csv and answers.geojson of lines, and return how the places in the latter are to be read.

    Of one picture that has no place on the earth they are in its pixels; among several such a one has none.
    """
    rows = [
        dict(line, cell_row=(line["cell"] or (None,))[0], cell_column=(line["cell"] or (None,))[-1]) for line in lines
    ]
    with staged_file(directory / f"{ANSWERS}.csv") as stage, stage.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    from rasterio.crs import CRS

    shapes = [line["footprint"] and shapely.from_geojson(json.dumps(line["footprint"])) for line in lines]
    place = Georeference(crs=CRS.from_string(WGS84).to_wkt(), transform=IDENTITY)
    words = "longitude and latitude (WGS 84)"
    if not any(shapes) and len({line["image"] for line in lines}) == 1:
        place, words = (
            NOWHERE,
            f"pixels of {lines[0]['image']} (x to the right, y down), which has no place on the earth",
        )
        shapes = [line["window"] and _rectangle(*line["window"]) for line in lines]
    absent = {name: np.array([row[name] is None for row in rows]) for name in _COLUMNS}
    fields = {
        name: np.array([row[name] or 0 for row in rows], np.int32)
        if name.startswith("cell")
        else np.array([row[name] or "" for row in rows], object)
        for name in _COLUMNS
    }
    with staged_file(directory / f"{ANSWERS}.geojson") as stage:
        write_geojson(stage, ANSWERS, Features(np.array(shapes, object), fields, absent), place, words)
    return words


def _rectangle(col: int, row: int, width: int, height: int) -> Any:
    return shapely.box(col, row, col + width, row + height)
