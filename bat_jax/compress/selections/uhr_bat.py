"""UHR-BAT's own rule: preserve and merge, region by region (arXiv:2604.13565, Sec. 3.4, Algorithm 1)."""

from bat_jax.compress.candidates import Candidates, by_scale
from bat_jax.compress.preserve_merge import Selection, preserve_merge
from bat_jax.config import SelectionRule


def _choose(scale: Candidates, *, preserve_equal: bool, coverage: str) -> Selection:
    return preserve_merge(
        scale.tokens,
        scale.importance,
        scale.region_id,
        scale.valid,
        scale.budget,
        num_regions=scale.num_regions,
        max_budget=scale.max_budget,
        preserve_equal=preserve_equal,
        coverage=coverage,
    )


SELECTION = SelectionRule(
    name="uhr_bat",
    title="UHR-BAT",
    source="arXiv:2604.13565, Sec. 3.4, Alg. 1",
    difference="see [differences.md](differences.md)",
    needs=("question", "regions"),
    choose=by_scale(_choose),
    settings=("preserve_equal", "coverage"),
    shown_in=("grids", "coverage"),
    place=0,
)
