"""TFDS builder `mme_realworld`: MME-RealWorld, remote sensing, one example a question, stored as array_record.

`benchmarks.tfds_builder` shows how to build and read it.
"""

from bat_jax.benchmarks.tfds_builder import BenchmarkBuilder


class MmeRealworld(BenchmarkBuilder):
    """MME-RealWorld, remote sensing; the features are those of `benchmarks.samples.Sample`."""

    name = "mme_realworld"
    KEY = "mme_realworld"
    DESCRIPTION = "The remote-sensing questions of MME-RealWorld or MME-RealWorld-Lite; other domains are left out."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "--manual_dir is the folder with the JSON file and its unpacked images, "
        "or with the Parquet files for lmms-eval."
    )
