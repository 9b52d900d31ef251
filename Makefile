# The commands for people. Everything runs in .venv, which `make install` creates and keeps current.
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
PLUGIN := cluster/snakemake-executor-plugin-submitit

.DEFAULT_GOAL := help
.PHONY: help install constraints sweep test slurm-up slurm-down slurm-demo faults bad-inputs bench bench-capacity bench-capture bench-claims bench-plan bench-tables bench-loops lint docs picture format gpu-smoke clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create .venv: plugin, project, engine; ENGINE=none|cpu|cuda says which

# Only as an argument of make: a variable of that name in the environment is somebody else's.
ifeq ($(origin ENGINE),command line)
export TPSWEEP_ENGINE := $(ENGINE)
ifneq ($(ENGINE),$(shell cat .venv/.engine 2>/dev/null))
.PHONY: $(STAMP)
endif
endif

$(STAMP): pyproject.toml $(PLUGIN)/pyproject.toml install/install.sh $(wildcard install/constraints*.txt)
	install/install.sh
	@touch $@

constraints: install  ## the versions that install takes, from .venv; see install/README.md
	$(BIN)/pip install --quiet uv
	$(BIN)/python -m tools.constraints
	@touch $(STAMP)

sweep: install  ## run a small real sweep on this machine
	$(BIN)/snakemake --profile cluster/local
	@echo; cat results/tables/tp_comparison.md

test: install  ## run all tests: real vLLM on the CPU, a private Slurm, a browser
	-install/slurm.sh
	-install/browser.sh
	@code=0; $(BIN)/pytest -m alone || code=$$?; \
	$(BIN)/pytest -m 'not alone' -n $(WORKERS) --no-loadscope-reorder || code=$$?; \
	exit $$code

# Tests marked alone (they compare times) run first. Then one worker gets nearly every file that starts
# engines, the other the rest.
WORKERS ?= 2

# LAB: the folder that holds this Slurm. To use it in a shell: `source $(LAB)/env`.
LAB ?= results/slurm-lab
slurm-up: install  ## start a private Slurm with fake GPUs, for trying things out
	install/slurm.sh
	$(BIN)/python -m tests.slurm.lab up $(LAB)

slurm-down: install  ## stop that Slurm and remove its folder
	$(BIN)/python -m tests.slurm.lab down $(LAB)

slurm-demo: install  ## run the small sweep on a private Slurm on this machine
	install/slurm.sh
	$(BIN)/python -m tests.slurm.demo
	@echo; cat results/slurm-demo/tables/tp_comparison.md

faults: install  ## run every fault on a private Slurm; writes docs/generated/faults.md
	install/slurm.sh
	$(BIN)/python -m tests.slurm.fault_table

bad-inputs: install  ## try every bad input and local fault; writes docs/generated/bad-input.md
	$(BIN)/python -m tests.bad_input.table

# In a separate environment: the other plugin needs packages that are too new for vLLM.
bench: bench-capture bench-claims bench-plan bench-tables  ## run the other benchmarks, then the executor's; writes docs/generated/speed*.md
	install/slurm.sh
	python3 -m venv .venv-bench
	.venv-bench/bin/pip install -q $(PLUGIN) snakemake-executor-plugin-slurm
	.venv-bench/bin/python -m tests.bench.report

bench-capacity: install  ## hold the search for a capacity against a ladder of rates; writes docs/generated/capacity.md
	$(BIN)/python -m tests.bench.capacity_ladder --write docs/generated/capacity.md

bench-capture: install  ## time the analysis of a million-kernel capture; writes docs/generated/speed-capture.md
	$(BIN)/python -m tests.bench.capture_million --write docs/generated/speed-capture.md

bench-claims: install  ## simulate how often the tables' claims are wrong; writes docs/generated/claims.md
	$(BIN)/python -m tests.bench.claims --write docs/generated/claims.md

bench-plan: install  ## time the plan of 10,000 cells; writes docs/generated/speed-plan.md
	$(BIN)/python -m tests.bench.plan --write docs/generated/speed-plan.md

bench-tables: install  ## time tables and page of 10,000 cells; writes docs/generated/speed-tables.md
	$(BIN)/python -m tests.bench.tables_scale --write docs/generated/speed-tables.md

bench-loops: install  ## compare with shell loops around vLLM's benchmark; prints a page
	$(BIN)/python -m tests.bench.loops tests/bench/loops.yaml

lint: install  ## run ruff, mypy, lint-imports, snakefmt, snakemake --lint and the link check
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint-types lint-workflow lint-style

.PHONY: lint-types lint-workflow lint-style
lint-types:
	$(BIN)/mypy
lint-workflow:
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/python tests/lint_workflow.py --profile cluster/local
lint-style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/check_links.py README.md CONTRIBUTING.md docs cluster results

# NO_MKDOCS_2_WARNING: no advertisement among the warnings that --strict looks for.
docs: install  ## build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

picture: install  ## take the picture of the smoke test's page again; writes docs/report.png
	install/browser.sh
	$(BIN)/python tools/page_picture.py results/smoke/report.html docs/report.png

format: install  ## reformat every file
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

# BARE=1: use this host's python3 and its packages, for hosts without access to a package registry.
# The smoke test asks for whichever vLLM version is installed.
ifdef BARE
gpu-smoke: export PYTHONPATH := $(CURDIR)/workflow:$(CURDIR)/$(PLUGIN)/src:$(PYTHONPATH)
gpu-smoke: PY := python3
else
gpu-smoke: install
gpu-smoke: PY := $(BIN)/python
endif
gpu-smoke:  ## run the smoke test on a host with two GPUs: 8B at TP 1 and 2
	$(PY) -m snakemake --profile cluster/gpu-host --config site=cluster/gpu-host/site.yaml \
	  vllm_version="$$($(PY) -c 'import importlib.metadata as m; print(m.version("vllm"))')"
	@echo; cat results/smoke/tables/tp_comparison.md

clean:  ## remove environments, the site and Snakemake's state; keep results
	rm -rf .venv .venv-bench .snakemake build
