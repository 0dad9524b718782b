"""Scenes: the same from the same seed, and built the way the questions count on."""

import collections
import itertools
import json
import math

import numpy as np
import pytest

from bat_jax.mini.world.draws import Draws
from bat_jax.mini.world.layout import MAX_SEED, generate_scene, land_use_grid
from bat_jax.mini.world.world import (
    LAND_USES,
    MOVING_KINDS,
    OBJECT_KINDS,
    SIDE_DM,
    canonical_json,
    content_hash,
    heading_vector,
)


@pytest.fixture(scope="module")
def scenes(pool):
    return [scene for scene, _ in pool[:60]]


def test_the_raw_bits_behind_all_draws_are_the_known_ones():
    draws = Draws(7, 3)
    bits = np.random.PCG64([7, 3]).random_raw(200)
    assert [draws.below(10) for _ in range(200)] == [int(raw) * 10 // 2**64 for raw in bits]
    assert sorted(Draws(1).shuffled("abcdef")) == list("abcdef")
    with pytest.raises(ValueError, match="num=3"):
        Draws(1).sample("ab", 3)


def test_draws_are_uniform():
    draws = Draws(11)
    counts = np.bincount([draws.below(6) for _ in range(6000)], minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi square, 5 degrees of freedom, 0.1 %


def test_a_seed_gives_one_scene_and_another_seed_another():
    assert generate_scene(5) == generate_scene(5)
    assert content_hash(generate_scene(5)) != content_hash(generate_scene(6))


def test_scene_five_is_the_same_on_every_machine():
    assert content_hash(generate_scene(5)) == "58a5dd8d7d3250131248cab7cb5692d5a41f8c90e545764860e9f17d539a5481"


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed={seed}: must lie in"):
        generate_scene(seed)


def test_a_scene_holds_whole_numbers_only(scenes):
    content = json.loads(canonical_json(scenes[0]))

    def leaves(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from leaves(item)
        else:
            yield value

    assert {type(leaf) for leaf in leaves(content)} <= {int, str, bool, type(None)}
    with pytest.raises(ValueError, match="float has no canonical JSON"):
        canonical_json({"x": 0.5})


def test_headings_are_cosines_and_sines():
    for heading in range(16):
        angle = heading * math.pi / 8
        assert np.allclose(heading_vector(heading), (math.cos(angle), math.sin(angle)), atol=1e-12)


def test_sites_lie_inside_apart_and_each_kind_once(scenes):
    for scene in scenes:
        assert 4 <= len(scene.sites) <= 6
        assert len({site.kind for site in scene.sites}) == len(scene.sites)
        for site in scene.sites:
            assert 150 <= 2 * site.half / 10 <= 200
            assert min(site.box) >= 0 and max(site.box) <= SIDE_DM
        for a, b in itertools.combinations(scene.sites, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.half + b.half


def test_objects_of_a_site_differ_in_kind_and_colour_and_keep_apart(scenes):
    for site in (site for scene in scenes for site in scene.sites):
        assert len({obj.kind for obj in site.objects}) == len({obj.colour for obj in site.objects}) == len(site.objects)
        for obj in site.objects:
            assert max(abs(obj.x - site.x), abs(obj.y - site.y)) + obj.length < site.half
            assert 120 <= obj.length <= 180
            assert not obj.is_moving or obj.kind in MOVING_KINDS
        for a, b in itertools.combinations(site.objects, 2):
            assert math.hypot(a.x - b.x, a.y - b.y) >= 450


def test_every_scene_can_be_asked_for_every_count(scenes):
    for scene in scenes:
        kinds = collections.Counter(obj.kind for obj in scene.objects)
        assert {0, 1, 2, 3} <= {kinds[kind] for kind in OBJECT_KINDS}
        assert {1, 2, 3} == {len(site.objects) for site in scene.sites}
        assert [obj.object_id for obj in scene.objects] == list(range(1, len(scene.objects) + 1))


def test_each_land_use_of_a_scene_is_seen_and_no_other(scenes):
    for scene in scenes:
        grid = land_use_grid(scene.land, scene.river, 96)
        shares = np.bincount(grid.reshape(-1), minlength=7)[1:] / grid.size
        present = {LAND_USES[i] for i in np.flatnonzero(shares)}
        assert present == set(scene.land.uses)
        assert len(present) in (3, 4)
        assert shares[shares > 0].min() >= 0.07


def test_the_land_grid_is_the_nearest_seed_where_nothing_bends_it():
    scene = generate_scene(0)
    flat = tuple(tuple(tuple((0, 0) for _ in row) for row in lattice) for lattice in scene.land.warp)
    land = type(scene.land)(seeds=scene.land.seeds, warp=flat)
    grid = land_use_grid(land, None, 20)
    for row, column in itertools.product(range(20), repeat=2):
        x, y = (column + 0.5) * SIDE_DM / 20, (row + 0.5) * SIDE_DM / 20
        nearest = min(land.seeds, key=lambda seed: (seed.x - x) ** 2 + (seed.y - y) ** 2)
        assert LAND_USES[grid[row, column] - 1] == nearest.land_use


def test_the_road_is_the_shortest_way_past_all_sites(scenes):
    for scene in scenes:
        place = {site.site_id: (site.x, site.y) for site in scene.sites}

        def length(order, place=place):
            return sum(math.dist(place[a], place[b]) for a, b in itertools.pairwise(order))

        assert sorted(scene.road.site_ids) == sorted(place)
        shortest = min(map(length, itertools.permutations(place)))
        assert length(scene.road.site_ids) <= shortest + len(place)  # lengths are cut to whole dm when compared


def test_what_an_object_is_tells_nothing_about_where_it_is(pool):
    """Chi square of object kind against site kind: 28 degrees of freedom, 0.1 % above 56.9."""
    table = np.zeros((8, 5))
    kinds = ("harbour", "airfield", "parking", "base", "resort", "depot", "quarry", "stadium")
    for scene, _ in pool:
        for site in scene.sites:
            for obj in site.objects:
                table[kinds.index(site.kind), OBJECT_KINDS.index(obj.kind)] += 1
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 56.9
