"""Token coverage: is the token of what a question asks about still there by itself? No decoder answers.

A target is a small object that a question of the UHR-Mini world asks about. Its token at a view is the one that its
middle lies in, and its fate there

    kept (k)      in the prompt by itself
    merged (m)    in the prompt as part of the mean of its region (or of another group)
    cut (c)       not in the prompt

and over views the best of these. UHR-BAT (arXiv:2604.13565), Sec. 3.4, promises that regions keep sparse targets which
global top-K loses. Only the two finest of four views count: at the others an object is a smudge.

Importance is the model's own, or an oracle's: the share of every anchor token that the sites cover on which the targets
stand. Nothing that looks at the anchor can do better than point at these sites, so what is lost under the oracle is
the rule's doing.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.compress.partition import grid_regions
from bat_jax.config import CompressorConfig, ScaleSpec
from bat_jax.config.selections import shown_in
from bat_jax.evals.prediction_log import PredictionLog
from bat_jax.io.prompts import build_prompt
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.masks import label_tokens
from bat_jax.mini.world.question import Question
from bat_jax.mini.world.render import NATIVE_PX, render
from bat_jax.mini.world.world import SIDE_DM, SceneObject, Site, WorldScene
from bat_jax.ops.token_grid import TokenGrid
from bat_jax.pipeline import BatModel, Scene
from bat_jax.study.measured.cluster_mean import Interval, cluster_mean
from bat_jax.study.measured.comparison import ONE_SITE, SCATTERED, IsWanted, Paired, Records, paired
from bat_jax.study.measured.grids import KEPT_THOUSANDS, Scaling
from bat_jax.study.measured.plan import plain_questions
from bat_jax.study.measured.rules import UHR_BAT, Rules
from bat_jax.typing import Array, Float, Int

FATES = "cmk"
OWN, ORACLE = "own", "oracle"
BUDGETS = KEPT_THOUSANDS
TOP_K = "topk"
_FINE = 2
_MAX_TARGETS = 4
_SCATTERED_ROUNDS = 4


class _Asked(NamedTuple):
    """A question with the objects that it is about and the sites that these stand on."""

    question: Question
    name: str
    objects: tuple[SceneObject, ...]
    sites: tuple[Site, ...]


def ways() -> Mapping[str, Mapping[str, Any]]:
    """Return what is followed, by name: the compressor's settings of UHR-BAT's two rules and of other selections."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in shown_in("coverage"):
        found[name] = {"selection": name}
        if name == UHR_BAT:
            found[name] = {"selection": name, "coverage": "off"}
            found["uhr_bat, guaranteed"] = {"selection": name, "coverage": "guaranteed"}
    return found


def ways_in(lines: Records) -> tuple[str, ...]:
    """Return the names of `ways` that all lines of `measure` have."""
    fates = [of for line in lines.values() for target in line["targets"] for of in target["fates"].values()]
    return tuple(name for name in ways() if all(name in of for of in fates))


def measure(model: BatModel, seeds: Sequence[int], log: PredictionLog, on_scene: Callable[[], None]) -> None:
    """Follow the targets of scenes; a line a scene, those that the log holds already are left out.

    A line: {"id": seed, "targets": [{"question", "object", "is_scattered", "is_outer", "fates"}], "facts"}, where
    `fates[importance][way]` is a letter of FATES for every budget of BUDGETS. For the facts see `_facts`.
    """
    model = model.configured(model.cfg.with_settings(**ways()[UHR_BAT]))
    scaling = Scaling(model.cfg)
    budgets = np.asarray([scaling.total(1000 * kept) for kept in BUDGETS], np.int32)
    sizes = model.cfg.compressor.sizes_px
    scales = tuple(ScaleSpec(size_px=px, budget=int(most)) for px, most in zip(sizes, budgets.max(axis=0), strict=True))
    rules = {
        name: model.cfg.with_settings(**settings, scales=scales).compressor.for_select
        for name, settings in ways().items()
    }
    # This one encodes with the tower's attention, which the others do not mind.
    encoder = model.configured(model.cfg.with_settings(selection="background"))
    for seed in seeds:
        if str(seed) not in log.ids:
            scene = generate_scene(seed)
            encoded = dataclasses.replace(encoder.encode(render(scene, NATIVE_PX)), model=model)
            log.append({"id": str(seed)} | _scene_line(model, scene, encoded, rules, jnp.asarray(budgets)))
        on_scene()


def _scene_line(
    model: BatModel, scene: WorldScene, encoded: Scene, ways: Mapping[str, CompressorConfig], budgets: jax.Array
) -> dict[str, Any]:
    targets, compressions, asked = [], [], _questions(scene)
    for item in asked:
        suffix = build_prompt(model.tokenizer, item.question.prompt(), 1, model.cfg.prompt).pieces[-1]
        compressions.append(model.compress([encoded], [suffix])[0])
        sources = {
            OWN: compressions[-1].anchor_importance,
            ORACLE: jnp.asarray(site_importance(item.sites, encoded.grids[0])),
        }
        places = [_token_of(obj, grid) for obj in item.objects for grid in encoded.grids]
        tokens = np.zeros((_MAX_TARGETS, len(encoded.grids)), np.int32)
        tokens[: len(item.objects)] = np.reshape(places, (len(item.objects), -1))
        fates = {
            source: {
                name: np.asarray(
                    fates_of(rules, encoded.grids, encoded.region_capacity, encoded.scales, importance, budgets, tokens)
                )
                for name, rules in ways.items()
            }
            for source, importance in sources.items()
        }
        for number, obj in enumerate(item.objects):
            targets.append(
                {
                    "question": item.name,
                    "object": obj.object_id,
                    "is_scattered": item.question.form in SCATTERED,
                    "is_outer": _is_outer(obj, scene),
                    "fates": {
                        source: {name: "".join(FATES[fate] for fate in found[:, number]) for name, found in of.items()}
                        for source, of in fates.items()
                    },
                }
            )
    return {"targets": targets, "facts": _facts(model, scene, encoded, asked, compressions)}


def _questions(scene: WorldScene) -> list[_Asked]:
    """Return the questions that are about objects that are there."""
    by_id = {obj.object_id: obj for obj in scene.objects}
    found = []
    for number, question in plain_questions(scene, _SCATTERED_ROUNDS):
        if question.object_ids and question.form in (*ONE_SITE, *SCATTERED):
            objects = tuple(by_id[object_id] for object_id in question.object_ids)
            sites = tuple(site for site in scene.sites if any(obj in site.objects for obj in objects))
            found.append(_Asked(question, f"{question.question_id}-{number}", objects, sites))
    return found


def _token_of(obj: SceneObject, grid: TokenGrid) -> int:
    """Return the tile-major index of the token that the middle of an object lies in."""
    side = grid.full_side
    row, column = obj.y * side // SIDE_DM, obj.x * side // SIDE_DM
    tile = (row // grid.side) * grid.tiles + column // grid.side
    return tile * grid.side**2 + (row % grid.side) * grid.side + column % grid.side


def _is_outer(obj: SceneObject, scene: WorldScene) -> bool:
    """Return whether an object stands nearer to its site's edge than to its middle."""
    site = next(site for site in scene.sites if obj in site.objects)
    return 2 * max(abs(obj.x - site.x), abs(obj.y - site.y)) > site.half


def site_importance(sites: Iterable[Site], grid: TokenGrid) -> Float[np.ndarray, "M"]:
    """Return what an oracle scores the anchor's tokens: the share that sites cover, divided by the sum; tile-major."""
    edges = np.arange(grid.full_side + 1) * (SIDE_DM / grid.full_side)
    total = np.zeros((grid.full_side, grid.full_side))
    for site in sites:
        left, top, right, bottom = site.box
        columns = np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None)
        rows = np.clip(np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top), 0, None)
        total += rows[:, None] * columns[None, :]
    return grid.to_tiles(total / total.sum()).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("rules", "grids", "region_capacity"))
def fates_of(
    rules: CompressorConfig,
    grids: tuple[TokenGrid, ...],
    region_capacity: tuple[int, ...],
    scales: tuple[ScaleTokens, ...],
    importance: Float[Array, "M1"],
    budgets: Int[Array, "K S"],
    tokens: Int[Array, "T S"],
) -> Int[Array, "K T"]:
    """Return each target's best fate over the finest views, as its place in FATES, under every budget.

    Args:
      rules, grids, region_capacity, scales: see `compressor.select`.
      budgets: one row a budget. tokens: every target's token at every scale.
    """

    def under(budget: Int[Array, "S"]) -> Int[Array, "T"]:
        found = select(rules, grids, region_capacity, scales, importance, budget)
        return jnp.max(jnp.stack([fate(found, scale) for scale in range(len(grids) - _FINE, len(grids))]), axis=0)

    def fate(found: Any, scale: int) -> Int[Array, "T"]:
        chosen, token = found[scale], tokens[:, scale]
        own = scales[scale].region_id if chosen.group is None else chosen.group
        is_kept = jnp.any(chosen.mask & (chosen.keep_index == token[:, None]), axis=1)
        is_mean = chosen.mask & (chosen.keep_index < 0)
        is_merged = jnp.any(is_mean & (chosen.region == own[token][:, None]), axis=1) & ~chosen.is_kept[token]
        return jnp.where(is_kept, FATES.index("k"), jnp.where(is_merged, FATES.index("m"), FATES.index("c")))

    return jax.lax.map(under, budgets)


def _facts(
    model: BatModel, scene: WorldScene, encoded: Scene, asked: Sequence[_Asked], compressions: Sequence[Any]
) -> dict[str, Any]:
    """Return what a scene shows of regions and importance under UHR-BAT's rule and the checkpoint's budgets.

    purity, grid_purity: share of the finest view's tokens that show (land use, site, object) what most of their region
      do, for the model's regions and for as many squares.
    num_regions: over the views whose budget is at least their number of regions, times questions; num_covered: of these
      with a row in the prompt; num_empty: without a token that the rule keeps (Lemma 1 says none).
    mass, area: for every question, the share of importance on the anchor tokens that the asked sites touch, and the
      share of the anchor that these are.
    """
    finest, grid = encoded.scales[-1], encoded.grids[-1]
    labels = label_tokens(scene, encoded.scales_px[-1], model.cfg.vision.patch_size_px)
    shown = grid.to_tiles(
        labels.land_use.astype(np.int64) * 10**6 + labels.site_id.astype(np.int64) * 1000 + labels.object_id
    )
    squares = np.asarray(grid_regions(grid, encoded.num_regions[-1]))
    facts: dict[str, Any] = {
        "purity": _purity(np.asarray(finest.region_id), shown),
        "grid_purity": _purity(squares, shown),
        "num_regions": 0,
        "num_covered": 0,
        "num_empty": 0,
        "mass": [],
        "area": [],
    }
    budgets = model.cfg.compressor.budgets
    for item, compression in zip(asked, compressions, strict=True):
        parts = zip(encoded.scales, compression.selections, encoded.num_regions, budgets, strict=True)
        for scale, chosen, num_regions, budget in parts:
            if budget >= num_regions:
                facts["num_regions"] += num_regions
                facts["num_covered"] += np.unique(np.asarray(chosen.region)[np.asarray(chosen.mask)]).size
                is_kept = np.asarray(chosen.is_kept)
                facts["num_empty"] += num_regions - np.unique(np.asarray(scale.region_id)[is_kept]).size
        touched = site_importance(item.sites, encoded.grids[0]) > 0
        importance = np.asarray(compression.anchor_importance)
        facts["mass"].append(round(float(importance[touched].sum() / importance.sum()), 4))
        facts["area"].append(round(float(touched.mean()), 4))
    return facts


def _purity(region: np.ndarray, shown: np.ndarray) -> float:
    """Return the share of tokens that show what most tokens of their region show."""
    most = sum(np.unique(shown[region == one], return_counts=True)[1].max() for one in np.unique(region))
    return float(most / region.size)


def share(
    lines: Records, importance: str, way: str, kept: int, fate: str, is_wanted: IsWanted, rules: Rules
) -> Interval | None:
    """Return the percent of targets with a fate, its interval by scenes; None where there is no target.

    Args:
      lines: of `measure`, by scene. kept: one of BUDGETS. is_wanted: which targets.
    """
    values, scenes = fate_shares(lines, importance, way, (kept,), fate, is_wanted)
    if not values:
        return None
    return Interval(*(min(max(100 * value, 0.0), 100.0) for value in cluster_mean(values, scenes, rules).interval()))


def difference(
    lines: Records,
    importance: str,
    ours: str,
    theirs: str,
    budgets: Sequence[int],
    is_wanted: IsWanted,
    rules: Rules,
) -> Paired | None:
    """Return by how much one way keeps more of the same targets than another, over some budgets; None without any."""
    mine, scenes = fate_shares(lines, importance, ours, budgets, "k", is_wanted)
    other, _ = fate_shares(lines, importance, theirs, budgets, "k", is_wanted)
    return paired(mine, other, scenes, rules) if mine else None


def fate_shares(
    lines: Records, importance: str, way: str, budgets: Sequence[int], fate: str, is_wanted: IsWanted
) -> tuple[list[float], list[str]]:
    """Return for every target in how many of the budgets it has a fate (a share), and its scene."""
    places = [BUDGETS.index(kept) for kept in budgets]
    values, scenes = [], []
    for scene, line in lines.items():
        for target in line["targets"]:
            if is_wanted(target):
                letters = target["fates"][importance][way]
                values.append(sum(letters[place] == fate for place in places) / len(places))
                scenes.append(scene)
    return values, scenes
