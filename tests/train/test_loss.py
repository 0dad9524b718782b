"""The loss's own pieces: chunks, importance as in answering, the auxiliary loss, text alone, empty slots."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bat_jax import model as bat
from bat_jax.config import ScaleSpec
from bat_jax.data.llava import Record, Turn
from bat_jax.io.prompts import build_prompt
from bat_jax.io.views import normalisation_table
from bat_jax.train.batches import BatchMaker, boxes_mask
from bat_jax.train.labels import IGNORE
from bat_jax.train.loss import anchor_importance, batch_loss, chunked_cross_entropy, training_config
from bat_jax.train.recipe import TrainConfig
from tests.tiny_model import load_tiny

RECIPE = TrainConfig(
    batch_size=4, compute_dtype="float32", importance_loss_weight=0.5, remat=False, master_weights=False
)


def test_chunks_of_the_vocabulary_add_up_to_the_plain_cross_entropy():
    rng = np.random.default_rng(0)
    hidden, head = rng.standard_normal((11, 6)).astype(np.float32), rng.standard_normal((6, 9)).astype(np.float32)
    labels = np.where(np.arange(11) % 3 == 0, IGNORE, rng.integers(0, 9, 11))
    logits = hidden @ head
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -np.mean([log_probability[row, labels[row]] for row in range(11) if labels[row] != IGNORE])
    for rows in (4, 256):
        loss, count = chunked_cross_entropy(lambda block: block @ head, hidden, labels, rows)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        assert count == 7
    assert chunked_cross_entropy(lambda block: block @ head, hidden, np.full(11, IGNORE))[0] == 0


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Four slots: a picture with a target, the same without, text alone, none."""
    folder = tmp_path_factory.mktemp("loss")
    model = load_tiny(folder / "checkpoint", stages_apart=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(folder / "a.png")
    turns = (Turn(role="user", text="<image>\nHow many ships?"), Turn(role="assistant", text="Two"))
    text = (Turn(role="user", text="Say A."), turns[1])
    source = [
        Record(id="target", images=("a.png",), turns=turns, target_boxes=((0.0, 0.0, 0.5, 0.5),)),
        Record(id="plain", images=("a.png",), turns=turns),
        Record(id="text", images=(), turns=text),
    ]
    cfg = training_config(model.cfg, RECIPE)
    maker = BatchMaker(cfg, RECIPE, model.tokenizer, source, folder)
    batch = maker(0)
    order = [batch.ids.index(name) for name in ("target", "plain", "text", "")]
    samples = jax.tree.map(lambda leaf: jnp.asarray(leaf[0][order]), batch.samples)
    return model, cfg, samples, folder / "a.png"


@pytest.fixture(scope="module")
def losses(setting):
    model, cfg, samples, _ = setting

    def total(params):
        return batch_loss(cfg, RECIPE, normalisation_table(cfg.vision), params, jax.random.key(0), samples)

    return jax.jit(jax.value_and_grad(total, has_aux=True))(model.params)


@pytest.mark.parametrize("settings", [{}, {"selection": "fastv", "fastv_layer": 1, "importance_query": "question"}])
def test_importance_is_that_of_answering(setting, settings):
    model, cfg, samples, image = setting
    cfg = cfg.with_settings(**settings)
    question = "<image>\nHow many ships?"
    scene = model.encode(image)
    suffix = build_prompt(model.tokenizer, question, 1, cfg.prompt).pieces[-1]
    expected = np.asarray(model.configured(cfg).compress([scene], [suffix])[0].anchor_importance)
    sample = jax.tree.map(lambda leaf: leaf[1], samples)
    if settings:
        turns = (Turn(role="user", text=question), Turn(role="assistant", text="Two"))
        source = [Record(id="plain", images=(image.name,), turns=turns)]
        batch = BatchMaker(cfg, RECIPE, model.tokenizer, source, image.parent)(0)
        sample = jax.tree.map(lambda leaf: jnp.asarray(leaf[0][0]), batch.samples)

    @jax.jit
    def importance(params, sample):
        features = bat.encode_tiles(cfg, params, sample.tiles[0], jnp.asarray(normalisation_table(cfg.vision)))
        projected = features.projected.reshape(-1, cfg.decoder.width)
        anchor = bat.with_scale_embedding(cfg, cfg.compressor.sizes_px[0], 1, params, projected)
        return anchor_importance(cfg, RECIPE, params, anchor, sample)

    np.testing.assert_allclose(importance(model.params, sample), expected, rtol=1e-4)


@pytest.mark.parametrize(("num_images", "expected"), [(1, (12, 30)), (3, (4, 10)), (5, (3, 6))])
def test_the_first_of_several_images_has_the_share_of_the_budgets_that_it_has_in_answering(
    setting, num_images, expected
):
    model, cfg, _, image = setting
    assert cfg.prompt.images == "first"
    question = "<image>\nHow many ships?"
    turns = (Turn(role="user", text=question), Turn(role="assistant", text="Two"))
    source = [Record(id="several", images=(image.name,) * num_images, turns=turns)]
    (trained,) = set(
        map(tuple, BatchMaker(cfg, RECIPE, model.tokenizer, source, image.parent)(0).samples.budgets[0, :1].tolist())
    )
    scenes = [model.encode(image)] * num_images
    suffix = build_prompt(model.tokenizer, question, num_images, cfg.prompt).pieces[-1]
    first = model.compress(scenes, [suffix])[0]
    assert trained == tuple(int(kept.mask.sum()) for kept in first.selections) == expected


def test_images_that_a_selection_has_no_room_for_are_left_out_by_name(setting):
    model, cfg, _, image = setting
    sizes = [dataclasses.replace(scale, budget=cfg.num_tokens(scale.size_px)) for scale in cfg.compressor.scales]
    cfg = cfg.with_settings(selection="dense", scales=tuple(sizes))
    turns = (Turn(role="user", text="<image>\nSame?"), Turn(role="assistant", text="Two"))
    source = [Record(id="two", images=(image.name,) * 2, turns=turns)]
    (skipped,) = BatchMaker(cfg, RECIPE, model.tokenizer, source, image.parent)(0).skipped
    assert skipped.reason.startswith("selection='dense': keeps all tokens of one image")


def test_a_selection_that_training_cannot_compute_is_refused(setting):
    model, _, _, _ = setting
    with pytest.raises(ValueError, match=r"^selection='tome': reads the vision tower's attention"):
        training_config(model.cfg.with_settings(selection="tome"), RECIPE)


def test_the_auxiliary_loss_is_minus_log_of_the_mass_and_only_where_there_are_targets(setting, losses):
    (_, result), _ = losses
    np.testing.assert_allclose(result.importance[0], -np.log(result.importance_mass[0]), rtol=1e-5)
    np.testing.assert_allclose(result.total[0], result.answer[0] + 0.5 * result.importance[0], rtol=1e-6)
    assert result.importance[1:].tolist() == [0, 0, 0] and 0 < result.importance_mass[0] < 1


def test_text_alone_has_no_visual_rows_and_an_empty_slot_adds_nothing(setting, losses):
    _, _, samples, _ = setting
    (total, result), gradients = losses
    num_text = np.asarray(samples.prefix_valid.sum(1) + samples.suffix_valid.sum(1))
    assert (np.asarray(result.num_rows) - num_text).tolist() == [42, 42, 0, 0]
    np.testing.assert_allclose(total, np.sum(result.total[:3]), rtol=1e-6)
    assert samples.weight.tolist() == [1, 1, 1, 0]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


def test_a_frozen_tower_gets_no_gradient_and_every_trained_part_does(losses):
    gradients = jax.tree.map(np.asarray, losses[1])
    size = {part: sum(np.abs(g).sum() for g in jax.tree.leaves(tree)) for part, tree in gradients.items()}
    assert size["vision_tower"] == 0
    assert all(size[part] > 0 for part in ("projector", "decoder", "token_mlp"))
    # The release's answering path leaves the scale embedding out; only the auxiliary loss reaches it, at the anchor.
    assert np.any(gradients["scale_embedding"]["residual_112"]) and not np.any(
        gradients["scale_embedding"]["residual_224"]
    )


def test_boxes_mark_the_anchor_tokens_they_cover(setting):
    cfg = setting[1]
    grid = bat.token_grid(cfg, 112)
    quarter = grid.to_grid(boxes_mask(cfg, [(0.0, 0.0, 0.5, 0.5)], (90, 90)))
    expected = np.zeros((8, 8), bool)
    expected[:4, :4] = True
    np.testing.assert_array_equal(quarter, expected)
    # A wide picture stands in the middle half of its square; a box below a token's size marks the nearest token.
    assert np.argwhere(grid.to_grid(boxes_mask(cfg, [(0.02, 0.02, 0.05, 0.05)], (90, 45)))).tolist() == [[2, 0]]


def test_training_settings_that_do_not_fit_are_refused(setting):
    cfg = setting[0].cfg
    with pytest.raises(ValueError, match="weights='int8': training changes the weights as they are stored"):
        training_config(cfg.with_weights("int8"), RECIPE)
    with pytest.raises(ValueError, match="sam"):
        training_config(
            dataclasses.replace(cfg, compressor=dataclasses.replace(cfg.compressor, partition="sam")), RECIPE
        )
    small = dataclasses.replace(cfg.compressor, scales=(ScaleSpec(size_px=112, budget=4),))
    with pytest.raises(ValueError, match="num_clusters"):
        training_config(dataclasses.replace(cfg, compressor=small), dataclasses.replace(RECIPE, num_clusters=3000))
