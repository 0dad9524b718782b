"""What users import: load a converted checkpoint, encode an image once, ask it many questions.

    model = BatModel.load("checkpoints/uhr-bat-7b")
    scene = model.encode("harbour.tif")
    answer = scene.ask("How many ships are moored?")
    print(answer.text, answer.tokens_kept)

The two halves of `model.py` stand apart here: `encode` (encoding.py) runs the tower, the projector, the partition and
the decoder over [prompt prefix, anchor tokens]; `ask` runs only what depends on the question. Every stage is compiled
once per shape; `model.stages` counts calls and compiles.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import model as bat
from bat_jax.compress.alignment import align_importance
from bat_jax.compress.budgets import image_shares
from bat_jax.compress.compressor import select
from bat_jax.compress.importance import suffix_row_weight
from bat_jax.compress.preserve_merge import Selection
from bat_jax.config import BatConfig
from bat_jax.encoding import TILE_BATCH, EncodedViews, ImageLike, SceneData, SceneEncoder
from bat_jax.engine.generate import generate
from bat_jax.engine.stages import Stages
from bat_jax.io.params import load_params, read_config
from bat_jax.io.prompts import IMAGE_TOKEN, Prompt, bucket, build_prompt, end_of_turn_id, load_tokenizer, padded
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Params

MAX_NEW_TOKENS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one question.

    Attributes:
      text: the decoded answer. token_ids: its ids, without the stop token.
      selections: per image and scale, the rows kept (NumPy arrays).
      anchor_importance: per image, (M,) of the anchor. importance: per image and scale, (M,) tile-major.
      tokens_kept: per image and scale, rows in the prompt. prompt_tokens: valid rows of the whole prompt.
      run_seconds, compile_seconds: per stage, of this question alone.
      logits: (V,) after the prompt.
    """

    text: str
    token_ids: np.ndarray
    selections: tuple[tuple[Selection, ...], ...]
    anchor_importance: tuple[np.ndarray, ...]
    importance: tuple[tuple[np.ndarray, ...], ...]
    tokens_kept: tuple[tuple[int, ...], ...]
    prompt_tokens: int
    run_seconds: dict[str, float]
    compile_seconds: dict[str, float]
    logits: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression:
    """One image's tokens for one question: `tokens` (U, D) and `mask` (U,) on the device, the rest as in Answer."""

    tokens: jax.Array
    mask: jax.Array
    selections: tuple[Selection, ...]
    anchor_importance: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene(SceneData):
    """An encoded image that can be asked; the attributes are SceneData's."""

    model: "BatModel"

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer a question about this image; see `BatModel.ask` for the options."""
        return self.model.ask([self], question, **options)


class BatModel:
    """A loaded UHR-BAT: config, parameters, tokenizer and compiled stages."""

    def __init__(
        self, cfg: BatConfig, params: Params, tokenizer: Any, tile_batch: int = TILE_BATCH, stages: Stages | None = None
    ):
        """Wrap loaded parts. `tile_batch` tiles go through the tower at once (memory against speed)."""
        self.cfg = cfg
        self.params = params
        self.tokenizer = tokenizer
        self.stages = stages or Stages()
        self.encoder = SceneEncoder(cfg, params, tokenizer, self.stages, tile_batch)

    read_config = staticmethod(read_config)

    @classmethod
    def load(cls, directory: str | pathlib.Path, *, cfg: BatConfig | None = None) -> "BatModel":
        """Load a converted checkpoint directory (params/, config.json, tokenizer/).

        Args:
          cfg: the checkpoint's config with other settings (`read_config(directory).with_settings(...)`).

        Raises:
          ValueError: the directory is no such checkpoint, or the weights do not fit the config.
        """
        path = pathlib.Path(directory)
        cfg = cls.read_config(path) if cfg is None else cfg
        tokenizer = load_tokenizer(path / "tokenizer")
        return cls(cfg, load_device_params(path), tokenizer)

    def configured(self, cfg: BatConfig) -> "BatModel":
        """Return a model with other settings that shares parameters and compiled stages with this one."""
        return BatModel(cfg, self.params, self.tokenizer, self.encoder.tile_batch, self.stages)

    def encode(self, image: ImageLike, **options: Any) -> Scene:
        """Encode an image once for many questions.

        Args:
          image: a file, an (H, W, 3) uint8 array, or what `io.images.read_image` returned.
          options: label_map, kmeans_init, seed, prefix_ids, keep_intermediates, max_clusters, see
            `SceneEncoder.make_scene`.
        """
        return self._scene(self.encoder.encode(image, **options))

    def encode_views(self, image: ImageLike) -> EncodedViews:
        """Run the networks of an image alone, for `make_scene` under many settings."""
        return self.encoder.encode_views(image)

    def make_scene(self, views: EncodedViews, **options: Any) -> Scene:
        """Return what `encode` would, from encoded views; see `SceneEncoder.make_scene` for the options."""
        return self._scene(self.encoder.make_scene(views, **options))

    def _scene(self, data: SceneData) -> Scene:
        return Scene(model=self, **{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})

    def ask(self, scenes: Sequence[Scene], question: str, *, shared_with: Sequence[str] = (), **options: Any) -> Answer:
        """Answer a question about one or more encoded images.

        Several images share each scale's budget, the first ones get the remainder. Under the release's prompt setting
        only the first image's tokens are used.

        Args:
          shared_with: other questions that the same tokens have to serve: importance is the mean over all of them.
          options: see `answer_prompt`.

        Raises:
          ValueError: a question is empty, too long for the decoder, or an option is out of range.
        """
        prompt = build_prompt(self.tokenizer, question, len(scenes), self.cfg.prompt)
        suffixes = [self._suffix(text) for text in (question, *shared_with)]
        return self.answer_prompt(scenes, prompt, suffixes, **options)

    def _suffix(self, question: str) -> np.ndarray:
        """Return the text behind the image on the attention path, as token ids."""
        # Importance is read on each image alone, behind the template's prefix; placeholders inside a question would
        # put other text there.
        if self.cfg.prompt.images == "all" and IMAGE_TOKEN in question:
            question = question.replace(IMAGE_TOKEN, "").strip()
        return build_prompt(self.tokenizer, question, 1, self.cfg.prompt).pieces[-1]

    def answer_prompt(
        self,
        scenes: Sequence[Scene],
        prompt: Prompt,
        suffixes: Sequence[np.ndarray] | None = None,
        *,
        budgets: Sequence[int] | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: bool = True,
    ) -> Answer:
        """Answer a tokenised prompt.

        Args:
          suffixes: texts behind the image on the attention path, whose importance is averaged; by default the prompt's
            last piece alone.
          budgets: tokens per scale, at most the config's, of which some may be 0; these are traced, so no value
            compiles anew.
          temperature: 0 is greedy. top_p: in (0, 1]. seed: of the sampling.
          stop: end at the end-of-turn token; False always writes `max_new_tokens`.

        Raises:
          ValueError: the prompt is too long for the decoder, or an option is out of range.
        """
        self._check_options(max_new_tokens, temperature, top_p)
        self.stages.reset_clocks()
        compressions = self.compress(scenes, prompt.pieces[-1:] if suffixes is None else suffixes, budgets)
        used = compressions[: len(prompt.pieces) - 1]
        spliced = self.splice(prompt, used)
        num_rows = int(jnp.sum(spliced.valid))
        self._check_length(num_rows + max_new_tokens)
        networks = self.cfg.networks
        logits, cache = self.stages.run("prefill", bat.prefill, (networks, max_new_tokens), self.params, spliced)
        stop_ids = sorted({end_of_turn_id(self.tokenizer), self.tokenizer.eos_token_id}) if stop else [-1, -1]
        generated = self.stages.run(
            "generate",
            generate,
            (networks, max_new_tokens),
            self.params,
            logits,
            cache,
            jnp.asarray((stop_ids * 2)[:2], jnp.int32),
            jnp.float32(temperature),
            jnp.float32(top_p),
            jax.random.key(seed),
        )
        ids = np.asarray(generated.ids[0, : int(generated.length[0])])
        selections = tuple(jax.tree.map(np.asarray, item.selections) for item in used)
        return Answer(
            text=self.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            token_ids=ids,
            selections=selections,
            anchor_importance=tuple(np.asarray(item.anchor_importance) for item in used),
            importance=tuple(self._aligned(scene, item) for scene, item in zip(scenes, used, strict=False)),
            tokens_kept=tuple(tuple(int(kept.mask.sum()) for kept in image) for image in selections),
            prompt_tokens=num_rows,
            run_seconds=dict(self.stages.run_seconds),
            compile_seconds=dict(self.stages.compile_seconds),
            logits=np.asarray(logits[0]),
        )

    def compress(
        self, scenes: Sequence[Scene], suffixes: Sequence[np.ndarray], budgets: Sequence[int] | None = None
    ) -> tuple[Compression, ...]:
        """Choose each image's tokens for the questions in `suffixes` (token ids after the image) together."""
        if not scenes:
            raise ValueError("scenes: need at least one encoded image")
        compressions = []
        for scene, shares in zip(scenes, self._shares(budgets, len(scenes)), strict=True):
            rows = [self._anchor_importance(scene, suffix) for suffix in suffixes]
            importance = rows[0] if len(rows) == 1 else jnp.mean(jnp.stack(rows), axis=0)
            selections = self.stages.run(
                "preserve_merge",
                select,
                (self.cfg.compressor.for_select, scene.grids, scene.region_capacity),
                scene.scales,
                importance,
                jnp.asarray(shares, jnp.int32),
            )
            static = (self.cfg.networks_with("scales", "token_mlp"),)
            tokens, mask = self.stages.run("token_mlp", bat.visual_tokens, static, self.params, selections)
            compressions.append(
                Compression(tokens=tokens, mask=mask, selections=selections, anchor_importance=importance)
            )
        return tuple(compressions)

    def _anchor_importance(self, scene: Scene, suffix: np.ndarray) -> jax.Array:
        """Return the importance of the anchor's tokens, (M,), for one question."""
        settings = self.cfg.compressor
        self._check_length(scene.cache.key.shape[2] + suffix.size)
        ids, valid = _padded_text(suffix)
        weight = np.zeros(ids.size, np.float32)
        weight[: suffix.size] = suffix_row_weight(
            settings.attention_query,
            suffix.tolist(),
            pad_id=self.tokenizer.pad_token_id,
            end_of_turn_id=end_of_turn_id(self.tokenizer),
            is_space=lambda token: self.tokenizer.decode([token]).isspace(),
        )
        rows = self.stages.run(
            "anchor_importance",
            bat.anchor_importance,
            (self.cfg.networks, scene.grids[0].num_tokens),
            self.params,
            scene.cache,
            ids,
            valid,
            weight,
        )
        return rows[settings.attention_layer]

    def splice(self, prompt: Prompt, compressions: Sequence[Compression]) -> bat.Spliced:
        """Put the compressed images into the prompt; the last text is padded so that questions share a program."""
        last, last_valid = _padded_text(prompt.pieces[-1])
        texts = (*(jnp.asarray(piece) for piece in prompt.pieces[:-1]), jnp.asarray(last))
        valid = (*(jnp.ones(piece.shape, bool) for piece in prompt.pieces[:-1]), jnp.asarray(last_valid))
        if len(compressions) != len(texts) - 1:
            raise ValueError(f"prompt: has {len(texts) - 1} places for {len(compressions)} images")
        tokens = tuple(item.tokens for item in compressions)
        masks = tuple(item.mask for item in compressions)
        return self.stages.run("splice", bat.splice, (self.cfg.networks,), self.params, texts, valid, tokens, masks)

    def _aligned(self, scene: Scene, item: Compression) -> tuple[np.ndarray, ...]:
        """Return the importance of every token of every scale, for reports."""
        anchor_valid = scene.scales[0].valid if self.cfg.compressor.mask_padding else None
        return tuple(
            np.asarray(
                self.stages.run(
                    "align_importance", _align, (scene.grids[0], grid), item.anchor_importance, anchor_valid
                )
            )
            for grid in scene.grids
        )

    def _shares(self, budgets: Sequence[int] | None, num_images: int) -> tuple[tuple[int, ...], ...]:
        """Return every image's budgets."""
        limits = self.cfg.compressor.budgets
        budgets = limits if budgets is None else tuple(budgets)
        is_allowed = all(0 <= budget <= limit for budget, limit in zip(budgets, limits, strict=False))
        if len(budgets) != len(limits) or not is_allowed or not any(budgets):
            raise ValueError(
                f"budgets={list(budgets)}: need {len(limits)} values, each from 0 to {list(limits)}, not all 0"
            )
        return image_shares(self.cfg, budgets, num_images)

    def _check_length(self, num_rows: int) -> None:
        limit = self.cfg.decoder.max_positions
        if num_rows > limit:
            raise ValueError(
                f"question: the prompt with its visual tokens and the answer needs {num_rows} positions, "
                f"the decoder has {limit}; shorten the question, the budgets or max_new_tokens"
            )

    @staticmethod
    def _check_options(max_new_tokens: int, temperature: float, top_p: float) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: must be at least 1")
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: must be 0 (greedy) or positive")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p}: must be in (0, 1]")


def load_device_params(directory: str | pathlib.Path) -> dict[str, Any]:
    """Read a converted checkpoint's weights onto the device, a group of leaves at a time.

    On a CPU the arrays that were read become the device's, without a copy.
    """
    return load_params(directory, place=lambda array: jax.block_until_ready(jax.device_put(array, may_alias=True)))


def _align(anchor_grid: TokenGrid, grid: TokenGrid, anchor: Array, anchor_valid: Array | None) -> Array:
    return align_importance(anchor, anchor_grid, grid, anchor_valid)


def _padded_text(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pad ids to their bucket: (ids, is_text)."""
    length = bucket(ids.size)
    return padded(np.asarray(ids, np.int32), length), np.arange(length) < ids.size
