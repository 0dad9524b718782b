"""Encoded scenes that a server keeps, by their bytes; the least recently used go first."""

import threading
from collections import OrderedDict

import jax

from bat_jax.pipeline import Scene


def scene_bytes(scene: Scene) -> int:
    """Return the bytes that a scene holds, on the device and on the host."""
    leaves = jax.tree.leaves((scene.arrays, scene.init_index))
    return scene.pixels.nbytes + sum(leaf.nbytes for leaf in leaves if hasattr(leaf, "nbytes"))


class SceneShelf:
    """Scenes of at most `max_bytes` together, by id; safe for threads.

    One that is larger by itself serves its question and is not kept. Who uses a scene holds it: one that goes from the
    shelf meanwhile stays whole.
    """

    def __init__(self, max_bytes: int):
        """Begin empty.

        Raises:
          ValueError: the limit is negative.
        """
        if max_bytes < 0:
            raise ValueError(f"scene_memory={max_bytes}: must be at least 0")
        self.max_bytes = max_bytes
        self._scenes: OrderedDict[str, tuple[Scene, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Scene | None:
        """Return a scene, from now on the most recently used; None where it is not kept."""
        with self._lock:
            if name not in self._scenes:
                return None
            self._scenes.move_to_end(name)
            return self._scenes[name][0]

    def put(self, name: str, scene: Scene) -> None:
        """Keep a scene, and let others go to make room."""
        size = scene_bytes(scene)
        with self._lock:
            self._scenes.pop(name, None)
            if size > self.max_bytes:
                return
            self._scenes[name] = (scene, size)
            while sum(size for _, size in self._scenes.values()) > self.max_bytes:
                self._scenes.popitem(last=False)

    def remove(self, name: str) -> None:
        """Let a scene go, if it is kept."""
        with self._lock:
            self._scenes.pop(name, None)

    @property
    def names(self) -> tuple[str, ...]:
        """Those kept, the least recently used first."""
        with self._lock:
            return tuple(self._scenes)

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return sum(size for _, size in self._scenes.values())
