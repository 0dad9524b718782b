"""The two halves: what an image costs once, what a question costs, and that answers do not depend on the order."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from bat_jax import model as bat
from bat_jax.compress.partition import cluster_rows
from bat_jax.config import SELECTIONS
from bat_jax.encoding import SceneEncoder
from bat_jax.engine.stages import Stages
from bat_jax.io.bands import ImageError
from bat_jax.io.birch import birch_labels
from bat_jax.io.images import SourceImage
from bat_jax.io.prompts import Dialogue, build_prompt
from bat_jax.io.views import is_padding_tile, make_tiles, normalisation_table
from bat_jax.pipeline import BatModel
from tests.tiny_model import SCALES, load_tiny

IMAGE_STAGES = ("vision_tower", "scale_embedding", "region_partition", "anchor_prefix")
NEW = 5


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """With stages apart, which settings share; that one program says the same is a test of its own."""
    return load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint", stages_apart=True)


@pytest.fixture(scope="module")
def in_one(model):
    return BatModel(model.cfg, model.params, model.tokenizer)


@pytest.fixture(scope="module")
def scene(model):
    return model.encode(picture(150, 230))


@pytest.fixture(scope="module")
def paper(model):
    return model.configured(model.cfg.with_settings("paper"))


def same_answer(first, second):
    np.testing.assert_array_equal(first.token_ids, second.token_ids)
    np.testing.assert_array_equal(first.logits, second.logits)
    for one, two in zip(first.selections[0], second.selections[0], strict=True):
        np.testing.assert_array_equal(one.keep_index, two.keep_index)


def test_a_second_question_runs_no_image_stage_and_compiles_nothing(model, scene):
    scene.ask("How many ships are there?", max_new_tokens=NEW)
    calls, compiles = model.stages.num_calls.copy(), model.stages.num_compiles.copy()
    answer = scene.ask("What colour is the car near the pier?", max_new_tokens=NEW)
    for stage in IMAGE_STAGES:
        assert model.stages.num_calls[stage] == calls[stage] > 0
    assert model.stages.num_compiles == compiles
    assert sum(answer.compile_seconds.values()) == 0
    assert not set(answer.run_seconds) & set(IMAGE_STAGES)


def programs_of(action, directory):
    """Return how many programs run in `action`, which must move nothing implicitly."""
    with jax.profiler.trace(directory), jax.transfer_guard("disallow"):
        action()
    (trace,) = directory.glob("**/*.xplane.pb")
    lines = [line for plane in jax.profiler.ProfileData.from_file(str(trace)).planes for line in plane.lines]
    return sum("ExecuteHelper" in event.name for line in lines for event in line.events)


@pytest.mark.parametrize("views_on_device", [False, True])
def test_an_image_and_a_question_are_one_program_each_with_no_transfer_in_between(in_one, views_on_device, tmp_path):
    """Views made on the device are one more, which depends on the picture's size alone."""
    one = in_one.configured(in_one.cfg)
    one.encoder.views_on_device = views_on_device
    image = picture(150, 230)
    scene = one.encode(image)
    assert programs_of(lambda: one.encode(image), tmp_path / "image") == 1 + views_on_device
    scene.ask("Any boats?", max_new_tokens=NEW)
    assert programs_of(lambda: scene.ask("Any ships?", max_new_tokens=NEW), tmp_path / "question") == 1


def test_stages_that_run_apart_give_the_same_scene_and_answers(model, in_one):
    image = picture(40, 230)
    for settings in ({}, {"fidelity": "paper"}, {"fidelity": "paper", "selection": "visionzip"}):
        cfg = model.cfg.with_settings(**settings)
        first, second = (one.configured(cfg).encode(image) for one in (in_one, model))
        jax.tree.map(np.testing.assert_array_equal, first.init_index, second.init_index)
        for one, two in zip(first.scales, second.scales, strict=True):
            np.testing.assert_array_equal(one.region_id, two.region_id)
            np.testing.assert_allclose(one.tokens, two.tokens, rtol=1e-5, atol=1e-5)
        together, by_stage = (scene.ask("Any boats?", max_new_tokens=NEW) for scene in (first, second))
        assert set(together.run_seconds) == {"question"} and "prefill" in by_stage.run_seconds
        np.testing.assert_array_equal(together.token_ids, by_stage.token_ids)
        np.testing.assert_allclose(together.logits, by_stage.logits, rtol=1e-4, atol=1e-4)
        assert together.tokens_kept == by_stage.tokens_kept


def test_a_later_question_is_answered_as_by_a_fresh_run(model, scene):
    scene.ask("Is there a bridge?", max_new_tokens=NEW)
    later = scene.ask("Where is the harbour?", max_new_tokens=NEW)
    fresh_model = BatModel(model.cfg, model.params, model.tokenizer, stages_apart=True)
    fresh = fresh_model.encode(picture(150, 230)).ask("Where is the harbour?", max_new_tokens=NEW)
    same_answer(later, fresh)


def test_the_question_changes_what_is_kept(scene):
    first = scene.ask("How many ships are there?", max_new_tokens=1)
    second = scene.ask("Which land use covers the image?", max_new_tokens=1)
    assert not np.array_equal(first.selections[0][1].keep_index, second.selections[0][1].keep_index)


def test_budgets_are_kept_exactly_and_compile_nothing_new(model, scene):
    scene.ask("Any boats?", max_new_tokens=NEW)
    compiles = model.stages.num_compiles.copy()
    for budgets in ((1, 1), (5, 17), (12, 30)):
        answer = scene.ask("Any boats?", max_new_tokens=NEW, budgets=budgets)
        assert answer.tokens_kept == (budgets,)
    assert model.stages.num_compiles == compiles


def test_rows_outside_the_budget_do_not_touch_the_answer(model, scene):
    """A budget below the static one leaves masked rows; a model whose static budget is that small has none."""
    small = dataclasses.replace(SCALES[0], budget=5), dataclasses.replace(SCALES[1], budget=17)
    exact = model.configured(model.cfg.with_settings(scales=small, num_clusters=6)).encode(picture(150, 230))
    masked = scene.ask("Any boats?", max_new_tokens=NEW, budgets=(5, 17))
    answer = exact.ask("Any boats?", max_new_tokens=NEW)
    np.testing.assert_array_equal(masked.token_ids, answer.token_ids)
    np.testing.assert_allclose(masked.logits, answer.logits, rtol=1e-5, atol=1e-5)


def test_the_length_of_a_question_does_not_change_its_padding_free_logits(model, scene):
    """The same text in a longer padded bucket gives the same logits: padding is never attended to."""
    question = "Count the planes"
    short = scene.ask(question, max_new_tokens=1)
    ids = build_prompt(model.tokenizer, question, 1, model.cfg.prompt)
    image = model.compress([scene], ids.pieces[-1:])[0]
    is_text = tuple(np.ones(piece.shape, bool) for piece in ids.pieces)
    spliced = bat.splice(model.cfg, model.params, ids.pieces, is_text, (image.tokens,), (image.mask,))
    unpadded = bat.all_logits(model.cfg, model.params, spliced)[0, int(spliced.length[0]) - 1]
    np.testing.assert_allclose(short.logits, unpadded, rtol=1e-5, atol=1e-5)


def test_seeds_decide_the_first_centres_and_nothing_else_does(model):
    image = picture(150, 230)
    first, again, other = (model.encode(image, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first.scales, again.scales, strict=True):
        np.testing.assert_array_equal(one.region_id, two.region_id)
    assert any(not np.array_equal(a, b) for a, b in zip(first.init_index, other.init_index, strict=True))
    given = model.encode(image, kmeans_init=dict(zip(first.scales_px, first.init_index, strict=True)), seed=9)
    np.testing.assert_array_equal(given.scales[1].region_id, first.scales[1].region_id)


def test_pixels_are_normalised_and_padded_as_the_towers_config_says(model):
    vision = dataclasses.replace(
        model.cfg.vision, pixel_mean=(0.5, 0.25, 0.125), pixel_std=(0.5, 0.3, 0.2), pad_colour=(200, 3, 4)
    )
    cfg = dataclasses.replace(model.cfg, vision=vision)
    encoder = SceneEncoder(cfg, model.params, model.tokenizer, Stages())
    pixels = encoder.encode(np.full((40, 230, 3), 51, np.uint8), keep_intermediates=True).intermediates["pixels_112"]
    expected = [(np.float32([200, 3, 4]) / 255 - vision.pixel_mean) / vision.pixel_std]
    expected += [(np.float32([51, 51, 51]) / 255 - vision.pixel_mean) / vision.pixel_std]
    np.testing.assert_allclose(pixels[0, 0], np.tile(expected[0], (56, 1)), rtol=1e-6)
    np.testing.assert_allclose(pixels[0, -1], np.tile(expected[1], (56, 1)), rtol=1e-6)


def test_tiles_of_padding_get_the_features_that_encoding_them_gives(model):
    tiles = make_tiles(picture(40, 230), (224,), model.cfg.vision)[0]
    assert is_padding_tile(tiles, model.cfg.vision.pad_colour).sum() > 1
    data = model.encode(picture(40, 230), keep_intermediates=True)
    direct = bat.encode_tiles(model.cfg, model.params, tiles, normalisation_table(model.cfg.vision))
    np.testing.assert_allclose(data.intermediates["vision_224"], direct.vision, rtol=1e-5, atol=1e-5)


def test_pillow_makes_the_views_while_their_program_is_compiled(in_one, monkeypatch):
    """Views that wait for the program would wait for ever if it came after them; it is compiled once."""
    encoder = SceneEncoder(in_one.cfg, in_one.params, in_one.tokenizer, Stages())
    is_compiled, compile = threading.Event(), encoder.stages.compile

    def compiled(*args):
        executable = compile(*args)
        is_compiled.set()
        return executable

    def late_tiles(*args):
        assert is_compiled.wait(300)
        return make_tiles(*args)

    monkeypatch.setattr(encoder.stages, "compile", compiled)
    monkeypatch.setattr("bat_jax.encoding.make_tiles", late_tiles)
    encoder.encode(picture(40, 230))
    assert encoder.stages.num_compiles["image"] == encoder.stages.num_calls["image"] == 1


def test_views_made_on_the_device_give_what_views_made_by_pillow_give(model):
    image = picture(40, 230)
    on_host = model.encode_views(image)
    encoder = SceneEncoder(model.cfg, model.params, model.tokenizer, Stages(), views_on_device=True)
    on_device = encoder.encode_views(image)
    assert encoder.stages.num_calls["views"] == 1
    assert all(isinstance(tiles, jax.Array) for tiles in on_device.tiles)
    jax.tree.map(np.testing.assert_array_equal, on_device.tiles, on_host.tiles)
    jax.tree.map(np.testing.assert_array_equal, on_device.features, on_host.features)
    scenes = [model.make_scene(views, keep_intermediates=True) for views in (on_device, on_host)]
    jax.tree.map(np.testing.assert_array_equal, *(scene.intermediates for scene in scenes))


def test_padding_tokens_are_never_selected_and_never_in_a_region_in_paper_fidelity(paper):
    scene = paper.encode(picture(40, 224))
    answer = scene.ask("Any boats?", max_new_tokens=1, budgets=(12, 30))
    for scale, selection in zip(scene.scales, answer.selections[0], strict=True):
        valid = np.asarray(scale.valid)
        assert 0 < valid.sum() < valid.size
        assert np.all(valid[selection.keep_index[selection.keep_index >= 0]])
        assert np.all(np.asarray(scale.region_id)[~valid] == -1)
    assert np.all(answer.anchor_importance[0][~np.asarray(scene.scales[0].valid)] == 0)


def test_one_row_with_data_keeps_its_tokens_and_none_is_an_error(paper):
    valid = np.zeros((900, 900), bool)
    image = SourceImage(pixels=np.full((900, 900, 3), 200, np.uint8), valid=valid, full_size=(900, 900), note="")
    with pytest.raises(ImageError, match="image: no pixel holds data"):
        paper.encode(image)
    valid[301] = True
    scene = paper.encode(image)
    for scale, grid in zip(scene.scales, scene.grids, strict=True):
        assert np.asarray(scale.valid).sum() == round(np.sqrt(grid.num_tokens))
    assert all(kept > 0 for kept in scene.ask("Any boats?", max_new_tokens=1).tokens_kept[0])


def test_release_fidelity_lets_padding_take_part(model):
    scene = model.encode(picture(40, 224))
    assert all(np.all(scale.valid) for scale in scene.scales)


def test_every_image_has_its_place_in_paper_fidelity_and_budgets_are_shared(paper):
    scenes = [paper.encode(picture(150, 230, seed)) for seed in (0, 1)]
    answer = paper.ask(scenes, "Compare the two images", max_new_tokens=NEW)
    assert answer.tokens_kept == ((6, 15), (6, 15))
    prompt = build_prompt(paper.tokenizer, "Compare the two images", 2, paper.cfg.prompt)
    text = sum(piece.size for piece in prompt.pieces)
    assert answer.prompt_tokens == text + 2 * 21
    swapped = paper.ask(scenes[::-1], "Compare the two images", max_new_tokens=NEW)
    assert not np.array_equal(swapped.logits, answer.logits)
    inside = paper.ask(scenes, "What is in <image> but not in <image>?", max_new_tokens=NEW)
    assert inside.tokens_kept == ((6, 15), (6, 15))


def test_odd_budgets_give_the_remainder_to_the_first_image(paper):
    scenes = [paper.encode(picture(150, 230, seed)) for seed in (0, 1)]
    assert paper.ask(scenes, "Compare", max_new_tokens=1, budgets=(5, 7)).tokens_kept == ((3, 4), (2, 3))


def test_a_label_map_makes_regions_and_background_tokens_stand_alone(model):
    sam = model.configured(model.cfg.with_settings(partition="sam"))
    labels = np.zeros((224, 224), np.int32)
    labels[:112, :112] = 7
    labels[112:, :112] = 300
    scene = sam.encode(picture(224, 224), label_map=labels)
    grid = scene.grids[1].to_grid(np.asarray(scene.scales[1].region_id))
    assert (np.unique(grid[:8, :8]).tolist(), np.unique(grid[8:, :8]).tolist()) == ([0], [1])
    assert np.unique(grid[:, 8:]).tolist() == [-1]
    assert scene.region_labels[1].tolist() == [7, 300]
    assert scene.num_regions == (2 + 32, 2 + 128)
    whole = model.configured(model.cfg.with_settings(partition="sam", background="region"))
    assert whole.encode(picture(224, 224), label_map=labels).num_regions == (3, 3)


def test_partition_grid_cuts_rectangles(model):
    grid = model.configured(model.cfg.with_settings(partition="grid", num_clusters=5)).encode(picture(224, 224))
    regions = grid.grids[1].to_grid(np.asarray(grid.scales[1].region_id))
    expected = np.kron([[0, 1], [2, 3]], np.ones((8, 8), int))
    np.testing.assert_array_equal(regions, expected)


def test_partition_birch_is_birch_of_the_clustered_rows(paper):
    birch = paper.configured(paper.cfg.with_settings(partition="birch", birch_threshold=0.02))
    scene = birch.encode(picture(80, 224), keep_intermediates=True)
    for scale, grid, size in zip(scene.scales, scene.grids, scene.scales_px, strict=True):
        features = scene.intermediates[f"vision_{size}"].reshape(grid.num_tokens, -1)
        valid, settings = np.asarray(scale.valid), birch.cfg.compressor
        rows = np.asarray(cluster_rows(features, grid.coordinates("scale"), 1.0, settings.coord_scale))
        np.testing.assert_array_equal(scale.region_id, birch_labels(rows, valid, settings.num_clusters, 0.02))
    assert scene.num_regions == (6, 6)
    assert scene.ask("Any boats?", max_new_tokens=1).tokens_kept == ((12, 30),)


def test_partition_one_is_one_region_of_all_valid_tokens(paper):
    scene = paper.configured(paper.cfg.with_settings(partition="one")).encode(picture(80, 224))
    assert scene.num_regions == (1, 1) and scene.region_capacity == (1, 1)
    for scale in scene.scales:
        np.testing.assert_array_equal(scale.region_id, np.where(scale.valid, 0, -1))


def test_sampling_is_a_function_of_the_seed(scene):
    first, again, other = (
        scene.ask("Any boats?", max_new_tokens=20, temperature=2.0, seed=seed, stop=False).token_ids
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_layer_of_importance_is_a_setting(model, scene):
    other = model.configured(model.cfg.with_settings(importance_layer=0))
    ids = build_prompt(model.tokenizer, "Any boats?", 1, model.cfg.prompt).pieces[-1]
    last = model.compress([scene], [ids])[0].anchor_importance
    first = other.compress([scene], [ids])[0].anchor_importance
    assert not np.allclose(last, first)


def test_tokens_for_several_questions_follow_the_mean_of_their_importance(model, scene):
    texts = ("Any boats?", "What stands at the harbour?", "How many?")
    alone = [np.asarray(scene.ask(text, max_new_tokens=1).anchor_importance[0]) for text in texts]
    together = scene.ask(texts[0], shared_with=texts[1:], max_new_tokens=1)
    np.testing.assert_allclose(together.anchor_importance[0], np.mean(alone, axis=0), rtol=1e-5)
    assert not np.allclose(together.anchor_importance[0], alone[0], rtol=1e-2)
    other = scene.ask(texts[1], shared_with=(texts[2], texts[0]), max_new_tokens=1)
    for one, same in zip(together.selections[0], other.selections[0], strict=True):
        np.testing.assert_array_equal(one.keep_index, same.keep_index)


def test_a_dialogues_importance_is_its_last_questions_behind_the_turns_before(paper):
    scene = paper.encode(picture(150, 230))
    dialogue = Dialogue("What colour is the car?", (("Any boats?", "Two."),))
    answer = scene.ask(dialogue, max_new_tokens=1)
    prompt = build_prompt(paper.tokenizer, dialogue, 1, paper.cfg.prompt)
    ids = prompt.pieces[-1]
    pieces = [paper.tokenizer.decode([token]) for token in ids]
    first = "".join(pieces).rindex("What colour")
    rows = [i for i in range(ids.size) if first <= len("".join(pieces[:i])) < first + len(dialogue.question)]
    assert rows[0] == prompt.question_at > 0
    (suffix,) = paper._suffixes([scene], [ids], [prompt.question_at])
    expected = np.zeros(suffix.ids.size)
    expected[rows] = 1 / len(rows)
    np.testing.assert_allclose(suffix.row_weight, expected, rtol=1e-6)
    by_hand = paper.answer_prompt([scene], prompt, max_new_tokens=1)
    same_answer(answer, by_hand)
    alone = scene.ask(dialogue.question, max_new_tokens=1)
    assert answer.prompt_tokens > alone.prompt_tokens
    assert not np.allclose(answer.anchor_importance[0], alone.anchor_importance[0], rtol=1e-3)


@pytest.mark.parametrize("rule", [rule for rule in SELECTIONS.names if rule not in ("uhr_bat", "dense")])
def test_every_selection_answers_within_the_budget_without_padding(paper, rule):
    configured = paper.configured(paper.cfg.with_settings(selection=rule))
    scene = configured.encode(picture(80, 224))
    answer = scene.ask("Any boats?", max_new_tokens=1, budgets=(9, 21))
    compiles = configured.stages.num_compiles.copy()
    again = scene.ask("Any boats?", max_new_tokens=1, budgets=(9, 21))
    same_answer(answer, again)
    fewer = scene.ask("Any boats?", max_new_tokens=1, budgets=(4, 8))
    assert configured.stages.num_compiles == compiles
    for kept, budgets in ((answer.tokens_kept[0], (9, 21)), (fewer.tokens_kept[0], (4, 8))):
        assert 0 < sum(kept) <= sum(budgets)
        if rule not in ("topk_global", "largest_view"):
            assert all(0 < rows <= budget for rows, budget in zip(kept, budgets, strict=True))
    for scale, selection in zip(scene.scales, answer.selections[0], strict=True):
        tokens, valid = np.asarray(scale.tokens), np.asarray(scale.valid)
        kept = selection.keep_index[selection.keep_index >= 0]
        assert np.all(valid[kept]) and not np.any(selection.tokens[~selection.mask])
        np.testing.assert_array_equal(selection.tokens[selection.keep_index >= 0], tokens[kept])
        if selection.group is not None:
            assert np.all(selection.group[~valid] == -1)


def test_dense_keeps_every_token_of_the_views_and_refuses_less(model):
    whole = tuple(dataclasses.replace(scale, budget=count) for scale, count in zip(SCALES, (64, 256), strict=True))
    dense = model.configured(model.cfg.with_settings(selection="dense", scales=whole))
    scene = dense.encode(picture(150, 230))
    answer = scene.ask("Any boats?", max_new_tokens=1)
    assert answer.tokens_kept == ((64, 256),)
    np.testing.assert_array_equal(answer.selections[0][1].tokens, scene.scales[1].tokens)
    with pytest.raises(ValueError, match="selection='dense'"):
        scene.ask("Any boats?", max_new_tokens=1, budgets=(64, 255))
    with pytest.raises(ValueError, match="2 images"):
        dense.ask([scene, scene], "Any boats?", max_new_tokens=1)


def test_fastv_keeps_what_the_last_token_attends_to_in_layer_two(model, scene):
    rule = model.configured(model.cfg.with_settings("paper", selection="fastv", importance_layer=0))
    same = model.configured(model.cfg.with_settings("paper", importance_layer=1, importance_query="last_token"))
    ids = build_prompt(model.tokenizer, "Any boats?", 1, model.cfg.prompt).pieces[-1]
    row, expected = (bat_model.compress([scene], [ids])[0].anchor_importance for bat_model in (rule, same))
    np.testing.assert_array_equal(row, expected)


def test_a_scene_encoded_without_the_towers_attention_is_refused(model, scene):
    other = model.configured(model.cfg.with_settings(selection="visionzip"))
    with pytest.raises(ValueError, match="encode the image with this setting"):
        other.ask([scene], "Any boats?")


def test_a_prompt_beyond_memory_names_what_it_is_made_of(in_one, scene, monkeypatch):
    monkeypatch.setattr("bat_jax.engine.stages.host_memory_bytes", lambda: 1000)
    with pytest.raises(ValueError) as info:
        in_one.ask([scene], "boat " * 130, max_new_tokens=1)
    message = str(info.value)
    assert "shorten the question" in message and len(message.splitlines()) == 1
    for part in ("--budgets=12,30", "--scales=112,224", "compute_dtype=float32", "--weights=stored", "--weights=int8"):
        assert part in message
    with pytest.raises(ValueError, match="ask fewer questions at once"):
        in_one.ask_many([scene], ["Any boats?", "boat " * 130], max_new_tokens=1)


@pytest.mark.parametrize("ask", ["ask", "ask_many"])
def test_an_answer_beyond_the_decoders_positions_is_refused_before_anything_runs(scene, in_one, ask):
    calls = dict(in_one.stages.num_calls)
    with pytest.raises(ValueError, match=r"needs 1[0-9]{5} positions, the decoder has 1024"):
        getattr(in_one, ask)([scene], "Any boats?" if ask == "ask" else ["A?", "B?"], max_new_tokens=100_000)
    assert dict(in_one.stages.num_calls) == calls


def with_nan_row(model, token):
    """Return the model with an embedding that is no number for one token, and the programs of the other."""
    embedding = model.params["decoder"]["embed_tokens"]["embedding"].at[token].set(np.nan)
    decoder = model.params["decoder"] | {"embed_tokens": {"embedding": embedding}}
    apart = model.stages_apart
    return BatModel(
        model.cfg, model.params | {"decoder": decoder}, model.tokenizer, stages=model.stages, stages_apart=apart
    )


@pytest.mark.parametrize("apart", [True, False])
def test_logits_that_are_no_numbers_are_an_error_and_never_an_answer(model, in_one, apart):
    whole = model if apart else in_one
    image, question = picture(150, 230), "Any boats?"
    sound = whole.encode(image).ask(question, max_new_tokens=NEW, stop=False)
    token = next(
        id for id in build_prompt(model.tokenizer, question, 1, model.cfg.prompt).pieces[-1].tolist() if id > 9
    )
    with pytest.raises(ValueError, match="logits are not finite"):
        with_nan_row(whole, token).encode(image).ask(question, max_new_tokens=NEW)
    later = sound.token_ids[0]
    assert later not in np.concatenate(build_prompt(model.tokenizer, question, 1, model.cfg.prompt).pieces)
    scene = with_nan_row(whole, later).encode(image)
    with pytest.raises(ValueError, match="logits are not finite"):
        scene.ask(question, max_new_tokens=NEW, stop=False)
    one = scene.ask(question, max_new_tokens=1, stop=False)
    np.testing.assert_array_equal(one.token_ids, sound.token_ids[:1], "the token itself was drawn from numbers")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "  "}, "question"),
        ({"question": "boat " * 900}, "positions"),
        ({"budgets": (13, 30)}, "budgets"),
        ({"budgets": (0, 0)}, "budgets"),
        ({"budgets": (-1, 30)}, "budgets"),
        ({"budgets": (5,)}, "budgets"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_a_bad_question_or_option_is_named(scene, options, message):
    options = {"question": "Any boats?"} | options
    with pytest.raises(ValueError, match=message):
        scene.ask(options.pop("question"), **options)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {"label_map": np.zeros((150, 230), np.int32)}, "label map is used by partition 'sam'"),
        ({"partition": "sam"}, {"label_map": np.zeros((10, 10), np.int32)}, "label_map: has shape"),
        ({"partition": "sam", "without_label_map": "error"}, {}, "needs a label map"),
        ({}, {"kmeans_init": {112: np.arange(6)}}, "no centres for scale 224"),
        ({}, {"kmeans_init": {112: np.arange(5), 224: np.arange(6)}}, "needs 6 token indices"),
        ({}, {"kmeans_init": {112: np.arange(6) + 60, 224: np.arange(6)}}, "token indices in"),
    ],
)
def test_bad_regions_are_named(model, settings, options, message):
    configured = model.configured(model.cfg.with_settings(**settings))
    with pytest.raises(ValueError, match=message):
        configured.encode(picture(150, 230), **options)


@pytest.mark.parametrize("shape", [(10, 10), (1, 1, 3), (10, 10, 4)])
def test_arrays_that_are_no_image_are_refused(model, shape):
    with pytest.raises(ValueError, match="image"):
        model.encode(np.zeros(shape, np.uint8))
