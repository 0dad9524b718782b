"""Several questions at once: each is answered as alone, in one program or stage by stage."""

import dataclasses
import re

import numpy as np
import pytest

from bat_jax.io.prompts import Dialogue, build_prompt
from bat_jax.pipeline import BatModel
from tests.test_pipeline import NEW, picture, with_nan_row
from tests.tiny_model import load_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint", stages_apart=True)


@pytest.fixture(scope="module")
def in_one(model):
    return BatModel(model.cfg, model.params, model.tokenizer)


@pytest.fixture(scope="module")
def scene(model):
    return model.encode(picture(150, 230))


@pytest.mark.parametrize("apart", [False, True])
def test_questions_asked_together_are_answered_as_one_by_one_and_any_number_is_one_program(in_one, model, scene, apart):
    """Drawn tokens, too: what one question draws does not depend on the others."""
    whole = model if apart else in_one
    stages = ("choose", "prefill") if apart else ("questions",)
    scene = dataclasses.replace(scene, model=whole)
    questions = ["Any boats?", "How many cars are near the pier?", "What colour is the roof of the largest house?"]
    questions.append(Dialogue("Which one?", (("Any boats?", "Two."),)))
    for drawing in ({}, {"temperature": 1.5, "seed": 7, "stop": False}):
        alone = [scene.ask(question, max_new_tokens=NEW, **drawing) for question in questions]
        compiled = [whole.stages.num_compiles[name] for name in stages]
        together = scene.ask_many(questions, room=4, max_new_tokens=NEW, **drawing)
        fewer = scene.ask_many(questions[1:], room=4, max_new_tokens=NEW, **drawing)
        for name, before in zip(stages, compiled, strict=True):
            assert whole.stages.num_compiles[name] - before == (not drawing)
        for one, other in zip([*alone, *alone[1:]], [*together, *fewer], strict=True):
            same_questions_answer(one, other)
            np.testing.assert_allclose(one.anchor_importance, other.anchor_importance, atol=1e-7)
    assert len({tuple(one.token_ids) for one in alone}) > 1


def same_questions_answer(one, other):
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    assert (one.text, one.tokens_kept, one.prompt_tokens) == (other.text, other.tokens_kept, other.prompt_tokens)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    for mine, its in zip(one.selections[0], other.selections[0], strict=True):
        np.testing.assert_array_equal(mine.keep_index, its.keep_index)
        np.testing.assert_array_equal(mine.mask, its.mask)


@pytest.mark.parametrize("apart", [False, True])
def test_questions_asked_together_may_share_their_tokens_with_others(in_one, model, scene, apart):
    scene = dataclasses.replace(scene, model=model if apart else in_one)
    questions = ["Any boats?", "How many cars are near the pier?", "Which land use?"]
    shared = [(questions[1], questions[2]), (), (questions[0],)]
    together = scene.ask_many(questions, shared_with=shared, max_new_tokens=NEW)
    for question, others, answer in zip(questions, shared, together, strict=True):
        same_questions_answer(scene.ask(question, shared_with=others, max_new_tokens=NEW), answer)


def test_importance_that_was_read_before_is_read_no_more_under_other_settings(model, scene):
    known, questions = {}, ["Any boats?", "Which land use?", "How many cars are near the pier?"]
    scene.ask_many(questions[:2], room=2, importance=known, max_new_tokens=NEW)
    assert list(known) == questions[:2]
    calls = model.stages.num_calls["anchor_importance"]
    other = model.configured(model.cfg.with_settings(selection="topk", importance_layer=0))
    first, second = other.ask_many([scene], questions[:2], room=2, importance=known, max_new_tokens=NEW)
    assert model.stages.num_calls["anchor_importance"] == calls
    other.ask_many([scene], questions[1:], room=2, importance=known, max_new_tokens=NEW)
    assert model.stages.num_calls["anchor_importance"] == calls + 1 and list(known) == questions
    for question, answer in zip(questions, (first, second), strict=False):
        same_questions_answer(other.ask([scene], question, max_new_tokens=NEW), answer)


def test_a_small_budget_reads_a_short_prompt(model, scene):
    """Compiled for 42 tokens, asked with 2: the decoder goes through the next multiple of 64 rows alone."""
    watched, compile = [], model.stages.compile

    def noted(name, function, static, *args):
        watched.append((name, static))
        return compile(name, function, static, *args)

    model.stages.compile = noted
    try:
        (small,) = scene.ask_many(["Any boats?"], room=2, budgets=(1, 1), max_new_tokens=NEW)
    finally:
        del model.stages.compile
    ((_, _, most_rows),) = [static for name, static in watched if name == "prefill"]
    prompt = build_prompt(model.tokenizer, "Any boats?", 1, model.cfg.prompt)
    assert most_rows == -(-(prompt.pieces[0].size + 64 + 2) // 64) * 64
    same_questions_answer(scene.ask("Any boats?", budgets=(1, 1), max_new_tokens=NEW), small)


def test_questions_asked_together_copy_nothing_of_the_image(in_one, scene):
    """Of the program that answers 5, no array holds the image's cache or the finest scale's tokens 5 times."""
    scene, sizes = dataclasses.replace(scene, model=in_one), []
    compile = in_one.stages.compile

    def watched(*args):
        program = compile(*args)
        sizes.extend(re.findall(r"\[([0-9,]+)\]", program.as_text()))
        return program

    in_one.stages.compile = watched
    try:
        scene.ask_many(["Any boats?"] * 5, room=5, max_new_tokens=NEW)
    finally:
        del in_one.stages.compile
    slots, decoder = scene.cache.num_slots, in_one.cfg.decoder
    rows = {slots, slots + 64, scene.scales[-1].tokens.shape[0]}
    assert not rows & {64, 5, decoder.head_dim, decoder.width}  # 64: rows of text
    copied = [
        text
        for text in set(sizes)
        for shape in [[int(extent) for extent in text.split(",")]]
        if 5 in shape and (rows & set(shape)) and {decoder.head_dim, decoder.width} & set(shape)
    ]
    assert sizes and not copied


def test_one_of_several_questions_that_is_bad_is_named(in_one, scene):
    scene = dataclasses.replace(scene, model=in_one)
    for questions, options, message in (
        (["Any boats?", "boat " * 900], {}, "positions"),
        (["Any boats?"] * 3, {"room": 2}, "room=2"),
        (["Any boats?"] * 2, {"temperature": -1.0}, "temperature"),
        (["Any boats?"] * 2, {"importance": {}}, "importance: .*stages run apart"),
    ):
        with pytest.raises(ValueError, match=message):
            scene.ask_many(questions, **options)
    assert scene.ask_many([]) == ()


def test_of_several_questions_the_one_without_finite_logits_is_named(model, in_one):
    questions = ["Any boats?", "Which land use?"]
    texts = [build_prompt(model.tokenizer, text, 1, model.cfg.prompt).pieces[-1].tolist() for text in questions]
    token = next(id for id in texts[1] if id not in texts[0])
    scene = with_nan_row(in_one, token).encode(picture(150, 230))
    with pytest.raises(ValueError, match="question number 2: the decoder's logits are not finite"):
        scene.ask_many(questions, room=4, max_new_tokens=NEW)
    assert scene.ask(questions[0], max_new_tokens=1).token_ids.size <= 1
