"""XLRS-Bench-lite as a TensorFlow Datasets builder; TensorFlow itself is not needed."""

from bat_jax.data.xlrs_bench.builder import XlrsBench

__all__ = ["XlrsBench"]
