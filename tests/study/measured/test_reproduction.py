"""Claims judged on made-up answers: verdicts follow the answers, and every table and the page hold them."""

import dataclasses
import functools

import matplotlib.figure
import pytest

from bat_jax.config import BatConfig
from bat_jax.report import study_page, study_tables
from bat_jax.study.measured import coverage, plan, reproduction
from bat_jax.study.measured.comparison import ONE_SITE, SCATTERED, SHARED
from bat_jax.study.measured.rules import UHR_BAT
from bat_jax.study.measured.study_results import Results
from bat_jax.study.measured.sweep import Sweep
from bat_jax.study.measured.verdicts import (
    CONSTRUCTED,
    DIFFERS,
    NEEDS_WEIGHTS,
    NOT_REPRODUCED,
    OUTSIDE,
    REPRODUCED,
    UNDECIDED,
)

MINI = BatConfig.mini()
FORMS = (*ONE_SITE, *SCATTERED)
QUESTIONS = [(f"{scene}-{form}", str(scene), form, {}) for scene in range(24) for form in FORMS]
QUESTIONS += [(f"{scene}-{form}-shared", str(scene), form, {"shared": 3}) for scene in range(24) for form in SHARED]
PLANS = {"reduced": plan.reduced(MINI), "full": plan.full(MINI)}


class MadeUpSweep(Sweep):
    """Answers of cells by a rule: share_of(cell) of the questions are right, the first ones of each scene."""

    def __init__(self, grids, share_of):
        self.grids, self.share_of = grids, share_of

    def records(self, cell):
        return answers(round(self.share_of(cell) * len(FORMS)), cell.budgets)


@functools.cache
def answers(last, budgets):
    """Return lines of which the first `last` forms are right, in a scene's own order of them."""
    return {
        id: {
            "id": id,
            "scene": scene,
            "facts": {"template": f"{form}/0"} | facts,
            "is_right": (FORMS.index(form) + int(scene)) % len(FORMS) < last,
            "status": "answered",
            "tokens_kept": list(budgets),
            "seconds": sum(budgets) / 1000,
            "compile_seconds": 0,
            "sub_task": form.partition("/")[0],
        }
        for id, scene, form, facts in QUESTIONS
    }


def line_of(scene, ours, theirs):
    """Return coverage of a scene whose targets have these fates under UHR-BAT, and under all others.

    In every fourth scene all fates are the others', as real scenes differ.
    """
    ways = {way: ours if way == UHR_BAT and scene % 4 else theirs for way in coverage.ways()}
    fates = dict.fromkeys((coverage.OWN, coverage.ORACLE), ways)
    targets = [
        {"question": "q", "object": 1, "is_scattered": scattered, "is_outer": outer, "fates": fates}
        for scattered in (False, True)
        for outer in (False, True)
    ]
    facts = {"purity": 0.9 + scene / 1000, "grid_purity": 0.8, "num_regions": 50, "num_covered": 20, "num_empty": 0}
    return {"targets": targets, "facts": facts | {"mass": [0.8 + scene / 1000], "area": [0.04]}}


def results_of(share_of, plan_name="reduced", ours="cmkkk", theirs="ckkkk"):
    sweeps = {}
    for part in PLANS[plan_name].parts:
        sweeps[part.name] = MadeUpSweep(part.grids, share_of)
    lines = {str(scene): line_of(scene, ours, theirs) for scene in range(16)}
    return Results(cfg=MINI, sweeps=sweeps, coverage=lines, chance={id: 0.25 for id, *_ in QUESTIONS})


def ours_wins(cell):
    return 0.6 if cell.settings.get("selection", "uhr_bat") != "uhr_bat" else 0.9


def judged_by_id(results):
    ids = [claim.id for claim in results.rules.claims]
    return dict(zip(ids, reproduction.claims(results), strict=True))


@pytest.fixture(scope="module")
def better():
    """Return the claims where ours wins."""
    return judged_by_id(results_of(ours_wins))


@pytest.mark.parametrize("plan_name", list(PLANS))
def test_every_claim_is_judged_from_the_cells_of_either_plan(plan_name):
    judged = reproduction.claims(results_of(ours_wins, plan_name))
    assert len({(one.where, one.claim) for one in judged}) == len(judged)
    assert all(one.command for one in judged if one.verdict == NEEDS_WEIGHTS)


def test_verdicts_follow_the_answers(better):
    worse = judged_by_id(results_of(lambda cell: 1.5 - ours_wins(cell)))
    for claim in ("down_sampling", "figure1", "global_one_site", "global_shared"):
        assert better[claim].verdict == REPRODUCED, claim
        assert worse[claim].verdict == NOT_REPRODUCED, claim
    assert better["importance"].verdict == better["purity"].verdict == REPRODUCED
    assert better["importance"].number.endswith("points (80.8 and 50.0 %) on 4.0 % of the anchor")
    assert better["evidence"].verdict == UNDECIDED  # all are kept at 3k: without width
    assert "without width" in better["evidence"].number
    assert "more" not in better["regions_covered"].number and better["regions_covered"].verdict == NOT_REPRODUCED


def test_a_gain_at_one_budget_and_a_loss_at_another_are_no_common_verdict():
    def few_tokens_win(cell):
        return ours_wins(cell) if cell.column != "6k" else 1.5 - ours_wins(cell)

    found = judged_by_id(results_of(few_tokens_win))["global_one_site"]
    assert found.verdict == DIFFERS
    assert [(one.column, one.verdict) for one in found.tests[:3]] == [
        ("1k", REPRODUCED),
        ("3k", REPRODUCED),
        ("6k", NOT_REPRODUCED),
    ]
    assert "all budgets" not in found.number
    table = study_tables.comparison_table([found])
    assert [row[3] for row in table.rows] == ["1k", "3k", "6k"], "no mean over budgets of different signs"


def test_what_the_weights_were_not_trained_for_is_shown_and_decides_nothing(better):
    raster, by_importance = better["down_sampling"].tests
    assert raster.verdict == OUTSIDE and "raster order" in raster.outside
    assert by_importance.verdict == better["down_sampling"].verdict == REPRODUCED
    assert better["figure5"].verdict == better["table9_beyond"].verdict == OUTSIDE
    assert better["figure5"].note == f"{OUTSIDE} (selection background)"
    assert better["table9_beyond"].note.endswith("(more than 729 tokens)")
    assert "12 comparisons, +26.8 to +26.8 points" in better["figure1"].note
    beyond = [one for one in better["figure1"].tests if one.outside]
    assert {one.name for one in beyond} == {f"uhr_bat - {n}" for n in ("fastv", "visionzip", "prumerge", "background")}
    assert all(one.verdict == OUTSIDE and one.adjusted is None for one in beyond)
    assert [one.outside for one in better["figure3"].tests] == ["", "", "", "more than 729 tokens"]
    # The others of the family are those that the weights were trained for, and their means over budgets.
    assert sum(not one.outside for one in better["figure1"].tests) == 4 * (3 + 1)


def test_what_is_true_by_construction_is_no_reproduction(better):
    assert [better[id].verdict for id in ("lemma_1", "lemma_2", "budget")] == [CONSTRUCTED] * 3
    results = results_of(ours_wins)
    results.coverage["0"]["facts"]["num_empty"] = 1
    assert judged_by_id(results)["lemma_1"].verdict == NOT_REPRODUCED


def test_guesses_decide_nothing_about_accuracy_but_coverage_stands():
    guessed = judged_by_id(results_of(lambda cell: 0.25))
    assert guessed["figure1"].verdict == UNDECIDED
    assert [one.verdict for one in guessed["targets_own_one_site"].tests[:2]] == [UNDECIDED, NOT_REPRODUCED]
    assert guessed["regions_covered"].verdict == NOT_REPRODUCED


def test_questions_that_no_way_answers_decide_nothing():
    results = results_of(ours_wins)
    chance = {id: 0.99 if form in SCATTERED else 0.25 for id, _, form, _ in QUESTIONS}
    judged = judged_by_id(dataclasses.replace(results, chance=chance))
    assert judged["global_scattered"].verdict == UNDECIDED and "guesses" in judged["global_scattered"].note
    for of in ("one_site", "shared"):
        assert judged[f"global_{of}"].verdict == REPRODUCED and not judged[f"global_{of}"].note


def test_shares_and_differences_of_targets_are_by_letter():
    results = results_of(ours_wins)
    lines, rules = results.coverage, results.rules

    def everyone(target):
        return True

    assert coverage.share(lines, "own", "uhr_bat", 2, "m", everyone, rules)[0] == 75
    assert coverage.share(lines, "own", "topk", 2, "k", everyone, rules)[0] == 100
    found = coverage.difference(lines, "own", "uhr_bat", "topk", (2, 3), everyone, rules)
    assert found.interval.middle == -37.5 and found.num_discordant == 48
    assert coverage.share(lines, "own", "topk", 2, "k", lambda target: False, rules) is None


def test_a_studys_files_hold_claims_plots_and_pictures(tmp_path):
    results = results_of(ours_wins)
    judged = [dataclasses.replace(one, note="<b>") for one in reproduction.claims(results)]
    names = [grid.name for sweep in results.sweeps.values() for grid in sweep.grids]
    matplotlib.figure.Figure(figsize=(1, 1)).savefig(tmp_path / "figure8.png")
    entry = '{"figure": "8", "title": "heat", "caption": "what it shows", "png": "figure8.png"}'
    (tmp_path / "figures.json").write_text(f"[{entry}]")
    pictures = study_page.read_figures(tmp_path)
    record = {"python": "3", "packages": {"jax": "1.2", "numpy": "3.4"}}
    study_page.write_study(judged, results, ["a fact"], tmp_path, pictures, record)
    page = (tmp_path / "report.html").read_text()
    written = {f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "png")}
    assert written | {"claims.md", "comparison.md", "coverage.md"} <= {path.name for path in tmp_path.iterdir()}
    assert page.count('class="mark') == len(judged)
    assert "jax 1.2, numpy 3.4" in page
    assert "questions with a red circle in the pixels are not asked" in page, "the rules' exclusions"
    assert "Figure 8. heat" in page and "what it shows" in page and "&lt;b&gt;" in page and "<script" not in page
    assert page.count("data:image/jpeg") == len(names) + 3
    text = study_tables.reproduction_markdown(judged, ["a fact"], "a command")
    assert text.count("**reproduced in miniature**") == sum(one.verdict == REPRODUCED for one in judged)
    assert "--benchmark=xlrs" in text
    table = study_tables.comparison_table(judged)
    assert {len(row) for row in table.rows} == {len(table.header)}
    for table in study_tables.coverage_tables(results.coverage, results.rules):
        assert {len(row) for row in table.rows} == {len(table.header)}


@pytest.mark.parametrize("text", ["{", "[1]", '[{"figure": "8"}]', None])
def test_a_damaged_list_of_figures_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "figures.json").write_text(text)
    with pytest.raises(ValueError, match=r"figures\.json"):
        study_page.read_figures(tmp_path)
