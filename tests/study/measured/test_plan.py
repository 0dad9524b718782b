"""What the study asks: questions that share their tokens are about different sites of one picture."""

import collections

import pytest

from bat_jax.config import BatConfig
from bat_jax.mini.world.layout import generate_scene
from bat_jax.study.measured import plan
from bat_jax.study.measured.comparison import SHARED

SEEDS = range(7_000_000, 7_000_006)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_asks_about_as_many_sites_as_it_has_questions(seed):
    scene = generate_scene(seed)
    by_id = {question.question_id: question for _, question in plan.plain_questions(scene)}
    by_text = {question.prompt(): question for question in by_id.values()}
    tasks = plan.shared_tasks(scene)
    assert len({task.id for task in tasks}) == len(tasks) >= plan.MIN_SHARED
    groups = collections.Counter()
    for task in tasks:
        own = by_id[task.id.removesuffix("-shared")]
        others = [by_text[text] for text in task.shared_with]
        assert task.text == own.prompt() and own.form in SHARED
        assert task.facts["shared"] == len(others) + 1 >= plan.MIN_SHARED
        assert len({question.site_ids for question in (own, *others)}) == len(others) + 1
        groups[frozenset((task.text, *task.shared_with))] += 1
    assert all(count == len(group) for group, count in groups.items())


def test_a_part_asks_its_shared_questions_beside_the_others():
    methods, *others = plan.reduced(BatConfig.mini()).parts
    [picture] = methods.pictures(SEEDS[:1], None)
    shared = plan.shared_tasks(generate_scene(SEEDS[0]))
    assert all(task in picture.tasks for task in shared)
    assert len({task.id for task in picture.tasks}) == len(picture.tasks) > len(shared)
    for part in others:
        [picture] = part.pictures(SEEDS[:1], None)
        assert not any(task.shared_with for task in picture.tasks)


def test_a_parts_number_of_scenes_can_be_changed():
    what = plan.reduced(BatConfig.mini()).with_scenes({"methods": 2, plan.COVERAGE: 5})
    assert what.scenes == plan.reduced(BatConfig.mini()).scenes | {"methods": 2, plan.COVERAGE: 5}
    assert len(what.parts[0].pictures(SEEDS, None)) == 2
    with pytest.raises(ValueError, match="methods=0"):
        what.with_scenes({"methods": 0})
