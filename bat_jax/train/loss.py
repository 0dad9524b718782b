"""The loss of a sample as a pure function of parameters and arrays; vmapped over a batch.

UHR-BAT (arXiv:2604.13565), Sec. 3 and App. B. The stages of answering, with gradient where there is one:

    tiles -> vision tower      gradient only if the tower trains
    projector, scale embedding gradient
    anchor attention           none (with the auxiliary importance loss: of that loss alone)
    K-means                    none
    preserve and merge         through the gathered rows and the means, not through scores
    token MLP, splice, decoder gradient
    cross entropy              float32, over the labels of the text rows, in chunks of rows

Letters as in `bat_jax.typing`; U visual rows (the sum of the static budgets), Tp and Ts text rows before and behind the
image, S scales.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bat_jax import model as bat
from bat_jax.compress.compressor import ScaleTokens, initial_centres, partition_scale, select
from bat_jax.compress.importance import reads_one_row
from bat_jax.config import BatConfig
from bat_jax.ops.valid_first import valid_first, valid_slots
from bat_jax.train.labels import IGNORE
from bat_jax.train.recipe import TrainConfig
from bat_jax.typing import Array, Bool, Float, Int, Key, Params, UInt8

TILE_BATCH = 8
# Rows whose logits stand at once: 256 x 152,064 in float32 are 156 MB.
LOGIT_ROWS = 256
_SMALLEST_MASS = 1e-9


class TrainingSample(NamedTuple):
    """One training sample as arrays; a batch has the same fields with leading axes.

    prefix_*, suffix_*: text before and behind the image, padded; `*_labels` hold IGNORE where nothing is learnt.
    row_weight (Ts,): the suffix's rows of importance. tiles: per scale (I, t, t, 3), or None where `vision`, per scale
    (M, E) from a frozen tower, is given instead. region_id: per scale (M,), or None to cluster here. valid: per scale
    (M,). target_mask (M1,): anchor tokens where importance should lie, all False for none. budgets (S,): B_s, at most
    the config's. draw (): number that the first K-means centres are drawn with. has_image (): False for text alone.
    weight (): of this sample in the batch, 0 for an empty slot.
    """

    prefix_ids: Int[Array, "*B Tp"]
    prefix_valid: Bool[Array, "*B Tp"]
    prefix_labels: Int[Array, "*B Tp"]
    suffix_ids: Int[Array, "*B Ts"]
    suffix_valid: Bool[Array, "*B Ts"]
    suffix_labels: Int[Array, "*B Ts"]
    row_weight: Float[Array, "*B Ts"]
    tiles: tuple[UInt8[Array, "*B _ t t 3"], ...] | None
    vision: tuple[Float[Array, "*B _ E"], ...] | None
    region_id: tuple[Int[Array, "*B _"], ...] | None
    valid: tuple[Bool[Array, "*B _"], ...]
    target_mask: Bool[Array, "*B M1"]
    budgets: Int[Array, "*B S"]
    draw: Int[Array, "*B"]
    has_image: Bool[Array, "*B"]
    weight: Float[Array, "*B"]


class SampleLoss(NamedTuple):
    """A sample's losses and counts, float32 scalars.

    total: what is minimised. answer: mean cross entropy over the sample's targets. importance: the auxiliary loss, 0
    where it does not apply. importance_mass: importance on the target tokens, in [0, 1]. num_targets: tokens that are
    learnt. num_rows: valid rows of the decoder's sequence.
    """

    total: Float[Array, "*B"]
    answer: Float[Array, "*B"]
    importance: Float[Array, "*B"]
    importance_mass: Float[Array, "*B"]
    num_targets: Float[Array, "*B"]
    num_rows: Float[Array, "*B"]


def training_config(cfg: BatConfig, recipe: TrainConfig) -> BatConfig:
    """Return the model's config as training runs it: the recipe's dtype and number of regions.

    Raises:
      ValueError: weights are not as stored, the partition needs label maps, the number of regions does not fit, or the
        selection reads the tower's attention.
    """
    if cfg.decoder.weights != "stored":
        raise ValueError(f"weights={cfg.decoder.weights!r}: training changes the weights as they are stored")
    if cfg.compressor.partition == "sam":
        raise ValueError("partition='sam': training reads no label maps; use kmeans or grid")
    if cfg.compressor.partition == "birch":
        raise ValueError("partition='birch': runs on the host, not in a training step; use kmeans or grid")
    if cfg.compressor.reads_tower_attention:
        name = cfg.compressor.selection
        raise ValueError(f"selection={name!r}: reads the vision tower's attention, which training does not compute")
    if recipe.num_clusters is not None:
        cfg = cfg.with_settings(num_clusters=recipe.num_clusters)
    return dataclasses.replace(cfg, compute_dtype=recipe.compute_dtype)


def cast_params(params: Params, dtype: str) -> Params:
    """Return the parameters in the dtype of the computation; the gradient comes back in their own."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def sample_loss(
    cfg: BatConfig,
    recipe: TrainConfig,
    table: Float[Array, "256 3"],
    params: Params,
    key: Key[Array, ""],
    sample: TrainingSample,
) -> SampleLoss:
    """Return a sample's losses.

    Args:
      cfg: from `training_config`. table: `io.views.normalisation_table`. params: all parts, trained and frozen.
      key: of the training; the sample's centres come from (key, draw, scale).
    """
    settings = cfg.compressor
    params = cast_params(params, cfg.compute_dtype)
    vision, projected = _features(cfg, recipe, table, params, sample)
    answer_tokens = [
        bat.with_scale_embedding(cfg, size, settings.embedding_repeats("answer"), params, tokens)
        for size, tokens in zip(settings.sizes_px, projected, strict=True)
    ]
    anchor_tokens = bat.with_scale_embedding(
        cfg, settings.sizes_px[0], settings.embedding_repeats("attention"), params, projected[0]
    )
    with jax.named_scope("anchor_importance"):
        attention_inputs = (params, anchor_tokens)
        if not recipe.importance_loss_weight:
            attention_inputs = jax.lax.stop_gradient(attention_inputs)
        importance = anchor_importance(cfg, recipe, *attention_inputs, sample)
    clustered = vision if settings.cluster_features == "vision" else answer_tokens
    regions = _region_ids(cfg, key, sample, clustered)
    scales = tuple(ScaleTokens(*scale) for scale in zip(answer_tokens, regions, sample.valid, strict=True))
    grids = tuple(bat.token_grid(cfg, size) for size in settings.sizes_px)
    capacity = region_capacity(cfg)
    selections = select(settings, grids, capacity, scales, jax.lax.stop_gradient(importance), sample.budgets)
    visual, mask = bat.visual_tokens(cfg, params, selections)
    mask = mask & sample.has_image
    spliced = bat.splice(
        cfg,
        params,
        (sample.prefix_ids, sample.suffix_ids),
        (sample.prefix_valid, sample.suffix_valid),
        (jnp.where(mask[:, None], visual, 0),),
        (mask,),
    )
    with jax.named_scope("decoder"):
        hidden = bat.run_decoder(cfg, params, *spliced, remat=recipe.remat).hidden[0]
    answer, num_targets = _answer_loss(cfg, params, hidden, mask, sample)
    auxiliary, mass = importance_loss(importance, sample.target_mask & sample.has_image)
    return SampleLoss(
        total=answer + recipe.importance_loss_weight * auxiliary,
        answer=answer,
        importance=auxiliary,
        importance_mass=mass,
        num_targets=num_targets,
        num_rows=spliced.length[0].astype(jnp.float32),
    )


def batch_loss(
    cfg: BatConfig,
    recipe: TrainConfig,
    table: Float[Array, "256 3"],
    params: Params,
    key: Key[Array, ""],
    samples: TrainingSample,
) -> tuple[Float[Array, ""], SampleLoss]:
    """Return (sum over samples of weight * total, the losses of every sample (B,)).

    The sum, not the mean: the caller divides by the weight of the whole batch, of which this may be one part.
    """
    losses = jax.vmap(lambda sample: sample_loss(cfg, recipe, table, params, key, sample))(samples)
    # An empty slot may hold anything, and 0 * NaN is NaN.
    return jnp.sum(jnp.where(samples.weight > 0, samples.weight * losses.total, 0.0)), losses


def importance_loss(
    importance: Float[Array, "*B M1"], target_mask: Bool[Array, "*B M1"]
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Return (-log of the importance on the target's tokens, that importance); 0 and 0 without a target."""
    mass = jnp.sum(jnp.where(target_mask, importance, 0.0), axis=-1)
    return jnp.where(jnp.any(target_mask, axis=-1), -jnp.log(mass + _SMALLEST_MASS), 0.0), mass


def region_capacity(cfg: BatConfig) -> tuple[int, ...]:
    """Return the static number of regions of every scale."""
    settings = cfg.compressor
    return tuple(max(settings.clusters_of(spec, cfg.num_tokens(spec.size_px)), 1) for spec in settings.scales)


def anchor_importance(
    cfg: BatConfig, recipe: TrainConfig, params: Params, anchor_tokens: Float[Array, "M D"], sample: TrainingSample
) -> Float[Array, "M"]:
    """Return a_i of the anchor's tokens (Eq. 2), as `model.anchor_cache` and `model.anchor_importance` do together.

    Rows behind the first question have weight 0, and causality keeps them from mattering: the answer is never seen.
    """
    prefix = bat.embed(cfg, params, sample.prefix_ids, anchor_tokens.dtype)
    valid = jnp.concatenate([sample.prefix_valid, sample.valid[0]])
    embeddings = jnp.concatenate([prefix, anchor_tokens])[valid_first(valid)]
    cache = bat.run_decoder(cfg, params, embeddings[None], jnp.sum(valid)[None], remat=recipe.remat).cache
    output = bat.run_decoder(
        cfg,
        params,
        bat.embed(cfg, params, sample.suffix_ids[None], anchor_tokens.dtype),
        jnp.sum(sample.suffix_valid)[None],
        prefix=cache,
        remat=recipe.remat,
        row_weight=sample.row_weight[None],
        is_one_row=reads_one_row(cfg.compressor.attention_query),
    )
    assert output.importance is not None
    row = output.importance[cfg.compressor.attention_layer, 0]
    slots = valid_slots(valid)[prefix.shape[0] :]
    return jnp.where(sample.valid[0], row[slots], 0.0)


def _features(
    cfg: BatConfig, recipe: TrainConfig, table: Float[Array, "256 3"], params: Params, sample: TrainingSample
) -> tuple[list[Float[Array, "_ E"]], list[Float[Array, "_ D"]]]:
    """Return every scale's vision features and projected tokens; the tower runs in micro-batches of tiles."""

    def tower(tile):
        # Eight of these are one call of the tower: lax.map vmaps them.
        pixels = jnp.asarray(table)[tile.astype(jnp.int32), jnp.arange(3)].astype(cfg.compute_dtype)
        return bat.run_tower(cfg, params, pixels[None]).patches[0]

    def project(vision):
        return bat.project(cfg, params, vision)

    if recipe.remat:
        tower, project = jax.checkpoint(tower), jax.checkpoint(project)
    vision, projected = [], []
    for scale in range(len(cfg.compressor.scales)):
        with jax.named_scope("vision_tower"):
            if sample.tiles is None:
                assert sample.vision is not None
                features = sample.vision[scale].astype(cfg.compute_dtype)
            else:
                patches = jax.lax.map(tower, sample.tiles[scale], batch_size=TILE_BATCH)
                features = patches.reshape(-1, cfg.vision.width)
        vision.append(features if recipe.vision_tower else jax.lax.stop_gradient(features))
        with jax.named_scope("projector"):
            projected.append(project(vision[-1]))
    return vision, projected


def _region_ids(
    cfg: BatConfig, key: Key[Array, ""], sample: TrainingSample, features: list[Float[Array, "_ _"]]
) -> tuple[Int[Array, "_"], ...]:
    """Return every scale's region ids: the sample's, or clustered here without gradient (Eq. 13-14)."""
    if sample.region_id is not None:
        return sample.region_id
    settings = cfg.compressor
    regions = []
    for scale, (spec, count) in enumerate(zip(settings.scales, region_capacity(cfg), strict=True)):
        valid = sample.valid[scale]
        init = initial_centres(jax.random.fold_in(key, sample.draw), valid, spec.size_px, count)
        grid = bat.token_grid(cfg, spec.size_px)
        rows = jax.lax.stop_gradient(features[scale])
        regions.append(partition_scale(settings, grid, rows, valid, init, count, settings.kmeans_iterations))
    return tuple(regions)


def _answer_loss(
    cfg: BatConfig, params: Params, hidden: Float[Array, "T D"], mask: Bool[Array, "U"], sample: TrainingSample
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return (mean cross entropy over the targets, number of targets).

    A text token is predicted by the last valid row before it, be that text or a visual token (`mask`: the valid ones);
    only those rows meet the vocabulary.
    """
    num_prefix, num_suffix = sample.prefix_ids.shape[0], sample.suffix_ids.shape[0]
    before = valid_slots(jnp.concatenate([sample.prefix_valid, mask, sample.suffix_valid])) - 1
    predictor = jnp.concatenate([before[:num_prefix], before[before.size - num_suffix :]])
    labels = jnp.concatenate([sample.prefix_labels, sample.suffix_labels])
    labels = jnp.where(predictor >= 0, labels, IGNORE)
    rows = hidden[jnp.maximum(predictor, 0)]
    return chunked_cross_entropy(lambda block: bat.logits(cfg, params, block), rows, labels)


def chunked_cross_entropy(
    logits_of: Any, hidden: Float[Array, "T D"], labels: Int[Array, "T"], rows: int = LOGIT_ROWS
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return (mean cross entropy over labels that are not IGNORE, their number) in float32; 0 where there is none.

    `logits_of`, (rows, D) -> (rows, V) float32, is called chunk by chunk and again in the backward pass, so that the
    logits of all rows never stand in memory together.
    """

    @jax.checkpoint
    def chunk_sum(args):
        block, label = args
        is_target = label != IGNORE
        losses = -jnp.take_along_axis(
            jax.nn.log_softmax(logits_of(block), axis=-1), jnp.where(is_target, label, 0)[:, None], axis=-1
        )[:, 0]
        return jnp.sum(jnp.where(is_target, losses, 0.0))

    num_targets = jnp.sum(labels != IGNORE).astype(jnp.float32)
    rows = min(rows, hidden.shape[0])
    padding = -hidden.shape[0] % rows
    hidden = jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, rows, hidden.shape[1])
    labels = jnp.pad(labels, (0, padding), constant_values=IGNORE).reshape(-1, rows)
    with jax.named_scope("cross_entropy"):
        total = jnp.sum(jax.lax.map(chunk_sum, (hidden, labels)))
    return total / jnp.maximum(num_targets, 1.0), num_targets
