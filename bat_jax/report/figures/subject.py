"""What figures are drawn of: one picture, encoded once, and questions about it, asked under many settings.

    subject = Subject(model, pixels, asks, label_map=masks)
    asked = subject.ask(subject.asks[0], selection="topk", budgets=(60, 210, 570, 1348))

The networks of the picture run once, regions once a partition, an answer once a setting, whatever the figures ask for.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bat_jax.compress.budgets import pruned_budgets
from bat_jax.config import ScaleSpec
from bat_jax.encoding import ImageLike
from bat_jax.pipeline import BatModel, Scene
from bat_jax.report.answer_page import Ask, Asked
from bat_jax.report.layers import Backdrop, UnitBox
from bat_jax.report.pictures import evidence_frame

# Side of the windows that figures enlarge, as a share of the picture's.
ZOOM_SHARE = 0.2


class Subject:
    """A picture under many settings, and the questions about it; `name` says which picture it is."""

    def __init__(
        self,
        model: BatModel,
        image: ImageLike,
        asks: Sequence[Ask],
        *,
        name: str = "the picture",
        label_map: np.ndarray | None = None,
        kmeans_init: Mapping[int, np.ndarray] | None = None,
        seed: int = 0,
        max_new_tokens: int = 12,
    ):
        """Run the networks of the picture.

        Args:
          model: its settings are those of "ours".
          label_map, kmeans_init, seed: as in `SceneEncoder.encode`; the label map is used where a figure shows or the
            settings ask for partition "sam".
        """
        self.model, self.cfg, self.asks, self.name = model, model.cfg, tuple(asks), name
        self.has_label_map = label_map is not None
        self._label_map, self._options = label_map, {"kmeans_init": kmeans_init, "seed": seed}
        self._max_new_tokens = max_new_tokens
        # One selection that reads the tower's attention encodes for all.
        encoder = model.configured(model.cfg.with_settings(selection="background"))
        self.views = encoder.encode_views(image)
        self._scenes: dict[str, Scene] = {}
        self._asked: dict[tuple, Asked] = {}
        self.backdrop = Backdrop(self.scene())

    @property
    def selection(self) -> str:
        return self.cfg.compressor.selection

    @property
    def num_tokens(self) -> int:
        """Tokens of all views, without those of padding that the settings mask."""
        return sum(self.valid_counts)

    @property
    def valid_counts(self) -> tuple[int, ...]:
        """The same for each view."""
        return tuple(int(np.sum(scale.valid)) for scale in self.scene().scales)

    def scene(self, partition: str | None = None) -> Scene:
        """Return the picture cut into regions by a partition, the settings' by default."""
        partition = partition or self.cfg.compressor.partition
        if partition not in self._scenes:
            model = self.model.configured(self.cfg.with_settings(partition=partition))
            options = self._options | ({"label_map": self._label_map} if partition == "sam" else {})
            self._scenes[partition] = model.make_scene(self.views, **options)
        return self._scenes[partition]

    def ask(self, ask: Ask, selection: str | None = None, budgets: Sequence[int] | None = None) -> Asked:
        """Return the answer to a question.

        Args:
          selection: the settings' by default.
          budgets: tokens kept of every view, of which some may be 0; the settings' by default.
        """
        selection = selection or self.selection
        budgets = self.cfg.compressor.budgets if budgets is None else tuple(budgets)
        key = (ask.prompt, selection, budgets)
        if key not in self._asked:
            # Room for the settings' budgets at least: what asks for less then shares their compiled programs.
            parts = zip(self.cfg.compressor.scales, budgets, strict=True)
            scales = tuple(ScaleSpec(size_px=spec.size_px, budget=max(spec.budget, b)) for spec, b in parts)
            model = self.model.configured(self.cfg.with_settings(selection=selection, scales=scales))
            answer = model.ask([self.scene()], ask.prompt, budgets=budgets, max_new_tokens=self._max_new_tokens)
            self._asked[key] = Asked(ask=ask, answer=answer)
        return self._asked[key]

    def local_asks(self, most: int) -> tuple[Ask, ...]:
        """Return the first questions whose evidence is a place in the picture, those about another place first.

        Where no question says where its evidence is, these are the first questions.
        """
        local = [ask for ask in self.asks if ask.boxes] or list(self.asks)
        places = [self.zoom(ask) if ask.boxes else index for index, ask in enumerate(local)]
        is_repeated = [place in places[:index] for index, place in enumerate(places)]
        return tuple(local[index] for index in sorted(range(len(local)), key=is_repeated.__getitem__)[:most])

    def zoom(self, ask: Ask) -> UnitBox:
        """Return the window to enlarge: around the evidence, else around what the question makes most important."""
        if ask.boxes:
            return evidence_frame(ask.boxes, ZOOM_SHARE)
        scene = self.scene()
        importance = np.where(scene.scales[0].valid, self.ask(ask).answer.anchor_importance[0], -np.inf)
        row, column = np.unravel_index(np.argmax(scene.grids[0].to_grid(importance)), (scene.grids[0].full_side,) * 2)
        rows, columns = self.backdrop.cells(scene.grids[0].full_side)
        found = []
        for place, cell in ((columns, column), (rows.ravel(), row)):
            middle = (np.flatnonzero(place == cell).mean() + 0.5) / place.size
            found.append(min(max(middle - ZOOM_SHARE / 2, 0.0), 1 - ZOOM_SHARE))
        return found[0], found[1], found[0] + ZOOM_SHARE, found[1] + ZOOM_SHARE

    def pruned_budgets(self, prune: float) -> tuple[int, ...]:
        """Return the budgets that leave out a share of all tokens, in the proportions of the settings' budgets."""
        return pruned_budgets(prune, self.cfg.compressor.budgets, self.valid_counts)
