"""TFDS builder `rshr_bench`: RSHR-Bench, one example a question, stored as array_record.

`benchmarks.tfds_builder` shows how to build and read it.
"""

from bat_jax.benchmarks.tfds_builder import BenchmarkBuilder


class RshrBench(BenchmarkBuilder):
    """RSHR-Bench; the features are those of `benchmarks.samples.Sample`."""

    name = "rshr_bench"
    KEY = "rshr"
    DESCRIPTION = "The multiple-choice questions of RSHR-Bench (XHRBench)."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "--manual_dir is the folder of hf download RL-MIND/XHRBench --repo-type dataset: dataset.json and images/."
    )
