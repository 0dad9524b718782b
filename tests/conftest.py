"""Settings of all tests."""

import os
import warnings

# Compiling is most of the tests' time, and their programs run on a few numbers: without LLVM's optimisation, loop
# fusion in MLIR and the split into modules for threads it takes a third. Commands that tests start inherit this.
# `XLA_FLAGS= make test` runs the programs that users run.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
# Thousands of short parallel loops (t-SNE) take several times as long where their threads outnumber the free cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest
from PIL import ImageFile

# Comparisons are with float32 arithmetic; the setting is CPU's default and matters on an accelerator.
jax.config.update("jax_default_matmul_precision", "highest")
# Reading plain TIFFs through rasterio says that they have no geography.
warnings.filterwarnings("ignore", category=UserWarning, module="rasterio")


def pytest_collection_modifyitems(items):
    """Put the files that run commands first: they take longest, and last they would keep one of the workers alone."""
    items.sort(key=lambda item: not hasattr(getattr(item, "module", None), "run_commands"))


@pytest.fixture(autouse=True)
def _truncated_images_are_no_images(monkeypatch):
    """Undo what lmms-eval sets for the whole process when it is imported."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
