"""The mini model from nothing to a checkpoint, stage by stage; every stage resumes where it was killed.

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
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bat_jax.config import BatConfig
from bat_jax.io.prompts import load_tokenizer
from bat_jax.mini.curriculum import decoder, export, features, tower
from bat_jax.mini.curriculum.bank import Bank, make_bank
from bat_jax.mini.curriculum.group_batches import ANCHOR, GroupBatch, GroupBatches, Mix
from bat_jax.mini.curriculum.lookups import LookupBatches
from bat_jax.mini.curriculum.options import OptionBatches
from bat_jax.mini.curriculum.picture_store import PictureStore, TokenTruth
from bat_jax.mini.curriculum.stage import Loss, StageSettings, run_stage
from bat_jax.mini.world.question import SUB_TASKS
from bat_jax.typing import Params

STAGES = (
    "pictures",
    "questions",
    "tower",
    "features",
    "options",
    "lookups",
    "word_bag",
    "attention",
    "given",
    "tokens",
    "selected",
    "mixed",
    "export",
)

# The last stage that trains the projector: what comes after it sees its tokens as they are then.
_LAST_WITH_PROJECTOR = "given"
# Tokens of a picture that the word bag sees at once, and how much more often those that show something small.
_TOKENS_TAUGHT, _OBJECTS_TAUGHT = 256, 60.0

_TOWER = StageSettings(num_steps=4200, rate=1.2e-3, eval_every=1400)
_OPTIONS = StageSettings(num_steps=150, rate=2e-3, log_every=10)
_LOOKUPS = StageSettings(num_steps=550, rate=1.5e-3)
_WORD_BAG = StageSettings(num_steps=4000, rate=3e-3, weight_decay=0.0)
_ATTENTION = StageSettings(num_steps=300, rate=1.5e-3)
_ATTENTION_MIX = Mix(num_pictures=6, num_questions=1, num_asking=8, kinds=(0.8, 0.1, 0.1))
_GIVEN = StageSettings(num_steps=1300, rate=1.5e-3)
_GIVEN_MIX = Mix(
    num_pictures=6,
    num_questions=8,
    num_given=64,
    forms=(0.25, 0.1, 0.65),
    num_text_only=8,
    kinds=(0.8, 0.06, 0.14),
    crowding=2,
)
_SELECTED = StageSettings(num_steps=600, rate=1.2e-3)
_SELECTED_MIX = Mix(
    num_pictures=6,
    num_questions=7,
    num_asking=1,
    forms=(0.15, 0.1, 0.75),
    num_text_only=6,
    kinds=(0.76, 0.08, 0.16),
    crowding=1,
    budgets=(8, 24, 64, 150),
)
# The budgets are three times those of the stage before; a third of this rate for 600 steps did not reach them.
_MIXED = StageSettings(num_steps=1200, rate=7e-4, warmup_ratio=0.06)
_MIXED_MIX = Mix(
    num_pictures=6,
    num_questions=8,
    num_asking=1,
    forms=(0.05, 0.05, 0.9),
    num_text_only=4,
    kinds=(0.78, 0.06, 0.16),
    selections=(("uhr_bat", 0.62), ("topk", 0.22), ("random", 0.04), ("pooling", 0.04), (ANCHOR, 0.08)),
    lowest=0.3,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiniRecipe:
    """Sizes and rates of all stages; the shipped checkpoint's card says where its training differed from the defaults.

    Attributes:
      num_pictures, num_held_out: pictures that questions are asked about, the last of which only measure.
      num_tower_pictures: more pictures, for the tower alone: it names objects of pictures that it was trained on better
        than of others (96 % and 86 % of kinds after 980 pictures).
      num_rounds: rounds of questions a scene.
      tile_batch, option_batch, word_bag_pictures: samples of a step (tiles; texts; pictures, 256 tokens of each).
      lookup_pictures, lookup_questions, lookup_told: made-up pictures of a step, questions about each, questions that
        say their answer. lookup_noise: standard deviation of what is added to the words of a made-up token.
      importance_weight, evidence_weight: of the auxiliary losses on importance; on where and how answers are found.
      The others: a StageSettings a stage, a Mix a stage of packed questions.
    """

    num_pictures: int = 1000
    num_held_out: int = 20
    num_tower_pictures: int = 1200
    num_rounds: int = 8
    tile_batch: int = 64
    option_batch: int = 128
    lookup_pictures: int = 12
    lookup_questions: int = 8
    lookup_told: int = 24
    lookup_noise: float = 0.03
    word_bag_pictures: int = 8
    importance_weight: float = 0.3
    evidence_weight: float = 1.0
    tower: StageSettings = _TOWER
    options: StageSettings = _OPTIONS
    lookups: StageSettings = _LOOKUPS
    word_bag: StageSettings = _WORD_BAG
    attention: StageSettings = _ATTENTION
    attention_mix: Mix = _ATTENTION_MIX
    given: StageSettings = _GIVEN
    given_mix: Mix = _GIVEN_MIX
    selected: StageSettings = _SELECTED
    selected_mix: Mix = _SELECTED_MIX
    mixed: StageSettings = _MIXED
    mixed_mix: Mix = _MIXED_MIX

    def __post_init__(self):
        if self.num_pictures <= self.num_held_out:
            raise ValueError(f"num_pictures={self.num_pictures}: must exceed num_held_out={self.num_held_out}")

    @classmethod
    def gpu(cls) -> "MiniRecipe":
        """Return the recipe for a GPU: more pictures, batches four times as large, more steps."""
        num_steps = {
            "tower": 4500,
            "options": 300,
            "lookups": 1200,
            "word_bag": 2000,
            "attention": 700,
            "given": 3000,
            "selected": 2000,
            "mixed": 3000,
        }
        cpu = cls()
        stages = {
            stage: dataclasses.replace(
                getattr(cpu, stage), num_steps=num, checkpoint_every=1000, log_every=50, eval_every=0
            )
            for stage, num in num_steps.items()
        }
        mixes = {
            name: dataclasses.replace(mix, num_pictures=4 * mix.num_pictures, num_text_only=4 * mix.num_text_only)
            for name in ("attention_mix", "given_mix", "selected_mix", "mixed_mix")
            for mix in [getattr(cpu, name)]
        }
        return cls(
            num_pictures=2400,
            num_held_out=24,
            num_tower_pictures=0,
            num_rounds=6,
            tile_batch=256,
            option_batch=256,
            lookup_pictures=48,
            lookup_told=96,
            word_bag_pictures=32,
            **stages,
            **mixes,
        )


class MiniTraining:
    """Runs the stages in one directory."""

    def __init__(
        self,
        directory: pathlib.Path,
        recipe: MiniRecipe,
        cfg: BatConfig | None = None,
        workers: int = 2,
        pool: concurrent.futures.Executor | None = None,
    ):
        """Open the directory.

        Args:
          workers: processes that render and ask. pool: of `batch_pool`, makes batches; a thread does by default.
        """
        self.directory, self.recipe, self.workers = directory, recipe, workers
        self.cfg = BatConfig.mini() if cfg is None else cfg
        self._pool, self._device_features = pool, ("", None)
        directory.mkdir(parents=True, exist_ok=True)

    def run(self, stage: str, output: pathlib.Path | None = None, exported: str = "mixed") -> None:
        """Run one stage; a finished one is left as it is.

        Args:
          output: the folder that "export" writes. exported: the stage whose decoder goes into it.

        Raises:
          ValueError: there is no such stage, or a stage before it is missing.
        """
        if stage not in STAGES:
            raise ValueError(f"stage={stage!r}: must be one of {', '.join(STAGES)}")
        if stage == "export":
            self.export(output, exported)
        elif not (self.directory / f"{stage}.npz").exists():
            getattr(self, stage)()

    def pictures(self) -> None:
        self._store().fill(self.workers)

    def questions(self) -> None:
        tokenizer = self.directory / "tokenizer"
        if not tokenizer.exists():
            export.write_tokenizer(tokenizer, self.cfg.decoder.vocab_size)
        path = self.directory / "bank.npz"
        if not path.exists():
            make_bank(self.cfg, tokenizer, range(self.recipe.num_pictures), self.recipe.num_rounds, self.workers).save(
                path
            )

    def batches(self, stage: str) -> Callable[[int], Any]:
        """Return what draws a stage's batches: position -> NumPy arrays, a function of recipe and folder alone."""
        cfg, recipe = self.cfg, self.recipe
        seed = getattr(recipe, stage).seed
        if stage == "tower":
            store = self._store()
            pictures = np.concatenate([np.array(self._training), np.arange(recipe.num_pictures, store.num_pictures)])
            return tower.TileBatches(cfg, store, pictures, recipe.tile_batch, seed)
        if stage == "options":
            return OptionBatches(self._tokenizer(), recipe.option_batch, seed)
        if stage == "lookups":
            return self._lookup_batches(seed)
        if stage == "word_bag":
            return self._word_bag_batches(seed)
        groups = GroupBatches(cfg, getattr(recipe, f"{stage}_mix"), self._bank, self._labels, self._training, seed)
        if stage == "attention":
            lookups = self._lookup_batches(seed + 1)
            return lambda position: {"groups": groups(position)} | lookups(position)
        return groups

    def tower(self) -> None:
        cfg, recipe, store = self.cfg, self.recipe, self._store()
        self._stage(
            "tower",
            tower.init_params(cfg, jax.random.key(recipe.tower.seed)),
            tower.tower_loss(cfg),
            evaluate=lambda params: tower.held_out_accuracy(cfg, store, self._held_out, params),
        )

    def features(self) -> None:
        features.encode_pictures(
            self.cfg, self._saved("tower"), self._store(), self.recipe.num_pictures, self.directory / "features"
        )

    def options(self) -> None:
        prefix_ids = self.batches("options").prefix_ids
        loss = decoder.options_loss(self.cfg, self._tokenizer(), prefix_ids, self.recipe.evidence_weight)
        self._stage("options", {"decoder": self._untrained()["decoder"]}, loss)

    def lookups(self) -> None:
        loss = decoder.lookups_loss(self.cfg, self._tokenizer(), self._bank.prefix_ids, self.recipe.evidence_weight)
        self._stage("lookups", self._saved("options"), loss)

    def _lookup_batches(self, seed: int) -> Callable[[int], dict[str, Any]]:
        """Return position -> {"lookups": LookupBatch, "told": Texts}."""
        recipe, sizes = self.recipe, (self.recipe.lookup_pictures, self.recipe.lookup_questions)
        lookups = LookupBatches(self.cfg, self._tokenizer(), *sizes, recipe.lookup_noise, seed)
        mix = Mix(num_pictures=0, num_questions=0, num_text_only=recipe.lookup_told)
        told = GroupBatches(self.cfg, mix, self._bank, self._labels, self._training, seed)
        return lambda position: {"lookups": lookups(position), "told": told.text_only(position)}

    def _word_bag_batches(self, seed: int) -> Callable[[int], dict[str, np.ndarray]]:
        """Return position -> {"picture" (B, 1), "token" (B, K)}, those that show something small more often."""
        labels, num_pictures = self._labels, self.recipe.word_bag_pictures

        def batch_of(position: int) -> dict[str, np.ndarray]:
            rng = np.random.default_rng([seed, position])
            pictures, tokens = rng.integers(len(self._training), size=(num_pictures, 1)), []
            for picture in pictures[:, 0]:
                truth = TokenTruth.of(labels[picture])
                chance = 1.0 + _OBJECTS_TAUGHT * ((truth.object_id > 0) | (truth.event > 0) | (truth.ring > 0))
                tokens.append(rng.choice(chance.size, _TOKENS_TAUGHT, p=chance / chance.sum()))
            return {"picture": pictures.astype(np.int32), "token": np.stack(tokens).astype(np.int32)}

        return batch_of

    def word_bag(self) -> None:
        fixed = {"vision": self._on_device("vision"), "labels": jnp.asarray(self._labels)} | self._saved("lookups")
        loss = decoder.word_bag_loss(self.cfg, self._tokenizer())
        self._stage("word_bag", {"projector": self._untrained()["projector"]}, loss, fixed=fixed)

    def attention(self) -> None:
        params = {"scale_embedding": self._untrained()["scale_embedding"]}
        params |= self._saved("lookups") | self._saved("word_bag")
        words = params["decoder"]["embed_tokens"]["embedding"]
        side = self.cfg.scale_embedding.base_side
        params["scale_embedding"]["base"] += decoder.corner_grid(self._tokenizer(), words, side)
        loss = decoder.attention_loss(self.cfg, self._tokenizer(), self._bank.prefix_ids, self.recipe.evidence_weight)
        self._stage("attention", params, loss, fixed={"vision": self._on_device("vision")})

    def given(self) -> None:
        recipe = self.recipe
        loss = decoder.given_loss(
            self.cfg, self._tokenizer(), self._bank.prefix_ids, recipe.importance_weight, recipe.evidence_weight
        )
        fixed = {"vision": self._on_device("vision"), "object_id": self._object_id}
        self._stage("given", self._saved("attention"), loss, fixed=fixed)

    def tokens(self) -> None:
        directory = self.directory / "features"
        if not (directory / "tokens.done").exists():
            features.project_pictures(self.cfg, self._saved(_LAST_WITH_PROJECTOR), self._features("vision"), directory)
            (directory / "tokens.done").touch()

    def selected(self) -> None:
        self._selected_stage("selected", self.recipe.selected_mix, _LAST_WITH_PROJECTOR)

    def mixed(self) -> None:
        self._selected_stage("mixed", self.recipe.mixed_mix, "selected")

    def export(self, output: pathlib.Path | None, stage: str) -> None:
        """Write the checkpoint: decoder of a stage, the other parts as they were when they were trained last."""
        if output is None:
            raise ValueError("output: give the folder of the checkpoint")
        params = self._saved(_LAST_WITH_PROJECTOR) | self._saved(stage)
        params["vision_tower"] = self._saved("tower")["vision_tower"]
        export.write_checkpoint(output, self.cfg, params)

    def _selected_stage(self, name: str, mix: Mix, before: str) -> None:
        cfg, recipe, bank = self.cfg, self.recipe, self._bank
        fixed = {"tokens": self._on_device("tokens"), "regions": jnp.asarray(self._features("regions"))}
        fixed["object_id"] = self._object_id
        loss = decoder.selected_loss(
            cfg, self._tokenizer(), mix, bank.prefix_ids, recipe.importance_weight, recipe.evidence_weight
        )
        self._stage(
            name,
            {"decoder": self._saved(before)["decoder"]},
            loss,
            evaluate=_held_out_accuracy(cfg, mix, bank, self._labels, self._held_out, fixed),
            fixed=fixed,
        )

    def _stage(self, name: str, params: Params, loss: Loss, **options: Any) -> None:
        """Run a stage and keep its weights as NAME.npz."""
        batch_of = self.batches(name)
        if self._pool is not None:
            batch_of = functools.partial(_make_batch, self.directory, self.recipe, self.cfg, name)
        settings = getattr(self.recipe, name)
        trained = run_stage(
            self.directory / "stages" / name, settings, params, loss, batch_of, pool=self._pool, **options
        )
        leaves = traverse_util.flatten_dict(jax.tree.map(np.asarray, trained), sep="/")
        stage = self.directory / f".{name}.npz"
        np.savez(stage, **leaves)
        os.replace(stage, self.directory / f"{name}.npz")

    def _untrained(self) -> dict[str, Any]:
        return decoder.init_params(self.cfg, jax.random.key(self.recipe.options.seed))

    @property
    def _training(self) -> range:
        return range(self.recipe.num_pictures - self.recipe.num_held_out)

    @property
    def _held_out(self) -> range:
        return range(len(self._training), self.recipe.num_pictures)

    def _saved(self, stage: str) -> dict[str, Any]:
        path = self.directory / f"{stage}.npz"
        if not path.exists():
            raise ValueError(f"stage {stage} has not been run in {self.directory}")
        with np.load(path, allow_pickle=False) as stored:
            return traverse_util.unflatten_dict({name: jnp.asarray(stored[name]) for name in stored.files}, sep="/")

    @property
    def _labels(self) -> np.ndarray:
        """(N, M, 9) of the pictures that questions are asked about."""
        return self._store().labels[: self.recipe.num_pictures]

    def _store(self) -> PictureStore:
        num_pictures = self.recipe.num_pictures + self.recipe.num_tower_pictures
        return PictureStore(self.directory / "pictures", self.cfg, num_pictures)

    @functools.cached_property
    def _bank(self) -> Bank:
        path = self.directory / "bank.npz"
        if not path.exists():
            raise ValueError(f"stage questions has not been run in {self.directory}")
        return Bank.load(path)

    def _tokenizer(self) -> Any:
        return load_tokenizer(self.directory / "tokenizer")

    @functools.cached_property
    def _object_id(self) -> jax.Array:
        return jnp.asarray(TokenTruth.of(np.asarray(self._labels)).shown_id())

    def _on_device(self, name: str) -> jax.Array:
        """Return features of all pictures as one array on the device; the last one asked for is kept there."""
        if self._device_features[0] != name:
            self._device_features = (name, None)  # room for the new one
            self._device_features = (name, jnp.asarray(self._features(name)))
        return self._device_features[1]

    def _features(self, name: str) -> np.ndarray:
        path = self.directory / "features" / f"{name}.npy"
        if not path.exists():
            raise ValueError(f"{path} is missing; run the stages before")
        return np.load(path, mmap_mode="r", allow_pickle=False)


def batch_pool(num_processes: int) -> concurrent.futures.ProcessPoolExecutor:
    """Return processes that make batches for all stages; each opens the training once and never uses a device."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context, initializer=_use_no_device)


def _use_no_device() -> None:
    jax.config.update("jax_platforms", "cpu")


@functools.cache
def _batches(directory: pathlib.Path, recipe: MiniRecipe, cfg: BatConfig, stage: str) -> Callable[[int], Any]:
    return _opened(directory, recipe, cfg).batches(stage)


@functools.cache
def _opened(directory: pathlib.Path, recipe: MiniRecipe, cfg: BatConfig) -> MiniTraining:
    return MiniTraining(directory, recipe, cfg)


def _make_batch(directory: pathlib.Path, recipe: MiniRecipe, cfg: BatConfig, stage: str, position: int) -> Any:
    return _batches(directory, recipe, cfg, stage)(position)


def _held_out_accuracy(
    cfg: BatConfig, mix: Mix, bank: Bank, labels: np.ndarray, pictures: range, fixed: dict[str, Any]
) -> Callable[[Params], dict[str, float]]:
    """Return params -> accuracy a sub-task with letters, on pictures that nothing was trained on, at full budgets."""
    mix = dataclasses.replace(
        mix,
        forms=(0.0, 0.0, 1.0),
        num_text_only=0,
        num_asking=1,
        selections=(("uhr_bat", 1.0),),
        budgets=None,
        lowest=0.999,
    )
    batches = GroupBatches(cfg, mix, bank, labels, pictures, seed=12345)

    @jax.jit
    def answers_of(params: Params, fixed: dict[str, Any], groups: GroupBatch):
        return decoder.selected_answers(cfg, mix, bank.prefix_ids, params, fixed, groups)

    def evaluate(params: Params) -> dict[str, float]:
        right, task = [], []
        for position in range(12):
            groups = batches(position)
            answers, *_ = answers_of(params, fixed, groups)
            used = groups.texts.weight > 0
            right.append(np.asarray(answers.is_right)[used])
            task.append(groups.sub_task[used])
        right, task = np.concatenate(right), np.concatenate(task)
        return {
            f"held_out_{name}": float(right[task == index].mean())
            for index, name in enumerate(SUB_TASKS)
            if np.any(task == index)
        }

    return evaluate
