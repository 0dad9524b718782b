"""Made-up pictures: what a question asks can be read from the tokens, and the tokens that say it are the evidence."""

import re

import numpy as np
import pytest

from bat_jax.config import BatConfig
from bat_jax.io.prompts import load_tokenizer
from bat_jax.mini.curriculum.bank import FORMS
from bat_jax.mini.curriculum.export import write_tokenizer
from bat_jax.mini.curriculum.lookups import LookupBatches
from bat_jax.mini.curriculum.picture_store import TokenTruth
from bat_jax.mini.world.question import LETTERS, SUB_TASKS
from bat_jax.mini.world.questions import CORNERS
from bat_jax.mini.world.world import COLOURS, EVENT_KINDS, OBJECT_KINDS, SITE_KINDS, STATES

CFG = BatConfig.mini()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mini") / "tokenizer"
    write_tokenizer(directory, CFG.decoder.vocab_size)
    return load_tokenizer(directory)


def named(question, words):
    """Return 1 + the index of the one word of a list that a question holds, 0 for none."""
    found = [index + 1 for index, word in enumerate(words) if re.search(rf"\b{word}s?\b", question)]
    assert len(found) <= 1
    return found[0] if found else 0


def answer_of(question, truth, corner):
    """Return (answer, mask of the tokens that say it) of a question, read from the tokens alone."""
    site, kind, colour = (named(question, words) for words in (SITE_KINDS, OBJECT_KINDS, COLOURS))
    here = truth.site_kind == site
    if "in the image" in question or "part of the image" in question:
        bare = here & (truth.object_id == 0)
        return CORNERS[np.unique(corner[bare]).item()], bare
    if "wrong" in question or "anomaly" in question:
        return EVENT_KINDS[truth.event[here].max() - 1], here & (truth.event > 0)
    if re.match("(Is there a|Does)", question):
        both = here & (truth.object_kind == kind) & (truth.colour == colour)
        return ("yes", both) if both.any() else ("no", here & (truth.object_id == 0))
    shown = here & (truth.object_kind > 0)
    shown &= (truth.object_kind == kind) | (kind == 0)
    shown &= (truth.colour == colour) | (colour == 0)
    if "colo" in question:
        return COLOURS[np.unique(truth.colour[shown]).item() - 1], shown
    if "mov" in question or "motion" in question:
        return STATES[np.unique(truth.state[shown]).item() - 1], shown
    return OBJECT_KINDS[np.unique(truth.object_kind[shown]).item() - 1], shown


def test_every_answer_and_its_evidence_can_be_read_from_the_tokens(tokenizer):
    batch = LookupBatches(CFG, tokenizer, 100, 8, 0.0, seed=1)(0)
    assert not batch.noise.any()
    seen, letters = set(), []
    for picture, labels in enumerate(batch.labels):
        truth = TokenTruth.of(labels)
        for place in range(8):
            stop, end = batch.texts.question_end[picture, place], batch.texts.end[picture, place]
            ids = batch.texts.ids[picture, place]
            prompt, answer = (tokenizer.decode(part) for part in (ids[:stop], ids[stop:end]))
            assert tokenizer.unk_token_id not in ids[:end] and answer.endswith("<|im_end|>")
            answer = answer.removesuffix("<|im_end|>").strip()
            lines = prompt.strip().split("\n")
            form = FORMS[batch.form[picture, place]]
            if form == "letter":
                option = re.compile(r" ?([A-D]) ?\. ?(\w+(?: \w+)?)")
                options = dict(option.match(line).groups() for line in lines[1:] if ". " in line)
                assert list(options) == list(LETTERS[: len(options)]) and len(set(options.values())) == len(options)
                letters.append(answer)
                answer = options[answer]
            wanted, shown = answer_of(lines[0], truth, batch.corner[picture])
            assert answer == wanted, lines
            np.testing.assert_array_equal(batch.shown[picture, place], shown)
            seen.add((list(SUB_TASKS)[batch.sub_task[picture, place]], form))
    tasks = {"object_class", "object_colour", "existence", "motion_state", "anomaly", "location"}
    assert seen == {(task, form) for task in tasks for form in ("open", "letter")}
    # No letter is a better guess than another (four standard deviations; yes and no know A and B alone).
    of_four = np.array([letters.count(letter) for letter in LETTERS])
    assert of_four[2:].min() > 0.5 * of_four[2:].max() and len(letters) > 200


def test_batches_are_a_function_of_seed_and_position(tokenizer):
    draw = LookupBatches(CFG, tokenizer, 3, 4, 0.03, seed=1)
    first, again, other = draw(5), LookupBatches(CFG, tokenizer, 3, 4, 0.03, seed=1)(5), draw(6)
    for a, b in zip((*first[:3], *first.texts), (*again[:3], *again.texts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.texts.ids, other.texts.ids)
    assert 0.02 < first.noise.std() < 0.04
