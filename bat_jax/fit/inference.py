"""The path from a picture to an answer as an `AbstractRun`: the programs of encoding.py and pipeline.py, on shapes.

An image is one program and a question, or several at once, one; or, `stages_apart`, their stages are. What those files
hold on to is held.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bat_jax import model as bat
from bat_jax.config import BatConfig
from bat_jax.engine.cost import Text
from bat_jax.engine.image import (
    ImageArrays,
    Regions,
    encode_in_one,
    encode_views,
    has_views_program,
    make_scene,
    view_shapes,
)
from bat_jax.engine.mesh import params_at
from bat_jax.engine.question import (
    QuestionArrays,
    SceneArrays,
    SceneLayout,
    Suffix,
    answer,
    answer_in_one,
    answer_many,
)
from bat_jax.fit.abstract_run import AbstractRun
from bat_jax.io.views import rounded_side, view_arguments
from bat_jax.nn.decoder import layers_apart
from bat_jax.ops.bicubic import view_tiles


def shape(*sizes: int, dtype: Any = jnp.int32) -> Any:
    """Return the shape and dtype of an array from the host."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def room(num_bytes: int) -> Any:
    """Return so many bytes, held by every device."""
    return shape(num_bytes, dtype=jnp.uint8)


def abstract_params(cfg: BatConfig, mesh: Mesh) -> Any:
    """Return the shapes of a model's weights where `BatModel` holds them, decoder layers apart."""
    tree = jax.eval_shape(layers_apart, bat.loaded_shapes(cfg))
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), tree, params_at(mesh, tree))


def scene_layout(cfg: BatConfig) -> SceneLayout:
    """Return the grids and region capacities of a scene whose regions are made by a program."""
    settings = cfg.compressor
    grids = tuple(bat.token_grid(cfg, size) for size in settings.sizes_px)
    counts = (settings.clusters_of(spec, grid.num_tokens) for spec, grid in zip(settings.scales, grids, strict=True))
    return SceneLayout(grids, tuple(max(count, 1) for count in counts))


def encode(
    run: AbstractRun,
    cfg: BatConfig,
    params: Any,
    text: Text,
    image_px: int,
    tile_batch: int,
    *,
    stages_apart: bool = False,
) -> SceneArrays:
    """Run what depends on the image alone; leaves held what a scene holds.

    Raises:
      ValueError: the partition is made on the host.
    """
    settings, layout = cfg.compressor, scene_layout(cfg)
    if settings.partition not in ("kmeans", "grid", "one"):
        raise ValueError(f"partition={settings.partition!r}: is made on the host; fit takes kmeans, grid and one")
    image = ImageArrays(
        prefix_ids=shape(text.prefix),
        seed=shape(dtype=jnp.uint32),
        num_clusters=(shape(),) * len(layout.grids),
        kmeans_steps=shape(),
        regions=tuple(Regions(shape(grid.num_tokens, dtype=bool)) for grid in layout.grids),
    )
    with run.scope():
        table, image = run.hold(shape(256, 3, dtype=jnp.float32)), run.hold(image)
        if has_views_program(run.mesh.devices.flat[0].platform):
            picture = np.broadcast_to(np.uint8(0), (rounded_side(image_px), rounded_side(image_px), 3))
            arguments = view_arguments(picture, settings.sizes_px, cfg.vision)
            views = run.stage("views", view_tiles, (cfg.vision.image_size_px,), *arguments)
        else:
            views = run.hold(view_shapes(cfg))
        if stages_apart:
            features = encode_views(run.stage, cfg, tile_batch, params, table, views)
            made = make_scene(run.stage, cfg, layout.region_capacity, params, features, image)
        else:
            static = (cfg, tile_batch, layout.region_capacity)
            made = run.stage("image", encode_in_one, static, params, table, views, image)
    scene, _ = run.hold(made)
    return scene


def ask(
    run: AbstractRun,
    cfg: BatConfig,
    params: Any,
    scene: SceneArrays,
    text: Text,
    questions_at_once: int = 1,
    *,
    stages_apart: bool = False,
) -> None:
    """Run what one question costs, its answer included, or several at once; leaves nothing held.

    Raises:
      ValueError: several at once, stages apart.
    """
    many = (questions_at_once,) if questions_at_once > 1 else ()
    if many and stages_apart:
        raise ValueError(f"questions_at_once={questions_at_once}: are one program, stages apart take one at a time")

    def rows(count: int, dtype: Any = jnp.int32) -> Any:
        return shape(*many, count, dtype=dtype)

    ids, valid, number = rows(text.question), rows(text.question, bool), shape(dtype=jnp.float32)
    question = QuestionArrays(
        suffixes=(Suffix(ids, valid, rows(text.question, jnp.float32)),),
        shares=(shape(len(cfg.compressor.scales)),),
        texts=(rows(text.prefix), ids),
        text_valid=(rows(text.prefix, bool), valid),
        stop_ids=shape(2),
        temperature=number,
        top_p=number,
        seed=shape(dtype=jnp.uint32),
    )
    static = (cfg, (scene_layout(cfg),), text.answer)
    with run.scope():
        arrays = (params, (scene,), run.hold(question))
        if stages_apart:
            answer(run.stage, *static, *arrays)
        elif many:
            run.stage("questions", answer_many, static, *arrays, run.hold(shape()))
        else:
            run.stage("question", answer_in_one, static, *arrays)
