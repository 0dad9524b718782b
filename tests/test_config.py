"""Config: errors that name the field, presets that differ where documented, JSON there and back.

The suite's type checks wrap bat_jax and would refuse a wrong value before the config sees it. Users run without them,
so this file imports the config a second time, past the hook.
"""

import dataclasses
import importlib
import json
import sys

import pytest


def config_without_type_checks():
    """Import bat_jax.config and its selections anew past the suite's import hook; leave sys.modules as it was."""
    wrapped = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("bat_jax.")}
    finders = sys.meta_path[:]
    sys.meta_path[:] = [finder for finder in finders if not type(finder).__module__.startswith("jaxtyping")]
    try:
        found = importlib.import_module("bat_jax.config")
        assert "uhr_bat" in found.SELECTIONS
        return found
    finally:
        sys.meta_path[:] = finders
        for name in [name for name in sys.modules if name.startswith("bat_jax.")]:
            del sys.modules[name]
        sys.modules.update(wrapped)


config = config_without_type_checks()
DEFAULT_SCALES_PX, PAPER_BUDGETS = config.DEFAULT_SCALES_PX, config.PAPER_BUDGETS
BatConfig, CompressorConfig, PromptConfig = config.BatConfig, config.CompressorConfig, config.PromptConfig
VisionConfig, DecoderConfig, MlpConfig = config.VisionConfig, config.DecoderConfig, config.MlpConfig
ScaleEmbeddingConfig, ScaleSpec = config.ScaleEmbeddingConfig, config.ScaleSpec


def scales(*pairs):
    return tuple(ScaleSpec(size_px=size, budget=budget) for size, budget in pairs)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: VisionConfig(width=0), "VisionConfig.width"),
        (lambda: VisionConfig(num_heads=7), "VisionConfig.num_heads"),
        (lambda: VisionConfig(patch_size_px=13), "VisionConfig.patch_size_px"),
        (lambda: VisionConfig(activation="relu"), "VisionConfig.activation"),
        (lambda: VisionConfig(select_layer=25), "VisionConfig.select_layer"),
        (lambda: VisionConfig(select_layer=-26), "VisionConfig.select_layer"),
        (lambda: DecoderConfig(num_kv_heads=3), "DecoderConfig.num_kv_heads"),
        (lambda: DecoderConfig(head_dim=5), "DecoderConfig.head_dim"),
        (lambda: DecoderConfig(rope_theta=0.0), "DecoderConfig.rope_theta"),
        (lambda: DecoderConfig(max_positions=-1), "DecoderConfig.max_positions"),
        (lambda: MlpConfig(in_dim=0, out_dim=1), "MlpConfig.in_dim"),
        (lambda: ScaleEmbeddingConfig(form="other"), "ScaleEmbeddingConfig.form"),
        (
            lambda: ScaleEmbeddingConfig(form="residual", scales_px=(672, 1344), sides=(48,)),
            "ScaleEmbeddingConfig.sides",
        ),
        (lambda: ScaleSpec(size_px=0, budget=1), "ScaleSpec.size_px"),
        (lambda: ScaleSpec(size_px=672, budget=0), "ScaleSpec.budget"),
        (lambda: CompressorConfig.paper(partition="slic"), "CompressorConfig.partition"),
        (lambda: CompressorConfig.paper(cluster_features="pixels"), "CompressorConfig.cluster_features"),
        (lambda: CompressorConfig.paper(coordinates="polar"), "CompressorConfig.coordinates"),
        (lambda: CompressorConfig.paper(importance_query="all"), "CompressorConfig.importance_query"),
        (lambda: CompressorConfig.paper(coverage="on"), "CompressorConfig.coverage"),
        (lambda: CompressorConfig.paper(background="none"), "CompressorConfig.background"),
        (lambda: CompressorConfig.paper(without_label_map="skip"), "CompressorConfig.without_label_map"),
        (lambda: CompressorConfig.paper(kmeans_iterations=0), "CompressorConfig.kmeans_iterations"),
        (lambda: CompressorConfig.paper(num_clusters=-1), "num_clusters"),
        (lambda: CompressorConfig.paper(scales=()), "scales"),
        (lambda: CompressorConfig.paper(scales=scales((1344, 10), (672, 10))), "scales"),
        (lambda: CompressorConfig.paper(scales=scales((672, 10), (672, 20))), "scales"),
        (lambda: CompressorConfig.preset("authors"), "fidelity"),
        (lambda: PromptConfig(images="none"), "PromptConfig.images"),
        (lambda: BatConfig.uhr_bat_7b(compute_dtype="float16"), "BatConfig.compute_dtype"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(build, field):
    with pytest.raises(ValueError, match=f"^{field}=") as error:
        build()
    assert "must" in str(error.value) or "needs" in str(error.value)


def with_compressor(**overrides):
    return lambda: BatConfig.uhr_bat_7b(compressor=CompressorConfig.release(**overrides))


@pytest.mark.parametrize(
    ("build", "field", "says"),
    [
        (with_compressor(scales=scales((672, 2305))), "budgets", "scale 672 has only 2304 tokens"),
        (with_compressor(scales=scales((672, 80), (1000, 80))), "scales", "multiple of the tile's 336 pixels"),
        (with_compressor(importance_layer=28), "importance_layer", "28 layers"),
        (with_compressor(importance_layer=-29), "importance_layer", "28 layers"),
        (with_compressor(selection="fastv", fastv_layer=29), "fastv_layer", "28 layers"),
        (with_compressor(selection="dense"), "selection", "--budgets=2304,9216,36864,82944"),
        (
            with_compressor(scale_embedding=True, scales=scales((336, 10), (672, 80))),
            "scales",
            r"knows \[672, 1344, 2688, 4032\] only",
        ),
        (lambda: BatConfig.uhr_bat_7b(has_token_mlp=False), "token_mlp", "holds no token MLP"),
        (
            lambda: BatConfig.uhr_bat_7b("paper", scale_embedding=ScaleEmbeddingConfig()),
            "scale_embedding",
            "holds no scale embedding",
        ),
        (
            lambda: BatConfig(scale_embedding=ScaleEmbeddingConfig(form="base", width=8), has_token_mlp=True),
            "scale_embedding.width",
            "decoder's 3584",
        ),
    ],
)
def test_a_setting_that_the_weights_cannot_serve_is_refused(build, field, says):
    with pytest.raises(ValueError, match=f"^{field}=.*{says}"):
        build()


def test_a_budget_may_be_as_large_as_its_scale():
    cfg = BatConfig.uhr_bat_7b(compressor=CompressorConfig.release(scales=scales((672, 2304), (1344, 9216))))
    assert cfg.compressor.budgets == (2304, 9216)


def test_dense_needs_room_for_every_token_in_the_decoder():
    cfg = BatConfig.mini()
    fits = tuple(ScaleSpec(size_px=px, budget=cfg.num_tokens(px)) for px in (224, 448))
    assert cfg.with_settings(selection="dense", scales=fits).compressor.selection == "dense"
    whole = (*fits, ScaleSpec(size_px=896, budget=4096))
    with pytest.raises(ValueError, match=r"\[224, 448, 896\] have 5376 tokens together, the decoder 4096 positions"):
        cfg.with_settings(selection="dense", scales=whole)


def test_fastv_reads_the_last_tokens_row_of_its_own_layer():
    settings = CompressorConfig.paper(selection="fastv", fastv_layer=3, importance_layer=-1)
    assert (settings.attention_layer, settings.attention_query) == (2, "last_token")
    settings = dataclasses.replace(settings, selection="topk")
    assert (settings.attention_layer, settings.attention_query) == (-1, "question")


def test_paper_refuses_more_clusters_than_the_smallest_scale_has_tokens():
    assert BatConfig.uhr_bat_7b(compressor=CompressorConfig.paper(num_clusters=2304))
    with pytest.raises(ValueError, match=r"^num_clusters=2305.*at most 2304"):
        BatConfig.uhr_bat_7b(compressor=CompressorConfig.paper(num_clusters=2305))


def test_release_clips_clusters_up_to_the_largest_scales_tokens():
    cfg = BatConfig.uhr_bat_7b(compressor=CompressorConfig.release(num_clusters=82944))
    anchor, *_, finest = cfg.compressor.scales
    assert cfg.compressor.clusters_of(anchor, 2304) == 2304
    assert cfg.compressor.clusters_of(finest, 82944) == 82944
    with pytest.raises(ValueError, match=r"^num_clusters=82945.*at most 82944"):
        BatConfig.uhr_bat_7b(compressor=CompressorConfig.release(num_clusters=82945))


def test_label_maps_bring_their_own_regions_so_no_cluster_count_is_refused():
    assert BatConfig.uhr_bat_7b("paper", compressor=CompressorConfig.paper(partition="sam", num_clusters=10**6))


def test_zero_clusters_mean_as_many_as_the_budget():
    settings = CompressorConfig.paper(num_clusters=0)
    assert [settings.clusters_of(scale, 2304) for scale in settings.scales] == [80, 320, 600, 2000]
    assert CompressorConfig.paper(num_clusters=7).clusters_of(settings.scales[0], 2304) == 7


DIFFERENCES = {
    "fidelity": ("paper", "release"),
    "cluster_features": ("vision", "projected"),
    "coordinates": ("scale", "tile"),
    "preserve_equal": (True, False),
    "importance_query": ("question", "last_token"),
    "mask_padding": (True, False),
    "scale_embedding": (True, False),
    "scale_embedding_extent": ("scale", "tile"),
    "scale_embedding_repeats": (1, 2),
    "scale_embedding_in_attention": ("as_set", "always"),
    "token_mlp": (False, True),
    "without_label_map": ("error", "top"),
    "clip_clusters": (False, True),
}


def test_the_presets_differ_in_exactly_the_documented_fields():
    paper, release = (dataclasses.asdict(CompressorConfig.preset(name)) for name in ("paper", "release"))
    assert {name: (paper[name], release[name]) for name in paper if paper[name] != release[name]} == DIFFERENCES


def test_the_prompts_presets_differ_in_newline_and_images():
    paper, release = (dataclasses.asdict(PromptConfig.preset(name)) for name in ("paper", "release"))
    assert {name: (paper[name], release[name]) for name in paper if paper[name] != release[name]} == {
        "keep_image_newline": (False, True),
        "images": ("all", "first"),
    }
    assert not paper["mask_added_tokens"], "off in both presets"
    assert PromptConfig.release() == PromptConfig.preset("release")
    assert paper["system"] == "You are a helpful assistant."


def test_an_override_flips_one_field_of_a_preset():
    for preset in (CompressorConfig.paper, CompressorConfig.release):
        for name, values in DIFFERENCES.items():
            flipped = next(value for value in values if value != getattr(preset(), name))
            assert dataclasses.replace(preset(), **{name: flipped}) == preset(**{name: flipped})


@pytest.mark.parametrize("name", PAPER_BUDGETS)
def test_every_budget_set_of_the_paper_fits_the_default_scales(name):
    budgets = PAPER_BUDGETS[name]
    settings = CompressorConfig.release(scales=scales(*zip(DEFAULT_SCALES_PX, budgets, strict=True)))
    cfg = BatConfig.uhr_bat_7b(compressor=settings)
    assert cfg.compressor.budgets == budgets
    assert cfg.compressor.sizes_px == (672, 1344, 2688, 4032)


def test_the_papers_token_and_tile_counts():
    cfg = BatConfig.uhr_bat_7b()
    assert [cfg.num_tokens(size) for size in DEFAULT_SCALES_PX] == [2304, 9216, 36864, 82944]
    assert [cfg.num_tiles(size) for size in DEFAULT_SCALES_PX] == [4, 16, 64, 144]
    assert (cfg.vision.side, cfg.vision.num_patches, cfg.vision.num_run_layers) == (24, 576, 23)
    assert cfg.scale_embedding.sides == (48, 64, 64, 64)
    assert (cfg.projector, cfg.token_mlp) == (
        MlpConfig(in_dim=1024, out_dim=3584),
        MlpConfig(in_dim=3584, out_dim=3584),
    )


@pytest.mark.parametrize(("select_layer", "expected"), [(-1, 24), (-2, 23), (-25, 0), (0, 0), (24, 24), (3, 3)])
def test_layers_behind_the_selected_one_never_run(select_layer, expected):
    assert VisionConfig(select_layer=select_layer).num_run_layers == expected


CONFIGS = {
    "release": BatConfig.uhr_bat_7b(),
    "paper": BatConfig.uhr_bat_7b("paper"),
    "base embedding": BatConfig(
        scale_embedding=ScaleEmbeddingConfig(form="base", scales_px=(336, 672)),
        compressor=CompressorConfig.paper(scales=scales((336, 5), (672, 9)), num_clusters=0),
    ),
    "small": BatConfig(
        vision=VisionConfig(width=8, num_heads=2, num_layers=2, mlp_dim=8),
        compressor=CompressorConfig.release(token_mlp=False, coord_scale=0.3, partition="sam"),
        compute_dtype="bfloat16",
    ),
    "int8": BatConfig().with_weights("int8"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_json_there_and_back_is_the_same_hashable_config(name, tmp_path):
    cfg = CONFIGS[name]
    text = cfg.to_json()
    again = BatConfig.from_json(text)
    assert again == cfg
    assert hash(again) == hash(cfg), "configs are static arguments of compiled programs"
    assert again.to_json() == text
    (tmp_path / "config.json").write_text(text)
    assert BatConfig.load(tmp_path / "config.json") == cfg
    assert json.loads(text)["compressor"]["scales"][0] == dataclasses.asdict(cfg.compressor.scales[0])
    assert json.loads(text)["decoder"].get("weights") == ("int8" if name == "int8" else None), "files stay as they were"


def edited(change):
    values = json.loads(CONFIGS["release"].to_json())
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(extra=1), "^config=.*'extra'.*unknown"),
        (lambda v: v["vision"].update(depth=1), "^vision=.*'depth'.*unknown"),
        (lambda v: v["compressor"]["scales"][1].update(side=1), "^compressor.scales=.*'side'.*unknown"),
        (lambda v: v["compressor"].pop("preserve_equal"), "^compressor:.*preserve_equal"),
        (lambda v: v["compressor"]["scales"][0].pop("budget"), "^compressor.scales:.*budget"),
        (lambda v: v["vision"].update(num_heads=7), r"^VisionConfig\.num_heads=7"),
        (lambda v: v["compressor"].update(num_clusters=10**6), "^num_clusters="),
        (lambda v: v["decoder"].update(rope_theta=float("inf")), r"^decoder\.rope_theta=inf.*finite"),
        (lambda v: v["decoder"].update(norm_eps=float("nan")), r"^decoder\.norm_eps=nan.*finite"),
        (lambda v: v.update(prompt=[]), r"^prompt=\[\].*JSON object"),
    ],
)
def test_a_wrong_field_of_a_config_file_is_refused_by_name(change, says):
    with pytest.raises(ValueError, match=says):
        BatConfig.from_json(edited(change))


@pytest.mark.parametrize("text", ["", "{", "not json", "[1, 2]", "3"])
def test_a_file_that_is_no_json_object_is_refused(text):
    with pytest.raises(ValueError, match="config"):
        BatConfig.from_json(text)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v["compressor"].update(scales=5), "scales"),
        (lambda v: v["compressor"].update(scales=[5]), "scales"),
        (lambda v: v["compressor"].update(num_clusters="600"), "num_clusters"),
        (lambda v: v["vision"].update(width="1024"), "width"),
        (lambda v: v["decoder"].update(num_layers=None), "num_layers"),
        (lambda v: v["decoder"].update(num_heads=28.0), "num_heads"),
        (lambda v: v["compressor"].update(importance_layer="last"), "importance_layer"),
        (lambda v: v["compressor"].update(token_mlp="no"), "token_mlp"),
        (lambda v: v["scale_embedding"].update(sides=48), "sides"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(change, field):
    with pytest.raises(ValueError, match=field):
        BatConfig.from_json(edited(change))


def test_a_whole_number_serves_as_a_float():
    cfg = BatConfig.from_json(edited(lambda v: v["decoder"].update(rope_theta=1000000)))
    assert cfg.decoder.rope_theta == 1e6


def test_networks_depend_on_the_weights_alone():
    """What only runs a network is compiled for `networks`: settings must not reach it, sizes must."""
    release, paper = BatConfig.uhr_bat_7b(), BatConfig.uhr_bat_7b("paper")
    assert release.networks == paper.networks
    few = CompressorConfig.release(scales=scales((672, 3)), num_clusters=3, importance_layer=5, coverage="guaranteed")
    assert dataclasses.replace(release, compressor=few).networks == release.networks
    assert dataclasses.replace(release, compute_dtype="float32").networks != release.networks
    larger = dataclasses.replace(release.vision, mlp_dim=8192)
    assert dataclasses.replace(release, vision=larger).networks != release.networks
    for name in ("vision", "decoder", "scale_embedding", "has_token_mlp", "compute_dtype"):
        assert getattr(release.networks, name) == getattr(release, name)
    assert release.networks.networks == release.networks
