"""TFDS builder `xlrs_bench`: XLRS-Bench-lite, one example a question, stored as array_record.

`benchmarks.tfds_builder` shows how to build and read it.
"""

from bat_jax.benchmarks.tfds_builder import BenchmarkBuilder


class XlrsBench(BenchmarkBuilder):
    """XLRS-Bench-lite; the features are those of `benchmarks.samples.Sample`."""

    name = "xlrs_bench"
    KEY = "xlrs"
    DESCRIPTION = "XLRS-Bench-lite: 13 sub-tasks on ultra-high-resolution remote-sensing images."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "--manual_dir is the folder of hf download initiacms/XLRS-Bench-lite --repo-type dataset, "
        "or that of XLRS-Bench-lite_VLM."
    )
