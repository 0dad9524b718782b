"""The mini model from nothing to a checkpoint, stage by stage; every stage resumes where it was killed.

A stage whose settings or inputs have changed is never taken for the one that is wanted (provenance.py).

stage      learns                                 from                              leaves in DIR
pictures   -                                      scenes, rendered and labelled     pictures/
questions  -                                      scenes, asked and tokenised       tokenizer/, bank.npz
tower      vision tower (and heads, dropped)      tiles, dense labels               tower.npz
features   -                                      the frozen tower, K-means         features/
options    decoder                                bare lists of options             options.npz
lookups    decoder                                made-up tokens, text alone        lookups.npz
word_bag   projector                              dense labels as words             word_bag.npz
attention  projector, scale embedding, decoder    importance on the anchor          attention.npz
given      projector, scale embedding, decoder    tokens chosen by the truth        given.npz
tokens     -                                      the frozen projector              features/tokens.npy
selected   decoder                                tokens the method selects         selected.npz
mixed      decoder                                all selections, random budgets    mixed.npz
export     -                                      -                                 the checkpoint folder
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bat_jax.config import BatConfig
from bat_jax.io.output_files import staged_file
from bat_jax.io.prompts import load_tokenizer
from bat_jax.mini.curriculum import export, features, tower
from bat_jax.mini.curriculum.attention import attention_loss
from bat_jax.mini.curriculum.bank import Bank, make_bank
from bat_jax.mini.curriculum.given import given_loss
from bat_jax.mini.curriculum.group_batches import GroupBatches, Mix
from bat_jax.mini.curriculum.initial_weights import init_params
from bat_jax.mini.curriculum.lookups import LookupBatches, lookups_loss
from bat_jax.mini.curriculum.options import OptionBatches, options_loss
from bat_jax.mini.curriculum.picture_store import PictureStore, TokenTruth
from bat_jax.mini.curriculum.provenance import SOURCES, Provenance
from bat_jax.mini.curriculum.recipe import MiniRecipe
from bat_jax.mini.curriculum.selected import held_out_accuracy, selected_loss
from bat_jax.mini.curriculum.stage import run_stage
from bat_jax.mini.curriculum.teaching import Teaching
from bat_jax.mini.curriculum.word_bag import WordBagBatches, corner_grid, word_bag_loss
from bat_jax.train.loop import Loss
from bat_jax.typing import Params

STAGES = (*SOURCES, "export")
# The last stage that trains the projector: what comes after it sees its tokens as they are then.
_LAST_WITH_PROJECTOR = "given"

Batches = Callable[[int], Any]


class MiniTraining:
    """Runs the stages in one directory."""

    def __init__(
        self,
        directory: pathlib.Path,
        recipe: MiniRecipe,
        cfg: BatConfig | None = None,
        pool: concurrent.futures.Executor | None = None,
    ):
        """Open the directory; the processes of `pool` (`worker_pool`) render, ask and make batches, if there is one."""
        self.directory, self.recipe = directory, recipe
        self.cfg = BatConfig.mini() if cfg is None else cfg
        self._pool = pool
        self._device_features: dict[str, jax.Array] = {}
        self.provenance = Provenance(directory, recipe)

    def run(
        self, stage: str, output: pathlib.Path | None = None, exported: str = "mixed", remake: bool = False
    ) -> None:
        """Run one stage; a finished one is left as it is.

        Args:
          output: the folder that "export" writes. exported: the stage whose decoder goes into it.
          remake: make the stage anew if it was made with other settings, or from an input that was made anew since.

        Raises:
          ValueError: there is no such stage, a stage before it is missing, or one is stale; says which and why.
        """
        if stage not in STAGES:
            raise ValueError(f"stage={stage!r}: must be one of {', '.join(STAGES)}")
        if stage == "export":
            self.export(output, exported)
            return
        if remake:
            self.provenance.forget(stage)
        self.provenance.check(stage)
        if not self.provenance.is_done(stage):
            self.provenance.begin(stage)
            self.make(stage)
            self.provenance.finish(stage)

    def make(self, stage: str) -> None:
        """Make a stage, or go on with it."""
        self.train(stage) if stage in _TRAINED else getattr(self, stage)()

    def pictures(self) -> None:
        self.store.fill(self._pool)

    def questions(self) -> None:
        tokenizer = self.directory / "tokenizer"
        if not tokenizer.exists():
            export.write_tokenizer(tokenizer, self.cfg.decoder.vocab_size)
        seeds = range(self.recipe.num_pictures)
        make_bank(self.cfg, tokenizer, seeds, self.recipe.num_rounds, self._pool).save(self.directory / "bank.npz")

    def features(self) -> None:
        store, directory = self.store, self.directory / "features"
        features.encode_pictures(self.cfg, self.saved("tower"), store, self.recipe.num_pictures, directory)

    def tokens(self) -> None:
        params, directory = self.saved(_LAST_WITH_PROJECTOR), self.directory / "features"
        features.project_pictures(self.cfg, params, self.feature_array("vision"), directory)

    def export(self, output: pathlib.Path | None, stage: str) -> None:
        """Write the checkpoint: decoder of a stage, the other parts as they were when they were trained last."""
        if output is None:
            raise ValueError("output: give the folder of the checkpoint")
        for name in exported_stages(stage):
            self.provenance.check(name)
        params = self.saved(_LAST_WITH_PROJECTOR) | self.saved(stage)
        params["vision_tower"] = self.saved("tower")["vision_tower"]
        self.provenance.begin_export(output, exported_stages(stage))
        export.write_checkpoint(output, self.cfg, params)

    def batches(self, stage: str) -> Batches:
        """Return what draws a stage's batches: position -> NumPy arrays, a function of recipe and folder alone."""
        return _TRAINED[stage].batches(self, getattr(self.recipe, stage).seed)

    def train(self, name: str) -> None:
        """Train a stage and keep its weights as NAME.npz."""
        stage, batch_of = _TRAINED[name], self.batches(name)
        if self._pool is not None:
            batch_of = functools.partial(_make_batch, self.directory, self.recipe, self.cfg, name)
        fixed = stage.fixed(self)
        trained = run_stage(
            self.directory / "stages" / name,
            getattr(self.recipe, name),
            stage.params(self),
            stage.loss(self),
            batch_of,
            evaluate=stage.evaluate(self, fixed),
            fixed=fixed,
            pool=self._pool,
        )
        leaves = traverse_util.flatten_dict(jax.tree.map(np.asarray, trained), sep="/")
        with staged_file(self.directory / f"{name}.npz") as unfinished:
            np.savez(unfinished, **leaves)

    @property
    def training_pictures(self) -> range:
        return range(self.recipe.num_pictures - self.recipe.num_held_out)

    @property
    def held_out_pictures(self) -> range:
        return range(len(self.training_pictures), self.recipe.num_pictures)

    @property
    def store(self) -> PictureStore:
        num_pictures = self.recipe.num_pictures + self.recipe.num_tower_pictures
        return PictureStore(self.directory / "pictures", self.cfg, num_pictures)

    @property
    def labels(self) -> np.ndarray:
        """(N, M, 9) of the pictures that questions are asked about."""
        return self.store.labels[: self.recipe.num_pictures]

    @functools.cached_property
    def object_id(self) -> jax.Array:
        """(N, M): the id of the object that each token shows."""
        return jnp.asarray(TokenTruth.of(np.asarray(self.labels)).shown_id())

    @functools.cached_property
    def bank(self) -> Bank:
        path = self.directory / "bank.npz"
        if not path.exists():
            raise ValueError(f"stage questions has not been run in {self.directory}")
        return Bank.load(path)

    @functools.cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.directory / "tokenizer")

    @functools.cached_property
    def untrained(self) -> dict[str, Any]:
        return init_params(self.cfg, jax.random.key(self.recipe.options.seed))

    @functools.cached_property
    def _bank_teaching(self) -> Teaching:
        return self.teaching(self.bank.prefix_ids)

    def teaching(self, prefix_ids: np.ndarray | None = None) -> Teaching:
        """Return the losses that stages share, behind the bank's text in front of an image by default."""
        if prefix_ids is None:
            return self._bank_teaching
        weights = self.recipe.evidence_weight, self.recipe.importance_weight
        return Teaching(self.cfg, self.tokenizer, prefix_ids, *weights)

    def saved(self, stage: str) -> dict[str, Any]:
        """Return the weights that a stage ended with.

        Raises:
          ValueError: it has not been run.
        """
        path = self.directory / f"{stage}.npz"
        if not path.exists():
            raise ValueError(f"stage {stage} has not been run in {self.directory}")
        with np.load(path, allow_pickle=False) as stored:
            return traverse_util.unflatten_dict({name: jnp.asarray(stored[name]) for name in stored.files}, sep="/")

    def feature_array(self, name: str) -> np.ndarray:
        """Return vision (N, M, E), regions (N, M) or tokens (N, M, D) of all pictures."""
        path = self.directory / "features" / f"{name}.npy"
        if not path.exists():
            raise ValueError(f"{path} is missing; run the stages before")
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def on_device(self, name: str) -> jax.Array:
        """Return `feature_array` as one array on the device; the last one asked for is kept there."""
        if name not in self._device_features:
            self._device_features.clear()  # room for the new one
            self._device_features[name] = jnp.asarray(self.feature_array(name))
        return self._device_features[name]


def exported_stages(stage: str) -> tuple[str, ...]:
    """Return the stages whose weights a checkpoint holds with the decoder of `stage`."""
    return ("tower", _LAST_WITH_PROJECTOR, stage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedStage:
    """A stage that trains weights, as functions of the training it is part of.

    Attributes:
      params: the weights it begins with, all of which it trains. loss: what it minimises. batches: (training, seed) ->
        what draws them. fixed: arrays that the loss reads. evaluate: (training, fixed) -> numbers for the log, from
        weights.
    """

    params: Callable[[MiniTraining], Params]
    loss: Callable[[MiniTraining], Loss]
    batches: Callable[[MiniTraining, int], Batches]
    fixed: Callable[[MiniTraining], Any] = lambda run: None
    evaluate: Callable[[MiniTraining, Any], Callable[[Params], dict[str, float]] | None] = lambda run, fixed: None


def _tower_batches(run: MiniTraining, seed: int) -> tower.TileBatches:
    store, recipe = run.store, run.recipe
    pictures = np.concatenate([np.array(run.training_pictures), np.arange(recipe.num_pictures, store.num_pictures)])
    return tower.TileBatches(run.cfg, store, pictures, recipe.tile_batch, seed)


def _option_batches(run: MiniTraining, seed: int) -> OptionBatches:
    return OptionBatches(run.tokenizer, run.recipe.option_batch, seed)


def _lookup_batches(run: MiniTraining, seed: int) -> Batches:
    """Return position -> {"lookups": LookupBatch, "text_only": Texts}."""
    recipe, sizes = run.recipe, (run.recipe.lookup_pictures, run.recipe.lookup_questions)
    lookups = LookupBatches(run.cfg, run.tokenizer, *sizes, recipe.lookup_noise, seed)
    texts = _group_batches(run, Mix(num_pictures=0, num_questions=0, num_text_only=recipe.lookup_text_only), seed)
    return lambda position: {"lookups": lookups(position), "text_only": texts.text_only(position)}


def _attention_batches(run: MiniTraining, seed: int) -> Batches:
    """Return position -> {"groups": GroupBatch} and a batch of look-ups."""
    groups, lookups = _group_batches(run, run.recipe.attention_mix, seed), _lookup_batches(run, seed + 1)
    return lambda position: {"groups": groups(position)} | lookups(position)


def _group_batches(run: MiniTraining, mix: Mix, seed: int) -> GroupBatches:
    return GroupBatches(run.cfg, mix, run.bank, run.labels, run.training_pictures, seed)


def _attention_params(run: MiniTraining) -> dict[str, Any]:
    """The scale embedding begins with the words of the quarter that a place is in."""
    params = run.saved("lookups") | run.saved("word_bag")
    words, scale_embedding = params["decoder"]["embed_tokens"]["embedding"], dict(run.untrained["scale_embedding"])
    scale_embedding["base"] += corner_grid(run.tokenizer, words, run.cfg.scale_embedding.base_side)
    return params | {"scale_embedding": scale_embedding}


def _selecting(mix_of: Callable[[MiniRecipe], Mix], before: str) -> TrainedStage:
    """Return a stage that trains the decoder of the stage `before` on what is selected."""

    def evaluate(run: MiniTraining, fixed: Any) -> Callable[[Params], dict[str, float]]:
        mix, pictures = mix_of(run.recipe), run.held_out_pictures
        return held_out_accuracy(run.teaching(), mix, run.bank, run.labels, pictures, fixed)

    return TrainedStage(
        params=lambda run: {"decoder": run.saved(before)["decoder"]},
        loss=lambda run: selected_loss(run.teaching(), mix_of(run.recipe)),
        batches=lambda run, seed: _group_batches(run, mix_of(run.recipe), seed),
        fixed=lambda run: {
            "tokens": run.on_device("tokens"),
            "regions": jnp.asarray(run.feature_array("regions")),
            "object_id": run.object_id,
        },
        evaluate=evaluate,
    )


_TRAINED = {
    "tower": TrainedStage(
        params=lambda run: tower.init_params(run.cfg, jax.random.key(run.recipe.tower.seed)),
        loss=lambda run: tower.tower_loss(run.cfg),
        batches=_tower_batches,
        evaluate=lambda run, _: functools.partial(tower.held_out_accuracy, run.cfg, run.store, run.held_out_pictures),
    ),
    "options": TrainedStage(
        params=lambda run: {"decoder": run.untrained["decoder"]},
        loss=lambda run: options_loss(run.teaching(_option_batches(run, 0).prefix_ids)),
        batches=_option_batches,
    ),
    "lookups": TrainedStage(
        params=lambda run: run.saved("options"),
        loss=lambda run: lookups_loss(run.teaching()),
        batches=_lookup_batches,
    ),
    "word_bag": TrainedStage(
        params=lambda run: {"projector": run.untrained["projector"]},
        loss=lambda run: word_bag_loss(run.cfg, run.tokenizer),
        batches=lambda run, seed: WordBagBatches(run.labels, run.training_pictures, run.recipe.word_bag_pictures, seed),
        fixed=lambda run: run.saved("lookups") | {"vision": run.on_device("vision"), "labels": jnp.asarray(run.labels)},
    ),
    "attention": TrainedStage(
        params=_attention_params,
        loss=lambda run: attention_loss(run.teaching()),
        batches=_attention_batches,
        fixed=lambda run: {"vision": run.on_device("vision")},
    ),
    "given": TrainedStage(
        params=lambda run: run.saved("attention"),
        loss=lambda run: given_loss(run.teaching()),
        batches=lambda run, seed: _group_batches(run, run.recipe.given_mix, seed),
        fixed=lambda run: {"vision": run.on_device("vision"), "object_id": run.object_id},
    ),
    "selected": _selecting(lambda recipe: recipe.selected_mix, _LAST_WITH_PROJECTOR),
    "mixed": _selecting(lambda recipe: recipe.mixed_mix, "selected"),
}


def worker_pool(num_processes: int) -> concurrent.futures.ProcessPoolExecutor:
    """Return processes for all stages; each opens the training once and never uses a device."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context, initializer=_use_no_device)


def _use_no_device() -> None:
    jax.config.update("jax_platforms", "cpu")


@functools.cache
def _batches(directory: pathlib.Path, recipe: MiniRecipe, cfg: BatConfig, stage: str) -> Batches:
    return _opened(directory, recipe, cfg).batches(stage)


@functools.cache
def _opened(directory: pathlib.Path, recipe: MiniRecipe, cfg: BatConfig) -> MiniTraining:
    return MiniTraining(directory, recipe, cfg)


def _make_batch(directory: pathlib.Path, recipe: MiniRecipe, cfg: BatConfig, stage: str, position: int) -> Any:
    return _batches(directory, recipe, cfg, stage)(position)
