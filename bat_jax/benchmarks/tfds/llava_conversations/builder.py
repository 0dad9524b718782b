"""TFDS builder `llava_conversations`: LLaVA conversations, one example a question, stored as array_record.

`benchmarks.tfds_builder` shows how to build and read it.
"""

from bat_jax.benchmarks.tfds_builder import BenchmarkBuilder


class LlavaConversations(BenchmarkBuilder):
    """LLaVA conversations; the features are those of `benchmarks.samples.Sample`."""

    name = "llava_conversations"
    KEY = "llava"
    DESCRIPTION = "The first question of every conversation of a LLaVA JSON file."
    MANUAL_DOWNLOAD_INSTRUCTIONS = "--manual_dir is a folder with one JSON file of conversations and its images."
