.DEFAULT_GOAL := help
.PHONY: help setup run pipeline test check format
PYTHON_BIN := .venv/bin/python
SHELL_FILES := launchers/*.sh launchers/*.sbatch .ci/run
# The cluster of `make run`: the real stack on this machine's CPU, or on a GPU where setup found one.
CLUSTER ?= $(shell test "$$DEVICE" != cpu && nvidia-smi -L >/dev/null 2>&1 && echo gpu1 || echo cpu)
# Options of the run: make run ARGS="algo=grpo steps=20"
ARGS ?=

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with everything that is needed; quick when nothing changed
	@launchers/setup.sh

run: setup ## Train: PPO on Ray actors, vLLM and DeepSpeed, on this machine (ARGS="..." for more options)
	@$(PYTHON_BIN) -m rlhf_hydra cluster=$(CLUSTER) model=tiny data=toy $(ARGS)

pipeline: setup ## Train in three stages: SFT, a reward model, PPO with that model (ARGS="..." for all stages)
	@launchers/pipeline.sh "" cluster=$(CLUSTER) $(ARGS)

test: setup ## Run the tests (ARGS="-m 'not slow'" for a part)
	@$(PYTHON_BIN) -m pytest $(ARGS)

check: setup ## Lint, types, import contracts, shell scripts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/shellcheck $(SHELL_FILES)

format: setup ## Put the code into its standard form
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .
