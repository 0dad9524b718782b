"""Which rows of the suffix the importance reads, on hand-written token ids."""

import jax
import numpy as np
import pytest

from bat_jax.compress.compressor import ScaleTokens
from bat_jax.compress.importance import question_span, reads_one_row, suffix_row_weight
from bat_jax.engine.question import SceneArrays, Suffix, importance_of
from bat_jax.nn.decoder import KVCache
from bat_jax.ops.attention import weighted_attention_row
from tests.tiny_model import tiny_config

NEWLINE, SPACE, END, PAD = 1, 2, 3, 0
# "\n" question question question <end> "\n" assistant "\n"
SUFFIX = [NEWLINE, 10, 11, 12, END, NEWLINE, 20, NEWLINE]


def is_space(token):
    return token in (NEWLINE, SPACE)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (SUFFIX, range(1, 4)),
        ([10, 11, END, NEWLINE], range(2)),
        ([NEWLINE, NEWLINE, SPACE, 10, END], range(3, 4)),
        ([NEWLINE, 10, SPACE, 11, SPACE, END, 12, END], range(1, 5)),
        ([NEWLINE, 10, 11], range(1, 3)),
        ([NEWLINE, SPACE, END, NEWLINE], range(2)),
        ([END, NEWLINE, 20], range(3)),
    ],
    ids=[
        "the template's newline is left out",
        "no space in front",
        "several spaces in front",
        "spaces inside count and the first end decides",
        "no end reaches to the last token",
        "a question of spaces counts with them",
        "no question at all counts every row",
    ],
)
def test_the_question_stands_between_leading_spaces_and_the_first_end_of_turn(ids, expected):
    assert question_span(ids, END, is_space) == expected


def test_a_template_without_end_of_turn_token_takes_everything():
    assert question_span([NEWLINE, 10, 11], None, is_space) == range(1, 3)


def weight(rule, ids, pad_id=PAD):
    return suffix_row_weight(rule, ids, pad_id=pad_id, end_of_turn_id=END, is_space=is_space)


def test_paper_weighs_the_questions_tokens_alike():
    third = np.float32(1 / 3)
    got = weight("question", SUFFIX)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [0, third, third, third, 0, 0, 0, 0])


def test_release_weighs_the_last_token_alone():
    np.testing.assert_array_equal(weight("last_token", SUFFIX), [0] * 7 + [1])


def test_release_skips_padding_at_the_end_and_nothing_else():
    np.testing.assert_array_equal(weight("last_token", [10, PAD, 11, PAD, PAD]), [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(weight("last_token", [PAD, PAD]), [0, 1])
    np.testing.assert_array_equal(weight("last_token", [10, PAD], pad_id=None), [0, 1])


@pytest.mark.parametrize("rule", ["question", "last_token"])
def test_a_rule_of_one_row_needs_no_scores_of_others(rule):
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(1, length, 2, 4)).astype(np.float32) for length in (len(SUFFIX), 20))
    arrays = query, key, np.array([20 - len(SUFFIX)]), weight(rule, SUFFIX)[None]
    row = jax.jit(weighted_attention_row, static_argnames="is_one_row")
    assert reads_one_row(rule) == (np.count_nonzero(arrays[-1]) == 1)
    alone = row(*arrays, is_one_row=reads_one_row(rule))
    np.testing.assert_allclose(alone, row(*arrays), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", ["question", "last_token"])
def test_a_question_is_asked_for_the_rows_of_its_rule(rule):
    asked = []

    def run(name, function, static, *arrays):
        asked.append((name, static[1]))
        raise StopIteration

    one, valid, cached = np.zeros(1, np.int32), np.ones(1, bool), np.zeros((1, 1, 1, 1, 1), np.float32)
    scene = SceneArrays((ScaleTokens(np.zeros((1, 2), np.float32), one, valid),), KVCache(cached, cached, one))
    suffix = Suffix(one, valid, np.ones(1, np.float32))
    with pytest.raises(StopIteration):
        importance_of(run, tiny_config().with_settings(importance_query=rule), {}, scene, (suffix,))
    assert asked == [("anchor_importance", reads_one_row(rule))]


def test_weights_of_random_suffixes_are_a_distribution_over_one_run_of_rows():
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, 13, rng.integers(1, 12)).tolist()
        for rule in ("question", "last_token"):
            got = weight(rule, ids)
            assert got.shape == (len(ids),)
            np.testing.assert_allclose(got.sum(), 1, rtol=1e-6)
            rows = np.flatnonzero(got)
            assert np.all(np.diff(rows) == 1)
            assert len(set(got[rows])) == 1


@pytest.mark.parametrize("rule", ["question", "last_token"])
def test_no_text_behind_the_image_is_refused_and_says_why(rule):
    with pytest.raises(ValueError, match="no text stands after the image"):
        weight(rule, [])
