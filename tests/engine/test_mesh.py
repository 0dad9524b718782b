"""What `--mesh` means, and where it puts a model's parameters."""

import jax
import pytest
from flax import traverse_util
from jax.sharding import AbstractMesh, AxisType

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.engine.mesh import device_mesh, mesh_axes, param_sharding, params_at, parse_axes
from bat_jax.nn.decoder import layers_apart

CFG = BatConfig.uhr_bat_7b()


@pytest.mark.parametrize(
    ("text", "axes"), [("model=4", (1, 4)), ("data=2", (2, 1)), ("data=2,model=8", (2, 8)), ("model=2,data=3", (3, 2))]
)
def test_an_axis_that_is_not_named_has_one_device(text, axes):
    assert parse_axes(text) == dict(zip(("data", "model"), axes, strict=True))


@pytest.mark.parametrize(("model", "heads", "copies"), [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 4, 2), (16, 4, 4)])
def test_beyond_the_key_value_heads_devices_hold_the_same_ones(model, heads, copies):
    assert mesh_axes(CFG, {"data": 3, "model": model}) == {"data": 3, "heads": heads, "copies": copies}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows=2", "mesh=rows=2: need axes as data=1,model=4; known are data, model"),
        ("model", "mesh=model: need axes"),
        ("model=0", "mesh=model=0: need axes"),
        ("model=3", "mesh: model=3 neither divides the 4 key-value heads nor is a multiple of them"),
        ("model=6", "mesh: model=6 neither divides"),
        ("model=12", "mesh: model=12 does not divide the 18944 rows of the decoder's MLP"),
        ("data=4,model=2", "mesh=data=4,model=2: needs 8 devices, there are 1"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        device_mesh(CFG, text, jax.devices()[:1])


def made_up_mesh(model):
    axes = mesh_axes(CFG, {"data": 1, "model": model})
    return AbstractMesh(tuple(axes.values()), tuple(axes), (AxisType.Auto,) * 3)


def seen(weights, model):
    """Return the shape of every leaf of the 7B, and its sharding on `model` devices, by path."""
    mesh = made_up_mesh(model)
    shapes = jax.eval_shape(layers_apart, bat.loaded_shapes(CFG.with_weights(weights)))
    flat = traverse_util.flatten_dict(shapes, sep="/")
    placed = traverse_util.flatten_dict(params_at(mesh, shapes), sep="/")
    return {path: (leaf, placed[path]) for path, leaf in flat.items()}


@pytest.mark.parametrize("weights", ["stored", "int8"])
@pytest.mark.parametrize("model", [2, 4])
def test_all_but_norms_biases_and_the_tower_is_cut_evenly(weights, model):
    whole = {path for path, (leaf, at) in seen(weights, model).items() if at.shard_shape(leaf.shape) == leaf.shape}
    names = {path.rpartition("/")[0].rpartition("/")[2] for path in whole if path.startswith("decoder/")}
    scales = {"o_proj", "down_proj", "embed_tokens"} if weights == "int8" else set()
    assert names == {"norm", "input_layernorm", "post_attention_layernorm"} | scales
    assert {path.partition("/")[0] for path in whole} >= {"vision_tower", "projector"}


def test_a_stack_of_layers_is_cut_as_its_layers_are():
    mesh = made_up_mesh(4)
    for path, shape in {"self_attn/o_proj/kernel": (3584, 3584), "mlp/up_proj/kernel": (3584, 18944)}.items():
        apart = param_sharding(mesh, f"decoder/layers_3/{path}", shape)
        stacked = param_sharding(mesh, f"decoder/layers/{path}", (28, *shape))
        assert tuple(stacked.spec) == (None, *apart.spec) and any(apart.spec)


def test_a_vocabulary_that_the_devices_do_not_divide_is_whole():
    shape = (3584, 152_065)
    assert param_sharding(made_up_mesh(4), "decoder/lm_head/kernel", shape).shard_shape(shape) == shape
