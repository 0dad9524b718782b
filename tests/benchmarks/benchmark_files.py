"""Small data sets in the benchmarks' real forms, with made-up pictures and questions."""

import base64
import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FOUR = ["(A) Red", "(B) Dark green", "(C) Blue", "(D) White"]
FIVE = [*FOUR, "(E) This image doesn't feature the color."]
STORED = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
READY = (
    " The choices are listed below:\n{}\nSelect the best answer for the multiple-choice question based on the image."
    " Only respond with the letter corresponding to the correct answer (A, B, C, D).\nThe answer is:"
)


def picture(seed: int, form: str = "JPEG") -> bytes:
    """Return an encoded picture of 48 x 40 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def base64_picture(seed: int) -> str:
    return base64.b64encode(picture(seed)).decode()


def xlrs_row(index, name, seeds, options, answer, category):
    return {
        "index": index,
        "path": f"{name}.png",
        "question": f"Question {index}? Bounding box: [2559,1895,2610,1928]",
        "multi-choice options": options,
        "answer": answer,
        "category": category,
        "l2-category": "default",
        "image": [{"bytes": picture(seed), "path": f"{name}.png"} for seed in seeds],
    }


# Rows 0 and 2 show one picture; row 1 shows another one under the same name, with a marker, say.
XLRS_ROWS = [
    xlrs_row(0, "dota/P1", [1], FOUR, "B", "Object properties/Object classification"),
    xlrs_row(1, "dota/P1", [2], FOUR, "ABD", "Land use classification/Overall Land use classification"),
    xlrs_row(2, "dota/P1", [1], ["(A) Yes", "(B) No"], "A", "Object properties/Object motion state"),
    xlrs_row(3, "hrscd/14", [3, 4], FOUR, "C", "Counting/Counting with changing detection"),
]


def write_xlrs_tree(folder):
    """Write what `datasets.save_to_disk` of a DatasetDict writes: two Arrow streams, JPEG bytes under names of PNGs."""
    train = folder / "train"
    train.mkdir(parents=True)
    schema = pa.schema(
        [
            ("index", pa.int32()),
            ("path", pa.string()),
            ("question", pa.string()),
            ("multi-choice options", pa.list_(pa.string())),
            ("answer", pa.string()),
            ("category", pa.string()),
            ("l2-category", pa.string()),
            ("image", STORED),
        ]
    )
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for name, rows in zip(names, (XLRS_ROWS[:3], XLRS_ROWS[3:]), strict=True):
        with pa.OSFile(str(train / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (train / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (train / "dataset_info.json").write_text("{}")
    return folder


def write_xlrs_jsonl(folder):
    """Write VLMEvalKit's parts: base64, and options with the whole ending of the prompt as one text."""
    folder.mkdir()
    for part, rows in ((2, XLRS_ROWS[:2]), (10, XLRS_ROWS[2:])):
        lines = []
        for row in rows:
            texts = [base64.b64encode(item["bytes"]).decode() for item in row["image"]]
            changes = {
                "image": texts if len(texts) > 1 else texts[0],
                "multi-choice options": READY.format("\n".join(row["multi-choice options"])),
            }
            lines.append(json.dumps(row | changes))
        (folder / f"XLRS-Bench-lite_part{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def mme_row(number, category, answer, image, subtask="Remote Sensing"):
    return {
        "Question_id": f"perception/remote_sensing/{category}/{number}",
        "Image": image,
        "Text": f"What {category} is number {number}?",
        "Question Type": "Multiple Choice",
        "Answer choices": FIVE,
        "Ground truth": answer,
        "Category": category,
        "Subtask": subtask,
        "Task": "Perception",
    }


MME_ROWS = [
    mme_row(1, "color", "B", "dota_v2_P1.png"),
    mme_row(2, "count", "E", "dota_v2_P1.png"),
    mme_row(3, "OCR", "A", "street.png", subtask="OCR with Complex Context"),
    mme_row(4, "position", "D", "lost.png"),
]


def write_mme_json(folder):
    """Write the original form: a JSON list and `data/imgs`; one picture is missing, one row is of another domain."""
    images = folder / "data" / "imgs"
    images.mkdir(parents=True)
    (images / "dota_v2_P1.png").write_bytes(picture(5, "PNG"))
    (folder / "MME-RealWorld-Lite.json").write_text(json.dumps(MME_ROWS))
    return folder


def toolkit_row(number, seed):
    return {
        "index": number,
        "question": f"What color\tis number {number}?",
        "multi-choice options": FIVE,
        "answer": "C",
        "category": "Perception/Remote Sensing",
        "l2-category": "color",
        "bytes": base64_picture(seed),
    }


def write_mme_parquet(folder):
    """Write lmms-eval's form: base64 of a JPEG in the column `bytes`; ten rows, which are more than one batch."""
    (folder / "data").mkdir(parents=True)
    rows = [toolkit_row(number, number) | {"path": f"{number}.jpg"} for number in range(10)]
    rows.append(rows[0] | {"index": 10, "category": "Perception/OCR with Complex Context"})
    path = folder / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=9)
    return folder


def write_mme_tsv(path):
    """Write VLMEvalKit's form: a tab inside a field, options as a list's text, an image by another row's index."""
    names = ["index", "image", "question", "multi-choice options", "answer", "category", "l2-category"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(names)
        for number, image in ((7, base64_picture(7)), (8, "7")):
            row = toolkit_row(number, number) | {"image": image, "multi-choice options": repr(FIVE)}
            writer.writerow([row[name] for name in names])
    return path


def rshr_row(number, category, answer, options, images):
    return {
        "id": number,
        "images": images,
        "category": category,
        "question": f"Question {number}?",
        "options": options,
        "answer": answer,
    }


TEXTS = ["Red", "Dark green", "Blue", "White"]
MAPPING = dict(zip("ABCD", TEXTS, strict=True))
RSHR_ROWS = [
    rshr_row(17, "color", "B) Dark green", MAPPING, ["images/P1.png"]),
    rshr_row(18, "object_clasfication", "(C)", TEXTS, "images/P1.png"),
    rshr_row(19, "regionla_counting", ["A", "D"], FOUR, ["images/P1.png"]),
    rshr_row(20, "regional_grouding", "A", {"A": "Yes", "B": "No", "C": ""}, ["images/P1.png"]),
    rshr_row(21, "future_prediction_two_image", "B", "A. Yes B. No", ["images/P1.png", "images/P2.png"]),
    *(rshr_row(30, "multitrun-future_prediction", "A", MAPPING, ["images/P2.png"]) for _ in range(3)),
]


def write_rshr_json(folder):
    """Write XHRBench's form: dataset.json with its misspelt categories, and images/."""
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        (folder / "images" / f"P{number}.png").write_bytes(picture(10 + number, "PNG"))
    (folder / "dataset.json").write_text(json.dumps(RSHR_ROWS))
    return folder


def write_rshr_parquet(path):
    """Write rows with embedded image structures; the last one is an open question."""
    rows = [
        {
            "id": str(number),
            "images": [{"bytes": picture(20 + image), "path": f"{image}.png"} for image in range(number)],
            "question": "Which?",
            "options": TEXTS if number < 3 else None,
            "answer": "B",
            "category": "shape",
        }
        for number in (1, 2, 3)
    ]
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("id", "question", "answer", "category")),
            ("options", pa.list_(pa.string())),
            ("images", STORED),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


LLAVA_CHOICE = "<image>\nWhat colour is it?\nA. Red\nB. Dark green\nAnswer with the option letter only."


def write_llava(folder):
    """Write a conversation file: a multiple-choice question, an open one, and one about two pictures."""
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        (folder / "images" / f"{number}.jpg").write_bytes(picture(30 + number))

    def record(name, images, asked, answer, **facts):
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        return {"id": name, "image": images, "conversations": turns} | facts

    records = [
        record("a", "1.jpg", LLAVA_CHOICE, "B", category="colour"),
        record("b", "./1.jpg", "<image>\nWhat is it?", "A harbour."),
        record("c", ["1.jpg", "2.jpg"], "<image>\n<image>\nWhat changed?", "nothing", category="change"),
    ]
    (folder / "conversations.json").write_text(json.dumps(records))
    return folder
