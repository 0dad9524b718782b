"""Questions: true of their scene by an independent reading, well formed, and silent about their answers."""

import collections
import itertools
import math

import numpy as np
import pytest

from bat_jax.mini.world.layout import generate_scene, land_use_grid
from bat_jax.mini.world.question import LETTERS, SUB_TASKS, words
from bat_jax.mini.world.questions import COUNTS, TEMPLATES, generate_questions, vocabulary
from bat_jax.mini.world.world import COLOURS, LAND_USES, OBJECT_KINDS, SIDE_DM, SITE_KINDS
from tests.mini.world.language_baseline import LanguageBaseline, accuracy_by_sub_task


@pytest.fixture(scope="module")
def asked(pool):
    return [(part.scene, question) for part in pool for question in part.questions]


def of(asked, form):
    found = [(scene, question) for scene, question in asked if question.template.startswith(form)]
    assert len(found) > 50, form
    return found


def named(question, names):
    """Return the names that a question's text holds, plural or not, in the order of the text."""
    return [word.removesuffix("s") if word.removesuffix("s") in names else word for word in words(question.text)
            if word in names or word.removesuffix("s") in names]  # fmt: skip


def asked_site(scene, question):
    kind = named(question, SITE_KINDS)[0]
    return next(site for site in scene.sites if site.kind == kind)


def test_every_sub_task_and_template_is_asked_and_questions_repeat(pool, asked):
    assert {question.sub_task for _, question in asked} == set(SUB_TASKS)
    templates = {f"{form}/{i}" for form, variants in TEMPLATES.items() for i in range(len(variants))}
    assert {question.template for _, question in asked} == templates
    assert generate_questions(pool[0].scene) == pool[0].questions
    assert min(len(part.questions) for part in pool) >= 18


def test_questions_are_well_formed(asked):
    ids = [question.question_id for _, question in asked]
    assert len(set(ids)) == len(ids)
    for scene, question in asked:
        assert question.scene_seed == scene.seed
        assert 2 <= len(question.options) <= 4 and len(set(question.options)) == len(question.options)
        letters = LETTERS[: len(question.options)]
        assert question.answer and set(question.answer) <= set(letters)
        assert list(question.answer) == sorted(set(question.answer))
        assert len(question.answer) == 1 or question.sub_task == "overall_land_use"
        assert "{" not in question.text
        assert set(question.object_ids) <= {obj.object_id for obj in scene.objects}
        assert question.boxes or question.answer_word == "0"
        assert (question.marker is not None) == ("circle" in question.text)
    for _, question in asked[::10]:
        assert all(0 <= low < high <= 1 for a, b, c, d in question.unit_boxes for low, high in ((a, c), (b, d)))


def test_counts_are_true(asked):
    for scene, question in of(asked, "overall_counting"):
        kind = named(question, OBJECT_KINDS)[0]
        assert question.answer_word == str(sum(obj.kind == kind for obj in scene.objects))
    for scene, question in of(asked, "regional_counting/site"):
        assert question.answer_word == str(len(asked_site(scene, question).objects))
    for scene, question in of(asked, "regional_counting/circle"):
        place = question.marker
        away = [math.hypot(obj.x - place.x, obj.y - place.y) for obj in scene.objects]
        assert question.answer_word == str(sum(distance < place.radius for distance in away))
        # Nothing lies on the line: whole objects are inside or outside.
        assert all(abs(distance - place.radius) > 90 for distance in away)


def test_land_uses_are_true(asked):
    for scene, question in of(asked, "overall_land_use"):
        present = {LAND_USES[i - 1] for i in np.unique(land_use_grid(scene.land, scene.river, 64))}
        assert set(question.answer_words) == present & set(question.options)
        assert len(question.answer) in (2, 3)
    for scene, question in of(asked, "regional_land_use/circle")[:60]:
        grid = land_use_grid(scene.land, scene.river, 240)
        x = (np.arange(240) + 0.5) * SIDE_DM / 240
        inside = (x - question.marker.x)[None] ** 2 + (x - question.marker.y)[:, None] ** 2 < question.marker.radius**2
        assert (grid[inside] == 1 + LAND_USES.index(question.answer_word)).mean() > 0.9
    for scene, question in of(asked, "regional_land_use/site")[:60]:
        site = asked_site(scene, question)
        grid = land_use_grid(scene.land, scene.river, 240)
        x = (np.arange(240) + 0.5) * SIDE_DM / 240
        away = np.maximum(abs(x - site.x)[None], abs(x - site.y)[:, None])
        ring = grid[(away > site.half) & (away < site.half + 600)]
        assert (ring == 1 + LAND_USES.index(question.answer_word)).mean() > 0.75


def test_objects_are_what_the_answers_say(asked):
    for scene, question in of(asked, "object_class"):
        colour = named(question, COLOURS)[0]
        site = asked_site(scene, question)
        assert [obj.kind for obj in site.objects if obj.colour == colour] == [question.answer_word]
        assert {obj.kind for obj in site.objects} <= set(question.options), "distractors of the same site come first"
        assert question.num_distractors == len(site.objects) - 1
    for scene, question in of(asked, "object_colour"):
        kind = named(question, OBJECT_KINDS)[0]
        site = asked_site(scene, question)
        assert [obj.colour for obj in site.objects if obj.kind == kind] == [question.answer_word]
        assert {obj.colour for obj in site.objects} <= set(question.options)
    for scene, question in of(asked, "motion_state"):
        kind = named(question, OBJECT_KINDS)[0]
        states = [obj.is_moving for obj in asked_site(scene, question).objects if obj.kind == kind]
        assert [question.answer_word == "moving"] == states


def test_existence_is_true_and_of_four_kinds_only_one_is_there(asked):
    for scene, question in of(asked, "existence/which"):
        here = {obj.kind for obj in asked_site(scene, question).objects}
        assert here & set(question.options) == {question.answer_word}
    for scene, question in of(asked, "existence/yes_no"):
        pair = (named(question, COLOURS)[0], named(question, OBJECT_KINDS)[0])
        here = {(obj.colour, obj.kind) for obj in asked_site(scene, question).objects}
        assert (question.answer_word == "yes") == (pair in here)


def test_places_are_true(asked):
    for scene, question in of(asked, "location"):
        site = asked_site(scene, question)
        vertical, horizontal = question.answer_word.split()
        assert (vertical == "bottom") == (site.y > SIDE_DM / 2) and (horizontal == "right") == (site.x > SIDE_DM / 2)
    for form, names in (("spatial_relation/sites", SITE_KINDS), ("spatial_relation/objects", OBJECT_KINDS)):
        for scene, question in of(asked, form):
            first, second = named(question, names)
            if question.text.startswith("Seen from"):
                first, second = second, first
            things = {s.kind: s for s in scene.sites}
            if names is OBJECT_KINDS:
                things = {obj.kind: obj for obj in asked_site(scene, question).objects}
            angle = math.degrees(math.atan2(things[first].y - things[second].y, things[first].x - things[second].x))
            centre = {"right": 0, "below": 90, "left": 180, "above": -90}[question.answer_word]
            assert abs((angle - centre + 180) % 360 - 180) < 34


def test_the_anomaly_is_where_the_event_is(asked):
    for scene, question in of(asked, "anomaly"):
        site = next(site for site in scene.sites if site.site_id == scene.event.site_id)
        assert abs(scene.event.x - site.x) < site.half and abs(scene.event.y - site.y) < site.half
        if question.template.startswith("anomaly/what"):
            assert asked_site(scene, question) == site and question.answer_word == scene.event.kind
        else:
            assert question.answer_word == site.kind and scene.event.kind in question.text


def test_the_route_leads_past_the_answer_first(asked):
    for scene, question in of(asked, "route_planning"):
        order = [scene.sites[i - 1].kind for i in scene.road.site_ids]
        start, end = named(question, SITE_KINDS)
        a, b = order.index(start), order.index(end)
        path = order[a + 1 : b + 1] if a < b else order[b:a][::-1]
        assert path[0] == question.answer_word and path[-1] == end
        assert start not in question.options and end in question.options


def test_letters_and_values_are_balanced(asked):
    for sub_task, questions in itertools.groupby(
        sorted((q for _, q in asked), key=lambda q: (q.sub_task, len(q.options))),
        lambda q: (q.sub_task, len(q.options)),
    ):
        counts = collections.Counter(letter for q in questions for letter in q.answer)
        share = 1 / len(counts)
        total = sum(counts.values())
        spread = 4 * math.sqrt(total * share * (1 - share))
        assert max(abs(count - total * share) for count in counts.values()) < spread, (sub_task, counts)
    values = collections.Counter(q.answer_word for _, q in asked if q.sub_task == "overall_counting")
    assert set(values) == set(COUNTS) and max(values.values()) < 1.5 * min(values.values())


def test_guessing_by_language_gives_chance(pool):
    """Counted on 200 training scenes, asked on 100 others; below three points over chance, where 2,300 questions have a
    standard error of one point. Of a sub-task's 100 to 300 questions, two standard errors more are allowed."""
    baseline = LanguageBaseline().fit(question for part in pool[:200] for question in part.questions)
    table = accuracy_by_sub_task(baseline, [question for part in pool[200:] for question in part.questions])
    for name, (num, accuracy, chance) in table.items():
        slack = 0 if name == "overall" else 2 * math.sqrt(chance * (1 - chance) / num)
        assert accuracy - chance < 0.03 + slack, (name, num, accuracy, chance)


def test_the_baseline_would_find_a_habit(pool):
    """The same questions with a leak: the right option is always the one that comes first in the alphabet."""

    def leak(question):
        position = question.options.index(min(question.options))
        return type(question)(**{**vars(question), "answer": LETTERS[position]})

    leaky = [[leak(q) for q in part.questions if q.sub_task == "object_class"] for part in pool]
    baseline = LanguageBaseline().fit(q for questions in leaky[:200] for q in questions)
    table = accuracy_by_sub_task(baseline, [q for questions in leaky[200:] for q in questions])
    assert table["object_class"][1] > 0.8


def test_the_vocabulary_holds_every_word_of_every_prompt(asked):
    known = set(vocabulary())
    for _, question in asked:
        for style in ("release", "xlrs", "word"):
            assert set(words(question.prompt(style))) <= known
        assert set(words(question.answer_word)) <= known
    assert len(known) < 250
    assert {"a", "A", "what", "What", "built-up", "3", "?"} <= known


def test_prompts_are_the_benchmarks():
    question = next(q for q in generate_questions(generate_scene(1)) if q.sub_task == "motion_state")
    a, b = question.options
    assert question.prompt() == (
        f"{question.text}\nA. {a}\nB. {b}\n"
        "Select the best answer based on the image. Answer with the option letter only."
    )
    assert question.prompt("xlrs") == (
        f"{question.text}The choices are listed below:\n(A) {a}\n(B) {b}\n\n"
        "Select the best answer for the multiple-choice question based on the image. Only respond with the letter"
        " corresponding to the correct answer (A, B, C, D).\nThe answer is:"
    )
