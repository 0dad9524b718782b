"""Sizes, rates and mixtures of every stage of the mini model's training."""

import dataclasses

from bat_jax.mini.curriculum.group_batches import ANCHOR, Mix
from bat_jax.mini.curriculum.stage import StageSettings

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
      lookup_pictures, lookup_questions, lookup_text_only: made-up pictures of a step, questions about each, questions
        that say their answer. lookup_noise: standard deviation of what is added to the words of a made-up token.
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
    lookup_text_only: int = 24
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
            lookup_text_only=96,
            word_bag_pictures=32,
            **stages,
            **mixes,
        )
