"""Settings of all tests."""

import warnings

import jax
import pytest
from PIL import ImageFile

# Comparisons are with float32 arithmetic; the setting is CPU's default and matters on an accelerator.
jax.config.update("jax_default_matmul_precision", "highest")
# Reading plain TIFFs through rasterio says that they have no geography.
warnings.filterwarnings("ignore", category=UserWarning, module="rasterio")


@pytest.fixture(autouse=True)
def _truncated_images_are_no_images(monkeypatch):
    """Undo what lmms-eval sets for the whole process when it is imported."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
