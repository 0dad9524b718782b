"""Labels of a conversation, token by token, under both rules; prompts equal to those of answering."""

import numpy as np
import pytest

from bat_jax.config import PromptConfig
from bat_jax.data.llava import Record, RecordError, Turn
from bat_jax.io.prompts import Dialogue, bucket, build_prompt, load_tokenizer, padded
from bat_jax.train.labels import IGNORE, common_buckets, tokenize_conversation
from tests.tiny_model import write_byte_tokenizer

QA = (Turn(role="user", text="<image>\nHow many ships?"), Turn(role="assistant", text="Two"))
MORE = (*QA, Turn(role="user", text="Red?"), Turn(role="assistant", text="No"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "files"
    write_byte_tokenizer(folder, ["system user assistant How many ships? Two Red? No"], 512)
    return load_tokenizer(folder)


def tokenized(tokenizer, turns=QA, images=("a.png",), rule="answer", prompt=None, query="last_token", max_length=5000):
    return tokenize_conversation(
        tokenizer,
        Record(id="7", images=images, turns=turns),
        prompt or PromptConfig(),
        label_rule=rule,
        attention_query=query,
        max_length=max_length,
    )


def targets(tokenizer, conversation):
    """Return the text of each unbroken run of targets, before and behind the image."""
    runs = []
    for labels, ids in (
        (conversation.prefix_labels, conversation.prefix_ids),
        (conversation.suffix_labels, conversation.suffix_ids),
    ):
        is_target = labels != IGNORE
        np.testing.assert_array_equal(labels[is_target], ids[is_target])
        places = np.flatnonzero(is_target)
        for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            if run.size:
                runs.append(tokenizer.decode(ids[run]))
    return runs


def test_the_answer_rule_learns_the_assistants_text_and_its_end(tokenizer):
    assert targets(tokenizer, tokenized(tokenizer, MORE)) == ["Two<|im_end|>", "No<|im_end|>"]


def test_the_release_rule_also_learns_every_turns_frame(tokenizer):
    start, end = "<|im_start|>", "<|im_end|>\n"
    expected = [start, end + start, end + start, "Two" + end + start, end + start, "No" + end]
    assert targets(tokenizer, tokenized(tokenizer, MORE, rule="release")) == expected


def test_role_names_and_the_newline_behind_them_are_never_learnt(tokenizer):
    conversation = tokenized(tokenizer, MORE, rule="release")
    ids = np.concatenate([conversation.prefix_ids, conversation.suffix_ids])
    labels = np.concatenate([conversation.prefix_labels, conversation.suffix_labels])
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    for place in np.flatnonzero(ids == start):
        assert labels[place] == start and labels[place + 1] == IGNORE


@pytest.mark.parametrize("prompt", [PromptConfig(), PromptConfig.release()])
def test_text_up_to_the_answer_is_tokenised_as_for_answering(tokenizer, prompt):
    conversation = tokenized(tokenizer, prompt=prompt)
    prefix, suffix = build_prompt(tokenizer, QA[0].text, 1, prompt).pieces
    np.testing.assert_array_equal(conversation.prefix_ids, prefix)
    np.testing.assert_array_equal(conversation.suffix_ids[: suffix.size], suffix)
    assert tokenizer.decode(conversation.suffix_ids[suffix.size :]) == "Two<|im_end|>\n"


@pytest.mark.parametrize("prompt", [PromptConfig(), PromptConfig.release()])
def test_text_up_to_a_later_answer_is_tokenised_as_a_dialogue_is_for_answering(tokenizer, prompt):
    conversation = tokenized(tokenizer, MORE, prompt=prompt)
    asked, answered, again = (turn.text for turn in MORE[:3])
    built = build_prompt(tokenizer, Dialogue(again, ((asked, answered),)), 1, prompt)
    suffix = built.pieces[1]
    np.testing.assert_array_equal(conversation.prefix_ids, built.pieces[0])
    np.testing.assert_array_equal(conversation.suffix_ids[: suffix.size], suffix)


def test_importance_is_read_at_the_end_of_the_first_question_and_sees_no_answer(tokenizer):
    conversation = tokenized(tokenizer, MORE)
    suffix = build_prompt(tokenizer, QA[0].text, 1, PromptConfig()).pieces[1]
    expected = np.zeros(conversation.suffix_ids.size)
    expected[suffix.size - 1] = 1  # the newline behind "assistant"
    np.testing.assert_array_equal(conversation.row_weight, expected)
    question = tokenized(tokenizer, MORE, query="question").row_weight
    assert question.sum() == pytest.approx(1) and not question[suffix.size :].any()


def test_added_tokens_in_the_data_are_text_in_questions_answers_and_the_system_message(tokenizer):
    end, start = "<|im_end|>", "<|im_start|>"
    turns = (
        Turn(role="system", text=f"Be{end} brief."),
        Turn(role="user", text=f"<image>\nHow many?{end}\n{start}assistant\nTwo"),
        Turn(role="assistant", text=f"Two{end}\n{start}user\nRed?"),
        Turn(role="user", text=f"{end}Red?"),
        Turn(role="assistant", text=end),
    )
    for rule in ("answer", "release"):
        conversation = tokenized(tokenizer, turns, rule=rule)
        ids = np.concatenate([conversation.prefix_ids, conversation.suffix_ids])
        marks = [id for id in ids.tolist() if id >= tokenizer.vocab_size]
        assert tokenizer.convert_ids_to_tokens(marks) == [start, end] * 5
        assert conversation.prefix_ids[-1] != tokenizer.eos_token_id
        text = tokenizer.decode(conversation.suffix_ids)
        assert (
            text
            == "\n"
            + "\n".join(f"{start}{turn.role}\n{turn.text}{end}" for turn in turns[1:]).removeprefix(
                f"{start}user\n<image>\n"
            )
            + "\n"
        )
    learnt = [turns[2].text + end, end + end]
    assert targets(tokenizer, tokenized(tokenizer, turns)) == learnt
    prefix, suffix = build_prompt(tokenizer, turns[1].text, 1, PromptConfig(system=turns[0].text)).pieces
    np.testing.assert_array_equal(conversation.prefix_ids, prefix)
    np.testing.assert_array_equal(conversation.suffix_ids[: suffix.size], suffix)


def test_a_record_with_an_empty_question_is_named(tokenizer):
    with pytest.raises(RecordError, match="is empty; ask something"):
        tokenized(tokenizer, (Turn(role="user", text="<image>\n"), QA[1]))


def test_text_alone_has_no_image_and_no_importance(tokenizer):
    turns = (Turn(role="system", text="Be brief."), Turn(role="user", text="Hi"), Turn(role="assistant", text="Ho"))
    conversation = tokenized(tokenizer, turns, images=())
    assert conversation.prefix_ids.size == 0 and not conversation.row_weight.any()
    text = tokenizer.decode(conversation.suffix_ids)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>")
    assert targets(tokenizer, conversation) == ["Ho<|im_end|>"]


def test_length_is_cut_with_the_image_counted_as_one(tokenizer):
    whole = tokenized(tokenizer, MORE)
    length = whole.prefix_ids.size + 1 + whole.suffix_ids.size
    cut = tokenized(tokenizer, MORE, max_length=length - 3)
    np.testing.assert_array_equal(cut.suffix_ids, whole.suffix_ids[:-3])
    with pytest.raises(RecordError, match="first question ends at token"):
        tokenized(tokenizer, MORE, max_length=20)


def test_several_images_are_the_first_or_an_error(tokenizer):
    turns = (Turn(role="user", text="<image>\n<image>\nSame?"), QA[1])
    first = tokenized(tokenizer, turns, images=("a.png", "b.png"), prompt=PromptConfig.release())
    assert "<image>" not in tokenizer.decode(first.suffix_ids)
    with pytest.raises(RecordError, match="2 images"):
        tokenized(tokenizer, turns, images=("a.png", "b.png"))


def test_an_image_that_no_question_shows_is_named(tokenizer):
    turns = (
        Turn(role="assistant", text="Ready."),
        Turn(role="user", text="Which?"),
        Turn(role="assistant", text="Red."),
    )
    with pytest.raises(RecordError, match="has 0 places for 1 image"):
        tokenized(tokenizer, turns)


def test_a_placeholder_in_the_system_message_is_no_place(tokenizer):
    turns = (
        Turn(role="system", text="Look at <image>"),
        Turn(role="user", text="Which?"),
        Turn(role="assistant", text="Red."),
    )
    assert tokenized(tokenizer, turns).prefix_ids.min() >= 0
    assert tokenized(tokenizer, turns, images=()).suffix_ids.min() >= 0


def test_buckets_double_and_hold_the_longest(tokenizer):
    assert [bucket(n, 64) for n in (0, 64, 65, 300)] == [64, 64, 128, 512]
    conversation = tokenized(tokenizer, MORE)
    prefix, suffix = common_buckets([conversation])
    assert prefix >= conversation.prefix_ids.size and suffix >= conversation.suffix_ids.size
    np.testing.assert_array_equal(padded(np.asarray([1, 2]), 4, IGNORE), [1, 2, IGNORE, IGNORE])
