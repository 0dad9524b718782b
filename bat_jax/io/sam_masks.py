"""Automatic mask generation with SAM (Kirillov et al. 2023, arXiv:2304.02643, App. B), for UHR-BAT's partition "sam".

A regular grid of points prompts the model, three masks a point come back with the IoU the model predicts for each. Kept
are masks with

  predicted IoU > 0.88       stability > 0.95        share of the window < 95 %        no better mask at box IoU > 0.7

Stability is the IoU of the mask cut at +1 and at -1 instead of 0. Crop layer i (off by default; the paper uses two)
repeats this in 2^i x 2^i windows that overlap, with 1/2^i of the points along a side; masks that touch a window's inner
edge are dropped, and between windows the closer view wins. The paper also removes small specks and holes afterwards,
crops the picture at its full size (here: as reduced to `max_side_px`), and does not say how much windows overlap.

The model is transformers' SamModel (torch, the extra [sam]); its own image processor is not needed.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bat_jax.config.fields import require, require_positive
from bat_jax.io.images import one_line
from bat_jax.io.label_maps import paint_windows
from bat_jax.io.views import nearest_index
from bat_jax.typing import Bool, Float, Int, UInt8

# What SAM's encoder was trained with: ImageNet's statistics, on values from 0 to 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OVERLAP = 1 / 3  # how much longer a window is than its share of the side


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How masks are generated; the defaults are the paper's.

    Attributes:
      points_per_side: prompts along each side of the picture. points_per_batch: prompts decoded at once.
      iou_threshold, stability_threshold: masks at or below are dropped. stability_offset: of the logits, see above.
      nms_threshold: of two masks whose boxes have a larger IoU only the better one stays.
      largest_share: masks of this share of their window or more are dropped.
      crop_layers: further rounds on 2 x 2, 4 x 4, ... windows. max_side_px: the picture is reduced to it first.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    stability_offset: float = 1.0
    nms_threshold: float = 0.7
    largest_share: float = 0.95
    crop_layers: int = 0
    max_side_px: int = 1024

    def __post_init__(self):
        require_positive(self, "points_per_side", "points_per_batch", "max_side_px")
        require(0 <= self.crop_layers <= 4, "crop_layers", self.crop_layers, "must lie in 0 .. 4")
        for name in ("nms_threshold", "largest_share"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "must lie in (0, 1]")


class Mask(NamedTuple):
    """A mask inside its box: pixels (h, w) bool at (left, top); window_area: pixels of the window it was found in."""

    left: int
    top: int
    pixels: Bool[np.ndarray, "h w"]
    predicted_iou: float
    stability: float
    window_area: int

    @property
    def area(self) -> int:
        return int(self.pixels.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), right and bottom excluded."""
        height, width = self.pixels.shape
        return self.left, self.top, self.left + width, self.top + height


def load_sam(name: str | os.PathLike, device: str = "cpu") -> Any:
    """Load a SamModel from a directory or a hub name; safetensors only.

    Raises:
      ValueError: torch is missing, the device does not exist, or there is no such model.
    """
    try:
        import torch
        from transformers import SamModel
    except ImportError:
        raise ValueError("--sam: needs torch; pip install 'bat_jax[sam]'") from None
    try:
        place = torch.device(device)
        return SamModel.from_pretrained(name, use_safetensors=True).to(place).eval()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"--sam={name} --device={device}: cannot be loaded ({one_line(error)})") from error


def non_maximum_suppression(
    boxes: Float[np.ndarray, "K 4"], scores: Float[np.ndarray, "K"], threshold: float
) -> Int[np.ndarray, "J"]:
    """Return the boxes that stay, best first: none has IoU above `threshold` with a better one that stays.

    Equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[order, :2])
        extent = np.clip(np.minimum(boxes[best, 2:], boxes[order, 2:]) - corner, 0, None)
        shared = extent[:, 0] * extent[:, 1]
        order = order[shared <= threshold * (area[best] + area[order] - shared)]
    return np.array(kept, np.int64)


def crop_windows(size: tuple[int, int], layer: int) -> list[tuple[int, int, int, int]]:
    """Return (left, top, right, bottom) of the 2^layer x 2^layer windows of a picture of `size` (W, H), row by row."""
    count = 2**layer
    spans = []
    for length in size:
        side = length if count == 1 else min(length, int(np.ceil(length / count * (1 + _OVERLAP))))
        starts = [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]
        spans.append([(start, start + side) for start in starts])
    return [(left, top, right, bottom) for top, bottom in spans[1] for left, right in spans[0]]


def generate_masks(model: Any, pixels: UInt8[np.ndarray, "H W 3"], settings: MaskSettings) -> list[Mask]:
    """Return a picture's masks, largest first; `pixels` are RGB at the size that masks shall have."""
    size = pixels.shape[1], pixels.shape[0]
    found: list[Mask] = []
    for layer in range(settings.crop_layers + 1):
        points_per_side = max(settings.points_per_side // 2**layer, 1)
        for window in crop_windows(size, layer):
            left, top, right, bottom = window
            inside = _window_masks(model, pixels[top:bottom, left:right], points_per_side, settings)
            placed = [mask._replace(left=mask.left + left, top=mask.top + top) for mask in inside]
            found += [mask for mask in placed if not _is_cut(mask.box, window, size)]
    if settings.crop_layers:
        found = _suppress(found, [-float(mask.window_area) for mask in found], settings.nms_threshold)
    return sorted(found, key=lambda mask: -mask.area)


def label_map_of(
    model: Any, pixels: UInt8[np.ndarray, "H W 3"], settings: MaskSettings
) -> tuple[np.ndarray, list[Mask]]:
    """Generate masks and paint them, smaller ones on top.

    Returns:
      (H, W) int32 labels, 0 where no mask lies, and the masks of labels 1, 2, ... at the reduced size.
    """
    height, width = pixels.shape[:2]
    factor = min(settings.max_side_px / max(height, width), 1)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    reduced = pixels if factor == 1 else np.asarray(Image.fromarray(pixels).resize(size))
    masks = generate_masks(model, reduced, settings)
    windows = [(mask.left, mask.top, mask.pixels) for mask in masks]
    label_map = paint_windows((size[1], size[0]), windows, [mask.area for mask in masks])
    return enlarge(label_map, (width, height)), masks


def enlarge(label_map: Int[np.ndarray, "h w"], size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
    """Bring a label map to `size` (W, H) by nearest neighbour."""
    rows, columns = nearest_index(label_map.shape[0], size[1]), nearest_index(label_map.shape[1], size[0])
    return label_map[rows][:, columns]


def cache_arrays(label_map: Int[np.ndarray, "H W"], masks: Sequence[Mask]) -> dict[str, np.ndarray]:
    """Return the arrays of a mask cache, an .npz that `io.label_maps.read_label_map` reads.

    label_map (H, W), uint16 where labels fit; of labels 1 .. K: box (K, 4) in pixels of the reduced picture, area (K,),
    predicted_iou (K,), stability (K,).
    """
    return {
        "label_map": label_map.astype(np.uint16 if len(masks) < 2**16 else np.int32),
        "box": np.array([mask.box for mask in masks], np.int32).reshape(-1, 4),
        "area": np.array([mask.area for mask in masks], np.int64),
        "predicted_iou": np.array([mask.predicted_iou for mask in masks], np.float32),
        "stability": np.array([mask.stability for mask in masks], np.float32),
    }


def _suppress(masks: list[Mask], scores: Sequence[float], threshold: float) -> list[Mask]:
    boxes = np.array([mask.box for mask in masks], np.float64).reshape(-1, 4)
    return [masks[index] for index in non_maximum_suppression(boxes, np.asarray(scores, np.float64), threshold)]


def _is_cut(box: tuple[int, ...], window: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Say whether a box touches an edge of its window that is no edge of the picture."""
    picture = (0, 0, *size)
    return any(at == edge and edge != border for at, edge, border in zip(box, window, picture, strict=True))


def _model_input(pixels: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return (1, 3, side, side) float32 with the picture in its top left corner, and the (h, w) it takes there."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    framed = np.zeros((side, side, 3), np.float32)
    framed[: size[1], : size[0]] = (resized - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return framed.transpose(2, 0, 1)[None], (size[1], size[0])


def _window_masks(model: Any, pixels: np.ndarray, points_per_side: int, settings: MaskSettings) -> list[Mask]:
    """Return the masks of one window that pass all filters, best first, placed in the window."""
    import torch

    framed, inner = _model_input(pixels, model.config.vision_config.image_size)
    centre = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    x, y = np.meshgrid(centre * inner[1], centre * inner[0])
    points = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2)).to(model.device)
    masks: list[Mask] = []
    with torch.inference_mode():
        embedding = model.get_image_embeddings(torch.from_numpy(framed).to(model.device))
        for batch in points.split(settings.points_per_batch):
            output = model(input_points=batch[None, :, None], image_embeddings=embedding, multimask_output=True)
            score = output.iou_scores[0].flatten()
            is_good = score > settings.iou_threshold
            logits = output.pred_masks[0].flatten(0, 1)[is_good]
            if not len(logits):
                continue
            logits = _at_window(logits, framed.shape[-1], inner, pixels.shape[:2])
            masks += _filtered(logits, score[is_good].cpu().numpy(), settings)
    return _suppress(masks, [mask.predicted_iou for mask in masks], settings.nms_threshold)


def _at_window(logits: Any, side: int, inner: tuple[int, int], size: tuple[int, int]) -> Any:
    """Enlarge (K, h, w) logits to the model's square, cut the padding off, bring the rest to (K, *size); bilinear."""
    from torch.nn.functional import interpolate

    square = interpolate(logits[None].float(), (side, side), mode="bilinear", align_corners=False)
    return interpolate(square[..., : inner[0], : inner[1]], size, mode="bilinear", align_corners=False)[0]


def _filtered(logits: Any, score: Float[np.ndarray, "K"], settings: MaskSettings) -> list[Mask]:
    """Return the masks of (K, H, W) logits that are stable, not empty, and not the whole window."""
    narrow = (logits > settings.stability_offset).sum(dim=(1, 2)).cpu().numpy()
    wide = (logits > -settings.stability_offset).sum(dim=(1, 2)).cpu().numpy()
    stability = narrow / np.maximum(wide, 1)
    area = (logits > 0).sum(dim=(1, 2)).cpu().numpy()
    window_area = logits.shape[1] * logits.shape[2]
    is_good = (stability > settings.stability_threshold) & (area > 0) & (area < settings.largest_share * window_area)
    masks = []
    for index in np.flatnonzero(is_good):
        pixels = (logits[index] > 0).cpu().numpy()
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        inside = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
        place = int(columns[0]), int(rows[0])
        masks.append(Mask(*place, inside, float(score[index]), float(stability[index]), window_area))
    return masks
