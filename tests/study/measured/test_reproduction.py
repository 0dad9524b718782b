"""Claims judged on made-up answers: verdicts follow the answers, and every table and the page hold them."""

import dataclasses

import matplotlib.figure
import pytest

from bat_jax.config import BatConfig
from bat_jax.report import study_page, study_tables
from bat_jax.study.measured import coverage, plan, reproduction
from bat_jax.study.measured.comparison import ONE_SITE, SCATTERED, SHARED
from bat_jax.study.measured.study_results import Results
from bat_jax.study.measured.sweep import Sweep
from bat_jax.study.measured.verdicts import NEEDS_WEIGHTS, NOT_REPRODUCED, REPRODUCED, UNDECIDED

MINI = BatConfig.mini()
FORMS = (*ONE_SITE, *SCATTERED)
QUESTIONS = [(f"{scene}-{form}", str(scene), form, {}) for scene in range(12) for form in FORMS]
QUESTIONS += [(f"{scene}-{form}-shared", str(scene), form, {"shared": 3}) for scene in range(12) for form in SHARED]
PLANS = {"reduced": plan.reduced(MINI), "full": plan.full(MINI)}


class MadeUpSweep(Sweep):
    """Answers of cells by a rule: share_of(cell) of the questions are right, the first ones of each scene."""

    def __init__(self, grids, share_of):
        self.grids, self.share_of = grids, share_of

    def records(self, cell):
        last = round(self.share_of(cell) * len(FORMS))
        return {
            id: {
                "id": id,
                "scene": scene,
                "facts": {"template": f"{form}/0"} | facts,
                "is_right": (FORMS.index(form) + int(scene)) % len(FORMS) < last,
                "status": "answered",
                "tokens_kept": list(cell.budgets),
                "seconds": sum(cell.budgets) / 1000,
                "compile_seconds": 0,
                "sub_task": form.partition("/")[0],
            }
            for id, scene, form, facts in QUESTIONS
        }


def line_of(ours, theirs):
    """Return coverage of a scene whose targets have these fates under UHR-BAT, and under all others."""
    ways = {way: ours if way == coverage.UHR_BAT else theirs for way in coverage.ways()}
    fates = dict.fromkeys((coverage.OWN, coverage.ORACLE), ways)
    targets = [
        {"question": "q", "object": 1, "is_scattered": scattered, "is_outer": outer, "fates": fates}
        for scattered in (False, True)
        for outer in (False, True)
    ]
    facts = {"purity": 0.9, "grid_purity": 0.8, "num_regions": 50, "num_covered": 20, "num_empty": 0}
    return {"targets": targets, "facts": facts | {"mass": [0.8], "area": [0.04]}}


def results_of(share_of, plan_name="reduced", ours="cmkkk", theirs="ckkkk"):
    sweeps = {}
    for part in PLANS[plan_name].parts:
        sweeps[part.name] = MadeUpSweep(part.grids, share_of)
    lines = {str(scene): line_of(ours, theirs) for scene in range(5)}
    return Results(cfg=MINI, sweeps=sweeps, coverage=lines, chance={id: 0.25 for id, *_ in QUESTIONS})


def ours_wins(cell):
    return 0.6 if cell.settings.get("selection", "uhr_bat") != "uhr_bat" else 0.9


def verdicts_of(results):
    return {(one.where, one.claim): one.verdict for one in reproduction.claims(results)}


@pytest.mark.parametrize("plan_name", list(PLANS))
def test_every_claim_is_judged_from_the_cells_of_either_plan(plan_name):
    judged = reproduction.claims(results_of(ours_wins, plan_name))
    assert len({(one.where, one.claim, one.ran) for one in judged}) == len(judged)
    assert all(one.command for one in judged if one.verdict == NEEDS_WEIGHTS)


def test_verdicts_follow_the_answers():
    better = verdicts_of(results_of(ours_wins))
    worse = verdicts_of(results_of(lambda cell: 1.5 - ours_wins(cell)))
    for claim in (
        ("Abstract", "direct down-sampling loses query-critical details"),
        ("Sec. 1, Fig. 1", "better than the other methods at equal tokens"),
        ("Abstract, Sec. 3.4", "global top-K loses what preserve-and-merge keeps: questions about one site"),
    ):
        assert better[claim] == REPRODUCED
        assert worse[claim] == NOT_REPRODUCED


def test_guesses_decide_nothing_about_accuracy_but_coverage_stands():
    guessed = verdicts_of(results_of(lambda cell: 0.25))
    assert guessed["Sec. 1, Fig. 1", "better than the other methods at equal tokens"] == UNDECIDED
    claim = "regions keep sparse targets that top-K loses: targets of questions about one site"
    assert guessed["Sec. 3.4", claim] == NOT_REPRODUCED
    assert guessed["Sec. 3.3", "B_s >= R_s guarantees every region a row"] == NOT_REPRODUCED


def test_questions_that_no_way_answers_decide_nothing():
    results = results_of(ours_wins)
    chance = {id: 0.99 if form in SCATTERED else 0.25 for id, _, form, _ in QUESTIONS}
    judged = reproduction.claims(dataclasses.replace(results, chance=chance))
    top_k = {one.claim.partition(": ")[2]: one for one in judged if one.claim.startswith("global top-K loses")}
    assert top_k["questions about several sites"].verdict == UNDECIDED
    assert "guesses" in top_k["questions about several sites"].note
    for of in ("about one site", "about different sites that share their tokens"):
        assert top_k[f"questions {of}"].verdict == REPRODUCED and not top_k[f"questions {of}"].note


def test_shares_and_differences_of_targets_are_by_letter():
    lines = results_of(ours_wins).coverage

    def everyone(target):
        return True

    assert coverage.share(lines, "own", "uhr_bat", 2, "m", everyone)[0] == 100
    assert coverage.share(lines, "own", "topk", 2, "k", everyone)[0] == 100
    assert coverage.difference(lines, "own", "uhr_bat", "topk", (2, 3), everyone)[0] == -50
    assert coverage.share(lines, "own", "topk", 2, "k", lambda target: False) is None


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
    assert "Figure 8: heat" in page and "what it shows" in page and "&lt;b&gt;" in page and "<script" not in page
    assert page.count("data:image/jpeg") == len(names) + 3
    text = study_tables.reproduction_markdown(judged, ["a fact"], "a command")
    assert text.count("**reproduced in miniature**") == sum(one.verdict == REPRODUCED for one in judged)
    assert "--benchmark=xlrs" in text
    table = study_tables.comparison_table(results)
    assert {len(row) for row in table.rows} == {len(table.header)}
    for table in study_tables.coverage_tables(results.coverage):
        assert {len(row) for row in table.rows} == {len(table.header)}


@pytest.mark.parametrize("text", ["{", "[1]", '[{"figure": "8"}]', None])
def test_a_damaged_list_of_figures_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "figures.json").write_text(text)
    with pytest.raises(ValueError, match=r"figures\.json"):
        study_page.read_figures(tmp_path)
