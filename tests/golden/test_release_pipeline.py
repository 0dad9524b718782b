"""The whole inference path against every recorded array of the authors' release, float32 on a CPU.

Activations within 1e-4 absolute (importance 1e-4 relative, as its values are about 1e-4), integer arrays exactly.
"""

import dataclasses
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model as bat
from bat_jax.compress.partition import cluster_rows, label_regions, scaled_rows
from bat_jax.config import ScaleSpec
from bat_jax.io.convert import convert
from bat_jax.io.label_maps import read_label_map
from bat_jax.io.params import load_params
from bat_jax.io.prompts import build_prompt, split_ids
from bat_jax.nn.clip_vit import ClipVit
from bat_jax.nn.int8 import held_params
from bat_jax.ops.kmeans import kmeans, kmeans_of_scaled
from bat_jax.pipeline import BatModel
from tests.golden.golden_vectors import ARRAYS, DEV, META, selected_positions

SCALES = (672, 1344)
ATOL = 1e-4
KMEANS = {
    "kmA": {},
    "kmB": {"scale_embedding": True},
    "kmC": {"num_clusters": 0},
    "kmD": {"num_clusters": 0, "scale_embedding": True},
    "kmE": {"num_clusters": 400},
    "kmF": {"kmeans_iterations": 100},
}
LARGE = (ScaleSpec(size_px=672, budget=220), ScaleSpec(size_px=1344, budget=700))
SAM = {
    "samM0": {},
    "samM1": {"scales": LARGE},
    "samR": {"scales": LARGE, "scale_embedding": True},
    "samT": {},
    "samTR": {"scale_embedding": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("golden") / "converted"
    convert(DEV / "checkpoint", directory)
    cfg = BatModel.read_config(directory)
    scales = tuple(ScaleSpec(size_px=size, budget=budget) for size, budget in zip(SCALES, (40, 96), strict=True))
    cfg = cfg.with_settings(scales=scales, num_clusters=16)
    return BatModel.load(directory, cfg=cfg, stages_apart=True)  # the cases share what they have in common


@pytest.fixture(scope="module")
def plain_scene(base):
    return base.encode(DEV / "image.png", keep_intermediates=True)


def configured(base, **settings):
    return base.configured(base.cfg.with_settings(**settings))


def close(actual, expected, atol=ATOL):
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=0, atol=atol)


def test_prompt_ids_equal_the_release(base):
    prompt = build_prompt(base.tokenizer, META["question"], 1, base.cfg.prompt)
    ids = np.concatenate([prompt.pieces[0], [-200], prompt.pieces[1]])
    np.testing.assert_array_equal(ids, ARRAYS["input_ids"])
    np.testing.assert_array_equal(np.ones(ids.size), ARRAYS["attention_mask"])
    masked = dataclasses.replace(base.cfg.prompt, mask_added_tokens=True)
    prompt = build_prompt(base.tokenizer, META["question"], 1, masked)
    ids = np.concatenate([prompt.pieces[0], [-200], prompt.pieces[1]])
    np.testing.assert_array_equal(ids, ARRAYS["input_ids_eval_script"])


def test_pixels_equal_the_release_bit_for_bit(plain_scene):
    for size in SCALES:
        pixels = plain_scene.intermediates[f"pixels_{size}"].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(pixels[:, :, ::16, ::16], ARRAYS[f"pixels.s{size}.strided16"])
        digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
        assert digest == META["kmeans"]["pixels"][str(size)]["sha256_float32_C_order"]


def test_vision_projector_and_residual_equal_the_release(plain_scene):
    for size in SCALES:
        vision = plain_scene.intermediates[f"vision_{size}"]
        close(vision[ARRAYS[f"vision.s{size}.tile_index"]], ARRAYS[f"vision.s{size}.out"])
        close(vision.mean(axis=1), ARRAYS[f"vision.s{size}.token_mean"])
        close(vision.std(axis=1, ddof=1), ARRAYS[f"vision.s{size}.token_std"])
        projected = plain_scene.intermediates[f"projected_{size}"]
        close(projected[ARRAYS[f"vision.s{size}.tile_index"][:1]], ARRAYS[f"projector.s{size}.out"])
        close(projected[:, ::37], ARRAYS[f"projector.s{size}.strided37"])
        residual = plain_scene.intermediates[f"scale_embedding_{size}"]
        close(residual, ARRAYS[f"residual.s{size}.interp24"])
        for repeats in (0, 1):
            encoded = projected + repeats * residual
            close(encoded.reshape(-1, 64)[::41], ARRAYS[f"encode.res{repeats}.s{size}.strided41"])
            close(encoded.mean(axis=1), ARRAYS[f"encode.res{repeats}.s{size}.tile_mean"])


def test_every_hidden_state_of_the_tower_and_its_class_token_equal_the_release(plain_scene, tmp_path):
    # Selecting the last layer makes the converter keep all layers among those that run.
    source = shutil.copytree(DEV / "checkpoint", tmp_path / "source")
    values = json.loads((source / "config.json").read_text()) | {"mm_vision_select_layer": -1}
    (source / "config.json").write_text(json.dumps(values))
    convert(source, tmp_path / "all-layers")
    cfg = BatModel.read_config(tmp_path / "all-layers").vision
    params = load_params(tmp_path / "all-layers")["vision_tower"]
    pixels = plain_scene.intermediates["pixels_672"][:1]
    output = ClipVit(cfg).apply({"params": params}, pixels, return_hidden=True)
    close(output.hidden_states[:, 0, ::48], ARRAYS["vision.s672.tile0.hidden_states_strided48"])
    close(output.hidden_states[-2, :, 0], ARRAYS["vision.s672.tile0.cls_patch"])


def test_anchor_pass_equals_the_release(base, plain_scene):
    pieces = split_ids(ARRAYS["input_ids"]).pieces
    tokens = bat.with_scale_embedding(
        base.cfg, 672, 1, base.params, plain_scene.intermediates["projected_672"].reshape(-1, 64)
    )
    texts = tuple(jnp.asarray(piece) for piece in pieces)
    spliced = bat.splice(
        base.cfg,
        base.params,
        texts,
        tuple(jnp.ones(piece.shape, bool) for piece in pieces),
        (tokens,),
        (jnp.ones(tokens.shape[0], bool),),
    )
    close(spliced.embeddings[0, ::61], ARRAYS["attn.inputs_embeds_strided61"])
    first, last = ARRAYS["attn.image_token_positions"]
    assert (pieces[0].size, pieces[0].size + tokens.shape[0] - 1) == (first, last)
    assert spliced.embeddings.shape[1] - 1 == ARRAYS["attn.last_text_index"][0]
    output = jax.jit(lambda p, s: bat.run_decoder(base.cfg, p, *s, return_hidden=True))(base.params, spliced)
    close(output.hidden_states[:-1, 0, ::61], ARRAYS["attn.lm_hidden_states_strided61"][:-1])
    close(output.hidden[0, ::61], ARRAYS["attn.lm_hidden_states_strided61"][-1])
    close(output.hidden_states[-2, 0, -1], ARRAYS["attn.hidden_before_last_at_last_text"])


@pytest.mark.parametrize(("name", "prefix"), [("input_ids", "attn"), ("input_ids_eval_script", "attn.evalids")])
def test_importance_equals_the_release(base, name, prefix):
    pieces = split_ids(ARRAYS[name]).pieces
    scene = base.encode(DEV / "image.png", prefix_ids=pieces[0])
    importance = np.asarray(base.compress([scene], pieces[1:])[0].anchor_importance)
    np.testing.assert_allclose(importance, ARRAYS[f"{prefix}.base_scale_attention"], rtol=1e-4)


def check_case(model, scene, name):
    """Compare selection, visual tokens, spliced embeddings, logits and greedy tokens of one recorded case."""
    prompt = split_ids(ARRAYS["input_ids"])
    answer = model.answer_prompt([scene], prompt, max_new_tokens=12, stop=False)
    for index, size in enumerate(SCALES):
        np.testing.assert_allclose(
            answer.importance[0][index].reshape(-1, 24, 24), ARRAYS[f"attn.map.s{size}"], rtol=1e-4
        )
        selection, prefix = answer.selections[0][index], f"{name}.s{size}"
        merged = ARRAYS[f"{prefix}.sel_aggregated"]
        assert selection.mask.sum() == merged.size
        np.testing.assert_array_equal(selection.keep_index[: merged.size], selected_positions(prefix, merged))
        np.testing.assert_allclose(selection.importance[: merged.size], ARRAYS[f"{prefix}.sel_score"], rtol=1e-4)
        if f"{prefix}.sel_cluster" in ARRAYS:
            cluster = ARRAYS[f"{prefix}.sel_cluster"]
            np.testing.assert_array_equal(selection.region[: merged.size][merged], cluster[merged])
        check_merged_members(scene, index, selection, prefix)
    compression = model.compress([scene], prompt.pieces[1:])[0]
    before = np.concatenate([item.tokens[item.mask] for item in answer.selections[0]])
    after = np.asarray(compression.tokens)[np.asarray(compression.mask)]
    step = 1 if f"{name}.pre_mlp" in ARRAYS else 3
    suffix = "" if step == 1 else "_strided3"
    close(before[::step], ARRAYS[f"{name}.pre_mlp{suffix}"])
    close(after[::step], ARRAYS[f"{name}.post_mlp{suffix}"])
    spliced = model.splice(prompt, [compression])
    embeddings = np.asarray(spliced.embeddings[0], np.float64)[: int(spliced.length[0])]
    close(embeddings.sum(axis=1), ARRAYS[f"{name}.inputs_embeds_rowsum"], atol=64 * 1e-5)
    np.testing.assert_allclose((embeddings**2).sum(axis=1), ARRAYS[f"{name}.inputs_embeds_rowsq"], rtol=1e-4)
    if f"{name}.inputs_embeds" in ARRAYS:
        close(embeddings, ARRAYS[f"{name}.inputs_embeds"])
    logits = np.asarray(bat_logits(model, spliced))
    close(logits[-4:], ARRAYS[f"{name}.logits_last4"])
    close(logits.sum(axis=1, dtype=np.float64), ARRAYS[f"{name}.logits_rowsum"], atol=512 * 1e-5)
    np.testing.assert_array_equal(logits.argmax(axis=1), ARRAYS[f"{name}.logits_argmax"])
    if f"{name}.logits_strided3" in ARRAYS:
        close(logits[::3], ARRAYS[f"{name}.logits_strided3"])
    close(answer.logits, ARRAYS[f"{name}.logits_last4"][-1])
    np.testing.assert_array_equal(answer.token_ids, ARRAYS[f"{name}.greedy_ids"])
    # The three best of every step, by feeding the answer back in.
    fed = prompt._replace(pieces=(prompt.pieces[0], np.append(prompt.pieces[1], answer.token_ids[:-1])))
    steps = np.asarray(bat_logits(model, model.splice(fed, [compression])))[-12:]
    best = np.argsort(-steps, axis=1)[:, :3]
    np.testing.assert_array_equal(best, ARRAYS[f"{name}.greedy_top3_ids"])
    close(np.take_along_axis(steps, best, axis=1), ARRAYS[f"{name}.greedy_top3_logits"])


def bat_logits(model, spliced):
    logits = model.stages.run("all_logits", bat.all_logits, (model.cfg.networks,), model.params, spliced)
    return logits[0][: int(spliced.length[0])]


def check_merged_members(scene, index, selection, prefix):
    """Each merged row stands for exactly the recorded tokens of its region."""
    region_id = np.asarray(scene.scales[index].region_id)
    offsets, positions = ARRAYS[f"{prefix}.sel_offsets"], ARRAYS[f"{prefix}.sel_pos"]
    for row in np.flatnonzero(ARRAYS[f"{prefix}.sel_aggregated"]):
        members = np.flatnonzero((region_id == selection.region[row]) & ~selection.is_kept)
        np.testing.assert_array_equal(members, np.sort(positions[offsets[row] : offsets[row + 1]]))


@pytest.mark.parametrize("name", KMEANS)
def test_kmeans_case_equals_the_release(base, name):
    model = configured(base, **KMEANS[name])
    init = {size: ARRAYS[f"{name}.s{size}.init_idx"] for size in SCALES}
    scene = model.encode(DEV / "image.png", kmeans_init=init)
    for index, size in enumerate(SCALES):
        np.testing.assert_array_equal(scene.scales[index].region_id, ARRAYS[f"{name}.s{size}.labels"])
        factors = scene.scales[index].tokens, scene.grids[index].coordinates("tile"), 1.0, 0.05
        rows = cluster_rows(*factors)
        close(rows[::97], ARRAYS[f"{name}.s{size}.cluster_feats_strided97"])
        valid = np.ones(rows.shape[0], bool)
        limits = init[size].size, model.cfg.compressor.kmeans_iterations
        result = jax.jit(kmeans)(rows, valid, init[size], *limits)
        on_accelerator = jax.jit(kmeans_of_scaled)(scaled_rows(*factors), valid, rows[init[size]], *limits)
        np.testing.assert_array_equal(on_accelerator.label, ARRAYS[f"{name}.s{size}.labels"])
        assert int(result.num_steps) == int(on_accelerator.num_steps) == int(ARRAYS[f"{name}.s{size}.n_iters"])
        num_empty = init[size].size - np.unique(result.label).size
        assert num_empty == int(ARRAYS[f"{name}.s{size}.n_empty_clusters"])
    check_case(model, scene, name)


def test_one_program_an_image_and_one_a_question_say_what_the_release_says(base):
    cfg = configured(base, **KMEANS["kmA"]).cfg
    init = {size: ARRAYS[f"kmA.s{size}.init_idx"] for size in SCALES}
    scene = BatModel(cfg, base.params, base.tokenizer).encode(DEV / "image.png", kmeans_init=init)
    for index, size in enumerate(SCALES):
        np.testing.assert_array_equal(scene.scales[index].region_id, ARRAYS[f"kmA.s{size}.labels"])
    answer = scene.model.answer_prompt([scene], split_ids(ARRAYS["input_ids"]), max_new_tokens=12, stop=False)
    close(answer.logits, ARRAYS["kmA.logits_last4"][-1])
    np.testing.assert_array_equal(answer.token_ids, ARRAYS["kmA.greedy_ids"])


def test_int8_weights_move_the_releases_logits_by_a_fraction_of_their_spread(base):
    """On the tokens that the release chose; docs/int8.md has these numbers, and those of a whole answer."""
    int8 = BatModel(base.cfg.with_weights("int8"), held_params("int8", base.params), base.tokenizer, stages_apart=True)
    scene = base.encode(DEV / "image.png", kmeans_init={size: ARRAYS[f"kmA.s{size}.init_idx"] for size in SCALES})
    prompt = split_ids(ARRAYS["input_ids"])
    logits = np.asarray(bat_logits(int8, base.splice(prompt, base.compress([scene], prompt.pieces[1:]))))
    difference, spread = np.abs(logits[::3] - ARRAYS["kmA.logits_strided3"]), ARRAYS["kmA.logits_strided3"].std()
    assert 0 < difference.mean() < 0.015 * spread and difference.max() < 0.2 * spread
    assert np.mean(logits.argmax(axis=1) == ARRAYS["kmA.logits_argmax"]) >= 0.98


@pytest.mark.parametrize("name", SAM)
def test_label_map_case_equals_the_release(base, name):
    model = configured(base, partition="sam", **SAM[name])
    label_map = read_label_map(DEV / "annotations.json", (900, 620)) if name == "samM0" else None
    scene = model.encode(DEV / "image.png", label_map=label_map)
    if name == "samM0":
        for index, size in enumerate(SCALES):
            labels = np.append(scene.region_labels[index], 0)[np.asarray(scene.scales[index].region_id)]
            np.testing.assert_array_equal(labels, ARRAYS[f"mask.tiles.s{size}"].ravel())
    elif name in ("samM1", "samR"):  # recorded with token labels that no pixel map gives
        scene = with_token_labels(scene)
    check_case(model, scene, name)


def with_token_labels(scene):
    regions = [label_regions(ARRAYS[f"mask.variant.s{size}"].ravel().astype(np.int32), "tokens") for size in SCALES]
    scales = tuple(
        scale._replace(region_id=jnp.asarray(item.region_id)) for scale, item in zip(scene.scales, regions, strict=True)
    )
    capacity = tuple(item.capacity for item in regions)
    return dataclasses.replace(scene, scales=scales, region_capacity=capacity)


def test_two_images_share_the_budget_and_only_the_first_is_used(base, plain_scene):
    recorded = META["kmeans"]["two_images_one_placeholder"]
    answer = base.ask([plain_scene, plain_scene], META["question"], max_new_tokens=1)
    assert [list(answer.tokens_kept[0])] == recorded["selected_per_image_per_scale"][:1]
    assert len(answer.tokens_kept) == 1
    assert answer.prompt_tokens == recorded["final_seq_len"]
