# What people type. Everything runs in .venv, which `make install` makes and refreshes.
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
PLUGIN := cluster/snakemake-executor-plugin-submitit

.DEFAULT_GOAL := help
.PHONY: help install sweep test slurm-up slurm-down slurm-demo faults bad-inputs bench bench-capture bench-plan bench-tables bench-loops lint format gpu-smoke clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## make .venv: the executor plugin, the project, its CPU or CUDA engine

$(STAMP): pyproject.toml $(PLUGIN)/pyproject.toml install/install.sh
	install/install.sh
	@touch $@

sweep: install  ## a small real sweep on this machine: cells, rows, tables
	$(BIN)/snakemake --profile cluster/local
	@echo; cat results/tables/tp_comparison.md

test: install  ## all tests (real vLLM on the CPU, a private Slurm and a browser included)
	-install/slurm.sh
	-install/browser.sh
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Most tests wait for an engine or a scheduler; more at a time would disturb what they wait for.
WORKERS ?= $(shell [ $$(nproc) -ge 4 ] && echo 3 || echo 2)

# LAB: the folder that holds all of it. A shell uses it after `source $(LAB)/env`.
LAB ?= results/slurm-lab
slurm-up: install  ## a private Slurm with fake GPUs, to try things on by hand
	install/slurm.sh
	$(BIN)/python -m tests.slurm.lab up $(LAB)

slurm-down: install  ## end that Slurm and remove its folder
	$(BIN)/python -m tests.slurm.lab down $(LAB)

slurm-demo: install  ## the small sweep on a private Slurm on this machine
	install/slurm.sh
	$(BIN)/python -m tests.slurm.demo
	@echo; cat results/slurm-demo/tables/tp_comparison.md

faults: install  ## every fault on a private Slurm; writes docs/faults.md
	install/slurm.sh
	$(BIN)/python -m tests.slurm.fault_table

bad-inputs: install  ## every bad input and fault on this machine; writes docs/bad-input.md
	$(BIN)/python -m tests.bad_input.table

# In an environment of its own: the peer pulls in packages that are too new for vLLM.
bench: bench-capture bench-plan bench-tables  ## the executor beside its peers, and with 10,000 cells; writes docs/speed.md
	install/slurm.sh
	python3 -m venv .venv-bench
	.venv-bench/bin/pip install -q $(PLUGIN) snakemake-executor-plugin-slurm
	.venv-bench/bin/python -m tests.bench.report

bench-capture: install  ## a capture of a million kernels, beside pandas; writes docs/speed-capture.md
	$(BIN)/python -m tests.bench.capture_million --write docs/speed-capture.md

bench-plan: install  ## the plan of PACE's matrix and of 10,000 cells; writes docs/speed-plan.md
	$(BIN)/python -m tests.bench.plan --write docs/speed-plan.md

bench-tables: install  ## tables and page of 10,000 cells; writes docs/speed-tables.md
	$(BIN)/python -m tests.bench.tables_scale --write docs/speed-tables.md

bench-loops: install  ## shell loops around vLLM's benchmark, beside the same cells here; prints a page
	$(BIN)/python -m tests.bench.loops tests/bench/loops.yaml

lint: install  ## ruff, mypy, lint-imports, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
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
gpu-smoke:  ## 8B, TP 1 and 2, latency and serving, on a host with two GPUs
	$(PY) -m snakemake --profile cluster/gpu-host --config site=cluster/gpu-host/site.yaml \
	  vllm_version="$$($(PY) -c 'import importlib.metadata as m; print(m.version("vllm"))')"
	@echo; cat results/smoke/tables/tp_comparison.md

clean:  ## remove the environments and Snakemake's state; results stay
	rm -rf .venv .venv-bench .snakemake
