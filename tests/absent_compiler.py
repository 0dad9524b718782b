"""XLA's compiler for GPUs that are not here, for tests that read what a program becomes on one.

`make test EXTRAS=test,fit` puts it into the environment's folder `fit`; the extras `fit` and `cuda` serve, too.
"""

import importlib.util
import pathlib
import sys

import pytest

_FOLDER = pathlib.Path(sys.prefix, "fit")
if _FOLDER.is_dir() and str(_FOLDER) not in sys.path:
    sys.path.append(str(_FOLDER))


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("jax_plugins.xla_cuda12") is not None
    except ModuleNotFoundError:
        return False


needs_gpu_compiler = pytest.mark.skipif(
    not _is_installed(), reason="XLA's compiler for GPUs is not installed (make test EXTRAS=test,fit)"
)
