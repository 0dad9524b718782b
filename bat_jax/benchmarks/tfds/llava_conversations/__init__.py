"""LLaVA conversations as a TensorFlow Datasets builder; TensorFlow itself is not needed."""

from bat_jax.benchmarks.tfds.llava_conversations.builder import LlavaConversations

__all__ = ["LlavaConversations"]
