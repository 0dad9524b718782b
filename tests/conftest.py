"""Settings of all tests."""

import warnings

import jax

# Comparisons are with float32 arithmetic; the setting is CPU's default and matters on an accelerator.
jax.config.update("jax_default_matmul_precision", "highest")
# Reading plain TIFFs through rasterio says that they have no geography.
warnings.filterwarnings("ignore", category=UserWarning, module="rasterio")
