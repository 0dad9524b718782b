"""XLRS-Bench-lite as a TensorFlow Datasets builder; TensorFlow itself is not needed."""

from bat_jax.benchmarks.tfds.xlrs_bench.builder import XlrsBench

__all__ = ["XlrsBench"]
