"""Readers of the remote-sensing benchmarks in the forms in which they are distributed.

    for sample in BenchmarkData("xlrs", "XLRS-Bench-lite"):
        sample.question, sample.options, sample.answer, sample.category, sample.images[0].load()

`containers` knows files (Arrow trees, Parquet, JSON, JSON lines, TSV), `samples` knows the benchmarks' fields.
"""
