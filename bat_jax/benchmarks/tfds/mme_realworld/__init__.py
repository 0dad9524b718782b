"""MME-RealWorld, remote sensing as a TensorFlow Datasets builder; TensorFlow itself is not needed."""

from bat_jax.benchmarks.tfds.mme_realworld.builder import MmeRealworld

__all__ = ["MmeRealworld"]
