"""The conversion of the golden checkpoint (a tiny one with the names and layout of the authors' release), and back."""

import json
import pathlib
import shutil
import weakref

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import transformers
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from bat_jax.config import BatConfig, VisionConfig
from bat_jax.io import conversion_table as table
from bat_jax.io import convert, hf_config
from bat_jax.io.params import load_params
from bat_jax.nn.decoder import layers_apart
from bat_jax.nn.int8 import held_params
from bat_jax.pipeline import BatModel

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "dev" / "checkpoint"
TOWER = "model.vision_tower.vision_tower.vision_model."


def _golden_tensors() -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for path in sorted(GOLDEN.glob("*.safetensors")):
        tensors |= safetensors.numpy.load_file(path)
    return tensors


def _write_source(folder: pathlib.Path, tensors, tower_config=True, **config) -> pathlib.Path:
    """Write a source folder: golden's config with changes (None removes a field), the given tensors in one file."""
    folder.mkdir()
    values = json.loads((GOLDEN / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    if tower_config:
        shutil.copytree(GOLDEN / "vision_tower", folder / "vision_tower")
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def tensors():
    return _golden_tensors()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "golden"
    report = convert.convert(GOLDEN, output)
    return output, report


@pytest.fixture(scope="module")
def params(converted):
    return load_params(converted[0])


def test_config_follows_the_source(converted):
    config = BatConfig.load(converted[0] / "config.json")
    assert config == hf_config.config_from_hf(GOLDEN)
    vision, decoder = config.vision, config.decoder
    assert (vision.width, vision.num_layers, vision.num_heads, vision.mlp_dim) == (32, 3, 4, 64)
    assert (vision.image_size_px, vision.patch_size_px, vision.select_layer) == (336, 14, -2)
    assert (decoder.width, decoder.num_layers, decoder.num_heads, decoder.num_kv_heads) == (64, 3, 4, 2)
    assert (decoder.head_dim, decoder.mlp_dim, decoder.vocab_size, decoder.rope_theta) == (16, 128, 512, 1e9)
    assert decoder.max_positions == 32768 and not decoder.tie_word_embeddings
    assert (config.scale_embedding.form, config.scale_embedding.scales_px) == ("residual", (672, 1344))
    assert config.scale_embedding.sides == (48, 64)
    assert config.has_token_mlp and config.compressor.token_mlp and not config.compressor.scale_embedding
    assert config.compressor.fidelity == "release"
    assert (config.compressor.sizes_px, config.compressor.budgets) == ((672, 1344), (80, 320))
    assert config.compute_dtype == "float32"


def test_leaves_equal_the_tensors_by_name(params, tensors):
    vision, decoder = params["vision_tower"], params["decoder"]
    kernel = tensors[TOWER + "embeddings.patch_embedding.weight"]
    assert vision["patch_embedding"]["kernel"][3, 5, 1, 7] == kernel[7, 1, 3, 5]
    expected = {
        "vision_tower/patch_embedding/kernel": np.einsum("echw->hwce", kernel),
        "vision_tower/class_embedding": tensors[TOWER + "embeddings.class_embedding"],
        "vision_tower/position_embedding": tensors[TOWER + "embeddings.position_embedding.weight"],
        "vision_tower/pre_layernorm/scale": tensors[TOWER + "pre_layrnorm.weight"],
        "projector/linear_1/kernel": tensors["model.mm_projector.0.weight"].T,
        "projector/linear_2/bias": tensors["model.mm_projector.2.bias"],
        "token_mlp/linear_2/kernel": tensors["model.multiscale_token_mlp.2.weight"].T,
        "scale_embedding/residual_672": tensors["model.scale_pos_residuals.672"].reshape(48, 48, 64),
        "scale_embedding/residual_1344": tensors["model.scale_pos_residuals.1344"].reshape(64, 64, 64),
        "decoder/embed_tokens/embedding": tensors["model.embed_tokens.weight"],
        "decoder/norm/scale": tensors["model.norm.weight"],
        "decoder/lm_head/kernel": tensors["lm_head.weight"].T,
    }
    leaves = traverse_util.flatten_dict(params, sep="/")
    for path, array in expected.items():
        np.testing.assert_array_equal(leaves[path], array, err_msg=path)
    for layer in range(3):
        name = f"model.layers.{layer}."
        attention = decoder["layers"]["self_attn"]
        np.testing.assert_array_equal(attention["k_proj"]["kernel"][layer], tensors[name + "self_attn.k_proj.weight"].T)
        np.testing.assert_array_equal(attention["q_proj"]["bias"][layer], tensors[name + "self_attn.q_proj.bias"])
        np.testing.assert_array_equal(
            decoder["layers"]["mlp"]["down_proj"]["kernel"][layer], tensors[name + "mlp.down_proj.weight"].T
        )
    for layer in range(2):
        np.testing.assert_array_equal(
            vision["layers"]["mlp"]["fc1"]["kernel"][layer], tensors[TOWER + f"encoder.layers.{layer}.mlp.fc1.weight"].T
        )


def test_loaded_leaves_are_exactly_the_expected_ones(converted, params):
    config = BatConfig.load(converted[0] / "config.json")
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}
    expected = table.expected_shapes(config)
    assert shapes == {path: shape for path, shape in expected.items() if not path.startswith(table.UNUSED)}
    assert "unused" not in params


def test_vision_layers_that_never_run_are_kept_as_unused(converted, tensors):
    tree = ocp.load(converted[0] / "params")
    fc1 = np.asarray(tree["unused"]["vision_tower"]["layers"]["mlp"]["fc1"]["kernel"])
    np.testing.assert_array_equal(fc1[0], tensors[TOWER + "encoder.layers.2.mlp.fc1.weight"].T)
    assert fc1.shape[0] == 1 and "post_layernorm" in tree["unused"]["vision_tower"]


def test_report_counts_every_parameter(converted, tensors):
    report = converted[1]
    assert sum(num for num, _ in report.parts.values()) == sum(array.size for array in tensors.values())
    assert report.num_checked == len(tensors) and report.max_abs_error == 0.0 and report.absent == ()


def test_folder_holds_config_source_config_and_tokenizer(converted):
    output = converted[0]
    files = {"checksums.json", "config.json", "params", "source_config.json", "tokenizer"}
    assert {path.name for path in output.iterdir()} == files
    values = json.loads((output / "source_config.json").read_text())
    assert values.pop("vision_tower") == json.loads((GOLDEN / "vision_tower" / "config.json").read_text())
    assert values == json.loads((GOLDEN / "config.json").read_text())
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"):
        assert (output / "tokenizer" / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_round_trip_is_bit_equal(converted, tensors, tmp_path):
    report = convert.convert_back(converted[0], tmp_path / "back")
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert index["metadata"]["total_size"] == 2656896
    for file in set(index["weight_map"].values()):
        for name, array in safetensors.numpy.load_file(tmp_path / "back" / file).items():
            assert array.dtype == tensors[name].dtype and array.shape == tensors[name].shape, name
            assert array.tobytes() == tensors[name].tobytes(), name
    assert report.num_checked == len(tensors)
    for name in ("config.json", "vision_tower/config.json"):
        assert json.loads((tmp_path / "back" / name).read_text()) == json.loads((GOLDEN / name).read_text())
    assert (tmp_path / "back" / "vocab.json").read_bytes() == (GOLDEN / "vocab.json").read_bytes()


def test_dtype_casts_once_and_round_trips_as_stored(tmp_path, tensors):
    report = convert.convert(GOLDEN, tmp_path / "half", dtype="bfloat16")
    params = load_params(tmp_path / "half")
    wanted = tensors["model.norm.weight"].astype(ml_dtypes.bfloat16)
    assert params["decoder"]["norm"]["scale"].tobytes() == wanted.tobytes()
    largest = max(
        np.abs(array.astype(ml_dtypes.bfloat16).astype(np.float32) - array).max() for array in tensors.values()
    )
    assert report.max_abs_error == largest > 0
    convert.convert_back(tmp_path / "half", tmp_path / "back")
    assert convert.convert(tmp_path / "back", tmp_path / "again").max_abs_error == 0.0


def test_longva_layout_converts_with_the_parts_off(tmp_path, tensors):
    kept = {n: a for n, a in tensors.items() if "scale_pos_residuals" not in n and "multiscale_token_mlp" not in n}
    source = _write_source(tmp_path / "longva", kept, multiscale_target_sizes=None, scale_residual_base=None)
    report = convert.convert(source, tmp_path / "out")
    config = BatConfig.load(tmp_path / "out" / "config.json")
    assert report.absent == ("scale_embedding", "token_mlp")
    assert config.scale_embedding.form == "none" and not config.has_token_mlp
    assert not config.compressor.scale_embedding and not config.compressor.token_mlp
    assert config.compressor.sizes_px == (672, 1344, 2688, 4032)
    assert set(load_params(tmp_path / "out")) == {"vision_tower", "projector", "decoder"}


def _split_tower(tensors, prefix):
    tower = {prefix + n.removeprefix(TOWER): a for n, a in tensors.items() if n.startswith(TOWER)}
    return {n: a for n, a in tensors.items() if not n.startswith(TOWER)}, tower


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_vision_tower_from_a_folder_of_its_own(tmp_path, tensors, params, prefix):
    rest, tower = _split_tower(tensors, prefix)
    tower["text_model.final_layer_norm.bias"] = np.zeros(3, np.float32)
    tower[prefix + "embeddings.position_ids"] = np.arange(577)[None]
    source = _write_source(tmp_path / "source", rest, tower_config=False)
    clip = tmp_path / "clip"
    shutil.copytree(GOLDEN / "vision_tower", clip)
    nested = {"model_type": "clip", "vision_config": json.loads((clip / "config.json").read_text())}
    (clip / "config.json").write_text(json.dumps(nested))
    safetensors.numpy.save_file(tower, clip / "model.safetensors")
    report = convert.convert(source, tmp_path / "out", clip)
    assert any("2 tensors" in note for note in report.notes)
    found = traverse_util.flatten_dict(load_params(tmp_path / "out"))
    for path, leaf in traverse_util.flatten_dict(params).items():
        np.testing.assert_array_equal(found[path], leaf)


def test_a_source_without_a_tower_says_what_to_do(tmp_path, tensors):
    source = _write_source(tmp_path / "source", _split_tower(tensors, "")[0])
    with pytest.raises(ValueError, match="no vision tower in it; set --vision_tower") as info:
        convert.convert(source, tmp_path / "out")
    assert "\n" not in str(info.value)


def test_tower_inside_wins_and_the_folder_gives_its_config_only(tmp_path, tensors):
    source = _write_source(tmp_path / "source", tensors, tower_config=False)
    report = convert.convert(source, tmp_path / "out", GOLDEN / "vision_tower")
    assert any("gave its config only" in note for note in report.notes)


def test_unknown_tower_sizes_are_not_guessed(tmp_path, tensors):
    source = _write_source(tmp_path / "source", tensors, tower_config=False)
    with pytest.raises(ValueError, match="openai/clip-tiny-random-patch14-336' are not known; pass --vision_tower"):
        hf_config.config_from_hf(source)


def test_the_known_tower_needs_no_config(tmp_path, tensors):
    known = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_hidden_size": 1024}
    source = _write_source(tmp_path / "source", tensors, tower_config=False, **known)
    assert hf_config.config_from_hf(source).vision == VisionConfig()


def test_outer_alias_is_taken_when_equal_and_refused_when_not(tmp_path, tensors, params):
    name = "multiscale_token_mlp.0.weight"
    source = _write_source(tmp_path / "equal", tensors | {name: tensors[f"model.{name}"]})
    assert any(name in note for note in convert.convert(source, tmp_path / "out").notes)
    source = _write_source(tmp_path / "other", tensors | {name: tensors[f"model.{name}"] + 1})
    with pytest.raises(ValueError, match=f"{name}: a second name of model.{name}, but the two tensors differ"):
        convert.convert(source, tmp_path / "out2")
    outer = {n.replace("model.multiscale_token_mlp", "multiscale_token_mlp"): a for n, a in tensors.items()}
    convert.convert(_write_source(tmp_path / "outer", outer), tmp_path / "out3")
    found = load_params(tmp_path / "out3")["token_mlp"]["linear_1"]["kernel"]
    np.testing.assert_array_equal(found, params["token_mlp"]["linear_1"]["kernel"])


def test_tied_head_may_stand_in_the_file_or_not(tmp_path, tensors):
    tied = dict(tensors) | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    convert.convert(_write_source(tmp_path / "with", tied, tie_word_embeddings=True), tmp_path / "out")
    assert "lm_head" not in load_params(tmp_path / "out")["decoder"]
    del tied["lm_head.weight"]
    convert.convert(_write_source(tmp_path / "without", tied, tie_word_embeddings=True), tmp_path / "out2")
    source = _write_source(tmp_path / "untied", tensors, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"lm_head.weight: a second name of model.embed_tokens.weight"):
        convert.convert(source, tmp_path / "out3")


def test_image_newline_survives_the_round_trip(tmp_path, tensors):
    newline = np.arange(64, dtype=np.float32)
    source = _write_source(tmp_path / "source", tensors | {"model.image_newline": newline})
    convert.convert(source, tmp_path / "out")
    convert.convert_back(tmp_path / "out", tmp_path / "back")
    stored = safetensors.numpy.load_file(tmp_path / "back" / "model-00001-of-00001.safetensors")
    np.testing.assert_array_equal(stored["model.image_newline"], newline)


def test_the_papers_scale_embedding_goes_there_and_back(tmp_path, tensors):
    kept = {name: array for name, array in tensors.items() if "scale_pos_residuals" not in name}
    kept["model.scale_embedding.base"] = np.random.default_rng(0).standard_normal((6, 6, 64)).astype(np.float32)
    kept["model.scale_embedding.scale"] = np.ones((2, 64), np.float32)
    source = _write_source(tmp_path / "source", kept, scale_embedding_base_side=6)
    convert.convert(source, tmp_path / "out")
    config = BatConfig.load(tmp_path / "out" / "config.json")
    assert config.scale_embedding.form == "base" and config.scale_embedding.base_side == 6
    convert.convert_back(tmp_path / "out", tmp_path / "back")
    assert hf_config.config_from_hf(tmp_path / "back").scale_embedding == config.scale_embedding


def test_all_problems_come_in_one_error(tmp_path, tensors):
    bad = dict(tensors)
    bad["model.embed_tokens.weight"] = np.zeros((97, 3), np.float32)
    bad["model.scale_pos_residuals.672"] = np.zeros((1, 47, 64), np.float32)
    bad["model.stranger"] = np.zeros(2, np.float32)
    bad["model.layers.3.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"]
    bad["model.norm.weight"] = np.zeros(64, np.int32)
    bad["model.layers.1.self_attn.q_proj.bias"] = tensors["model.layers.1.self_attn.q_proj.bias"].astype(np.float16)
    del bad["model.layers.1.mlp.down_proj.weight"], bad["model.mm_projector.0.bias"]
    del bad["model.scale_pos_residuals.1344"]
    source = _write_source(tmp_path / "source", bad)
    with pytest.raises(ValueError) as info:
        convert.convert(source, tmp_path / "out")
    assert str(info.value).splitlines()[0] == "9 problems:"
    assert set(str(info.value).splitlines()[1:]) == {
        "  - model.stranger: no row of the conversion table takes it, shape (2,)",
        "  - projector/linear_1/bias: 0 of 1 pieces found, without model.mm_projector.0.bias",
        "  - model.scale_pos_residuals.672: shape (1, 47, 64), scale_embedding/residual_672 needs (48, 48, 64) after "
        "layout change",
        "  - scale_embedding/residual_1344: 0 of 1 pieces found, without model.scale_pos_residuals.1344",
        "  - model.embed_tokens.weight: shape (97, 3) after layout change, decoder/embed_tokens/embedding needs "
        "(512, 64)",
        "  - decoder/layers/self_attn/q_proj/bias: pieces have dtypes float16, float32; set --dtype to cast them",
        "  - model.layers.3.mlp.up_proj.weight: one layer too many, decoder/layers/mlp/up_proj/kernel has 3",
        "  - decoder/layers/mlp/down_proj/kernel: 2 of 3 pieces found, without model.layers.1.mlp.down_proj.weight",
        "  - model.norm.weight: dtype int32, a floating dtype is needed",
    }
    assert list(tmp_path.iterdir()) == [source]


def test_nan_and_infinity_are_all_reported_and_nothing_is_left(tmp_path, tensors):
    bad = {name: array.copy() for name, array in tensors.items()}
    bad["model.layers.2.mlp.up_proj.weight"][3, 4] = np.nan
    bad["lm_head.weight"][0, :2] = np.inf
    source = _write_source(tmp_path / "source", bad)
    with pytest.raises(ValueError) as info:
        convert.convert(source, tmp_path / "out")
    assert str(info.value).startswith("2 problems:")
    assert "model.layers.2.mlp.up_proj.weight: 1 values are NaN or infinite" in str(info.value)
    assert "lm_head.weight: 2 values are NaN or infinite" in str(info.value)
    assert list(tmp_path.iterdir()) == [source]


def test_values_too_large_for_the_dtype_are_refused(tmp_path, tensors):
    source = _write_source(tmp_path / "source", tensors | {"model.norm.weight": np.full(64, 1e6, np.float32)})
    with pytest.raises(ValueError, match=r"model.norm.weight: 64 values are too large for float16"):
        convert.convert(source, tmp_path / "out", dtype="float16")


def test_a_tokenizer_with_more_tokens_than_rows_is_refused_and_nothing_is_left(converted, tmp_path):
    for name, place in (("source", GOLDEN), ("checkpoint", converted[0])):
        shutil.copytree(place, tmp_path / name)
    for folder in (tmp_path / "source", tmp_path / "checkpoint" / "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        tokenizer.add_tokens(["<ship>"])
        tokenizer.save_pretrained(str(folder))
    message = r"{}: the tokenizer has ids up to 512 \('<ship>'\), the embedding has 512 rows"
    with pytest.raises(ValueError, match=message.format(tmp_path / "source")):
        convert.convert(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=message.format(tmp_path / "checkpoint" / "tokenizer")):
        BatModel.load(tmp_path / "checkpoint")


def test_broken_files_leave_no_output(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN, source)
    shard = source / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors: truncated"):
        convert.convert(source, tmp_path / "out")
    shard.unlink()
    with pytest.raises(ValueError, match=r"names the shard model-00002-of-00002.safetensors, which is not"):
        convert.convert(source, tmp_path / "out")
    for path in source.glob("*.safetensors*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="only pickled weights"):
        convert.convert(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "config.json: hidden_size=None: an integer is needed"),
        ({"num_attention_heads": 5}, "num_attention_heads=5: must divide hidden_size=64"),
        ({"rope_theta": None}, "rope_theta=None: a number is needed"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear' is not supported"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature='cls_patch' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        ({"mm_hidden_size": 48}, "mm_hidden_size=48, but the tower"),
        ({"multiscale_target_sizes": ["672"]}, "multiscale_target_sizes="),
        ({"multiscale_target_sizes": [700]}, "must be a multiple of the tile's 336 pixels"),
    ],
)
def test_config_errors_name_the_field(tmp_path, tensors, change, message):
    source = _write_source(tmp_path / "source", {"x": np.zeros(1, np.float32)}, **change)
    with pytest.raises(ValueError, match=message):
        hf_config.config_from_hf(source)


def test_existing_output_is_kept_unless_overwritten(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists; choose another folder or pass --overwrite"):
        convert.convert(GOLDEN, output)
    with pytest.raises(FileExistsError, match="no earlier conversion"):
        convert.convert(GOLDEN, output, overwrite=True)
    assert (output / "letter.txt").read_text() == "mine"
    (output / "letter.txt").unlink()
    convert.convert(GOLDEN, output, overwrite=True)
    convert.convert(GOLDEN, output, overwrite=True, dtype="bfloat16")
    assert load_params(output)["decoder"]["norm"]["scale"].dtype.name == "bfloat16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_source_is_never_overwritten(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN, source)
    with pytest.raises(FileExistsError, match="holds what is to be converted"):
        convert.convert(source, source, overwrite=True)


def test_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^cannot write to .*: Not a directory$"):
        convert.convert(GOLDEN, tmp_path / "file" / "out")


def test_load_params_reports_what_is_wrong(converted, tmp_path):
    with pytest.raises(ValueError, match="is no converted checkpoint; run experiments"):
        load_params(GOLDEN)
    with pytest.raises(ValueError, match="does not exist or is no directory"):
        load_params(tmp_path / "absent")
    broken = tmp_path / "broken"
    shutil.copytree(converted[0], broken)
    values = json.loads((broken / "config.json").read_text())
    values["decoder"]["vocab_size"] = 600
    values["has_token_mlp"] = values["compressor"]["token_mlp"] = False
    (broken / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError) as info:
        load_params(broken)
    assert "6 problems" in str(info.value)
    assert "decoder/lm_head/kernel: shape (64, 512), config.json needs (64, 600)" in str(info.value)
    assert "token_mlp/linear_1/kernel: no part of the model" in str(info.value)


def test_int8_is_made_of_one_leaf_at_a_time_as_soon_as_it_is_placed(converted):
    placed, alive = [], []

    def place(_, array):
        alive.append([leaf for leaf in placed if leaf() is not None])
        array = jax.device_put(array)
        placed.append(weakref.ref(array))
        return array

    params = load_params(converted[0], place=place, weights="int8", layers_apart=True)
    num_in_passing = [sum(leaf() is None for leaf in leaves) for leaves in alive]
    assert len(placed) > 40 and max(num_in_passing) <= 1
    expected = held_params("int8", layers_apart(load_params(converted[0])))
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert params["decoder"]["layers_0"]["mlp"]["up_proj"]["rows"].dtype == np.int8


def test_load_params_reads_trees_of_jax_arrays_too(converted, params, tmp_path):
    output = tmp_path / "trained"
    output.mkdir()
    shutil.copyfile(converted[0] / "config.json", output / "config.json")
    ocp.save(output / "params", jax.tree.map(jax.numpy.asarray, params))
    found = load_params(output)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    convert.convert_back(output, tmp_path / "back")  # no source_config.json: the config is made from ours
    assert hf_config.config_from_hf(tmp_path / "back").decoder == BatConfig.load(output / "config.json").decoder


def test_every_leaf_has_one_source_name_and_place_inverts_it():
    config = BatConfig.uhr_bat_7b()
    names = set()
    for path, shape in table.expected_shapes(config).items():
        for index in range(shape[0]) if table.is_stacked(path) else (None,):
            name, row = table.source_of(path, index, config.vision.num_run_layers)
            prefixes = table.LLAVA_VISION_PREFIXES if row in table.VISION_ROWS else ("",)
            groups = table.name_pattern(row, prefixes).fullmatch(name).groupdict()
            layer = int(groups["layer"]) if "layer" in groups else None
            scale = int(groups["scale"]) if "scale" in groups else None
            assert table.place(row, layer, scale, config.vision.num_run_layers) == (path, index)
            names.add(name)
    assert len(names) == 28 * 12 + 3 + 24 * 16 + 7 + 8 + 4 + 1
    assert table.expected_shapes(config)["decoder/layers/mlp/gate_proj/kernel"] == (28, 3584, 18944)


def test_a_tower_that_is_no_clip_is_refused():
    values = json.loads((GOLDEN / "vision_tower" / "config.json").read_text()) | {"model_type": "siglip_vision_model"}
    with pytest.raises(ValueError, match=r"model_type='siglip_vision_model' is not supported; supported: 'clip_vision"):
        hf_config.vision_config(values, "config.json")


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_rope_scaling_of_llava_qwen_is_ignored_with_a_note(tmp_path, tensors, params):
    report = convert.convert(_write_source(tmp_path / "source", tensors, rope_scaling=YARN), tmp_path / "out")
    assert any(note.startswith(f"rope_scaling={YARN!r} is ignored: the model class of") for note in report.notes)
    assert BatConfig.load(tmp_path / "out" / "config.json").decoder == hf_config.config_from_hf(GOLDEN).decoder


def test_a_llava_checkpoint_without_biases_converts_and_comes_back(tmp_path, tensors):
    llama = {n: a for n, a in tensors.items() if not (n.startswith("model.layers.") and n.endswith("_proj.bias"))}
    convert.convert(_write_source(tmp_path / "source", llama, model_type="llava_llama"), tmp_path / "out")
    (tmp_path / "out" / "source_config.json").unlink()
    convert.convert_back(tmp_path / "out", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "llava_llama"
    with pytest.raises(ValueError, match=r"self_attn/q_proj/bias: 0 of 3 pieces found"):
        convert.convert(_write_source(tmp_path / "wrong", llama), tmp_path / "out2")


def test_any_odd_value_is_read_or_refused_in_one_line(tmp_path, tensors):
    """Every field of the sources' JSON files in turn holds what it should not."""
    source = _write_source(tmp_path / "source", {"model.layers.0.x": np.zeros(1, np.float32)})
    odd = [None, "x", -1, 0, True, [[]], {"x": [1]}, float("nan"), 10**400]
    num_refused = 0
    for name in ("config.json", "vision_tower/config.json", "vision_tower/preprocessor_config.json"):
        whole = json.loads((source / name).read_text())
        for field in {*whole, "rope_parameters", "layer_types", "head_dim", "sliding_window"}:
            for value in odd:
                (source / name).write_text(json.dumps(whole | {field: value}))
                try:
                    hf_config.config_from_hf(source)
                except ValueError as error:
                    assert "\n" not in str(error) and "=" in str(error), (name, field, value)
                    num_refused += 1
        (source / name).write_text(json.dumps(whole))
    assert num_refused > 150


SIGLIP = {"image_mean": [0.5, 0.5, 0.25], "image_std": [0.5, 0.5, 0.3], "rescale_factor": 0.5}


@pytest.mark.parametrize("place", ["", "vision_tower"])
def test_preprocessing_follows_the_source_and_comes_back(tmp_path, tensors, place):
    source = _write_source(tmp_path / "source", tensors)
    (source / "vision_tower" / "preprocessor_config.json").unlink()
    (source / place / "preprocessor_config.json").write_text(json.dumps(SIGLIP | {"crop_size": 336, "resample": 3}))
    report = convert.convert(source, tmp_path / "out")
    vision = BatConfig.load(tmp_path / "out" / "config.json").vision
    assert (vision.pixel_mean, vision.pixel_std, vision.rescale) == ((0.5, 0.5, 0.25), (0.5, 0.5, 0.3), 0.5)
    assert vision.pad_colour == (127, 127, 63)
    assert f"come from {source / place / 'preprocessor_config.json'}" in "".join(report.notes)
    if not place:
        convert.convert_back(tmp_path / "out", tmp_path / "back")
        assert hf_config.config_from_hf(tmp_path / "back").vision == vision


def test_a_source_without_preprocessing_gets_clips_and_a_note(converted, tmp_path, tensors):
    """CLIP's are those that the golden tower's own file names."""
    source = _write_source(tmp_path / "source", tensors)
    (source / "vision_tower" / "preprocessor_config.json").unlink()
    report = convert.convert(source, tmp_path / "out")
    assert any("pixels are CLIP's: no preprocessor_config.json" in note for note in report.notes)
    configs = [BatConfig.load(folder / "config.json") for folder in (tmp_path / "out", converted[0])]
    assert configs[0] == configs[1] and configs[0].vision.pixel_mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean=[0.5, 0.5]: three numbers, for R, G and B, are needed"),
        ({"image_std": "half"}, "image_std='half': three numbers, for R, G and B, are needed"),
        ({"image_std": [0.5, 0.0, 0.5]}, "VisionConfig.pixel_std=(0.5, 0.0, 0.5): must be positive"),
        ({"rescale_factor": 0}, "VisionConfig.rescale=0.0: must be positive"),
        ({"do_normalize": False}, "do_normalize=False is not supported; supported: True"),
        ({"resample": 2}, "resample=2 is not supported; supported: 3"),
        ({"crop_size": {"height": 224, "width": 224}}, "crop_size={'height': 224, 'width': 224} is not supported"),
        ({"image_mean": [2.0, 0.5, 0.5]}, "VisionConfig.pad_colour=(510, 127, 127): must be bytes"),
    ],
    ids=str,
)
def test_preprocessing_that_is_not_done_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError) as info:
        hf_config.with_preprocessing(VisionConfig(), SIGLIP | change, "preprocessor_config.json")
    assert str(info.value).startswith(f"preprocessor_config.json: {message}") and "\n" not in str(info.value)
