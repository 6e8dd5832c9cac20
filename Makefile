# `make` lists what there is. On a bare Debian or Ubuntu, `make train` and `make test` set everything up first.
#
# NP=4           processes (default: one per GPU, or one per core)
# ARGS="…"       options for train.py, pytest or the benchmark
# PHOTOS=folder  what to benchmark with, or to make the model from (default: the photos beside the project)
.DEFAULT_GOAL := help
BIN := .venv/bin

.PHONY: help setup setup-launch setup-browser train test test-launch test-long bench model baselines lint doctor ci clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-12s  %s\n' "$$name" "$$text"; done

setup: ## install what is missing: system packages, .venv, torch, Horovod
	@launch/setup.sh

setup-launch: setup ## what the launch tests start besides: SLURM, munge, sshd, buildah
	@launch/setup_launch.sh

setup-browser: setup ## what the tests of the live page start besides: Chromium
	@launch/setup_browser.sh

train: setup ## train on all GPUs or cores of this machine: make train ARGS="--epochs 3"
	@launch/train.sh $(ARGS)

test: setup-browser ## the tests of seconds
	@launch/test.sh $(ARGS)

test-launch: setup-launch ## real launches: a SLURM cluster, several hosts, ranks killed
	@$(BIN)/python -m pytest -m "launch and not long" $(ARGS)

test-long: setup-launch setup-browser ## all tests, those of minutes too
	@$(BIN)/python -m pytest $(ARGS)

bench: setup ## measure this machine against the usual ways: half an hour, a table, JSON and a plot
	@$(BIN)/python -m benchmarks $(or $(PHOTOS),$(wildcard ../shared/data/asl_alphabet_train)) --out runs/benchmark $(ARGS)

model: setup ## make the bundled model anew, from the photos in PHOTOS: some hours on two cores
	@launch/model.sh $(ARGS)

baselines: setup ## score others on the photos of `make model`: ResNet-18, the landmarks alone, hand_net without a part
	@launch/baselines.sh $(ARGS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/mypy

doctor: ## what is installed here, and what is missing for what
	@test -x $(BIN)/horovod-asl || { echo "make doctor: nothing is installed yet: run \`make setup\` first" >&2; exit 1; }
	@$(BIN)/horovod-asl doctor $(ARGS)

ci: ## what CI runs: lint, test and test-launch
	@.ci/run

clean: ## remove caches and builds; runs, stores and .venv stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .setup-log*.txt
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
