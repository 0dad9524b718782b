"""RSHR-Bench as a TensorFlow Datasets builder; TensorFlow itself is not needed."""

from bat_jax.benchmarks.tfds.rshr_bench.builder import RshrBench

__all__ = ["RshrBench"]
