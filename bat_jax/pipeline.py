"""What users import: load a converted checkpoint, encode an image once, ask it many questions.

    model = BatModel.load("checkpoints/uhr-bat-7b")
    scene = model.encode("harbour.tif")
    answer = scene.ask("How many ships are moored?")
    print(answer.text, answer.tokens_kept)

The two halves of `model.py` stand apart here: `encode` (encoding.py) runs the tower, the projector, the partition and
the decoder over [prompt prefix, anchor tokens]; `ask` (asking.py) runs only what depends on the question. Each half is
one program, compiled once per shape, or its stages are; `model.stages` counts calls and compiles.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from bat_jax.asking import Answer, Asker, advised
from bat_jax.config import BatConfig, HeldWeights
from bat_jax.encoding import EncodedViews, ImageLike, SceneData, SceneEncoder
from bat_jax.engine.attention_choice import choose_attention
from bat_jax.engine.image import default_tile_batch
from bat_jax.engine.mesh import param_sharding, params_at
from bat_jax.engine.stages import Stages
from bat_jax.io.digests import weights_digest
from bat_jax.io.params import load_params, read_config
from bat_jax.io.prompts import Question, load_tokenizer
from bat_jax.io.scene_cache import SceneCache
from bat_jax.io.shipped import checkpoint_folder
from bat_jax.nn.decoder import MAX_UNROLLED_LAYERS
from bat_jax.ops.fused_attention import PLAIN
from bat_jax.scene_store import SceneStore
from bat_jax.typing import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene(SceneData):
    """An encoded image that can be asked; the attributes are SceneData's."""

    model: "BatModel"

    def ask(self, question: Question, **options: Any) -> Answer:
        """Answer a question about this image; see `BatModel.ask` for the options."""
        return self.model.ask([self], question, **options)

    def ask_many(self, questions: Sequence[Question], **options: Any) -> tuple[Answer, ...]:
        """Answer several questions about this image at once; see `BatModel.ask_many`."""
        return self.model.ask_many([self], questions, **options)


class BatModel(Asker):
    """A loaded UHR-BAT: config, parameters, tokenizer and compiled stages."""

    def __init__(
        self,
        cfg: BatConfig,
        params: Params,
        tokenizer: Any,
        tile_batch: int | None = None,
        stages: Stages | None = None,
        *,
        stages_apart: bool = False,
        scene_store: SceneStore | None = None,
    ):
        """Wrap loaded parts.

        Args:
          params: the decoder's layers stacked or apart (`nn.decoder.layers_apart`).
          tile_batch: tiles that go through the tower at once; None chooses by sizes and device.
          stages: programs and clocks to share.
          stages_apart: run stage by stage, each clocked, and each shared by settings that differ in another; else an
            image is one program and a question one.
          scene_store: where `encode` looks first, and what it puts there.
        """
        super().__init__(cfg, params, tokenizer, stages or Stages(), stages_apart)
        self.encoder = SceneEncoder(
            cfg, params, tokenizer, self.stages, tile_batch, stages_apart=stages_apart, scene_store=scene_store
        )

    read_config = staticmethod(read_config)

    @classmethod
    def load(
        cls,
        directory: str | pathlib.Path,
        *,
        cfg: BatConfig | None = None,
        stages_apart: bool = False,
        attention: str = "auto",
        weights: HeldWeights | None = None,
        scene_cache: SceneCache | None = None,
        mesh: Mesh | None = None,
    ) -> "BatModel":
        """Load a converted checkpoint directory (params/, config.json, tokenizer/).

        Args:
          directory: the folder, or "uhr-bat-mini", the small model that is shipped.
          cfg: the checkpoint's config with other settings (`read_config(directory).with_settings(...)`).
          stages_apart: see the constructor.
          attention: "auto", "plain", "cudnn" or "pallas" (`engine.attention_choice`).
          weights: how to hold the decoder's matrices (`DecoderConfig.weights`); None does as the config says.
          scene_cache: encoded images are read from there and kept there (scene_store.py).
          mesh: devices that share the model and a picture's tiles (`engine.mesh.device_mesh`), attention in its plain
            form; None for one device.

        Raises:
          ValueError: the directory is no such checkpoint, weights or tokenizer do not fit the config, or attention is
            to be fused on a mesh.
        """
        path = checkpoint_folder(directory)
        cfg = cls.read_config(path) if cfg is None else cfg
        cfg = cfg if weights is None else cfg.with_weights(weights)
        if mesh and attention not in ("auto", PLAIN):
            raise ValueError(f"attention={attention!r}: on a mesh it is plain")
        kernels = choose_attention(cfg, default_tile_batch(cfg, jax.default_backend()), PLAIN if mesh else attention)
        cfg = dataclasses.replace(cfg, attention=kernels)
        tokenizer = load_tokenizer(path / "tokenizer", cfg.decoder.vocab_size)
        with advised(cfg):
            params = load_device_params(path, weights=cfg.decoder.weights, mesh=mesh)
        store = SceneStore(cache=scene_cache, weights=weights_digest(path)) if scene_cache else None
        return cls(cfg, params, tokenizer, stages=Stages(mesh), stages_apart=stages_apart, scene_store=store)

    def configured(self, cfg: BatConfig) -> "BatModel":
        """Return a model with other settings that shares parameters, kernels and compiled stages with this one."""
        cfg = dataclasses.replace(cfg, attention=self.cfg.attention).with_weights(self.cfg.decoder.weights)
        shared = (self.params, self.tokenizer, self.encoder.tile_batch, self.stages)
        return BatModel(cfg, *shared, stages_apart=self.stages_apart, scene_store=self.encoder.scene_store)

    def on(self, mesh: Mesh) -> "BatModel":
        """Return a copy of the model on other devices, with programs and clocks of its own."""
        params = jax.device_put(self.params, params_at(mesh, self.params))
        options: dict[str, Any] = {"stages_apart": self.stages_apart, "scene_store": self.encoder.scene_store}
        return BatModel(self.cfg, params, self.tokenizer, stages=Stages(mesh), **options)

    def encode(self, image: ImageLike, **options: Any) -> Scene:
        """Encode an image once for many questions.

        Args:
          image: a file, an (H, W, 3) uint8 array, or what `io.images.read_image` returned.
          options: label_map, kmeans_init, seed, prefix_ids, keep_intermediates, max_clusters, see
            `SceneEncoder.make_scene`.
        """
        with advised(self.cfg):
            return self._scene(self.encoder.encode(image, **options))

    def encode_views(self, image: ImageLike) -> EncodedViews:
        """Run the networks of an image alone, for `make_scene` under many settings."""
        with advised(self.cfg):
            return self.encoder.encode_views(image)

    def make_scene(self, views: EncodedViews, **options: Any) -> Scene:
        """Return what `encode` would, from encoded views; see `SceneEncoder.make_scene` for the options."""
        with advised(self.cfg):
            return self._scene(self.encoder.make_scene(views, **options))

    def _scene(self, data: SceneData) -> Scene:
        return Scene(model=self, **{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})


def load_device_params(
    directory: str | pathlib.Path, *, weights: HeldWeights = "stored", mesh: Mesh | None = None
) -> dict[str, Any]:
    """Read a converted checkpoint's weights onto the device, or each device's part, a group of leaves at a time.

    The decoder's layers come apart (`nn.decoder.layers_apart`), for the sake of decoding; but not where there are many
    and the device is a CPU, which would compile them for longer than it answers. On a CPU the arrays that were read
    become the device's, without a copy. `weights`: see `load_params`.
    """
    is_cpu = jax.default_backend() == "cpu"

    def place(path: str, array: Any) -> jax.Array:
        where = param_sharding(mesh, path, array.shape) if mesh else None
        return jax.block_until_ready(jax.device_put(array, where, may_alias=True))

    params = load_params(
        directory,
        place=place,
        layers_apart=not is_cpu or read_config(directory).decoder.num_layers <= MAX_UNROLLED_LAYERS,
        weights=weights,
    )
    # int8 is made of parts on the devices, where XLA leaves it.
    return jax.device_put(params, params_at(mesh, params)) if mesh else params
