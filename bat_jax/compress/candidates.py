"""What a selection chooses from: a scale's tokens with everything that is known of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bat_jax.compress.groups import keep_top, merge_groups
from bat_jax.compress.preserve_merge import Selection
from bat_jax.nn.clip_vit import TowerAttention
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.typing import Array, Bool, Float, Int


class Candidates(NamedTuple):
    """One scale as a selection sees it.

    grid: static. tokens (M, D): as the decoder would see them. region_id (M,): see compress/partition.py. valid (M,):
    False for padding that is masked out. attention: the tower's, (M,) and (M, H), where the rule needs it. importance
    (M,): aligned to this scale. budget (): B_s, traced. max_budget: J, rows of the result, static. num_regions: R,
    static.
    """

    grid: TokenGrid
    tokens: Float[Array, "M D"]
    region_id: Int[Array, "M"]
    valid: Bool[Array, "M"]
    attention: TowerAttention | None
    importance: Float[Array, "M"]
    budget: Int[Array, ""]
    max_budget: int
    num_regions: int

    @property
    def tower(self) -> TowerAttention:
        """The tower's attention, for a rule whose record says that it reads it (`select` has checked that)."""
        assert self.attention is not None
        return self.attention

    def keep_top(self, score: Float[Array, "M"] | None = None, budget: Int[Array, ""] | None = None) -> Selection:
        """Keep the valid tokens of highest score (importance by default), in that order."""
        score = self.importance if score is None else score
        budget = self.budget if budget is None else budget
        return keep_top(self.tokens, score, self.valid, budget, self.max_budget)

    def merge(self, group: Int[Array, "M"], weight: Float[Array, "M"] | None = None) -> Selection:
        """Return one row a group, see `groups.merge_groups`."""
        return merge_groups(self.tokens, self.importance, group, self.max_budget, weight)


def by_scale(choose: Callable[..., Selection]) -> Callable[..., tuple[Selection, ...]]:
    """Return the `choose` of a record from a rule that treats every scale alone: (scale, **settings) -> Selection."""

    def choose_all(scales: tuple[Candidates, ...], **settings: Any) -> tuple[Selection, ...]:
        return tuple(choose(scale, **settings) for scale in scales)

    return choose_all
