"""The UHR-Mini world as a TensorFlow Datasets builder; TensorFlow itself is not needed."""

from bat_jax.benchmarks.tfds.uhr_mini.builder import UhrMini, UhrMiniConfig

__all__ = ["UhrMini", "UhrMiniConfig"]
