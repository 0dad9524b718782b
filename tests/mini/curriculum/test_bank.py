"""Questions as tokens: every form, grouped by what one selection serves, with targets the anchor can show."""

import numpy as np
import pytest

from bat_jax.config import BatConfig
from bat_jax.io.prompts import build_prompt, load_tokenizer
from bat_jax.mini.curriculum.bank import FORMS, Bank, groups_of, target_boxes
from bat_jax.mini.curriculum.export import write_tokenizer
from bat_jax.mini.curriculum.group_batches import GroupBatches, Mix
from bat_jax.mini.curriculum.options import OptionBatches
from bat_jax.mini.curriculum.picture_store import EVENT_ID, picture
from bat_jax.mini.world.question import SUB_TASKS
from bat_jax.mini.world.questions import generate_questions

CFG = BatConfig.mini()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("words") / "tokenizer"
    write_tokenizer(directory, CFG.decoder.vocab_size)
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def bank(tokenizer):
    groups = []
    for index in range(3):
        item = picture(index)
        groups.append(groups_of(CFG, tokenizer, item.scene, item.marker, range(2)))
    prefix = build_prompt(tokenizer, "?", 1, CFG.prompt).pieces[0]
    return Bank(groups=groups, prefix_ids=prefix)


def test_what_is_wrong_is_read_from_the_event(bank):
    anomaly = list(SUB_TASKS).index("anomaly")
    objects = [row for groups in bank.groups for group in groups for row in group.objects[group.sub_task == anomaly]]
    assert len(objects) >= 6
    assert all(row[row > 0].tolist() == [EVENT_ID] for row in objects)


def test_rounds_ask_other_questions_about_the_same_scene():
    scene = picture(7).scene
    first, second = generate_questions(scene), generate_questions(scene, 1)
    assert generate_questions(scene, 0) == first
    shared = {(q.text, q.options) for q in first} & {(q.text, q.options) for q in second}
    assert len(shared) < len(first) / 2


def test_every_form_of_a_question_ends_in_its_answer(bank, tokenizer):
    endings = set()
    for group in bank.groups[0]:
        for form in FORMS:
            for ids, start, end in zip(group.ids[form], group.question_end[form], group.end[form], strict=True):
                if not end:
                    assert form == "open"
                    continue
                text = tokenizer.decode(ids[:end])
                assert tokenizer.unk_token_id not in ids[:end] and text.count("<|im_end|>") == 2
                answer = tokenizer.decode(ids[start : end - 1])
                if form in ("letter", "text_only"):
                    assert set(answer.split()) <= set("ABCD")
                if form == "text_only":
                    said = text.partition(" . <|im_end|>")[0].rpartition(": ")[2]
                    options = dict(part.split(" . ", 1) for part in _option_lines(text))
                    assert {options[letter] for letter in answer.split()} == set(said.split(" , "))
                endings.add((form, answer))
    assert len(endings) > 20


def _option_lines(text):
    return [line.strip() for line in text.split("\n") if line.strip()[:3] in {f"{letter} ." for letter in "ABCD"}]


def test_targets_are_sites_or_circles_and_never_small_objects():
    for index in range(6):
        item = picture(index)
        for question in generate_questions(item.scene):
            boxes = target_boxes(item.scene, question)
            assert bool(boxes) == (question.sub_task != "overall_land_use")
            assert all(right - left >= 1200 for left, _, right, _ in boxes)


def test_a_circles_questions_are_asked_on_its_own_picture_only(bank):
    assert not any(group.kind == "circle" for group in bank.groups[0])
    assert sum(group.kind == "circle" for group in bank.groups[1]) == 1


def test_a_bank_comes_back_from_its_file(bank, tmp_path):
    bank.save(tmp_path / "bank.npz")
    again = Bank.load(tmp_path / "bank.npz")
    np.testing.assert_array_equal(again.prefix_ids, bank.prefix_ids)
    for before, after in zip(bank.groups, again.groups, strict=True):
        for one, two in zip(before, after, strict=True):
            assert (one.kind, one.site_ids) == (two.kind, two.site_ids)
            for name in ("target_mask", "sub_task"):
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            for form in FORMS:
                np.testing.assert_array_equal(one.ids[form], two.ids[form])
                np.testing.assert_array_equal(one.end[form], two.end[form])


def test_batches_are_a_function_of_their_position_and_draw_different_questions(bank):
    mix = Mix(num_pictures=4, num_questions=6, num_text_only=3, forms=(0.3, 0.3, 0.4), budgets=(8, 24, 64, 150))
    labels = np.zeros((3, 14592, 9), np.uint8)
    batches, again = (GroupBatches(CFG, mix, bank, labels, range(3), seed=5) for _ in range(2))
    for position in (7, 0, 7):
        one, two = batches(position), again(position)
        np.testing.assert_array_equal(one.texts.ids, two.texts.ids)
        np.testing.assert_array_equal(one.text_only.ids, two.text_only.ids)
        assert np.all((one.budgets >= 1) & (one.budgets <= np.array(mix.budgets)))
    used = one.texts.weight > 0
    rows = [tuple(ids) for ids, keep in zip(one.texts.ids[0], used[0], strict=True) if keep]
    assert len(rows) == len(set(rows))
    assert not np.array_equal(batches(1).texts.ids, batches(2).texts.ids)


def test_given_tokens_hold_the_asked_sites_objects(bank):
    mix = Mix(num_pictures=8, num_questions=2, num_given=16, kinds=(1.0, 0.0, 0.0))
    labels = np.zeros((3, 14592, 9), np.uint8)
    labels[:, 6000:6004, 6] = 1  # four tokens of the first site's pad at the finest view, two of them with an object
    labels[:, 6000:6002, 7] = 1
    batches = GroupBatches(CFG, mix, bank, labels, range(3), seed=0)
    seen = 0
    for position in range(6):
        batch = batches(position)
        for row, picture_index in enumerate(batch.picture):
            group = next(
                g for g in bank.groups[picture_index] if np.array_equal(g.target_mask, batch.target_mask[row, 0])
            )
            index = batch.token_index[row]
            assert np.unique(index).size == 16 and np.all(np.diff(batches.view[index]) >= 0)
            if group.site_ids == (1,):
                seen += 1
                assert {6000, 6001} <= set(index.tolist())
    assert seen


def test_bare_options_end_in_the_word_of_the_letter(tokenizer):
    texts = OptionBatches(tokenizer, 40, seed=0)(3)
    endings = set()
    for ids, start, end in zip(texts.ids, texts.question_end, texts.end, strict=True):
        lines = [line.strip() for line in tokenizer.decode(ids[:start]).strip().split("\n")]
        options = dict(line.split(" . ", 1) for line in lines[:-1])
        assert options[tokenizer.decode(ids[start : end - 1])] == lines[-1]
        endings.add(tokenizer.decode(ids[start - 1 : start]) == "\n")
    assert endings == {True, False}
