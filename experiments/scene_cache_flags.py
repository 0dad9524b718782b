"""The flags of the scene cache, the same for every command that encodes pictures one after the other."""

from absl import flags

from bat_jax.io.scene_cache import SceneCache

SCENE_CACHE = flags.DEFINE_string(
    "scene_cache",
    None,
    "Keep encoded pictures in this folder, or read them there; processes may share it.",
)
SCENE_CACHE_GB = flags.DEFINE_float(
    "scene_cache_gb", 50.0, "Most bytes of --scene_cache, in 10^9; the least recently used pictures go.", lower_bound=0
)


def scene_cache() -> SceneCache | None:
    """Return the cache that the flags name, None where they name none.

    Raises:
      ValueError: the folder is a file, or its limit is nothing.
    """
    return SceneCache(SCENE_CACHE.value, int(SCENE_CACHE_GB.value * 1e9)) if SCENE_CACHE.value else None
