# `make demo` and `make test` need Python 3.11 or newer and make; everything else goes into ./.venv.
# Stamps inside .venv keep a second run from installing again, until pyproject.toml or this file changes.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Tests are run against this one PyTorch. Any build of it will do: on Linux the plain name in the public index is the
# CUDA build (gigabytes), while a CPU build (2.13.0+cpu), wherever pip is shown one, satisfies the same pin and is
# preferred. To show it one: export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

# The first of these that is at least 3.11 and can make an environment; `make PYTHON=...` names another.
CANDIDATES := python3.11 python3 python3.12 python3.13 python3.14
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(CANDIDATES); do $$python -c '$(USABLE)' >/dev/null 2>&1 && echo $$python && break; done)

.PHONY: demo test lint types clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.runtime
	$(BIN)/sundae-rt generate --n 64 --steps 20 --out demo --grid demo/sheet.png

# A worker a core; a file stays with one worker, since its tests share what they trained.
test: lint types
	$(BIN)/pytest -q --numprocesses auto --dist loadfile

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see through a mapped editable install, so it checks a fresh copy with the layout that users get.
types: $(VENV)/.tests
	@rm -rf build
	@$(PIP) install --quiet --no-deps --no-build-isolation --target build/installed .
	cd build/installed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p sundae_rt

$(VENV)/.made:
	$(if $(PYTHON),,$(error no Python >= 3.11 with venv found (tried $(CANDIDATES)): install one, or name it with make PYTHON=...))
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml Makefile | $(VENV)/.made
	@echo "Installing the runtime into $(VENV) (no PyTorch)"
	@$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.tests: $(VENV)/.runtime
	@echo "Adding PyTorch, the exporter and the test tools to $(VENV) (minutes, the first time)"
	@$(PIP) install --quiet --editable '.[train,export,benchmarks,test]' $(TORCH)
	@touch $@

clean:
	rm -rf $(VENV) build demo
