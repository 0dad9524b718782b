"""Look-ups in made-up pictures: a dozen tokens that are exactly the words true of them, questions with short options.

    tokens of two sites, their objects, bare land  ->  What colour is the ship at the harbour?  ->  red
                                                       ... A. blue  B. red  C. green  D. black  ->  B

A letter needs two steps, find the token that the question names and find its word among the options. Questions about
real pictures show some 90 of them a second, too few to learn both at once: letters were still guessed after 100,000.
Here a question costs 40 rows and its picture 14, so hundreds of thousands are affordable.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from bat_jax.config import BatConfig
from bat_jax.io.prompts import END_OF_TURN, build_prompt
from bat_jax.mini.curriculum.bank import FORMS
from bat_jax.mini.curriculum.packed import Texts
from bat_jax.mini.curriculum.picture_store import TokenTruth
from bat_jax.mini.curriculum.teaching import Teaching
from bat_jax.mini.curriculum.word_bag import corner_words, true_words
from bat_jax.mini.world.question import LETTERS, SUB_TASKS
from bat_jax.mini.world.questions import CORNERS, TEMPLATES, YES_NO
from bat_jax.mini.world.world import COLOURS, EVENT_KINDS, LAND_USES, MOVING_KINDS, OBJECT_KINDS, SITE_KINDS, STATES
from bat_jax.train.loop import Loss
from bat_jax.typing import Params

_NUM_TOKENS, _LENGTH = 14, 40
# Shares of pictures with one site and with two, of sites with one object, two and three. Where there is one object
# alone nothing need be distinguished, so the step from the token to the option is learnt before the look-up is.
_NUM_SITES, _NUM_OBJECTS = (0.6, 0.4), (0.5, 0.3, 0.2)
_LETTER_SHARE = 0.75


class LookupBatch(NamedTuple):
    """labels (B, K, 9): see TokenTruth. corner (B, K): each token's quarter of the picture, an index into CORNERS.

    noise (B, K, D): added to the words. texts: (B, Q, T).
    shown (B, Q, K): the tokens that the answer is read from: the object's, or, where there is none such, the bare
    site's, so that what the look falls on says whether there is one. sub_task, form (B, Q): what each is.
    """

    labels: np.ndarray
    corner: np.ndarray
    noise: np.ndarray
    texts: Texts
    shown: np.ndarray
    sub_task: np.ndarray
    form: np.ndarray


class LookupBatches:
    """Draws batches: position -> LookupBatch of B made-up pictures with Q questions each."""

    def __init__(self, cfg: BatConfig, tokenizer: Any, num_pictures: int, num_questions: int, noise: float, seed: int):
        self.cfg, self.tokenizer, self.seed = cfg, tokenizer, seed
        self.num_pictures, self.num_questions, self.noise = num_pictures, num_questions, noise
        self._letters = [tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS]
        self._newline, self._dot = (tokenizer.convert_tokens_to_ids(sign) for sign in "\n.")
        self._end = tokenizer.encode(END_OF_TURN, add_special_tokens=False)
        self._encode = functools.cache(lambda text: tokenizer.encode(text, add_special_tokens=False))
        # What stands before and behind a question: the newline that ends the image, the assistant's turn.
        around = build_prompt(tokenizer, "?", 1, cfg.prompt).pieces[-1].tolist()
        mark = self._encode("?")[0]
        self._before, self._behind = around[: around.index(mark)], around[around.index(mark) + 1 :]

    def __call__(self, position: int) -> LookupBatch:
        rng = np.random.default_rng([self.seed, position])
        rows = [self._picture(rng) for _ in range(self.num_pictures)]
        shape = (self.num_pictures, _NUM_TOKENS, self.cfg.decoder.width)
        noise = rng.normal(0.0, self.noise, shape).astype(np.float32)
        return LookupBatch(**jax.tree.map(lambda *leaves: np.stack(leaves), *rows), noise=noise)

    def _picture(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a picture and its questions: LookupBatch's fields without the leading axis and the noise."""
        tokens: list[dict[str, int]] = []
        asked: list[tuple[str, str, list[str], str, tuple[int, int]]] = []
        num_sites = 1 + rng.choice(len(_NUM_SITES), p=_NUM_SITES)
        for site_id, site in enumerate(rng.permutation(len(SITE_KINDS))[:num_sites].tolist()):
            self._site(rng, site_id + 1, site, tokens, asked)
        land = [
            {"land_use": int(rng.integers(len(LAND_USES))) + 1, "corner": int(rng.integers(len(CORNERS)))}
            for _ in range(_NUM_TOKENS - len(tokens))
        ]
        tokens = [(tokens + land)[index] for index in rng.permutation(_NUM_TOKENS)]
        labels = np.array([[token.get(name, 0) for name in TokenTruth._fields] for token in tokens], np.uint8)
        corner = np.array([token["corner"] for token in tokens], np.uint8)
        chosen = [asked[index] for index in rng.choice(len(asked), self.num_questions)]
        is_letter = rng.random(self.num_questions) < _LETTER_SHARE
        form = np.where(is_letter, FORMS.index("letter"), FORMS.index("open")).astype(np.int32)
        rows = [
            self._ids(rng, text, options, right, f)
            for (_, text, options, right, _), f in zip(chosen, form.tolist(), strict=True)
        ]
        ids, question_end, end = (np.array(part, np.int32) for part in zip(*rows, strict=True))
        tasks = list(SUB_TASKS)
        sub_task = np.array([tasks.index(item[0]) for item in chosen], np.int32)
        truth = TokenTruth.of(labels)
        shown = [(truth.site_id == site) & (truth.object_id == number) for *_, (site, number) in chosen]
        texts = Texts(ids, question_end, end, np.ones(self.num_questions, np.float32))
        fields = {"labels": labels, "corner": corner, "texts": texts, "shown": np.stack(shown)}
        return fields | {"sub_task": sub_task, "form": form}

    def _site(self, rng: np.random.Generator, site_id: int, site: int, tokens: list, asked: list) -> None:
        """Append a site's tokens and its questions: (sub-task, text, options, right one, (site, object or 0))."""
        name, place = SITE_KINDS[site], {"land_use": int(rng.integers(len(LAND_USES))) + 1, "site_kind": site + 1}
        place |= {"site_id": site_id, "corner": int(rng.integers(len(CORNERS)))}
        num = 1 + rng.choice(len(_NUM_OBJECTS), p=_NUM_OBJECTS)
        kinds = [int(kind) for kind in rng.permutation(len(OBJECT_KINDS))[:num]]
        colours = [int(colour) for colour in rng.permutation(len(COLOURS))[:num]]
        here = [OBJECT_KINDS[kind] for kind in kinds]

        def ask(form: str, options: list[str], right: str, number: int, **names: str) -> None:
            template = TEMPLATES[form][int(rng.integers(len(TEMPLATES[form])))]
            text = template.format(site=name, **names)
            asked.append((form.split("/")[0], text, options, right, (site_id, number)))

        tokens.append(place)
        ask("location/corner", list(CORNERS), CORNERS[place["corner"]], 0)
        for number, (kind, colour) in enumerate(zip(kinds, colours, strict=True), start=1):
            seen = place | {"object_kind": kind + 1, "colour": colour + 1, "object_id": number}
            names = {"kind": OBJECT_KINDS[kind], "colour": COLOURS[colour]}
            ask("object_class/site", list(OBJECT_KINDS), names["kind"], number, colour=names["colour"])
            ask("object_colour/site", list(COLOURS), names["colour"], number, kind=names["kind"])
            ask("existence/yes_no", list(YES_NO), "yes", number, **names)
            # Half true: no two objects of a site share a kind or a colour.
            name_of, words = ("colour", COLOURS) if rng.random() < 0.5 else ("kind", OBJECT_KINDS)
            wrong = [word for word in words if word != names[name_of]]
            ask("existence/yes_no", list(YES_NO), "no", 0, **(names | {name_of: str(rng.choice(wrong))}))
            if names["kind"] in MOVING_KINDS:
                state = int(rng.integers(len(STATES)))
                seen["state"] = state + 1
                ask("motion_state/site", list(STATES), STATES[state], number, kind=names["kind"])
            tokens += [seen] * int(rng.integers(1, 3))
        if len(here) == 1:
            ask("existence/which", list(OBJECT_KINDS), here[0], 1)
        if rng.random() < 0.4:
            event = int(rng.integers(len(EVENT_KINDS)))
            tokens.append(place | {"event": event + 1, "object_id": num + 1})
            ask("anomaly/what", list(EVENT_KINDS), EVENT_KINDS[event], num + 1)

    def _ids(
        self, rng: np.random.Generator, text: str, options: list[str], right: str, form: int
    ) -> tuple[np.ndarray, int, int]:
        """Return (ids, end of the question, end of the answer); the open form has no options."""
        sequence, answer = [*self._before, *self._encode(text)], self._encode(right)
        if FORMS[form] == "letter":
            others = [option for option in options if option != right]
            shown = [right, *(others[index] for index in rng.permutation(len(others))[:3])]
            shown = [shown[index] for index in rng.permutation(len(shown))]
            for letter, option in zip(self._letters, shown, strict=False):
                sequence += [self._newline, letter, self._dot, *self._encode(option)]
            answer = [self._letters[shown.index(right)]]
            sequence.append(self._newline)
        sequence += self._behind
        question_end = len(sequence)
        sequence += [*answer, *self._end]
        ids = np.zeros(_LENGTH, np.int32)
        ids[: len(sequence)] = sequence
        return ids, question_end, len(sequence)


def lookups_loss(teaching: Teaching) -> Loss:
    """Return the loss over {"lookups": LookupBatch, "text_only": Texts}; the decoder learns, its words make tokens."""

    def loss(params: Params, fixed: Any, batch: dict[str, Any]):
        del fixed
        lookups: LookupBatch = batch["lookups"]
        embedding = params["decoder"]["embed_tokens"]["embedding"]
        visual = true_words(teaching.tokenizer, embedding, lookups.labels) + lookups.noise
        visual += corner_words(teaching.tokenizer, embedding)[lookups.corner]
        answers = teaching.answers(params, visual, lookups.texts)
        kinds = lookups.form, lookups.sub_task
        return teaching.answers_total(params, answers, lookups.texts, lookups.shown, kinds, batch["text_only"])

    return loss
