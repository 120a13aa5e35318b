# All that a developer needs: make test, make lint, make demo, make bench. Each installs what it misses.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: all help install system tools test lint format docs demo bench lock clean
all: lint test

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Create the virtual environment with the locked versions

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || ./.ci/apt-install python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=24'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[aliyun,otlp,dev]'
	@touch $@

system: ## Install the real servers and peers that tests and demo run against (Debian packages)
	@./.ci/apt-install docker-registry skopeo redis-server curl chromium prometheus systemd

tools: install ## Put the Helm and Kustomize that the tests render deploy/ with into the virtual environment
	@$(BIN)/python -m tests.deploy.tools

test: install system tools ## Run the whole suite
	$(BIN)/pytest --numprocesses=auto $(PYTEST_ARGS)

lint: install ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Put the code into its canonical form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## Renew the generated parts of docs/ and deploy/
	$(BIN)/python -m tests.deploy.copies
	$(BIN)/python -m tests.docs.settings_table
	$(BIN)/python -m tests.docs.metrics_table
	$(BIN)/python -m tests.docs.schema

demo: install system ## Replicate between two local registries, visibly, and stop
	$(BIN)/python -m tests.demo

bench: install system ## Measure against skopeo, curl and what else is there, on local registries
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

lock: install ## Renew constraints.txt from pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --all-extras --strip-extras --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --no-header --no-annotate --output-file constraints.txt pyproject.toml

clean: ## Remove what the other targets made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
