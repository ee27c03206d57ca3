# Needs Go >= 1.25, GNU make and Python >= 3.8 with its venv module; all else is fetched, pinned, into build/.
#   make PYTHON=/path/to/python3 test    takes another interpreter, for the workers too

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

NESTED      := $(patsubst %/go.mod,%,$(filter-out build/%,$(wildcard */go.mod */*/go.mod)))
MODULES     := . $(NESTED)
STATICCHECK := v0.7.0
CORE        ?= TestSeed|TestCore
ARGS        ?=

# Not ./.venv: pypool would find that one by itself, and the tests would no longer see the machine's Python.
BUILD := $(CURDIR)/build
VENV  := $(BUILD)/venv
TOOLS := $(VENV)/bin/python -m
LINTER := $(BUILD)/bin/staticcheck-$(STATICCHECK)
APIDIFF := $(BUILD)/bin/apidiff
# The libraries of tables, for the tests of the module arrow.
TABLES := $(BUILD)/arrow
# The examples' libraries; each story runs in its folder and looks for ../.venv.
EXAMPLES := $(CURDIR)/examples/.venv
STORIES  := dspy agent sklearn pandas documents vision tables

# A PYTHON that was asked for is also the workers'.
ifneq ($(origin PYTHON),undefined)
export PYPOOL_PYTHON := $(if $(findstring /,$(PYTHON)),$(abspath $(PYTHON)),$(PYTHON))
endif
INTERPRETER := $(or $(PYPOOL_PYTHON),python3)

# The race detector needs a C compiler; Go itself sets CGO_ENABLED to 0 where there is none.
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

say = printf '\n== %s\n'

.PHONY: help demo cluster gpu test test-go test-root test-modules test-python test-core lint lint-go lint-python examples chaos pythons bench bench-compare apidiff release-check clean

help: ## Show this list
	@echo 'usage: make TARGET [PYTHON=/path/to/python3]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## Measure the Python standard library with a pool of workers: a tour in half a minute (ARGS="-workers 4")
	@$(say) 'building examples/quickstart'
	@cd examples/quickstart && go build -o $(BUILD)/bin/quickstart .
	@$(say) 'running it; Ctrl-C ends it'
	@cd examples/quickstart && exec $(BUILD)/bin/quickstart $(ARGS)

cluster: ## Run three services behind a nats-server, kill one, and watch its load move: a quarter of a minute
	@$(say) 'building nats-server and examples/cluster'
	@mkdir -p $(BUILD)/bin
	@cd examples && go build -o $(BUILD)/bin/nats-server github.com/nats-io/nats-server/v2 && go build -o $(BUILD)/bin/cluster ./cluster
	@$(say) 'running it; Ctrl-C ends it'
	@cd examples/cluster && exec $(BUILD)/bin/cluster -nats-server $(BUILD)/bin/nats-server $(ARGS)

gpu: ## Ask resnet50 on an NVIDIA GPU from 64 callers, beside the model alone (PYTHON with torch and torchvision)
	@if ! nvidia-smi -L >/dev/null 2>&1; then \
		echo 'gpu: this machine has no NVIDIA GPU that nvidia-smi can see, so nothing is measured; examples/vision is the same on a CPU'; exit 0; fi; \
	if ! $(INTERPRETER) -c 'import numpy, torch, torchvision' >/dev/null 2>&1; then \
		echo 'gpu: $(INTERPRETER) cannot import numpy, torch and torchvision: make gpu PYTHON=/path/to/python3 names one that can (examples/gpu/requirements.txt)'; exit 1; fi; \
	mkdir -p $(BUILD)/bin && cd examples/gpu && go build -o $(BUILD)/bin/gpu . && exec $(BUILD)/bin/gpu -python $(INTERPRETER) -least 0.8 $(ARGS)

# The root module's tests wait more than they work: the other modules' run beside them, and yield to them. pytest, which
# keeps two processors busy, follows as soon as they have ended.
test: $(VENV)/ready ## Run all tests, Go (with the race detector) and Python
	@mkdir -p $(BUILD); failed=; nice -n 10 $(MAKE) test-modules >$(BUILD)/beside.log 2>&1 & beside=$$!; \
	trap "kill $$beside 2>/dev/null || true" INT TERM; \
	$(say) 'the other modules run beside this; what they say comes afterwards, and is in build/beside.log'; \
	$(MAKE) test-root || failed="$$failed test-root"; \
	nice -n 10 $(MAKE) test-python || failed="$$failed test-python"; \
	wait $$beside || failed="$$failed test-modules"; \
	cat $(BUILD)/beside.log; \
	if [ -n "$$failed" ]; then echo "tests failed in:$$failed"; exit 1; fi

test-go: test-root test-modules

# The table of faults counts what its process has open, so its rows wait for each other: the other tests run beside it, in
# a process of their own.
test-root: export PYPOOL_UV ?= $(VENV)/bin/uv
test-root: $(VENV)/ready
	@[ -n "$(RACE)" ] || echo 'no C compiler: the tests run without the race detector'
	@$(say) 'go test $(RACE) ./... in . (the first run compiles everything; the tests take minutes)'
	@go test $(RACE) -c -o $(BUILD)/bin/pypool.test .
	@failed=; $(BUILD)/bin/pypool.test -test.timeout 30m -test.run '^TestFault$$' >$(BUILD)/faults.log 2>&1 & faults=$$!; \
	trap "kill $$faults 2>/dev/null || true" INT TERM; \
	go test $(RACE) -timeout 30m -skip '^TestFault$$' ./... || failed=yes; \
	wait $$faults || failed=yes; \
	$(say) 'the table of faults'; cat $(BUILD)/faults.log; [ -z "$$failed" ]
	@$(say) 'what a call allocates, without the race detector'
	@go test -run '^TestCallAllocations$$' .

test-modules: $(VENV)/ready $(TABLES)/ready
	@failed=; for module in $(NESTED); do \
		$(say) "go test $(RACE) ./... in $$module"; \
		(cd $$module && PYPOOL_UV=$${PYPOOL_UV:-$(VENV)/bin/uv} PYPOOL_OTEL_PYTHON=$(VENV)/bin/python PYPOOL_ARROW_PYTHON=$(TABLES)/bin/python go test $(RACE) ./...) || failed="$$failed $$module"; \
	done; \
	if [ -n "$$failed" ]; then echo "tests failed in:$$failed"; exit 1; fi

# Each of the two runs keeps one processor busy: they run side by side.
test-python: $(VENV)/ready
	@$(say) 'pytest in python, and beside it the same with workers that are forked, and have imported orjson'
	@cd python; failed=; orjson=; \
	if $(TOOLS) pip show --quiet orjson 2>/dev/null; then orjson=1; else echo 'this Python has no orjson'; fi; \
	PYPOOL_TEST_SOURCE=forkserver PYPOOL_TEST_ORJSON=$$orjson $(TOOLS) pytest -p no:cacheprovider >$(BUILD)/forked.log 2>&1 & forked=$$!; \
	trap "kill $$forked 2>/dev/null || true" INT TERM; \
	PYPOOL_TEST_LIBRARIES=1 $(TOOLS) pytest || failed=yes; \
	wait $$forked || failed=yes; \
	$(say) 'with forked workers'; cat $(BUILD)/forked.log; \
	[ -z "$$failed" ]

test-core: ## Run the tests of the pooling essentials only, in seconds
	go test $(RACE) -run '$(CORE)' .

lint: lint-go lint-python ## Check format, vet, staticcheck, ruff, mypy --strict

# With the race detector, as the tests: what both need is compiled once.
lint-go: $(LINTER)
	@$(say) 'gofmt'
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' 2>/dev/null || find . -name '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted; run gofmt -w on:" $$unformatted; exit 1; fi
	@for module in $(MODULES); do \
		$(say) "go vet and staticcheck in $$module"; \
		(cd $$module && export GOFLAGS="$${GOFLAGS:-} $(RACE)" && go vet ./... && $(LINTER) ./...) || exit 1; \
	done
	@$(say) 'go build for the other systems'
	@for os in darwin windows; do GOOS=$$os go build ./... || exit 1; done

lint-python: $(VENV)/ready
	@$(say) 'ruff and mypy --strict'
	@cd python && $(TOOLS) ruff check . && $(TOOLS) mypy
	@$(TOOLS) ruff check --config python/pyproject.toml examples
	@$(TOOLS) ruff format --quiet --check --config python/pyproject.toml python/pypool python/tests examples bench || { echo 'not formatted; run ruff format --config python/pyproject.toml python/pypool python/tests examples bench'; exit 1; }
	@if [ -x $(VENV)/bin/hadolint ]; then $(VENV)/bin/hadolint examples/container/Dockerfile; fi
	@for worker in $(filter-out %/broken.py,$(wildcard examples/*/*.py)); do MYPYPATH=python $(TOOLS) mypy --strict --ignore-missing-imports --allow-subclassing-any --no-warn-unused-ignores --cache-dir $(BUILD)/mypy $$worker || exit 1; done

examples: $(EXAMPLES)/ready ## Test the examples with their real libraries and run each once (the first run installs 650 MB)
	@$(say) 'go test ./... in examples'
	@cd examples && PYPOOL_EXAMPLES=1 go test -timeout 5m ./...
	@mkdir -p $(BUILD)/bin
	@for story in $(STORIES) 'http -load 500'; do \
		$(say) "examples/$$story"; \
		set -- $$story; cd $(CURDIR)/examples/$$1; \
		go build -o $(BUILD)/bin/example-$$1 .; $(BUILD)/bin/example-"$$@"; \
	done

# Of two durations the first would count.
chaos: ## Throw everything at one pool for 20 seconds (ARGS="-chaos.duration=10m -chaos.seed=7 -timeout 15m")
	go test -race -count=1 -run Chaos $(if $(findstring -chaos.duration,$(ARGS)),,-chaos.duration=20s) $(ARGS) .

# Where to look for other Pythons: pyenv's, and what a Debian system has.
PYTHONS ?= $(wildcard $(HOME)/.pyenv/versions/3.*/bin/python) $(wildcard /usr/bin/python3.?) $(wildcard /usr/bin/python3.??)

pythons: ## Run the Python tests and a smoke test from Go with every Python 3.8+ found (PYTHONS="...")
	@for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("%d.%d.%d" % sys.version_info[:3] if sys.version_info >= (3, 8) else "")'); \
		[ -n "$$version" ] || continue; \
		venv=$(BUILD)/pythons/$$version; \
		$(say) "CPython $$version"; \
		[ -f $$venv/ready ] || { $$python -m venv --clear $$venv && \
			grep '^pytest' python/requirements-dev.txt | $$venv/bin/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin && touch $$venv/ready; } || exit 1; \
		(cd python && $$venv/bin/python -m pytest -q) || exit 1; \
		PYPOOL_PYTHON=$$python go test -count=1 -run '$(CORE)|TestStream|TestMapYields|TestMapRuns' . || exit 1; \
	done

bench: ## Measure against the floor and the peers, in about eleven minutes (RUN='^call/' for a part)
	@$(MAKE) -C bench run PYTHON='$(INTERPRETER)'

bench-compare: ## Compare the newest results with the last committed ones
	@$(MAKE) -C bench compare

# What users import, by module and package. BASE names another commit to compare with.
API  := .:. .:pypooltest .:pypooldebug arrow:. uv:. nats:. otel:. prometheus:.
BASE ?= $(shell git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)

apidiff: ## Compare the exported API with the last release's (BASE=commit for another)
	@if [ -z "$(BASE)" ]; then echo 'apidiff: no release is tagged yet, so there is nothing to be compatible with'; exit 0; fi; \
	$(MAKE) $(APIDIFF) && rm -rf $(BUILD)/api && mkdir -p $(BUILD)/api && git archive $(BASE) | tar -x -C $(BUILD)/api || exit 1; \
	broken=; \
	for api in $(API); do \
		module=$${api%:*}; package=$${api#*:}; old=$(BUILD)/api/$$module; export=$(BUILD)/api/$${api//[.:\/]/_}.export; \
		[ -f $$module/go.mod ] && [ -f $$old/go.mod ] && ls $$old/$$package/*.go >/dev/null 2>&1 || continue; \
		$(say) "$$module, package $$package, since $(BASE)"; \
		(cd $$old && $(APIDIFF) -w $$export ./$$package) && (cd $$module && $(APIDIFF) $$export ./$$package) || exit 1; \
		[ -z "$$(cd $$module && $(APIDIFF) -incompatible $$export ./$$package)" ] || broken=1; \
	done; \
	version=$$(sed -n 's/^const Version = "\(.*\)"/\1/p' runtime.go); base=$(BASE:v%=%); \
	if [ -n "$$broken" ] && [ "$${version%.*}" = "$${base%.*}" ]; then \
		echo; echo "apidiff: incompatible changes since $(BASE), and this is version $$version: before 1.0 they take a new minor version, and a word in CHANGELOG.md"; exit 1; \
	fi

$(APIDIFF):
	@$(say) 'building apidiff'
	@GOBIN=$(BUILD)/bin go install golang.org/x/exp/cmd/apidiff@v0.0.0-20261113113407-e3970619a1a4

release-check: ## See whether everything that has a version has this one (VERSION=0.2.0)
	@[ -n "$(VERSION)" ] || { echo 'release-check: make release-check VERSION=0.2.0'; exit 1; }
	@if git rev-parse -q --verify 'refs/tags/v$(VERSION)' >/dev/null; then echo 'release-check: v$(VERSION) is tagged already'; exit 1; fi
	@PYPOOL_RELEASE='$(VERSION)' go test -count=1 -run TestVersionsAgree .
	@$(MAKE) apidiff

clean: ## Remove what the other targets made
	rm -rf $(BUILD) $(EXAMPLES) bench/.venv
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf python/.mypy_cache python/.ruff_cache python/.pytest_cache .ruff_cache .mypy_cache

$(VENV)/ready: python/requirements-dev.txt
	@$(say) 'installing pytest, ruff, mypy and the libraries whose values are tested into build/venv'
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 8))' || \
		{ echo '$(INTERPRETER) is missing or older than Python 3.8: make PYTHON=/path/to/python3 ...'; exit 1; }
	@$(INTERPRETER) -m venv --clear $(VENV) || \
		{ echo '$(INTERPRETER) cannot make a virtual environment: is its venv module installed (python3-venv)?'; exit 1; }
	@$(TOOLS) pip install --quiet --disable-pip-version-check --only-binary :all: -r $<
	@touch $@

$(TABLES)/ready: arrow/requirements.txt
	@$(say) 'installing pyarrow, pandas and polars into build/arrow (500 MB)'
	@$(INTERPRETER) -m venv --clear $(TABLES)
	@$(TABLES)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r $<
	@touch $@

$(EXAMPLES)/ready: examples/requirements.txt
	@$(say) 'installing DSPy, scikit-learn, pandas, PDFium and what they need into examples/.venv (a minute or two)'
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(INTERPRETER) is missing or older than Python 3.11, which the libraries need: make PYTHON=/path/to/python3 examples'; exit 1; }
	@$(INTERPRETER) -m venv --clear $(EXAMPLES) || \
		{ echo '$(INTERPRETER) cannot make a virtual environment: is its venv module installed (python3-venv)?'; exit 1; }
	@$(EXAMPLES)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r $<
	@touch $@

$(LINTER):
	@$(say) 'building staticcheck $(STATICCHECK)'
	@GOBIN=$(BUILD)/bin go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK)
	@mv $(BUILD)/bin/staticcheck $@
