"""From records to a batch of arrays: text tokenised, images cut into tiles, wrong records left out and named.

Every process tokenises the text of the whole batch, which makes all agree on shapes, and reads only its own images. A
record that cannot be used leaves an empty slot of weight 0: the batch keeps its shape, the data position its meaning.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bat_jax import model as bat
from bat_jax.benchmarks.stored_images import StoredImage, image_in
from bat_jax.compress.budgets import image_shares
from bat_jax.config import BatConfig
from bat_jax.data.llava import Record, RecordError, RecordSource, batch_indices
from bat_jax.io.images import fill_nodata
from bat_jax.io.prompts import padded
from bat_jax.io.views import make_tiles, token_valid_mask
from bat_jax.train.labels import IGNORE, Conversation, common_buckets, tokenize_conversation
from bat_jax.train.loss import TrainingSample
from bat_jax.train.recipe import TrainConfig

# What an image gives: tiles per scale, valid tokens per scale, size in pixels.
Views = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that was left out: its id, its number in the file and what is wrong with it."""

    id: str
    index: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostBatch:
    """This process's part of a batch.

    Attributes:
      samples: leaves (accumulation, local samples, ...). ids: of every slot of the whole batch, "" for an empty one.
      num_records: records drawn. skipped: those left out that this process knows of (texts of all, images of its own).
    """

    samples: TrainingSample
    ids: tuple[str, ...]
    num_records: int
    skipped: tuple[Skipped, ...]


_NO_IDS = np.zeros(0, np.int32)
_NO_TEXT = Conversation(
    prefix_ids=_NO_IDS,
    prefix_labels=_NO_IDS,
    suffix_ids=_NO_IDS,
    suffix_labels=_NO_IDS,
    row_weight=np.zeros(0, np.float32),
)


class BatchMaker:
    """Makes the batch of any data position; holds no state, so it can be asked in any order and from any thread."""

    def __init__(
        self,
        cfg: BatConfig,
        recipe: TrainConfig,
        tokenizer: Any,
        source: RecordSource,
        images: str | pathlib.Path | Callable[[str], StoredImage],
        *,
        columns: Sequence[int] | None = None,
        budgets: Callable[[int], Sequence[int]] | None = None,
    ):
        """Wrap a source of records.

        Args:
          cfg: from `loss.training_config`. images: the folder of the records' images, or name -> image.
          columns: which samples of every micro-batch are this process's (`sharding.local_columns`); all by default.
          budgets: number of the sample -> B_s per scale, for random budgets; the config's by default.
        """
        self.cfg = cfg
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.source = source
        self._image = images if callable(images) else functools.partial(image_in, pathlib.Path(images))
        self.num_columns = recipe.batch_size // recipe.accumulation
        self.columns = list(range(self.num_columns)) if columns is None else list(columns)
        self.budgets = budgets

    def __call__(self, position: int) -> HostBatch:
        """Return the batch at a data position."""
        recipe = self.recipe
        indices = batch_indices(len(self.source), recipe.batch_size, recipe.seed, position)
        skipped: list[Skipped] = []
        slots: list[tuple[Record, Conversation, int] | None] = []
        names = []
        for index in indices:
            name = str(index)
            try:
                record = self.source[index]
                name = record.id
                slots.append((record, self._conversation(record), index))
            except RecordError as error:
                skipped.append(Skipped(id=name, index=index, reason=str(error)))
                slots.append(None)
            names.append(name)
        slots += [None] * (recipe.batch_size - len(slots))
        lengths = common_buckets([slot[1] for slot in slots if slot])
        rows = []
        for part in range(recipe.accumulation):
            row = []
            for column in self.columns:
                number = part * self.num_columns + column
                slot, views = slots[number], None
                if slot and slot[0].images:
                    try:
                        views = self._views(slot[0].images[0])
                    except (ValueError, OSError) as error:
                        reason = str(error).splitlines()[0]
                        skipped.append(Skipped(id=slot[0].id, index=slot[2], reason=f"image: {reason}"))
                        slot = None
                row.append(self._sample(slot, views, lengths, position * recipe.batch_size + number))
            rows.append(jax.tree.map(lambda *leaves: np.stack(leaves), *row))
        return HostBatch(
            samples=jax.tree.map(lambda *leaves: np.stack(leaves), *rows),
            ids=tuple(names) + ("",) * (recipe.batch_size - len(names)),
            num_records=len(indices),
            skipped=tuple(skipped),
        )

    def empty_sample(self, lengths: tuple[int, int]) -> TrainingSample:
        """Return an empty slot of weight 0; `lengths`: of the texts before and behind the image, padded."""
        return self._sample(None, None, lengths, 0)

    def epoch_of(self, position: int) -> float:
        """Return how many epochs of data are behind a position."""
        return position * self.recipe.batch_size / max(len(self.source), 1)

    def _conversation(self, record: Record) -> Conversation:
        settings = self.cfg.compressor
        conversation = tokenize_conversation(
            self.tokenizer,
            record,
            self.cfg.prompt,
            label_rule=self.recipe.label_rule,
            attention_query=settings.attention_query,
            max_length=self.recipe.max_length,
        )
        num_text = conversation.prefix_ids.size + conversation.suffix_ids.size
        anchor = self.cfg.num_tokens(settings.sizes_px[0])
        try:
            budgets = image_shares(self.cfg, settings.budgets, max(1, len(record.images)))[0]
        except ValueError as error:
            raise RecordError(str(error)) from None
        longest = num_text + (max(sum(budgets), anchor) if record.images else 0)
        if longest > self.cfg.decoder.max_positions:
            raise RecordError(f"needs {longest} positions, the decoder has {self.cfg.decoder.max_positions}")
        return conversation

    def _views(self, name: str) -> Views:
        cfg, sizes = self.cfg, self.cfg.compressor.sizes_px
        source = fill_nodata(self._image(name).load(largest_view=max(sizes)), cfg.vision.pad_colour)
        height, width = source.pixels.shape[:2]
        tiles = make_tiles(source.pixels, sizes, cfg.vision)
        valid = []
        for size in sizes:
            grid = bat.token_grid(cfg, size)
            mask = np.ones(grid.num_tokens, bool)
            if cfg.compressor.mask_padding:
                mask = grid.to_tiles(token_valid_mask((width, height), size, cfg.vision.patch_size_px, source.valid))
            valid.append(mask)
        return tiles, tuple(valid), (width, height)

    def _sample(
        self,
        slot: tuple[Record, Conversation, int] | None,
        views: Views | None,
        lengths: tuple[int, int],
        number: int,
    ) -> TrainingSample:
        cfg = self.cfg
        sizes, tile = cfg.compressor.sizes_px, cfg.vision.image_size_px
        counts = [cfg.num_tokens(size) for size in sizes]
        text = slot[1] if slot else _NO_TEXT
        if views is None:
            tiles = tuple(np.zeros((cfg.num_tiles(size), tile, tile, 3), np.uint8) for size in sizes)
            valid = tuple(np.ones(count, bool) for count in counts)
        else:
            tiles, valid, _ = views
        target = np.zeros(counts[0], bool)
        if slot and views is not None and slot[0].target_boxes:
            target = boxes_mask(cfg, slot[0].target_boxes, views[2]) & valid[0]
        budgets = self.budgets(number) if self.budgets else cfg.compressor.budgets
        if slot and slot[0].images:
            budgets = image_shares(cfg, budgets, len(slot[0].images))[0]
        num_prefix, num_suffix = lengths
        return TrainingSample(
            prefix_ids=padded(text.prefix_ids, num_prefix),
            prefix_valid=np.arange(num_prefix) < text.prefix_ids.size,
            prefix_labels=padded(text.prefix_labels, num_prefix, IGNORE),
            suffix_ids=padded(text.suffix_ids, num_suffix),
            suffix_valid=np.arange(num_suffix) < text.suffix_ids.size,
            suffix_labels=padded(text.suffix_labels, num_suffix, IGNORE),
            row_weight=padded(text.row_weight, num_suffix),
            tiles=tiles,
            vision=None,
            region_id=None,
            valid=valid,
            target_mask=target,
            budgets=np.asarray(budgets, np.int32),
            draw=np.array(number, np.int32),
            has_image=np.array(views is not None),
            weight=np.array(slot is not None, np.float32),
        )


def boxes_mask(
    cfg: BatConfig, boxes: Sequence[tuple[float, float, float, float]], image_size: tuple[int, int]
) -> np.ndarray:
    """Return (M1,) bool: anchor tokens whose centre lies in a box, or that are nearest to a smaller box's centre.

    Args:
      boxes: (x0, y0, x1, y1) in fractions of the image. image_size: (width, height), padded to a square around it.
    """
    grid = bat.token_grid(cfg, cfg.compressor.sizes_px[0])
    side = max(image_size)
    scale = np.asarray(image_size) / side
    offset = np.asarray([(side - extent) // 2 for extent in image_size]) / side
    centre = grid.coordinates("scale")
    mask = np.zeros(grid.num_tokens, bool)
    for box in boxes:
        low, high = np.asarray(box[:2]) * scale + offset, np.asarray(box[2:]) * scale + offset
        mask |= np.all((centre >= low) & (centre <= high), axis=1)
        mask[np.argmin(np.sum((centre - (low + high) / 2) ** 2, axis=1))] = True
    return mask
