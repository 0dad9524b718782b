"""Work with one number changed: kept tokens, tiles, the largest view, questions."""

import dataclasses

import pytest

from bat_jax.config import BatConfig
from bat_jax.engine import cost
from bat_jax.fit.work import QUANTITIES, FitWork, with_kept, with_largest_view

CFG = BatConfig.uhr_bat_7b()
WORK = FitWork(cfg=CFG, text=cost.Text(), tile_batch=116)


def test_more_kept_tokens_are_shared_as_the_budgets_are_until_a_scale_is_full():
    counts = [CFG.num_tokens(size) for size in CFG.compressor.sizes_px]
    for kept in (3000, 6000, 30_000, 100_000, sum(counts)):
        budgets = with_kept(CFG, kept).compressor.budgets
        assert sum(budgets) == kept and all(0 < b <= count for b, count in zip(budgets, counts, strict=True))
    assert with_kept(CFG, 6000).compressor.budgets == (160, 640, 1200, 4000)


def test_the_largest_view_grows_and_the_picture_with_it():
    small, large = with_largest_view(WORK, 6720), with_largest_view(WORK, 13_440)
    assert small.cfg.compressor.sizes_px == (672, 1344, 2688, 6720) and small.image_px == 8192
    assert large.image_px == 13_440 and large.cfg.compressor.budgets == CFG.compressor.budgets
    assert cost.num_tiles(large.cfg) == 4 + 16 + 64 + 1600


def test_a_view_that_the_scale_embedding_does_not_know_is_refused():
    paper = dataclasses.replace(WORK, cfg=BatConfig.uhr_bat_7b("paper"))
    with pytest.raises(ValueError, match=r"scales=\[6720\]: the checkpoint's scale embedding knows"):
        with_largest_view(paper, 6720)


@pytest.mark.parametrize(
    ("name", "number", "most", "step", "other"),
    [
        ("kept", 3000, 32_768 - 78 - 8, 1, 4000),
        ("tiles", 29, 57, 1, 40),
        ("picture", 4032, None, 672, 6720),
        ("questions", 1, None, 1, 8),
    ],
)
def test_a_quantity_on_four_devices_reads_what_it_changes(name, number, most, step, other):
    quantity = QUANTITIES[name]
    assert (quantity.number(WORK, 4), quantity.most(WORK, 4), quantity.step(WORK, 4)) == (number, most, step)
    assert quantity.number(quantity.changed(WORK, 4, other), 4) == other


def test_views_grow_by_what_the_devices_share_evenly():
    """A view of so many tiles a side that they do not divide would lie whole on each."""
    step = QUANTITIES["picture"].step
    assert {number: step(WORK, number) // 336 for number in (1, 2, 3, 4, 6, 8, 16)} == {
        1: 1,
        2: 2,
        3: 3,
        4: 2,
        6: 6,
        8: 4,
        16: 4,
    }
