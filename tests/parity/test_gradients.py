"""Gradients of the training loss against torch: projector, decoder, scale embedding and token MLP, float32.

The torch side is written here from torch's own modules (Linear, interpolate, transformers' Qwen2ForCausalLM); it is
given which tokens were selected and which were merged, and computes everything else itself.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import model as bat
from bat_jax.compress.compressor import ScaleTokens, select
from bat_jax.io.views import normalisation_table
from bat_jax.train import loss as training
from bat_jax.train.labels import IGNORE
from bat_jax.train.recipe import TrainConfig
from tests.parity.transformers_decoder import transformers_decoder
from tests.tiny_model import tiny_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PARTS = ("projector", "decoder", "scale_embedding", "token_mlp")
RECIPE = TrainConfig(compute_dtype="float32", remat=True)
NUM_REGIONS = 6


def config():
    cfg = tiny_config()
    return dataclasses.replace(cfg, compressor=dataclasses.replace(cfg.compressor, scale_embedding=True))


def make_params(cfg):
    """Return random weights of a size at which every part matters."""
    params = bat.init_params(cfg, jax.random.key(0))
    rng = np.random.default_rng(5)

    def noise(leaf):
        return np.asarray(leaf) + 0.05 * rng.standard_normal(leaf.shape).astype(np.float32)

    return jax.tree.map(noise, params)


def make_samples(cfg):
    """Return two samples with text of different lengths, features of a frozen tower and given regions."""
    rng = np.random.default_rng(1)
    counts = [cfg.num_tokens(size) for size in cfg.compressor.sizes_px]
    samples = []
    for num_prefix, num_suffix in ((5, 9), (3, 12)):
        labels = rng.integers(0, 512, 16)
        suffix_labels = np.where((np.arange(16) >= 4) & (np.arange(16) < num_suffix), labels, IGNORE)
        prefix_labels = np.where(np.arange(8) < min(num_prefix, 2), labels[:8], IGNORE)
        samples.append(
            training.TrainingSample(
                prefix_ids=np.where(np.arange(8) < num_prefix, rng.integers(0, 512, 8), 0).astype(np.int32),
                prefix_valid=np.arange(8) < num_prefix,
                prefix_labels=prefix_labels.astype(np.int32),
                suffix_ids=np.where(np.arange(16) < num_suffix, rng.integers(0, 512, 16), 0).astype(np.int32),
                suffix_valid=np.arange(16) < num_suffix,
                suffix_labels=suffix_labels.astype(np.int32),
                row_weight=np.eye(16, dtype=np.float32)[3],
                tiles=None,
                vision=tuple(rng.standard_normal((count, cfg.vision.width)).astype(np.float32) for count in counts),
                region_id=tuple(rng.integers(0, NUM_REGIONS, count).astype(np.int32) for count in counts),
                valid=tuple(np.ones(count, bool) for count in counts),
                target_mask=np.zeros(counts[0], bool),
                # The fine scale's budget reaches past its kept tokens' first regions, so merged rows are among them.
                budgets=np.asarray([12, 25], np.int32),
                draw=np.int32(0),
                has_image=np.bool_(True),
                weight=np.float32(1),
            )
        )
    return samples


def selections_of(cfg, params, sample):
    """Return our selections: which tokens stay and which merge is the one thing that torch is told."""
    tokens = [
        bat.modules(cfg)["projector"].apply({"params": params["projector"]}, jnp.asarray(vision))
        for vision in sample.vision
    ]
    sizes = cfg.compressor.sizes_px
    anchor = bat.with_scale_embedding(cfg, sizes[0], 1, params, tokens[0])
    importance = training.anchor_importance(cfg, RECIPE, params, anchor, sample)
    scales = tuple(
        ScaleTokens(bat.with_scale_embedding(cfg, size, 2, params, rows), jnp.asarray(region), jnp.asarray(valid))
        for size, rows, region, valid in zip(sizes, tokens, sample.region_id, sample.valid, strict=True)
    )
    grids = tuple(bat.token_grid(cfg, size) for size in sizes)
    capacity = (NUM_REGIONS,) * len(sizes)
    return select(cfg.compressor, grids, capacity, scales, importance, jnp.asarray(sample.budgets))


def linear(layer):
    """Return a torch Linear with a Flax Dense layer's weights."""
    made = torch.nn.Linear(*layer["kernel"].shape)
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(layer["kernel"].T))
        made.bias.copy_(torch.from_numpy(layer["bias"]))
    return made


def mlp(params):
    return torch.nn.Sequential(linear(params["linear_1"]), torch.nn.GELU(), linear(params["linear_2"]))


def torch_decoder(cfg, params):
    model = transformers_decoder(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(leaf_of(params, name))))
    return model.train()


def leaf_of(params, name):
    """Return our array of a transformers parameter, in torch's layout."""
    parts = name.removeprefix("model.").removesuffix(".weight").split(".")
    layer = int(parts.pop(1)) if parts[0] == "layers" else None
    node = params
    for part in parts[:-1] if parts[-1] == "bias" else parts:
        node = node[part]
    key = "bias" if parts[-1] == "bias" else next(k for k in ("kernel", "scale", "embedding") if k in node)
    leaf = np.asarray(node[key] if layer is None else node[key][layer])
    return leaf.T if key == "kernel" else leaf


class TorchSide:
    def __init__(self, cfg, params):
        self.cfg = cfg
        self.projector = mlp(params["projector"])
        self.token_mlp = mlp(params["token_mlp"])
        self.decoder = torch_decoder(cfg.decoder, params["decoder"])
        self.residuals = {
            name: torch.nn.Parameter(torch.from_numpy(np.array(grid)))
            for name, grid in params["scale_embedding"].items()
        }

    def visual(self, sample, selections):
        rows, side = [], self.cfg.vision.side
        for scale, size in enumerate(self.cfg.compressor.sizes_px):
            grid = self.residuals[f"residual_{size}"].permute(2, 0, 1)[None]
            resized = torch.nn.functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
            one_tile = resized[0].permute(1, 2, 0).reshape(side * side, -1)
            tokens = self.projector(torch.from_numpy(sample.vision[scale]))
            tokens = tokens + 2 * one_tile.repeat(len(tokens) // len(one_tile), 1)
            picked = selections[scale]
            is_kept, region_id = np.asarray(picked.is_kept), sample.region_id[scale]
            for index, region in zip(np.asarray(picked.keep_index), np.asarray(picked.region), strict=True):
                if index >= 0:
                    rows.append(tokens[int(index)])
                elif region >= 0:
                    rows.append(tokens[torch.from_numpy(~is_kept & (region_id == region))].mean(0))
        return self.token_mlp(torch.stack(rows))

    def loss(self, sample, selections):
        embed = self.decoder.get_input_embeddings()
        prefix, suffix = sample.prefix_ids[sample.prefix_valid], sample.suffix_ids[sample.suffix_valid]
        visual = self.visual(sample, selections)
        parts = [embed(torch.from_numpy(prefix).long()), visual, embed(torch.from_numpy(suffix).long())]
        labels = [sample.prefix_labels[sample.prefix_valid], np.full(len(visual), IGNORE)]
        labels = np.concatenate([*labels, sample.suffix_labels[sample.suffix_valid]]).astype(np.int64)
        return self.decoder(inputs_embeds=torch.cat(parts)[None], labels=torch.from_numpy(labels)[None]).loss


@pytest.fixture(scope="module")
def both_sides():
    cfg = config()
    params, samples = make_params(cfg), make_samples(cfg)

    def ours(trained):
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples)
        total, losses = training.batch_loss(
            cfg, RECIPE, normalisation_table(cfg.vision), params | trained, jax.random.key(0), batch
        )
        return total / len(samples), losses

    trained = {part: params[part] for part in PARTS}
    with jax.default_matmul_precision("highest"):
        (loss, losses), gradients = jax.jit(jax.value_and_grad(ours, has_aux=True))(trained)
        select_once = jax.jit(lambda sample: selections_of(cfg, params, sample))
        selections = [select_once(sample) for sample in samples]
    side = TorchSide(cfg, params)
    theirs = sum(side.loss(sample, one) for sample, one in zip(samples, selections, strict=True)) / len(samples)
    theirs.backward()
    return loss, losses, jax.tree.map(np.asarray, gradients), selections, theirs, side


def close(ours, theirs):
    """Compare to 1e-4 of the largest entry, and to 1e-4 absolutely."""
    theirs = theirs.numpy()
    assert np.abs(theirs).max() > 1e-6, "no gradient to compare"
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=min(1e-4, 1e-4 * np.abs(theirs).max()))


def test_the_comparison_has_kept_and_merged_rows(both_sides):
    _, _, _, selections, _, _ = both_sides
    fine = [one[1] for one in selections]
    assert all(np.any(np.asarray(one.keep_index) >= 0) for one in fine)
    assert any(np.any((np.asarray(one.keep_index) < 0) & np.asarray(one.mask)) for one in fine)


def test_the_loss_is_torchs(both_sides):
    loss, losses, _, _, theirs, _ = both_sides
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-5)
    assert losses.num_targets.tolist() == [6, 9]  # the first token of a sequence has no predictor


@pytest.mark.parametrize("part", ["projector", "token_mlp"])
def test_gradients_of_projector_and_token_mlp_equal_torchs(both_sides, part):
    gradients, side = both_sides[2], both_sides[5]
    for name, layer in (("linear_1", getattr(side, part)[0]), ("linear_2", getattr(side, part)[2])):
        close(gradients[part][name]["kernel"], layer.weight.grad.T)
        close(gradients[part][name]["bias"], layer.bias.grad)


def test_gradients_of_the_scale_embedding_equal_torchs(both_sides):
    gradients, side = both_sides[2], both_sides[5]
    assert set(gradients["scale_embedding"]) == set(side.residuals)
    for name, grid in side.residuals.items():
        close(gradients["scale_embedding"][name], grid.grad)


def test_gradients_of_every_decoder_parameter_equal_torchs(both_sides):
    gradients, side = both_sides[2], both_sides[5]
    for name, parameter in side.decoder.named_parameters():
        if name.endswith("k_proj.bias"):
            # A bias of all keys shifts every score of a row alike (but for the rotation), so its gradient is small.
            np.testing.assert_allclose(leaf_of(gradients["decoder"], name), parameter.grad, rtol=1e-3, atol=1e-6)
        else:
            close(leaf_of(gradients["decoder"], name), parameter.grad)
