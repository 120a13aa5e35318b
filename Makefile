# All that a developer needs: make test, make lint, make demo, make bench. Each installs its missing dependencies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
PYTEST_ARGS ?=
# Three a core: much of the suite waits, for deadlines and leases.
WORKERS ?= $(shell expr 3 '*' $$(nproc))
BENCH_ARGS ?=
FUZZ_ARGS ?=
IMAGE_ARGS ?=
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' replicator/__init__.py)
SITE_VERSION ?= $(basename $(VERSION))
SITE_ALIAS ?= latest
MERMAID_VERSION := 11.17.2

.PHONY: all help install servers system tools test matrix lint format docs demo bench bench-check image image-check fuzz lock audit \
  sbom licenses site clean
all: lint test

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

install: $(VENV)/.installed ## Create the virtual environment with the locked versions

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || ./.ci/apt-install python3-venv
	@echo "Installing the Python packages into $(VENV). This takes 1 to 5 minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=24'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[aliyun,otlp,dev]'
	@touch $@

servers: ## Install the real servers and peers that tests and the demo need (Debian packages)
	@./.ci/apt-install docker-registry skopeo redis-server curl

system: servers ## Install the other programs that the tests use: a browser, promtool, systemd-analyze (Debian packages)
	@./.ci/apt-install chromium prometheus systemd

tools: install ## Install Helm and kubectl, which render deploy/ in the tests, and axe-core for the page, into the virtual environment
	@$(BIN)/python -m tests.deploy.tools

# The same everywhere: hundreds of programs start, whose bytecode is kept, and their output is buffered as users have it.
test: export PYTHONDONTWRITEBYTECODE =
test: export PYTHONUNBUFFERED =
test: install system tools ## Run the whole suite; PYTEST_ARGS='tests/rules -k glob' for a part of it
	@# Compiled once here: each worker would compile all the tests for itself, at the same time.
	@$(if $(PYTEST_ARGS),,ls -d tests/*/ | xargs -P $$(nproc) -n 5 $(BIN)/pytest --collect-only --quiet >/dev/null || true)
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=worksteal $(PYTEST_ARGS) || \
	  { echo "Run again, alone: a test that passes now met the others or a full machine, and is to be mended."; \
	    $(BIN)/pytest --last-failed --last-failed-no-failures=none --maxfail=3; }

matrix: ## Run the suite on Python 3.11 to 3.13 (PYTHONS=... for others) and the queue's tests on the newest redis-py
	PYTHONS="$(PYTHONS)" ./.ci/matrix

lint: install ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## Regenerate the generated parts of docs/ and deploy/
	$(BIN)/python -m tests.deploy.copies
	$(BIN)/python -m tests.docs.settings_table
	$(BIN)/python -m tests.docs.metrics_table
	$(BIN)/python -m tests.docs.schema
	$(BIN)/python -m tests.docs.limits_table
	$(BIN)/python -m tests.docs.man_page

site: export PATH := $(CURDIR)/.venv-site/bin:$(PATH)
site: ## Build this version of the documentation as a site, beside those built before: build/site; needs npm and the network for its tools
	$(PYTHON) -m venv .venv-site
	pip install --quiet --requirement .ci/site.txt
	python .ci/site.py
	npm pack --silent --pack-destination build mermaid@$(MERMAID_VERSION) >/dev/null
	tar --extract --file build/mermaid-$(MERMAID_VERSION).tgz --directory build/pages --strip-components 2 package/dist/mermaid.min.js
	mike deploy --update-aliases $(SITE_VERSION) $(SITE_ALIAS)
	$(if $(SITE_ALIAS),mike set-default $(SITE_ALIAS))
	@# mike keeps every version on the branch gh-pages of this repository.
	rm -rf build/site && mkdir build/site && git archive gh-pages | tar --extract --directory build/site

demo: install servers ## Replicate between two local registries, step by step, and stop
	$(BIN)/python -m tests.demo

bench: install servers ## Compare with other programs on local registries; BENCH_ARGS='large --requests' for a part
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-check: install system tools ## Run the tests of scale, which take minutes, and those of the benchmarks
	$(BIN)/pytest --numprocesses=auto --dist=worksteal -m scale tests
	$(BIN)/pytest --numprocesses=auto --dist=worksteal benchmarks

image: ## Build the container image; IMAGE_ARGS='--build-arg PIP_INDEX_URL=https://YOUR-MIRROR/simple' takes its packages from a mirror
	docker build --tag replicator:$(VERSION) --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" $(IMAGE_ARGS) .

image-check: install servers ## Build the container image with podman on a base of Debian packages, and do the README's steps with it; as root
	$(BIN)/pytest tests/deploy/image_build.py tests/deploy/test_image.py
	BIN=$(BIN) ./.ci/image-check

fuzz: install ## Feed a million damaged inputs to every parser; FUZZ_ARGS='events --count 1000' for fewer
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

lock: install ## Update constraints.txt, requirements.lock and build.lock
	BIN=$(BIN) ./.ci/lock

$(TOOLS)/.installed: .ci/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --requirement .ci/tools.txt
	@touch $@

audit: $(TOOLS)/.installed ## Check the locked versions for known vulnerabilities (queries an advisory database)
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock --requirement build.lock

sbom: install $(TOOLS)/.installed ## Write the image's bill of materials, as CycloneDX: dist/replicator.cdx.json
	@mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible \
	  --output-format JSON --output-file dist/replicator.cdx.json
	$(BIN)/python -m tests.supply.bundled dist/replicator.cdx.json

licenses: install ## List the licences of the runtime dependencies
	$(BIN)/python -m tests.supply.licenses

clean: ## Remove everything that the other targets made
	rm -rf $(VENV) $(TOOLS) .venv-matrix .venv-site .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
