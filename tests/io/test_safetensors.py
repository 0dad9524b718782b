"""Reading and writing safetensors without the safetensors package, checked against that package."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bat_jax.io import safetensors as ours


def _tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": rng.standard_normal((4, 2, 2)).astype(np.float16),
        "c": rng.standard_normal(7).astype(ml_dtypes.bfloat16),
        "d": np.arange(6, dtype=np.int64).reshape(2, 3),
        "scalar": np.array(2.5, np.float64),
        "empty": np.zeros((0, 3), np.float32),
    }


def _write(folder, tensors, **kwargs):
    specs = [ours.TensorSpec(name, array.shape, array.dtype) for name, array in tensors.items()]
    ours.write_folder(folder, specs, iter(tensors.values()), **kwargs)


def _assert_same(found, wanted):
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


def test_reads_what_the_package_writes(tmp_path):
    tensors = _tensors()
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    folder = ours.open_folder(tmp_path)
    assert set(folder.infos) == set(tensors)
    for name, array in tensors.items():
        _assert_same(folder.read(name), array)


def test_the_package_reads_what_we_write(tmp_path):
    tensors = _tensors()
    _write(tmp_path, tensors, max_shard_bytes=64)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())
    assert len(set(index["weight_map"].values())) > 1
    for name, array in tensors.items():
        with safetensors.safe_open(tmp_path / index["weight_map"][name], "numpy") as file:
            assert file.metadata() == {"format": "pt"}
            _assert_same(file.get_tensor(name), array)


def test_a_single_shard_has_an_index_too(tmp_path):
    _write(tmp_path, _tensors())
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
    ]
    assert set(ours.open_folder(tmp_path).infos) == set(_tensors())


def test_non_contiguous_arrays_are_written_in_c_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    _write(tmp_path, {"x": array})
    np.testing.assert_array_equal(ours.open_folder(tmp_path).read("x"), [[0, 3], [1, 4], [2, 5]])


def test_a_tensor_is_a_read_only_view_of_the_file(tmp_path):
    _write(tmp_path, _tensors())
    folder = ours.open_folder(tmp_path)
    assert not folder.read("a").flags.owndata
    assert np.shares_memory(folder.read("a"), folder.read("a"))
    with pytest.raises(ValueError, match="read-only"):
        folder.read("a")[0, 0] = 1.0


def test_shards_are_cut_by_size_and_a_large_tensor_stands_alone():
    specs = [ours.TensorSpec(name, (num,), np.dtype(np.int8)) for name, num in zip("abcd", (4, 4, 20, 1), strict=True)]
    assert ours.cut_by_bytes({spec.name: spec.num_bytes for spec in specs}, 8) == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize("num_bytes", [0, 5, 40, -1])
def test_a_truncated_shard_is_named(tmp_path, num_bytes):
    _write(tmp_path, _tensors())
    path = tmp_path / "model-00001-of-00001.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:num_bytes])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: truncated: ") as info:
        ours.open_folder(tmp_path)
    assert "\n" not in str(info.value)


def test_bytes_after_the_data_are_refused(tmp_path):
    _write(tmp_path, _tensors())
    with open(tmp_path / "model-00001-of-00001.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="1 bytes more than the header accounts for"):
        ours.open_folder(tmp_path)


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4943162336\n"
LORA = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((8, 64), np.float32)}
ADAPTERS = {
    "as PEFT saves it": {
        "adapter_config.json": '{"base_model_name_or_path": "org/base"}',
        "adapter_model.safetensors": LORA,
    },
    "a broken config": {"adapter_config.json": "[", "adapter_model.safetensors": LORA},
    "no config": {"adapter_model.safetensors": LORA},
    "any name": {"ships.safetensors": LORA},
    "pickled": {"adapter_config.json": "{}", "adapter_model.bin": "pickle"},
    "of LLaVA": {
        "config.json": "{}",
        "adapter_config.json": "{}",
        "adapter_model.bin": "",
        "non_lora_trainables.bin": "",
    },
    "no weights yet": {"adapter_config.json": "{}"},
}


def _fill(folder, content):
    for name, what in content.items():
        if isinstance(what, str):
            (folder / name).write_text(what)
        else:
            safetensors.numpy.save_file(what, folder / name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_no_checkpoint_and_one_line_says_to_merge_it(tmp_path, name):
    _fill(tmp_path, ADAPTERS[name])
    with pytest.raises(ValueError) as info:
        ours.open_folder(tmp_path)
    message = str(info.value)
    assert str(tmp_path) in message and "is a LoRA adapter" in message and "merge_and_unload" in message
    assert ("org/base" in message) == (name == "as PEFT saves it") and len(message.splitlines()) == 1


def test_a_merged_model_with_its_adapters_config_left_beside_is_read(tmp_path):
    _fill(tmp_path, {"adapter_config.json": "{}", "model.safetensors": {"x": np.ones(3, np.float32)}})
    assert list(ours.open_folder(tmp_path).infos) == ["x"]


@pytest.mark.parametrize("pointers", [["model-00001-of-00002"], ["model-00001-of-00002", "model-00002-of-00002"]])
def test_a_git_lfs_pointer_among_the_shards_is_one_line_that_says_to_fetch(tmp_path, pointers):
    for name in ("model-00001-of-00002", "model-00002-of-00002"):
        _fill(tmp_path, {f"{name}.safetensors": POINTER if name in pointers else {name: np.ones(3, np.float32)}})
    with pytest.raises(ValueError) as info:
        ours.open_folder(tmp_path)
    message = str(info.value)
    assert "git lfs pull" in message and "model-00001-of-00002.safetensors: is a Git LFS pointer" in message
    assert f"{len(pointers)} of 2 weight files" in message and len(message.splitlines()) == 1
    with pytest.raises(ValueError, match="git lfs pull"):
        ours.read_header(tmp_path / "model-00001-of-00002.safetensors")


def test_an_index_that_is_a_git_lfs_pointer_says_to_fetch(tmp_path):
    _fill(tmp_path, {ours.INDEX_NAME: POINTER, "model.safetensors": {"x": np.ones(3, np.float32)}})
    with pytest.raises(ValueError, match=r"index.json: is a Git LFS pointer .*`git lfs pull`"):
        ours.open_folder(tmp_path)


def _write_raw(path, header: str, num_data_bytes: int):
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(num_data_bytes))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("no json", "the header is no JSON"),
        ("[1]", "the header is no JSON object"),
        ('{"x": 3}', "tensor x: the header's entry is broken"),
        ('{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', "tensor x: the header's entry is broken"),
        ('{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "tensor x: the header's entry is broken"),
        ('{"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}', "tensor x: dtype F4 is not one of"),
        ('{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "4 bytes of data for shape (2,) of F32"),
        (
            '{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
            ' "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
            "tensor x stands twice",
        ),
    ],
)
def test_a_broken_header_is_named(tmp_path, header, message):
    _write_raw(tmp_path / "model.safetensors", header, 4)
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        ours.open_folder(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(info.value)


def _edit_index(folder, edit):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


def test_absent_shard_and_unlisted_tensor_are_reported_together(tmp_path):
    _write(tmp_path, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})

    def edit(weight_map):
        weight_map["gone"] = "model-00009-of-00009.safetensors"
        weight_map["ghost"] = weight_map["a"]

    _edit_index(tmp_path, edit)
    with pytest.raises(ValueError) as info:
        ours.open_folder(tmp_path)
    text = str(info.value)
    assert text.startswith("2 problems:\n  - ")
    assert "names the shard model-00009-of-00009.safetensors, which is not in the folder" in text
    assert "lists the tensor ghost, but" in text


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path):
    _write(tmp_path, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}, max_shard_bytes=8)
    _edit_index(tmp_path, lambda weight_map: weight_map.update(a=weight_map["b"], b=weight_map["a"]))
    with pytest.raises(ValueError, match="lists the tensor a in model-00002-of-00002"):
        ours.open_folder(tmp_path)


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    _write(tmp_path, {"a": np.zeros(2, np.float32)})
    _edit_index(tmp_path, lambda weight_map: weight_map.update(a="../model.safetensors"))
    with pytest.raises(ValueError, match="outside its folder"):
        ours.open_folder(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for name in ("one", "two"):
        safetensors.numpy.save_file({"x": np.zeros(2, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="tensor x stands in two shards"):
        ours.open_folder(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "weights.pkl"])
def test_pickled_weights_are_refused_and_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match=f"only pickled weights .{name}.*save_pretrained"):
        ours.open_folder(tmp_path)


def test_an_empty_and_an_absent_folder_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"no \*\.safetensors file"):
        ours.open_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ours.open_folder(tmp_path / "absent")


def test_the_writer_refuses_what_was_not_announced(tmp_path):
    spec = ours.TensorSpec("x", (2,), np.dtype(np.float32))
    with pytest.raises(ValueError, match="x: float64"):
        ours.write_folder(tmp_path, [spec], [np.zeros(2)])
    with pytest.raises(ValueError, match="stand twice: x"):
        ours.write_folder(tmp_path, [spec, spec], [np.zeros(2, np.float32)] * 2)
