"""The benchmarks by name: those of `bat_jax.benchmarks.records`, of other installed packages, and registered ones."""

from bat_jax.benchmarks.record import Benchmark
from bat_jax.registry import Registry

BENCHMARKS = Registry(
    Benchmark,  # type: ignore[type-abstract]  # records are instances of its subclasses
    noun="benchmark",
    package="bat_jax.benchmarks.records",
    attribute="BENCHMARK",
    group="bat_jax.benchmarks",
    order=lambda record: record.name,
)
