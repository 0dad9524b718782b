"""Encodes a picture and asks about it on meshes of 8 simulated devices, and writes what comes of it.

python -m tests.mesh_run --directory=DIRECTORY
"""

import dataclasses
import itertools
import json
import pathlib
import threading

import jax
import numpy as np
from absl import flags

from bat_jax.benchmarks.records import uhr_mini
from bat_jax.engine.mesh import device_mesh, params_at
from bat_jax.engine.stages import Stages
from bat_jax.io.params import load_params
from bat_jax.io.scene_cache import SceneCache
from bat_jax.pipeline import BatModel
from bat_jax.scene_store import SceneStore
from bat_jax.study.measured.grids import Cell, Grid
from bat_jax.study.measured.sweep import Sweep
from experiments import cli

DIRECTORY = flags.DEFINE_string("directory", None, "Holds `checkpoint`; the arrays go there too.", required=True)
QUESTION, OTHERS = "How many ships are there?", ("Is there a car?", "What colour is the roof of the pier?")
OPTIONS = {"max_new_tokens": 5, "stop": False}


def arrays_of(answer) -> dict[str, np.ndarray]:
    """Return what must be equal on every mesh."""
    kept = {
        f"{name}_{size}": getattr(selection, name)
        for size, selection in enumerate(answer.selections[0])
        for name in ("keep_index", "region", "mask", "is_kept")
    }
    importance = answer.anchor_importance[0]
    return {"ids": answer.token_ids, "logits": answer.logits, "importance": importance, **kept}


def lies(scene) -> dict[str, object]:
    """Return where each array of a scene lies on the mesh, by name."""
    leaves = jax.tree_util.tree_leaves_with_path((scene.arrays, scene.init_index))
    return {jax.tree_util.keystr(path): leaf.sharding for path, leaf in leaves}


def swept(model, directory: pathlib.Path, num_devices: int) -> dict[str, object]:
    """Return what a sweep over two pictures answers on devices of its own, and which of them encoded a picture."""
    cells = (Cell(name="few", budgets=(4, 9)), Cell(name="many", budgets=(12, 30), settings={"selection": "topk"}))
    sweep = Sweep(model, [Grid(name="test", title="", cells=cells)], directory / f"sweep {num_devices}")
    used, encode, both = [], BatModel.encode_views, threading.Barrier(num_devices)

    def encode_views(self, image):
        used.extend(device.id for leaf in jax.tree.leaves(self.params)[:1] for device in leaf.devices())
        both.wait(timeout=600)  # as many pictures as devices: each waits for its own
        return encode(self, image)

    BatModel.encode_views = encode_views
    try:
        pictures = list(itertools.islice(uhr_mini.pictures(range(3_000_000, 3_000_001), 224), 2))
        some = [dataclasses.replace(picture, tasks=picture.tasks[:3]) for picture in pictures]
        devices = jax.local_devices()[:num_devices]
        sweep.run(lambda _: some, max_new_tokens=2, devices=devices, at_once=1)
    finally:
        BatModel.encode_views = encode
    answers = {
        cell.name: {id: (line["output"], line["tokens_kept"]) for id, line in sweep.records(cell).items()}
        for cell in cells
    }
    return {"answers": answers, "devices": sorted(used)}


def main(_: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_default_matmul_precision", "highest")
    directory = pathlib.Path(DIRECTORY.value)
    folder = directory / "checkpoint"
    cfg = BatModel.read_config(folder)
    image = np.random.default_rng(0).integers(0, 256, (224, 300, 3), np.uint8)
    report = {}

    def load(mesh, **options):
        return BatModel.load(folder, mesh=mesh and device_mesh(cfg, mesh), **options)

    def ask(name, model):
        scene = model.encode(image, seed=1)
        np.savez(directory / f"{name}.npz", **arrays_of(scene.ask(QUESTION, **OPTIONS)))
        held = jax.tree.leaves(model.params["decoder"])
        report[name] = {
            "decoder_bytes": sum(leaf.addressable_shards[0].data.nbytes for leaf in held),
            "cache_heads": jax.tree.leaves(scene.cache.key)[0].addressable_shards[0].data.shape[-2],
            "token_rows": [scale.tokens.addressable_shards[0].data.shape[0] for scale in scene.scales],
            "from_cache": scene.from_cache,
        }
        return scene

    for name, mesh in (("one", None), ("data=2,model=2", "data=2,model=2")):
        scene = ask(name, load(mesh))
        for index, answer in enumerate(scene.ask_many([QUESTION, *OTHERS], **OPTIONS)):
            np.savez(directory / f"{name} many {index}.npz", **arrays_of(answer))
    for mesh in ("model=4", "data=8"):
        ask(mesh, load(mesh))
    for name, mesh in (("one int8", None), ("model=4 int8", "model=4")):
        ask(name, load(mesh, weights="int8"))
    mesh = device_mesh(cfg, "model=2")
    params = load_params(folder)
    stacked = jax.device_put(params, params_at(mesh, params))
    cache = SceneCache(str(directory / "scenes"), 10**9)
    parts = {"stages": Stages(mesh), "scene_store": SceneStore(cache=cache, weights="")}
    models = {
        "model=2": load("model=2", scene_cache=cache),
        "model=2 stacked": BatModel(cfg, stacked, scene.model.tokenizer, **parts),
    }
    for name, model in models.items():
        fresh, read = (lies(ask(which, model)) for which in (name, f"{name} read"))
        report[name] |= {"same_places": fresh == read, "compiled": dict(model.stages.num_compiles)}
    apart = load(None, stages_apart=True)
    report["swept"] = {num_devices: swept(apart, directory, num_devices) for num_devices in (1, 2)}
    print(json.dumps(report))


if __name__ == "__main__":
    cli.run(main)
