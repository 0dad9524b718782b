"""Scenes that are kept: read back they are those of a fresh run, and what differs never shares an entry."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bat_jax import scene_store
from bat_jax.config import AttentionKernels, CompressorConfig, ScaleSpec
from bat_jax.io.images import SourceImage
from bat_jax.io.scene_cache import SceneCache
from bat_jax.pipeline import BatModel
from bat_jax.scene_store import SceneStore
from tests.test_house import ORDER
from tests.tiny_model import SCALES, load_tiny, write_tiny_checkpoint

QUESTION = "How many ships are there?"


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (150, 230, 3), dtype=np.uint8)


def label_map():
    labels = np.zeros((150, 230), np.int32)
    labels[:, :100] = 3
    return labels


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


def with_store(model, store, cfg=None, params=None, **options):
    """Return a model of the same programs and other settings, with counts of its own."""
    parts = (cfg or model.cfg, params or model.params, model.tokenizer, options.pop("tile_batch", None))
    return BatModel(*parts, scene_store=store, **options)


def same_scene(one, other):
    for name in ("scales", "cache", "init_index"):
        first, second = (getattr(scene, name) for scene in (one, other))
        assert jax.tree.structure(first) == jax.tree.structure(second), name
        for left, right in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)


def test_a_second_evaluation_runs_no_tower_and_answers_bit_for_bit_as_a_fresh_one(tmp_path):
    """The second model is another copy of the checkpoint, read anew: entries are known by content alone."""
    scenes, answers, calls = [], [], []
    for copy in ("one", "two"):
        cache = SceneCache(tmp_path / "scenes", 10**8)
        model = load_tiny(tmp_path / copy, scene_cache=cache)
        scenes.append(model.encode(picture()))
        calls.append(dict(model.stages.num_calls))
        compiles = model.stages.num_compiles.copy()
        answers.append(scenes[-1].ask(QUESTION, max_new_tokens=4))
        assert model.stages.num_compiles - compiles == {"question": 1}
    assert calls == [{"image": 1}, {}]
    assert [scene.from_cache for scene in scenes] == [False, True]
    assert "image" in scenes[0].run_seconds and set(scenes[1].run_seconds) == {"scene_cache"}
    same_scene(*scenes)
    for name in ("image_size", "note", "num_regions", "grids", "region_capacity", "pad_colour"):
        assert getattr(scenes[0], name) == getattr(scenes[1], name)
    np.testing.assert_array_equal(scenes[0].pixels, scenes[1].pixels)
    np.testing.assert_array_equal(answers[0].token_ids, answers[1].token_ids)
    np.testing.assert_array_equal(answers[0].logits, answers[1].logits)


@pytest.mark.parametrize(
    "settings",
    [
        {"fidelity": "paper", "selection": "visionzip"},
        {"partition": "sam", "label_map": label_map()},
        {"partition": "birch"},
        {"partition": "one", "compute_dtype": "bfloat16"},
    ],
    ids=["tower's attention", "label map", "birch", "bfloat16"],
)
def test_every_form_of_a_scene_is_read_as_it_was_kept(model, tmp_path, settings):
    settings = dict(settings)
    options = {"label_map": settings.pop("label_map")} if "label_map" in settings else {}
    dtype = settings.pop("compute_dtype", "float32")
    cfg = dataclasses.replace(model.cfg.with_settings(**settings), compute_dtype=dtype)
    store = SceneStore(cache=SceneCache(tmp_path, 10**8), weights="w")
    scenes = [with_store(model, store, cfg, stages_apart=True).encode(picture(), **options) for _ in range(2)]
    assert [scene.from_cache for scene in scenes] == [False, True]
    same_scene(*scenes)
    for one, two in zip(*(scene.region_labels for scene in scenes), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_damaged_entry_is_said_removed_and_made_anew(model, tmp_path, capsys):
    store = SceneStore(cache=SceneCache(tmp_path, 10**8), weights="w")
    fresh = with_store(model, store).encode(picture())
    (path,) = tmp_path.glob("scene-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes(100))
    again = with_store(model, store)
    same_scene(again.encode(picture()), fresh)
    assert again.stages.num_calls == {"image": 1} and path.read_bytes() == whole
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


def test_intermediates_are_computed_not_read(model, tmp_path):
    store = SceneStore(cache=SceneCache(tmp_path / "scenes", 10**8), weights="w")
    scene = with_store(model, store, stages_apart=True).encode(picture(), keep_intermediates=True)
    assert scene.intermediates and not scene.from_cache and not (tmp_path / "scenes").exists()


class Asked(Exception):
    """Ends an encoding where the cache is asked; holds the key."""


class AskedCache:
    def read(self, key):
        raise Asked(key)


def key_of(model, image=None, *, weights="w", cfg=None, params=None, made=None, **options):
    """Return the key that encoding a picture asks for."""
    store = SceneStore(cache=AskedCache(), weights=weights)
    with pytest.raises(Asked) as found:
        with_store(model, store, cfg, params, **(made or {})).encode(picture() if image is None else image, **options)
    return found.value.args[0]


def source(valid=None):
    return SourceImage(pixels=picture(), valid=valid, full_size=(230, 150), note="")


# Another value of every setting of the compressor.
OTHER = {
    "fidelity": "paper",
    "scales": (dataclasses.replace(SCALES[0], budget=5), SCALES[1]),
    "partition": "grid",
    "num_clusters": 5,
    "kmeans_iterations": 9,
    "birch_threshold": 0.5,
    "feature_scale": 0.5,
    "coord_scale": 0.5,
    "cluster_features": "vision",
    "coordinates": "scale",
    "preserve_equal": True,
    "importance_layer": 0,
    "importance_query": "question",
    "mask_padding": True,
    "scale_embedding": True,
    "scale_embedding_extent": "scale",
    "scale_embedding_repeats": 1,
    "scale_embedding_in_attention": "as_set",
    "token_mlp": False,
    "selection": "topk",
    "fastv_layer": 1,
    "coverage": "guaranteed",
    "background": "region",
    "without_label_map": "error",
    "clip_clusters": False,
}


def test_what_differs_never_shares_an_entry(model, monkeypatch):
    cfg = model.cfg
    embedded = cfg.with_settings(scale_embedding=True)
    sam = cfg.with_settings(partition="sam")
    other_map = label_map()
    other_map[60:] = 4
    init = {112: np.arange(6), 224: np.arange(6) * 7}
    hole = np.ones((150, 230), bool)
    hole[:60, :60] = False
    black = source()
    black.pixels[~hole] = cfg.vision.pad_colour
    masked = cfg.with_settings(mask_padding=True)
    larger = (SCALES[0], ScaleSpec(size_px=168, budget=30))
    no_embedding = dataclasses.replace(cfg, scale_embedding=dataclasses.replace(cfg.scale_embedding, form="none"))
    no_embedding = no_embedding.with_settings(scale_embedding_in_attention="as_set")
    vision = dataclasses.replace(cfg.vision, pixel_mean=(0.5, 0.5, 0.5))
    keys = {
        "plain": key_of(model),
        "pixels": key_of(model, picture(1)),
        "shape": key_of(model, picture().reshape(230, 150, 3)),
        "masked": key_of(model, black, cfg=masked),
        "masked, no data": key_of(model, source(hole), cfg=masked),
        "seed": key_of(model, seed=1),
        "prefix": key_of(model, prefix_ids=np.array([1, 2, 3])),
        "max_clusters": key_of(model, max_clusters=9),
        "kmeans_init": key_of(model, kmeans_init=init),
        "other kmeans_init": key_of(model, kmeans_init=init | {112: np.arange(6) + 1}),
        "label map": key_of(model, cfg=sam, label_map=label_map()),
        "other label map": key_of(model, cfg=sam, label_map=other_map),
        "no label map": key_of(model, cfg=sam),
        "embedding": key_of(model, cfg=embedded),
        "repeats": key_of(model, cfg=embedded.with_settings(scale_embedding_repeats=1)),
        "extent": key_of(model, cfg=embedded.with_settings(scale_embedding_extent="scale")),
        "attention's embedding": key_of(model, cfg=cfg.with_settings(scale_embedding_in_attention="as_set")),
        "no embedding": key_of(model, cfg=no_embedding),
        "views": key_of(model, cfg=no_embedding.with_settings(scales=larger)),
        "tower's attention": key_of(model, cfg=cfg.with_settings(selection="visionzip")),
        "compute dtype": key_of(model, cfg=dataclasses.replace(cfg, compute_dtype="bfloat16")),
        "int8": key_of(model, cfg=cfg.with_weights("int8")),
        "bf16": key_of(model, cfg=cfg.with_weights("bf16")),
        "kernel": key_of(model, cfg=dataclasses.replace(cfg, attention=AttentionKernels(decoder="cudnn"))),
        "normalisation": key_of(model, cfg=dataclasses.replace(cfg, vision=vision)),
        "weights": key_of(model, weights="v"),
        "stages apart": key_of(model, made={"stages_apart": True}),
        "tiles at once": key_of(model, made={"tile_batch": 3}),
    }
    assert "layers_0" in model.params["decoder"]
    stacked = dict(model.params["decoder"])
    layers = [stacked.pop(f"layers_{layer}") for layer in range(cfg.decoder.num_layers)]
    stacked["layers"] = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
    keys["layers stacked"] = key_of(model, params=model.params | {"decoder": stacked})
    for name, spec in (("on a mesh", P()), ("cut over a mesh", P("model"))):
        sharding = NamedSharding(jax.make_mesh((1,), ("model",)), spec)
        projector = jax.device_put(model.params["projector"], sharding)
        keys[name] = key_of(model, params=model.params | {"projector": projector})
    for name in ("cluster_features", "coordinates", "feature_scale", "coord_scale", "num_clusters"):
        keys[name] = key_of(model, cfg=cfg.with_settings(**{name: OTHER[name]}))
    for name in ("birch_threshold", "kmeans_iterations", "partition"):
        keys[name] = key_of(model, cfg=cfg.with_settings(**{name: OTHER[name]}))
    for name, value in (
        ("FORMAT", 2),
        ("source_digest", lambda parts: "other"),
        ("package_version", lambda name: "0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(scene_store, name, value)
            keys[name] = key_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "other")
        patch.setattr("bat_jax.encoding.default_tile_batch", lambda *_: model.encoder.tile_batch)
        keys["device"] = key_of(model)
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_other")
        keys["compiler's options"] = key_of(model)
    jax.config.update("jax_default_matmul_precision", "default")
    keys["precision"] = key_of(model)
    jax.config.update("jax_default_matmul_precision", "highest")
    assert key_of(model) == keys["plain"]
    assert len(set(keys.values())) == len(keys)


def test_a_setting_outside_the_key_changes_nothing_of_a_scene(model):
    """So settings that only questions read share entries, and no setting is forgotten."""
    assert set(OTHER) == {field.name for field in dataclasses.fields(CompressorConfig)}
    plain, key = with_store(model, None, stages_apart=True).encode(picture()), key_of(model)
    shared = {}
    for name, value in OTHER.items():
        cfg = model.cfg
        # Through replace: `with_settings` takes a fidelity as a preset.
        cfg = dataclasses.replace(cfg, compressor=dataclasses.replace(cfg.compressor, **{name: value}))
        if key_of(model, cfg=cfg) == key:
            shared[name] = cfg
    assert {"scales", "selection", "token_mlp", "importance_layer", "preserve_equal"} <= set(shared)
    for cfg in shared.values():
        same_scene(with_store(model, None, cfg, stages_apart=True).encode(picture()), plain)


def test_the_code_that_an_entry_is_known_by_is_all_that_an_image_can_run():
    assert set(scene_store.SOURCES) == set(ORDER[: ORDER.index("encoding") + 1])


def test_a_copied_checkpoint_has_the_same_entries_and_other_weights_have_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("bat_jax.pipeline.load_device_params", lambda *args, **options: {})

    def weights(path):
        return BatModel.load(path, scene_cache=SceneCache(tmp_path / "scenes", 1)).encoder.scene_store.weights

    one, two = (write_tiny_checkpoint(tmp_path / name) for name in ("one", "two"))
    before = weights(one)
    assert weights(two) == before
    largest = max((two / "params").rglob("*"), key=lambda file: file.stat().st_size * file.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert weights(two) != before
