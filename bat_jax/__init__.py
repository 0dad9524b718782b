"""UHR-BAT (arXiv:2604.13565) in JAX/Flax: budget-aware token compression for ultra-high-resolution remote sensing."""

__version__ = "0.2.0"
