# What people type. Everything runs in .venv, which `make install` makes and refreshes.
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
PLUGIN := cluster/snakemake-executor-plugin-submitit

.DEFAULT_GOAL := help
.PHONY: help install sweep test lint format schemas gpu-smoke clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## make .venv: the executor plugin, the project, its CPU or CUDA engine

$(STAMP): pyproject.toml $(PLUGIN)/pyproject.toml install/install.sh
	install/install.sh
	@touch $@

sweep: install  ## a small real sweep on this machine: cells, rows, tables
	$(BIN)/snakemake --profile cluster/local
	@echo; cat results/tables/tp_comparison.md

test: install  ## all tests (real vLLM on the CPU included)
	$(BIN)/pytest

lint: install  ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/python tests/lint_workflow.py --profile cluster/local

format: install  ## put every file in its canonical form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

# BARE=1: with what this host's python3 already has (a host that reaches no package registry).
# The smoke test takes whatever vLLM is there, and asks for just that one.
ifdef BARE
gpu-smoke: export PYTHONPATH := $(CURDIR)/workflow:$(CURDIR)/$(PLUGIN)/src:$(PYTHONPATH)
gpu-smoke: PY := python3
else
gpu-smoke: install
gpu-smoke: PY := $(BIN)/python
endif
gpu-smoke:  ## 8B, TP 1 and 2, two latency cells each, on a host with two GPUs
	$(PY) -m snakemake --profile cluster/gpu-host --config site=cluster/gpu-host/site.yaml \
	  vllm_version="$$($(PY) -c 'import importlib.metadata as m; print(m.version("vllm"))')"
	@echo; cat results/smoke/tables/tp_comparison.md

clean:  ## remove .venv and Snakemake's state; results stay
	rm -rf .venv .snakemake
