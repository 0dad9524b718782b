"""Packed questions have the losses, importance and selections that each has alone, by the model's own functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model as bat
from bat_jax.compress.importance import suffix_row_weight
from bat_jax.config import BatConfig
from bat_jax.io.prompts import build_prompt, end_of_turn_id, load_tokenizer, padded
from bat_jax.mini.curriculum import packed
from bat_jax.mini.curriculum.bank import answer_text, prompt_text, tokenized
from bat_jax.mini.curriculum.export import write_tokenizer
from bat_jax.mini.curriculum.initial_weights import init_params
from bat_jax.mini.curriculum.teaching import Teaching, evidence_tokens
from bat_jax.mini.curriculum.word_bag import corner_grid
from bat_jax.mini.world.layout import generate_scene
from bat_jax.mini.world.questions import generate_questions
from bat_jax.train.loss import importance_loss

CFG = BatConfig.mini()
LENGTH = 64


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Return tokenizer, parameters, three questions with their Texts, the prefix and random visual tokens."""
    directory = tmp_path_factory.mktemp("mini") / "tokenizer"
    write_tokenizer(directory, CFG.decoder.vocab_size)
    tokenizer = load_tokenizer(directory)
    questions = generate_questions(generate_scene(5))[3:6]
    rows = [
        tokenized(tokenizer, CFG, prompt_text(item, "letter"), answer_text(item, "letter"), LENGTH)
        for item in questions
    ]
    texts = packed.Texts(
        jnp.asarray(np.stack([row[0] for row in rows]), jnp.int32),
        jnp.asarray([row[1] for row in rows]),
        jnp.asarray([row[2] for row in rows]),
        jnp.ones(len(rows)),
    )
    params = init_params(CFG, jax.random.key(0))
    prefix = build_prompt(tokenizer, questions[0].prompt(), 1, CFG.prompt).pieces[0]
    visual = jax.random.normal(jax.random.key(1), (256, CFG.decoder.width))
    return tokenizer, params, questions, texts, prefix, visual


def teaching_of(tokenizer):
    return Teaching(CFG, tokenizer, np.zeros(1, np.int32), evidence_weight=1.0)


def test_tokens_are_those_of_answering(case):
    tokenizer, _, questions, texts, _, _ = case
    for row, question in enumerate(questions):
        asked = build_prompt(tokenizer, question.prompt(), 1, CFG.prompt).pieces[-1]
        assert texts.ids[row, : int(texts.question_end[row])].tolist() == asked.tolist()
        answer = texts.ids[row, int(texts.question_end[row]) : int(texts.end[row])]
        assert tokenizer.decode(answer) == " ".join(question.answer) + " <|im_end|>"
        assert tokenizer.unk_token_id not in texts.ids[row, : int(texts.end[row])].tolist()


def test_packed_losses_and_attention_are_those_of_each_question_alone(case):
    _, params, _, texts, prefix, visual = case
    mask = np.arange(256) % 5 != 2
    num_before = prefix.size + mask.sum()
    row_weight = packed.last_rows(texts)
    is_row = np.concatenate([np.ones(prefix.size, bool), mask, np.ones(LENGTH, bool)])

    @jax.jit
    def together(params):
        cache = packed.prefix_cache(CFG, params, jnp.asarray(prefix), visual, mask)
        return packed.answer_loss(CFG, params, cache, mask, texts, row_weight)

    @jax.jit
    def alone(params, ids, valid, row_weight):
        valids = (jnp.ones(prefix.shape, bool), valid)
        spliced = bat.splice(CFG, params, (jnp.asarray(prefix), ids), valids, (visual,), (mask,))
        weight = jnp.zeros(spliced.embeddings.shape[1]).at[num_before : num_before + ids.size].set(row_weight)
        output = bat.run_decoder(CFG, params, *spliced, row_weight=weight[None])
        logits = bat.logits(CFG, params, output.hidden[0])
        return logits[num_before : num_before + ids.size], output.importance[:, 0, : num_before + ids.size]

    losses = together(params)
    for row in range(texts.ids.shape[0]):
        end, start = int(texts.end[row]), int(texts.question_end[row])
        ids = texts.ids[row]
        logits, attention = alone(params, ids, jnp.arange(ids.size) < end, row_weight[row])
        logp = jax.nn.log_softmax(logits)
        wanted = -sum(float(logp[place - 1, ids[place]]) for place in range(start, end))
        assert float(losses.loss[row]) == pytest.approx(wanted, rel=1e-5)
        right = all(int(jnp.argmax(logits[place - 1])) == int(ids[place]) for place in range(start, end))
        assert bool(losses.is_right[row]) == right
        found = losses.attention[row]
        assert not np.any(found[~is_row])
        layer = CFG.compressor.attention_layer
        np.testing.assert_allclose(found[is_row], attention[layer], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(losses.last_attention[row][is_row], attention[-1], rtol=1e-4, atol=1e-7)


def test_packed_importance_is_the_models(case):
    tokenizer, params, _, texts, prefix, visual = case
    importance = jax.jit(functools.partial(packed.question_importance, CFG))
    found = importance(params, jnp.asarray(prefix), visual, texts, packed.question_rows(texts))

    @jax.jit
    def alone(params, ids, valid, weight):
        cache = bat.anchor_cache(CFG, params, jnp.asarray(prefix), visual, jnp.ones(256, bool))
        return bat.anchor_importance(CFG, False, params, cache, jnp.ones(256, bool), ids, valid, weight)[
            CFG.compressor.importance_layer
        ]

    for row in range(texts.ids.shape[0]):
        end = int(texts.question_end[row])
        weight = suffix_row_weight(
            "question",
            texts.ids[row, :end].tolist(),
            pad_id=tokenizer.pad_token_id,
            end_of_turn_id=end_of_turn_id(tokenizer),
            is_space=lambda token: tokenizer.decode([token]).isspace(),
        )
        wanted = alone(params, texts.ids[row], jnp.arange(LENGTH) < end, jnp.asarray(padded(weight, LENGTH)))
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-7)


def test_importance_loss_is_minus_the_log_of_the_mass_and_nothing_without_a_target():
    importance = jnp.asarray([[0.1, 0.2, 0.3], [0.0, 0.5, 0.1]])
    loss, mass = importance_loss(importance, jnp.asarray([[False, True, True]] * 2))
    np.testing.assert_allclose(mass, [0.5, 0.6], rtol=1e-6)
    np.testing.assert_allclose(loss, -np.log([0.5, 0.6]), rtol=1e-5)
    assert importance_loss(importance, jnp.zeros((2, 3), bool))[0].tolist() == [0, 0]


def test_attention_is_taught_at_the_naming_words_and_at_the_answer(case):
    tokenizer, *_ = case
    text = "\nWhat colour is the ship at the depot?\nA. red\nB. blue\n"
    ids = tokenizer.encode(text + "<|im_end|>\n<|im_start|>assistant\nB", add_special_tokens=False)
    question_end = len(ids) - 1
    texts = packed.Texts(jnp.asarray([ids] * 2), jnp.full(2, question_end), jnp.full(2, len(ids)), jnp.ones(2))
    rows = np.asarray(jax.jit(teaching_of(tokenizer).evidence_rows)(texts))
    words = tokenizer.convert_ids_to_tokens(ids)
    # The options name colours, too, but they are no names of the object.
    assert [words[place] for place in np.flatnonzero(rows[0])] == ["ship", "\n"]
    assert np.flatnonzero(rows[0])[1] == question_end - 1
    np.testing.assert_allclose(rows.sum(axis=1), 1)


def test_evidence_is_the_objects_or_the_named_place_in_the_anchor():
    objects = jnp.asarray([[3, 7, 0], [0, 0, 0]], jnp.uint8)
    index = jnp.asarray([0, 2, 40, 41, 42, -1])
    object_id = jnp.asarray([0, 3, 7, 5, 0, 0], jnp.uint8)
    target = jnp.asarray([True, False, True])
    evidence = evidence_tokens(objects, index, object_id, target)
    assert evidence.tolist() == [[False, True, True, False, False, False], [True, True, False, False, False, False]]


def test_a_base_grid_says_its_quarter_in_words(case):
    tokenizer, *_ = case
    embedding = jnp.eye(CFG.decoder.vocab_size)
    grid = np.asarray(corner_grid(tokenizer, embedding, 4))
    for (row, column), words in {(0, 1): "top left", (1, 2): "top right", (2, 0): "bottom left"}.items():
        found = tokenizer.convert_ids_to_tokens(np.flatnonzero(grid[row, column]).tolist())
        assert sorted(found) == sorted(words.split())


def test_the_right_option_is_its_line(case):
    tokenizer, *_ = case
    teaching = teaching_of(tokenizer)
    question = "\nWhat colour is the ship?\nA. red\nB. blue\nC. green\nAnswer.<|im_end|>\n<|im_start|>assistant\n"
    texts = []
    for answer in ("B", "blue"):
        ids = tokenizer.encode(question + answer, add_special_tokens=False)
        texts.append((ids, len(ids) - 1))
    batch = packed.Texts(
        jnp.asarray([ids for ids, _ in texts]),
        jnp.asarray([end for _, end in texts]),
        jnp.asarray([end + 1 for _, end in texts]),
        jnp.ones(2),
    )
    option = np.asarray(jax.jit(teaching.right_option)(batch))
    words = tokenizer.convert_ids_to_tokens(texts[0][0])
    assert [words[place] for place in np.flatnonzero(option[0])] == ["B", ".", "blue", "\n"]
    # An answer in words names no option by its letter; its words are itself, without the end of the turn.
    assert not option[1].any()
    said = np.asarray(jax.jit(teaching.answer_words)(batch._replace(end=batch.end + 1)))
    assert [[words[place] for place in np.flatnonzero(said[0])], np.flatnonzero(said[1]).tolist()] == [
        ["blue"],
        [texts[1][1]],
    ]
