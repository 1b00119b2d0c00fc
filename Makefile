# Everything runs from the .venv that `make venv` builds; nothing else needs installing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Optional: PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple"
PIP_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all lint format bench clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(VENV)/.ready  ## build .venv with everything that the commands below need

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

DEMO := --data_name=circles --duration=5 --resume=latest
# The reducing schedule of the paper's coverage and HMC experiments: all latents are Gaussian.
REDUCE := --dims_to_keep=1 --g_type=orig --g_rescaling=0.15 --rho=1 --tmax=15.01
demo: venv  ## train, inflate, round-trip and generate the circles; pictures in out/demo/
	$(BIN)/python toy_train.py --outdir=out/demo/train-PRP $(DEMO) --dims_to_keep=2 --tmax=7.01
	$(BIN)/python toy_train.py --outdir=out/demo/train-PRRto1D $(DEMO) $(REDUCE)
	$(BIN)/python toy_pfODE_int.py net --network=out/demo/train-PRP --save_dir=out/demo --animate
	$(BIN)/python toy_pfODE_int.py net --network=out/demo/train-PRRto1D --save_dir=out/demo --animate
	@echo; echo "Look at these:"; ls out/demo/*.png out/demo/*.gif

test: venv  ## the test suite (CPU, no downloads)
	$(BIN)/python -m pytest

test-all: venv  ## the slow, gpu and data tests too
	$(BIN)/python -m pytest -m ''

lint: venv  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv  ## rerun every benchmark; tables go to benchmarks/results/
	$(BIN)/python -m benchmarks.integrators
	$(BIN)/python -m benchmarks.toy_training

clean:  ## remove what the commands made
	rm -rf $(VENV) out
