# Everything runs from the .venv that `make venv` builds; nothing else needs installing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Optional: PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple"
PIP_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-images docs test test-all lint format bench bench-full clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(VENV)/.ready  ## build .venv with everything that the commands below need

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

DEMO := --data_name=circles --duration=2.5 --resume=latest
# The reducing schedule of the paper's coverage and HMC experiments: all latents are Gaussian.
REDUCE := --dims_to_keep=1 --g_type=orig --g_rescaling=0.15 --rho=1 --tmax=15.01
# A small U-Net, trained and integrated along the same arc.
UNET := --cond --cbase=24 --cres=1,2 --num_blocks=1 --dropout=0 --batch=32 --lr=4e-3 \
	--lr_decay=cosine --lr_rampup=0.005 --ema=0.008 --tick=10 --t_sampling=arc --weighting=arc --resume=latest
demo: venv  ## train, inflate, round-trip and generate circles and real digits; pictures in out/demo/
	$(BIN)/python toy_train.py --outdir=out/demo/train-PRP $(DEMO) --dims_to_keep=2 --tmax=7.01
	$(BIN)/python toy_train.py --outdir=out/demo/train-PRRto1D $(DEMO) $(REDUCE)
	$(BIN)/python toy_pfODE_int.py net --network=out/demo/train-PRP --save_dir=out/demo --animate
	$(BIN)/python toy_pfODE_int.py net --network=out/demo/train-PRRto1D --save_dir=out/demo --animate
	test -f out/demo/digits-8x8.zip || $(BIN)/python dataset_tool.py --source=digits --dest=out/demo/digits-8x8.zip
	$(BIN)/python train.py --outdir=out/demo/train-digits --data=out/demo/digits-8x8.zip $(UNET) --duration=0.025 --tmax=6.51
	$(BIN)/python pfODE_int.py --network=out/demo/train-digits --data_root=out/demo/digits-8x8.zip --save_dir=out/demo --bs=64 --solver=rk4 --steps=16
	@echo; echo "Look at these:"; ls out/demo/*.png out/demo/*.gif

IMAGES := out/demo-images
DIGITS := --data=$(IMAGES)/digits-8x8.zip $(UNET) --duration=0.07
demo-images: venv  ## the same on real images, 8x8 digits; pictures in out/demo-images/
	test -f $(IMAGES)/digits-8x8.zip || $(BIN)/python dataset_tool.py --source=digits --dest=$(IMAGES)/digits-8x8.zip
	$(BIN)/python train.py --outdir=$(IMAGES)/train-PRP $(DIGITS) --tmax=6.51
	$(BIN)/python train.py --outdir=$(IMAGES)/train-PRRto8D $(DIGITS) --dims_to_keep=8 --tmax=10.01
	for s in PRP PRRto8D; do \
	  $(BIN)/python pfODE_int.py --network=$(IMAGES)/train-$$s --data_root=$(IMAGES)/digits-8x8.zip --save_dir=$(IMAGES) --bs=64 --solver=rk4 --steps=16 && \
	  $(BIN)/python calc_roundtrip_mse.py --network=$(IMAGES)/train-$$s --data_root=$(IMAGES)/digits-8x8.zip --save_dir=$(IMAGES) --total_samples=256 && \
	  $(BIN)/python gen_fid_samples.py --network=$(IMAGES)/train-$$s --save_dir=$(IMAGES)/generated-$$s --seeds=0-639 || exit 1; \
	done
	$(BIN)/python -m metrics.digit_quality --data=$(IMAGES)/digits-8x8.zip --images=$(IMAGES)/generated-PRP \
	  --images=$(IMAGES)/generated-PRRto8D --dest=$(IMAGES)/quality.json
	@echo; echo "Look at these:"; ls $(IMAGES)/*.png

docs: venv  ## docs/ as a site with a search, site/index.html; fails on a dead link
	$(BIN)/python -c 'import material' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	$(BIN)/python -m docs.options --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Look at site/index.html"

test: venv  ## the test suite (CPU, no downloads), about a quarter of an hour on 2 cores
	@echo "About ten minutes on 2 cores, less on more; slow tests are left to make test-all"
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: venv  ## the slow, gpu and data tests too
	$(BIN)/python -m pytest -m ''

lint: venv  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCHMARKS := toy_training integrators nll mcmc correlations basis batches frechet unet \
	image_round_trips evaluations likelihood scaling png posteriors gpu
bench: venv  ## time to answer, about half an hour: benchmarks/results/bench.txt
	$(BIN)/python -m benchmarks

bench-full: venv  ## every benchmark in its full size, hours; tables go to benchmarks/results/
	for b in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$b || exit 1; done

clean:  ## remove what the commands made
	rm -rf $(VENV) out site
