"""The examples of CONTRIBUTING.md, written to the files that it names, are found and do what it says."""

import dataclasses
import importlib
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bat_jax import model as bat
from bat_jax.benchmarks.registry import BENCHMARKS
from bat_jax.config import SELECTIONS
from bat_jax.report.answer_page import About, Ask
from bat_jax.report.figures.page import write_figures
from bat_jax.report.figures.record import FIGURES
from bat_jax.report.figures.subject import Subject
from tests.tiny_model import load_tiny, tiny_config

GUIDE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"
EXAMPLE = re.compile(r"^`([\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def examples(tmp_path_factory):
    """Write every example to its file below a folder that Python looks into as it does into the project."""
    folder = tmp_path_factory.mktemp("contributing")
    found = dict(EXAMPLE.findall(GUIDE.read_text(encoding="utf-8")))
    assert len(found) == 4
    registries = (SELECTIONS, BENCHMARKS, FIGURES)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name, text in found.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if path.parent != folder:
                package = importlib.import_module(path.parent.relative_to(folder).as_posix().replace("/", "."))
                patch.setattr(package, "__path__", [*package.__path__, str(path.parent)])
        for registry in registries:
            registry.refresh()
        yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
    for registry in registries:
        registry.refresh()


def test_every_example_is_found_by_its_name():
    assert "first" in SELECTIONS and "harbour_quiz" in BENCHMARKS and FIGURES.names[-1] == "views"


def test_the_benchmark_asks_and_reads_rows(tmp_path):
    rows = [
        {"question": "How many?", "options": ["two", "three"], "answer": "B", "category": "Counting ships"},
        {"question": "Which way?", "options": ["north", "south"], "answer": "A", "category": "ways out of the harbour"},
    ]
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    (tmp_path / "rows.json").write_text(json.dumps([row | {"image": "1.png"} for row in rows]))
    quiz = BENCHMARKS["harbour_quiz"]
    settings = {"data": str(tmp_path / "rows.json"), "image_folder": None, "prompt": "official", "leak_hint": False}
    pictures, facts = quiz.open(settings | {"max_pixels": 1000})
    tasks = [task for picture in pictures for task in picture.tasks]
    assert [task.text for task in tasks] == [
        "How many?\nA. two\nB. three\nAnswer with a letter.",
        "Which way?\nA. north\nB. south\nAnswer with a letter.",
    ]
    assert [task.sub_task for task in tasks] == ["ships", "routes"] and "2 questions" in facts
    assert quiz.official("It is B.", ("two", "three")) == "B"


def test_the_backbones_logits_stay_below_its_cap():
    cfg = tiny_config()
    kind = importlib.import_module("soft_cap").SoftCapConfig
    capped = kind(**dataclasses.asdict(cfg.decoder), logit_cap=0.5)
    params = bat.init_params(cfg, jax.random.key(0))
    hidden = 100 * jnp.ones((1, cfg.decoder.width))
    plain = bat.logits(cfg, params, hidden)
    ours = bat.logits(dataclasses.replace(cfg, decoder=capped), params, hidden)
    assert np.abs(plain).max() > 0.5
    np.testing.assert_allclose(ours, 0.5 * np.tanh(plain / 0.5), rtol=1e-5, atol=1e-6)


def test_the_selection_and_the_figure_are_drawn(tmp_path):
    model = load_tiny(tmp_path / "checkpoint", stages_apart=True)
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    subject = Subject(
        model.configured(model.cfg.with_settings(selection="first")), pixels, [Ask("Any ships?")], max_new_tokens=1
    )
    kept = np.asarray(subject.ask(subject.asks[0]).answer.selections[0][0].keep_index)
    assert kept[kept >= 0].tolist() == list(range(12))
    record = {"packages": {}, "seed": 0, "device": "", "cpu_count": 1, "bat_jax": "", "python": "", "date": ""}
    write_figures(tmp_path, subject, ["views"], About(notice="", checkpoint="tiny", record=record))
    with Image.open(tmp_path / "views.png") as picture:
        assert min(picture.size) > 200
    assert "Tokens kept of each view" in (tmp_path / "figures.html").read_text()
