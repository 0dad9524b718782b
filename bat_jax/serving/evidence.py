"""What an answer was read from, for replies: polygons as GeoJSON, and colours of every token as small pictures."""

import base64
import dataclasses
import io
import json
import pathlib
import tempfile
from typing import Any, Literal

import numpy as np
from PIL import Image

from bat_jax.asking import Answer
from bat_jax.encoding import SceneData
from bat_jax.io.georeference import NOWHERE
from bat_jax.io.prompts import Question
from bat_jax.io.vector_files import write_geojson
from bat_jax.report.answer_page import Ask, Asked
from bat_jax.report.layers import FATE_NAMES, PADDING, fate_layer, importance_layer, token_fate
from bat_jax.report.map_files import coordinates_of, token_polygons

Frame = Literal["map", "picture"]


def evidence(scene: SceneData, question: Question, answer: Answer, image: int, name: str, frame: Frame) -> Any:
    """Return the tokens and merged rows that one picture gave to the language model as a GeoJSON object.

    Args:
      image: which of the pictures the scene is. name: the picture's.
      frame: "map" for longitudes and latitudes where the picture has a place on the map, else pixels of its file;
        "picture" for pixels of the picture as it is displayed.
    """
    if frame == "picture":
        scene = dataclasses.replace(scene, georeference=NOWHERE)
    text = question if isinstance(question, str) else question.question
    polygons = token_polygons(scene, [Asked(ask=Ask(text), answer=answer)], image)
    with tempfile.TemporaryDirectory(prefix="bat_jax-") as folder:
        path = pathlib.Path(folder) / "tokens.geojson"
        write_geojson(path, "tokens", polygons, scene.georeference, coordinates_of(scene.georeference, name))
        return json.loads(path.read_text(encoding="utf-8"))


def token_layers(scene: SceneData, answer: Answer, image: int) -> dict[str, Any]:
    """Return importance and fate of every token of every scale as PNG files of one pixel a token.

    "square" is the place of these pictures over the picture's own pixels: x, y, width, height; it reaches beyond it
    where the picture is no square. What is beyond is transparent.
    """
    to_picture = scene.token_places[0].to_picture
    side = scene.grids[0].full_side
    (x, y), (right, bottom) = to_picture @ (0, 0), to_picture @ (side, side)
    layers = []
    for scale, (size, selection) in enumerate(zip(scene.scales_px, answer.selections[image], strict=True)):
        fate = token_fate(scene.scales[scale], selection)
        of_fate = fate_layer(scene, scale, fate)
        of_fate[scene.grids[scale].to_grid(fate.fate) == PADDING] = 0
        counts = dict(zip(FATE_NAMES, fate.counts, strict=True)) | {"merged_rows": fate.num_merged_rows}
        of_importance = importance_layer(scene, answer.importance[image][scale], scale)
        for kind, colours in (("importance", of_importance), ("fate", of_fate)):
            layers.append({"kind": kind, "scale_px": size, "counts": counts, "png": _png_url(colours)})
    return {"square": [x, y, right - x, bottom - y], "layers": layers}


def _png_url(colours: np.ndarray) -> str:
    """Return (Q, Q, 4) colours in [0, 1] as a data: URL."""
    file = io.BytesIO()
    Image.fromarray(np.rint(colours * 255).astype(np.uint8)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
