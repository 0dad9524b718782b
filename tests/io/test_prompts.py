"""Prompts: the ChatML template, image places under both presets, splitting of id lists."""

import numpy as np
import pytest

from bat_jax.config import PromptConfig
from bat_jax.io.prompts import build_prompt, chatml, end_of_turn_id, load_tokenizer, split_ids, user_text
from tests.golden.golden_vectors import DEV

PAPER, RELEASE = PromptConfig.preset("paper"), PromptConfig.preset("release")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The golden tokenizer without the model's config beside it."""
    directory = tmp_path_factory.mktemp("tokenizer")
    for file in (DEV / "checkpoint").glob("*.json"):
        if file.name not in ("config.json", "model.safetensors.index.json"):
            (directory / file.name).write_text(file.read_text())
    (directory / "merges.txt").write_text((DEV / "checkpoint" / "merges.txt").read_text())
    return load_tokenizer(directory)


def test_template_is_chatml_with_an_open_assistant_turn():
    assert chatml("<image>\nQ?", PAPER) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nQ?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Q", "<image>\nQ"),
        ("<image>\nQ", "<image>\n\nQ"),
        ("look at <image> now", "<image>\nlook at  now"),
        ("<image><image>Q", "<image>\nQ"),
    ],
)
def test_release_moves_the_place_to_the_front_and_keeps_a_stored_newline(question, expected):
    assert user_text(question, 2, RELEASE) == expected


@pytest.mark.parametrize(
    ("question", "num_images", "expected"),
    [
        ("Q", 1, "<image>\nQ"),
        ("Q", 2, "<image>\n<image>\nQ"),
        ("<image>\nQ", 1, "<image>\nQ"),
        ("first <image> then <image>", 2, "first <image> then <image>"),
    ],
)
def test_paper_gives_every_image_its_place_in_order(question, num_images, expected):
    assert user_text(question, num_images, PAPER) == expected


def test_places_that_do_not_match_the_images_are_refused():
    with pytest.raises(ValueError, match="1 <image> for 2 images"):
        user_text("<image> Q", 2, PAPER)


@pytest.mark.parametrize("question", ["", " \n", "<image>", "<image>\n "])
def test_an_empty_question_is_refused(question):
    for cfg in (PAPER, RELEASE):
        with pytest.raises(ValueError, match="empty"):
            user_text(question, 1, cfg)


def test_pieces_of_several_images_are_tokenised_apart(tokenizer):
    prompt = build_prompt(tokenizer, "Compare", 2, PAPER)
    assert len(prompt.pieces) == 3
    assert tokenizer.decode(prompt.pieces[1]) == "\n"
    assert tokenizer.decode(prompt.pieces[2]).startswith("\nCompare<|im_end|>")


def test_end_of_turn_is_the_chatml_token(tokenizer):
    assert end_of_turn_id(tokenizer) == 511


def test_ids_split_at_the_placeholder():
    prompt = split_ids(np.array([5, 6, -200, 7, -200, 8, 9]))
    assert [piece.tolist() for piece in prompt.pieces] == [[5, 6], [7], [8, 9]]


@pytest.mark.parametrize("ids", [[1, 2], [1, -200], [[1, -200, 2]], [1.0, -200.0, 2.0]])
def test_ids_without_a_usable_placeholder_are_refused(ids):
    with pytest.raises(ValueError, match="input_ids"):
        split_ids(np.array(ids))


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
