"""The path on shapes against the model's own: the same programs, as often, and results of the same sizes."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.engine.cost import Text
from bat_jax.engine.mesh import device_mesh
from bat_jax.fit.abstract_run import AbstractRun
from bat_jax.fit.inference import abstract_params, ask, encode
from bat_jax.io.prompts import SHORTEST_TEXT
from tests.fit.shapes_alone import ShapesAlone
from tests.tiny_model import load_tiny

IMAGE_PX, ANSWER = 300, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")
    model.encoder.views_on_device = True  # as on a GPU
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["in one", "apart"])
def walked(request, model):
    """Ask a loaded model one question about a square picture, and walk the same on shapes."""
    model.stages_apart = model.encoder.stages_apart = request.param
    before = model.stages.num_calls.copy()
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    scene = model.encode(pixels)
    scene.ask("How many ships are there?", max_new_tokens=ANSWER)
    num_calls = model.stages.num_calls - before
    mesh = device_mesh(model.cfg, "model=1")
    run = AbstractRun(mesh, ShapesAlone())
    text = Text(prefix=scene.prefix_ids.size, question=SHORTEST_TEXT, answer=ANSWER)
    params = run.hold(abstract_params(model.cfg, mesh))
    weight_bytes = run.held
    tile_batch = model.encoder.tile_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bat_jax.fit.inference.has_views_program", lambda platform: True)
        abstract = encode(run, model.cfg, params, text, IMAGE_PX, tile_batch, stages_apart=request.param)
    scene_bytes = run.held - weight_bytes
    ask(run, model.cfg, params, abstract, text, stages_apart=request.param)
    return num_calls, scene, run, weight_bytes, scene_bytes


def test_every_program_of_the_pipeline_is_walked_as_often_as_it_runs(walked):
    num_calls, _, run, _, _ = walked
    assert collections.Counter({name: row.calls for name, row in run.rows.items()}) == num_calls
    assert len(num_calls) in (3, 15)


def test_weights_and_scene_take_what_the_loaded_ones_take(walked, model):
    _, scene, run, weight_bytes, scene_bytes = walked
    assert weight_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert scene_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves((scene.arrays, scene.init_index)))
    assert run.held == weight_bytes + scene_bytes, "a question leaves nothing behind"


def test_questions_at_once_are_the_program_that_the_model_asks_them_in(model):
    """Three of room for four; the walked program's results have the sizes of the real one's."""

    class Results(ShapesAlone):
        def find(self, name, *rest):
            memory, self.results = super().find(name, *rest)
            return memory, self.results

    model.stages_apart = model.encoder.stages_apart = False
    pixels = np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8)
    scene = model.encode(pixels)
    before = model.stages.num_calls.copy()
    first, *_ = scene.ask_many(["How many ships?", "Is there a bridge?", "Where?"], room=4, max_new_tokens=ANSWER)
    calls = model.stages.num_calls - before
    mesh, programs = device_mesh(model.cfg, "model=1"), Results()
    run = AbstractRun(mesh, programs)
    text = Text(prefix=scene.prefix_ids.size, question=SHORTEST_TEXT, answer=ANSWER)
    params, abstract = run.hold(abstract_params(model.cfg, mesh)), run.hold(scene.arrays)
    ask(run, model.cfg, params, abstract, text, 4)
    assert {name: row.calls for name, row in run.rows.items()} == calls == {"questions": 1}
    assert jax.tree.map(jnp.shape, programs.results) == jax.tree.map(jnp.shape, first.arrays)
    with pytest.raises(ValueError, match="questions_at_once=4: are one program"):
        ask(run, model.cfg, params, abstract, text, 4, stages_apart=True)
