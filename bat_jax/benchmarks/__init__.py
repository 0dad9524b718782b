"""The benchmarks: one record each (`records`), found by name (`registry`), and what reads and scores them all.

    for sample in BenchmarkData(BENCHMARKS["xlrs"], "XLRS-Bench-lite"):
        sample.question, sample.options, sample.answer, sample.category, sample.images[0].load()

`containers` knows files (Arrow trees, Parquet, JSON, JSON lines, TSV), `samples` their rows, `prepared` TensorFlow
datasets. Another package adds a benchmark by the entry-point group `bat_jax.benchmarks` or by `BENCHMARKS.register`.
"""
