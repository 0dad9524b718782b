"""Ask about a scene what its ground truth can answer, in the benchmarks' sub-tasks and multiple-choice form.

A question names something that the anchor view shows (a site, a red circle); most answers are seen at fine scales only.
Guessing by language gives chance, by construction: the right value is drawn first and uniformly (counts, parts of the
picture, land-use sets), or scene and objects are exchangeable in it (kinds, colours); options are shuffled. Wrong
options come first from other objects of the same site, so reading the site is not enough to know the object.
Tests measure it with counted habits.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from bat_jax.mini.world.draws import Draws
from bat_jax.mini.world.layout import grid_middles, land_use_grid, land_use_number
from bat_jax.mini.world.question import LETTERS, PROMPT_TEXTS, SUB_TASKS, Question, words
from bat_jax.mini.world.world import (
    COLOURS,
    EVENT_KINDS,
    LAND_USES,
    MOVING_KINDS,
    OBJECT_KINDS,
    SIDE_DM,
    SITE_KINDS,
    STATES,
    Box,
    Marker,
    SceneObject,
    Site,
    WorldScene,
    square,
)

# The stream of draws for questions; the scene's own are 0, 1, ...
_STREAM = 1_000_000
_GRID = 96
_TRIES = 300
_FIELD = re.compile(r"{kind}s|{\w+}")
MIN_RING_PERCENT = 85

CORNERS = ("top left", "top right", "bottom left", "bottom right")
DIRECTIONS = ("left", "right", "above", "below")
COUNTS = ("0", "1", "2", "3")
YES_NO = ("yes", "no")

TEMPLATES = {
    "overall_counting/kind": ("How many {kind}s are there in the image?", "Count the {kind}s in the whole image."),
    "regional_counting/site": ("How many objects are there at the {site}?", "Count the objects at the {site}."),
    "regional_counting/circle": (
        "How many objects are there in the red circle?",
        "Count the objects in the red circle.",
    ),
    "overall_land_use/set": (
        "Select the types of land use in the image. Include all types present.",
        "Which types of land use are there in the image? Include all types present.",
    ),
    "regional_land_use/circle": (
        "What is the land use in the red circle?",
        "Which type of land use is there in the red circle?",
    ),
    "regional_land_use/site": (
        "What is the land use around the {site}?",
        "Which type of land use is there around the {site}?",
    ),
    "object_class/site": (
        "What is the {colour} object at the {site}?",
        "Which type is the {colour} object at the {site}?",
    ),
    "object_colour/site": (
        "What colour is the {kind} at the {site}?",
        "What is the color of the {kind} at the {site}?",
    ),
    "motion_state/site": (
        "Is the {kind} at the {site} moving?",
        "What is the motion state of the {kind} at the {site}?",
    ),
    "existence/which": ("Which of these objects is at the {site}?", "Which object is there at the {site}?"),
    "existence/yes_no": ("Is there a {colour} {kind} at the {site}?", "Does the {site} have a {colour} {kind}?"),
    "location/corner": ("Where in the image is the {site}?", "Which part of the image is the {site} in?"),
    "spatial_relation/sites": (
        "Where is the {site} relative to the {other}?",
        "Seen from the {other}, where is the {site}?",
    ),
    "spatial_relation/objects": (
        "At the {site}, where is the {kind} relative to the {other}?",
        "Seen from the {other} at the {site}, where is the {kind}?",
    ),
    "anomaly/what": ("What is wrong at the {site}?", "Which anomaly is there at the {site}?"),
    "anomaly/where": ("At which site is there a {event}?", "Which site has a {event}?"),
    "route_planning/first": (
        "Leaving the {site} by road towards the {other}, which site comes first?",
        "On the road from the {site} to the {other}, which site comes first?",
    ),
}


@dataclasses.dataclass
class _Asker:
    """Collects the questions of one scene."""

    scene: WorldScene
    draws: Draws
    asked: list[Question] = dataclasses.field(default_factory=list)

    def ask(
        self,
        form: str,
        options: Sequence[str],
        right: Sequence[str],
        sites: Sequence[Site] = (),
        objects: Sequence[SceneObject] = (),
        boxes: Sequence[Box] = (),
        marker: Marker | None = None,
        **names: str,
    ) -> None:
        variant = self.draws.below(len(TEMPLATES[form]))
        shown = tuple(self.draws.shuffled(options))
        sub_task = form.split("/")[0]
        number = sum(question.sub_task == sub_task for question in self.asked)
        on_sites = sum(len(site.objects) for site in sites)
        circle = [square(marker.x, marker.y, marker.radius)] if marker else []
        self.asked.append(
            Question(
                question_id=f"{self.scene.seed}-{sub_task}-{number}",
                scene_seed=self.scene.seed,
                sub_task=sub_task,
                template=f"{form}/{variant}",
                text=TEMPLATES[form][variant].format(**names),
                options=shown,
                answer="".join(letter for letter, text in zip(LETTERS, shown, strict=False) if text in right),
                site_ids=tuple(site.site_id for site in sites),
                object_ids=tuple(obj.object_id for obj in objects),
                boxes=(
                    *(square(obj.x, obj.y, obj.length // 2) for obj in objects),
                    *boxes,
                    *circle,
                    *(site.box for site in sites),
                ),
                num_distractors=max(on_sites - len(objects), 0),
                marker=marker,
            )
        )

    def options(self, right: str, near: Sequence[str], everything: Sequence[str]) -> list[str]:
        """The right one, then wrong ones that are near, then any others, four together."""
        first = [text for text in self.draws.shuffled(list(dict.fromkeys(near))) if text != right]
        others = [text for text in self.draws.shuffled(everything) if text != right and text not in first]
        return [right, *first, *others][:4]


def generate_questions(scene: WorldScene, round_number: int = 0) -> tuple[Question, ...]:
    """Return the questions of a scene, some twenty, always the same ones.

    Args:
      round_number: further rounds ask about the same scene anew; the splits hold round 0 alone, training uses more. The
        numbers in `question_id` begin anew in each round.
    """
    asker = _Asker(scene, Draws(scene.seed, _STREAM + round_number))
    for ask in (_counting, _land_use, _objects, _existence, _places, _anomaly, _route):
        ask(asker, scene, asker.draws)
    return tuple(asker.asked)


def _counting(asker: _Asker, scene: WorldScene, draws: Draws) -> None:
    """Draw the number first: every scene has a kind that occurs 0, 1, 2 and 3 times, a site with 1, 2, 3 objects."""
    num = draws.below(4)
    by_kind = {kind: [obj for obj in scene.objects if obj.kind == kind] for kind in OBJECT_KINDS}
    kind = draws.choice([kind for kind, objects in by_kind.items() if len(objects) == num])
    asker.ask("overall_counting/kind", COUNTS, [str(num)], objects=by_kind[kind], kind=kind)

    site = _site_with(scene, draws, draws.between(1, 3))
    num_objects = str(len(site.objects))
    asker.ask("regional_counting/site", COUNTS[1:], [num_objects], [site], site.objects, site=site.kind)

    num = draws.below(4)
    if num:
        site = _site_with(scene, draws, num)
        marker = Marker(x=site.x, y=site.y, radius=site.half * 6 // 5)
        asker.ask("regional_counting/circle", COUNTS, [str(num)], [site], site.objects, marker=marker)
        return
    for _ in range(_TRIES):
        radius = draws.between(900, 1200)
        x, y = draws.between(radius, SIDE_DM - radius), draws.between(radius, SIDE_DM - radius)
        if all((x - obj.x) ** 2 + (y - obj.y) ** 2 > (radius + 300) ** 2 for obj in scene.objects):
            marker = Marker(x=x, y=y, radius=radius)
            asker.ask("regional_counting/circle", COUNTS, ["0"], marker=marker)
            return


def _site_with(scene: WorldScene, draws: Draws, num: int) -> Site:
    return draws.choice([site for site in scene.sites if len(site.objects) == num])


def _land_use(asker: _Asker, scene: WorldScene, draws: Draws) -> None:
    """Overall: two right options (6 sets) in 6 of 10 cases, three (4 sets) in 4. Regional: a use that is there."""
    present = scene.land.uses
    absent = [use for use in LAND_USES if use not in present]
    num = 2 if draws.percent(60) else 3
    right = draws.sample(present, num)
    asker.ask("overall_land_use/set", right + draws.sample(absent, 4 - num), right, boxes=[(0, 0, SIDE_DM, SIDE_DM)])

    use = draws.choice(present)
    marker = _circle_on(scene, draws, use)
    if marker is not None:
        asker.ask("regional_land_use/circle", asker.options(use, present, LAND_USES), [use], marker=marker)
    clear = [site for site in scene.sites if site.land_percent >= MIN_RING_PERCENT]
    if clear:
        site = draws.choice(clear)
        options = asker.options(site.land_use, present, LAND_USES)
        asker.ask("regional_land_use/site", options, [site.land_use], [site], site=site.kind)


def _circle_on(scene: WorldScene, draws: Draws, use: str) -> Marker | None:
    """Find a circle of 60 to 80 m radius that holds one land use alone (95 % of it), and no pad."""
    grid = land_use_grid(scene.land, scene.river, _GRID)
    middles, number = grid_middles(_GRID), land_use_number(use)
    for _ in range(_TRIES):
        radius = draws.between(600, 800)
        x, y = draws.between(radius, SIDE_DM - radius), draws.between(radius, SIDE_DM - radius)
        if grid[y * _GRID // SIDE_DM, x * _GRID // SIDE_DM] != number:
            continue
        if any(max(abs(x - site.x), abs(y - site.y)) < site.half + radius + 100 for site in scene.sites):
            continue
        inside = (middles - x)[None, :] ** 2 + (middles - y)[:, None] ** 2 <= radius**2
        if int((grid[inside] == number).sum()) * 100 >= 95 * int(inside.sum()):
            return Marker(x=x, y=y, radius=radius)
    return None


def _objects(asker: _Asker, scene: WorldScene, draws: Draws) -> None:
    """Kind by colour, colour by kind and motion by kind, each on up to three sites."""
    for site in draws.sample(scene.sites, 3):
        obj = draws.choice(site.objects)
        options = asker.options(obj.kind, [other.kind for other in site.objects], OBJECT_KINDS)
        asker.ask("object_class/site", options, [obj.kind], [site], [obj], colour=obj.colour, site=site.kind)
    for site in draws.sample(scene.sites, 3):
        obj = draws.choice(site.objects)
        options = asker.options(obj.colour, [other.colour for other in site.objects], COLOURS)
        asker.ask("object_colour/site", options, [obj.colour], [site], [obj], kind=obj.kind, site=site.kind)
    movable = [(site, obj) for site in scene.sites for obj in site.objects if obj.kind in MOVING_KINDS]
    for site, obj in draws.sample(movable, min(2, len(movable))):
        asker.ask("motion_state/site", STATES, [obj.state], [site], [obj], kind=obj.kind, site=site.kind)


def _existence(asker: _Asker, scene: WorldScene, draws: Draws) -> None:
    """Which of four kinds is there (one is); and whether a pair of colour and kind is there (as often as not)."""
    site = draws.choice([site for site in scene.sites if len(site.objects) <= 2])
    obj = draws.choice(site.objects)
    here = [other.kind for other in site.objects]
    elsewhere = [other.kind for other in scene.objects if other.kind not in here]
    wrong = [kind for kind in OBJECT_KINDS if kind not in here]
    options = asker.options(obj.kind, elsewhere, [obj.kind, *wrong])
    asker.ask("existence/which", options, [obj.kind], [site], [obj], site=site.kind)

    for site in draws.sample(scene.sites, 2):
        obj = draws.choice(site.objects)
        pair = {"colour": obj.colour, "kind": obj.kind}
        is_there = draws.percent(50)
        if not is_there:
            # Half true: one of colour and kind is the object's, the other another object's, or no object's.
            name, words_of = ("colour", COLOURS) if draws.percent(50) else ("kind", OBJECT_KINDS)
            near = [getattr(other, name) for other in site.objects if other is not obj]
            pair[name] = draws.choice(near or [word for word in words_of if word != pair[name]])
        right, objects = (["yes"], [obj]) if is_there else (["no"], [])
        asker.ask(
            "existence/yes_no", YES_NO, right, [site], objects, colour=pair["colour"], kind=pair["kind"], site=site.kind
        )


def _direction(ax: int, ay: int, bx: int, by: int) -> str | None:
    """Where a is as seen from b; None if neither axis outweighs the other by half."""
    dx, dy = ax - bx, ay - by
    if 2 * abs(dx) >= 3 * abs(dy):
        return "left" if dx < 0 else "right"
    if 2 * abs(dy) >= 3 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def _places(asker: _Asker, scene: WorldScene, draws: Draws) -> None:
    middle = SIDE_DM // 2
    clear = [site for site in scene.sites if min(abs(site.x - middle), abs(site.y - middle)) > 800]
    if clear:
        site = draws.choice(clear)
        corner = CORNERS[2 * (site.y > middle) + (site.x > middle)]
        asker.ask("location/corner", CORNERS, [corner], [site], site=site.kind)
    for _ in range(_TRIES):
        a, b = draws.sample(scene.sites, 2)
        direction = _direction(a.x, a.y, b.x, b.y)
        if direction:
            asker.ask("spatial_relation/sites", DIRECTIONS, [direction], [a, b], site=a.kind, other=b.kind)
            break
    pairs = [
        (site, a, b, direction)
        for site in scene.sites
        for a in site.objects
        for b in site.objects
        if a is not b and (direction := _direction(a.x, a.y, b.x, b.y))
    ]
    if pairs:
        site, *objects, direction = draws.choice(pairs)
        kind, other = (obj.kind for obj in objects)
        form = "spatial_relation/objects"
        asker.ask(form, DIRECTIONS, [direction], [site], objects, site=site.kind, kind=kind, other=other)


def _anomaly(asker: _Asker, scene: WorldScene, _: Draws) -> None:
    event = scene.event
    site = next(site for site in scene.sites if site.site_id == event.site_id)
    boxes = [square(event.x, event.y, event.radius)]
    asker.ask("anomaly/what", EVENT_KINDS, [event.kind], [site], boxes=boxes, site=site.kind)
    kinds = [other.kind for other in scene.sites]
    options = asker.options(site.kind, kinds, kinds)
    asker.ask("anomaly/where", options, [site.kind], [site], boxes=boxes, event=event.kind)


def _route(asker: _Asker, scene: WorldScene, draws: Draws) -> None:
    """Which site comes first on the road from one to another.

    The other end is itself the answer just once in as many cases as there are options, so naming it tells nothing.
    """
    by_id = {site.site_id: site for site in scene.sites}
    order = [by_id[site_id] for site_id in scene.road.site_ids]
    num_options = min(4, len(order) - 1)
    is_next = draws.below(num_options) == 0
    indices = range(len(order))
    start, end = draws.choice([(i, j) for i in indices for j in indices if i != j and (abs(i - j) == 1) == is_next])
    step = 1 if end > start else -1
    first, last = order[start + step], order[end]
    before = [order[start - step].kind] if 0 <= start - step < len(order) else []
    others = draws.shuffled([site.kind for site in order if site not in (order[start], first, last)])
    kinds = list(dict.fromkeys([first.kind, last.kind, *before, *others]))[:num_options]
    sites = [order[start], first, last]
    asker.ask("route_planning/first", kinds, [first.kind], sites, site=order[start].kind, other=last.kind)


def vocabulary() -> tuple[str, ...]:
    """Return every word, number and sign of all questions, options, answers and prompts, sorted.

    Case counts ("a" is a word, "A" a letter); a word that begins a sentence is there in small letters too.
    """
    kinds = [*OBJECT_KINDS, *(f"{kind}s" for kind in OBJECT_KINDS)]
    fills = [*kinds, *COLOURS, *SITE_KINDS, *EVENT_KINDS, *LAND_USES, *STATES, *CORNERS, *DIRECTIONS, *COUNTS, *YES_NO]

    def texts() -> Iterator[str]:
        for variants in TEMPLATES.values():
            for text in variants:
                yield _FIELD.sub(" ", text)
        yield from fills
        yield from PROMPT_TEXTS
        yield from ("A. (A)", "B. (B)", "C. (C)", "D. (D)", ",")

    found = {word for text in texts() for word in words(text)}
    return tuple(sorted(found | {word.lower() for word in found if len(word) > 1}))


if not {form.split("/")[0] for form in TEMPLATES} == set(SUB_TASKS):
    raise AssertionError("TEMPLATES and SUB_TASKS name different sub-tasks")
