"""Sizes and settings of UHR-BAT as frozen dataclasses; every other file reads them from here.

Who uses what: modules under `nn/` take one of VisionConfig, DecoderConfig, ScaleEmbeddingConfig or MlpConfig;
`compress/` takes a CompressorConfig; `model.py` and `pipeline.py` take the whole BatConfig.
"""

from bat_jax.config.bat import BatConfig
from bat_jax.config.compressor import (
    BUDGET_OF_SCALE,
    DEFAULT_SCALES_PX,
    PAPER_BUDGETS,
    CompressorConfig,
    Fidelity,
    Partition,
    PromptConfig,
    ScaleSpec,
)
from bat_jax.config.networks import (
    AttentionKernels,
    DecoderConfig,
    HeldWeights,
    MlpConfig,
    ScaleEmbeddingConfig,
    VisionConfig,
)
from bat_jax.config.selections import SELECTIONS, SelectionRule

__all__ = [
    "BUDGET_OF_SCALE",
    "DEFAULT_SCALES_PX",
    "PAPER_BUDGETS",
    "SELECTIONS",
    "AttentionKernels",
    "BatConfig",
    "CompressorConfig",
    "DecoderConfig",
    "Fidelity",
    "HeldWeights",
    "MlpConfig",
    "Partition",
    "PromptConfig",
    "ScaleEmbeddingConfig",
    "ScaleSpec",
    "SelectionRule",
    "VisionConfig",
]
