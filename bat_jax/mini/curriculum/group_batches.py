"""Batches of packed questions: which picture, which group, which questions, which tokens.

Every array is a function of (seed, position) alone, so a stage resumes exactly. Letters as in packed.py; B pictures.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from bat_jax.config import SELECTIONS, BatConfig
from bat_jax.mini.curriculum.bank import FORMS, KINDS, OPEN_LENGTH, TEXT_LENGTH, Bank, QuestionGroup
from bat_jax.mini.curriculum.packed import Texts
from bat_jax.mini.curriculum.picture_store import TokenTruth, grids

# Shares of open, word and letter among the questions whose importance is read.
_ASKED = (0.0, 0.0, 1.0)
# In a mix beside the names of selections: all tokens of the anchor view alone.
ANCHOR = "anchor"


class GroupBatch(NamedTuple):
    """texts: (B, Q, T). asking: (B, Q', T), whose importance is taught; the first is of the group and chooses.

    target_mask (B, Q', M1). picture (B,): row in the stores. token_index (B, U): tokens given instead of selected ones.
    objects (B, Q, 15): ids of the objects that the answer is read from, 0 behind them. budgets (B, S). selection ():
    which of the mix selects.
    text_only: (Qt, T) questions without a picture; Qt may be 0. sub_task, form (B, Q): what each is.
    """

    texts: Texts
    asking: Texts
    target_mask: np.ndarray
    picture: np.ndarray
    token_index: np.ndarray
    objects: np.ndarray
    budgets: np.ndarray
    selection: np.ndarray
    text_only: Texts
    sub_task: np.ndarray
    form: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
    """What a stage's batches consist of.

    Attributes:
      num_pictures, num_questions, num_asking: B, Q, Q'. num_given: U tokens chosen by the truth; 0: by selection.
      kinds: shares of groups about a site, a circle, several sites or all. forms: shares of open, word, letter.
      crowding: a site with n objects is drawn n^crowding times as often; one alone teaches nothing about telling apart.
      num_text_only: Qt. selections: names, or ANCHOR, with their shares among the batches. budgets: at most; None for
        the config's. Those of a picture are from `lowest` of that to all of it.
    """

    num_pictures: int
    num_questions: int
    num_asking: int = 2
    num_given: int = 0
    kinds: tuple[float, float, float] = (0.68, 0.1, 0.22)
    forms: tuple[float, float, float] = (1.0, 0.0, 0.0)
    crowding: int = 0
    num_text_only: int = 0
    selections: tuple[tuple[str, float], ...] = (("uhr_bat", 1.0),)
    budgets: tuple[int, ...] | None = None
    lowest: float = 0.5

    def __post_init__(self):
        for name, _ in self.selections:
            rule = None if name == ANCHOR else SELECTIONS[name]
            if rule and ("tower" in rule.needs or rule.attention):
                raise ValueError(f"selections: {name!r} reads other attention than what this training computes")


class GroupBatches:
    """Draws batches: position -> GroupBatch."""

    def __init__(self, cfg: BatConfig, mix: Mix, bank: Bank, labels: np.ndarray, pictures: range, seed: int):
        """Wrap the bank; `labels` (N, M, 9) are those of TokenTruth, `pictures` the rows to train on."""
        self.cfg, self.mix, self.bank, self.seed = cfg, mix, bank, seed
        self.labels, self.pictures = labels, pictures
        self.view = np.repeat(np.arange(len(cfg.compressor.scales)), [grid.num_tokens for grid in grids(cfg)])
        wanted = [form for form, share in zip(FORMS, mix.forms, strict=False) if share]
        self.by_kind: dict[str, list[tuple[int, QuestionGroup]]] = {kind: [] for kind in KINDS}
        for picture in pictures:
            for group in bank.groups[picture]:
                if any(np.any(group.end[form]) for form in wanted):
                    num_objects = np.unique(group.objects[group.objects > 0]).size if group.kind == "site" else 1
                    self.by_kind[group.kind] += [(picture, group)] * max(num_objects, 1) ** mix.crowding
        shares = [share if self.by_kind[kind] else 0.0 for kind, share in zip(KINDS, mix.kinds, strict=True)]
        self.kinds = np.array(shares) / max(sum(shares), 1e-9)

    def __call__(self, position: int) -> GroupBatch:
        mix, rng = self.mix, np.random.default_rng([self.seed, position, 0])
        selection = rng.choice(len(mix.selections), p=[share for _, share in mix.selections])
        rows = [self._draw_picture(rng) for _ in range(mix.num_pictures)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        return GroupBatch(**stacked, selection=np.array(selection, np.int32), text_only=self.text_only(position))

    def _draw_picture(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a picture's group, questions, given tokens and budgets: GroupBatch's fields without the leading axis."""
        mix = self.mix
        pool = self.by_kind[str(rng.choice(KINDS, p=self.kinds))]
        picture, group = pool[rng.integers(len(pool))]
        length = TEXT_LENGTH if any(mix.forms[1:]) else OPEN_LENGTH
        texts, sub_task, form, objects = self._draw(rng, group, mix.forms, mix.num_questions, length)
        asking, target_mask = self._draw_asking(rng, picture, group)
        given = self._given(rng, picture, group) if mix.num_given else np.zeros(0, np.int32)
        limits = np.array(mix.budgets or self.cfg.compressor.budgets) * rng.uniform(mix.lowest, 1)
        return {
            "texts": texts,
            "asking": asking,
            "target_mask": target_mask,
            "picture": np.int32(picture),
            "token_index": given,
            "objects": objects,
            "budgets": np.maximum(1, np.round(limits)).astype(np.int32),
            "sub_task": sub_task,
            "form": form,
        }

    def _draw_asking(self, rng: np.random.Generator, picture: int, group: QuestionGroup) -> tuple[Texts, np.ndarray]:
        """Draw a question of the group and others about anything in the picture, with their targets (Q', M1).

        Asked with options, as they will be: only behind the site's name do a question's tokens know where to look, and
        a bare question has few of them. About different things, because what is to be learnt is the difference: with
        questions of one group alone importance stayed on all sites alike for 300 steps.
        """
        others = self.bank.groups[picture]
        groups = [group, *(others[rng.integers(len(others))] for _ in range(self.mix.num_asking - 1))]
        drawn = [self._draw(rng, item, _ASKED, 1, TEXT_LENGTH)[0] for item in groups]
        texts = jax.tree.map(lambda *leaves: np.concatenate(leaves), *drawn)
        return texts, np.stack([item.target_mask for item in groups])

    @staticmethod
    def _draw(
        rng: np.random.Generator, group: QuestionGroup, forms: tuple[float, ...], num_wanted: int, length: int
    ) -> tuple[Texts, np.ndarray, np.ndarray, np.ndarray]:
        """Draw different pairs of question and form from a group; what is missing at the end has weight 0."""
        share = np.stack([forms[i] * (group.end[form] > 0) for i, form in enumerate(FORMS[: len(forms)])])
        chance = (share * group.weight).reshape(-1)
        num = min(num_wanted, int((chance > 0).sum()))
        chosen = rng.choice(chance.size, num, replace=False, p=chance / chance.sum())
        form, question = np.divmod(chosen, group.weight.size)
        ids = np.zeros((num_wanted, length), np.int32)
        ends = np.full((2, num_wanted), 1, np.int32)
        for row, (f, q) in enumerate(zip(form, question, strict=True)):
            source = group.ids[FORMS[f]][q]
            ids[row, : source.size] = source
            ends[:, row] = group.question_end[FORMS[f]][q], group.end[FORMS[f]][q]
        # Empty slots repeat the first question, so that nothing undefined is computed.
        ids[num:], ends[:, num:] = ids[0], ends[:, :1]
        weight = (np.arange(num_wanted) < num).astype(np.float32)
        pad = num_wanted - num
        return (
            Texts(ids, ends[0], ends[1], weight),
            np.pad(group.sub_task[question], (0, pad), constant_values=-1),
            np.pad(form, (0, pad), constant_values=-1).astype(np.int32),
            np.pad(group.objects[question], ((0, pad), (0, 0))),
        )

    def _given(self, rng: np.random.Generator, picture: int, group: QuestionGroup) -> np.ndarray:
        """Choose U tokens by the truth: objects that matter, some of their sites' and the anchor's, then any."""
        truth = TokenTruth.of(self.labels[picture])
        view, num_views = self.view, len(self.cfg.compressor.scales)
        fine = view >= num_views - 2
        sites = group.site_ids or tuple(range(1, 1 + int(truth.site_id.max())))
        on_site = np.isin(truth.site_id, sites)
        target = np.zeros(view.size, bool)
        target[view == 0] = group.target_mask
        # An object's tokens at the finer views lie on its site's pad.
        wanted = on_site & fine & ((truth.object_id > 0) | (truth.event > 0))
        priority = rng.random(view.size)
        priority[wanted] += 4
        if group.kind == "circle":
            priority[(truth.ring > 0) & (view <= 1)] += 2
        priority[target] += 3
        priority[on_site & (view == 1)] += 1
        priority[on_site & fine] += 0.3
        priority[view == 0] += 0.4
        chosen = np.argpartition(-priority, self.mix.num_given)[: self.mix.num_given]
        return chosen[np.argsort(view[chosen] + rng.random(chosen.size))].astype(np.int32)

    def text_only(self, position: int) -> Texts:
        """Draw questions that say their answer themselves ("The answer is: red.") and want its letter."""
        rng, rows = np.random.default_rng([self.seed, position, 2]), []
        for _ in range(self.mix.num_text_only):
            picture = int(rng.integers(self.pictures.start, self.pictures.stop))
            groups = self.bank.groups[picture]
            group = groups[rng.integers(len(groups))]
            question = int(rng.integers(group.weight.size))
            rows.append([part["text_only"][question] for part in (group.ids, group.question_end, group.end)])
        ids = np.stack([row[0] for row in rows]) if rows else np.zeros((0, TEXT_LENGTH), np.uint8)
        ends = np.array([row[1:] for row in rows], np.int32).reshape(-1, 2)
        return Texts(ids.astype(np.int32), ends[:, 0], ends[:, 1], np.ones(len(rows), np.float32))
