# Needs Go >= 1.25, GNU make and Python >= 3.8 with its venv module; all else is fetched, pinned, into build/.
#   make PYTHON=/path/to/python3 test    takes another interpreter, for the workers too

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

NESTED      := $(patsubst %/go.mod,%,$(wildcard */go.mod))
MODULES     := . $(NESTED)
STATICCHECK := v0.7.0
CORE        ?= TestSeed|TestCore
ARGS        ?=

# Not ./.venv: pypool would find that one by itself, and the tests would no longer see the machine's Python.
BUILD := $(CURDIR)/build
VENV  := $(BUILD)/venv
TOOLS := $(VENV)/bin/python -m
LINTER := $(BUILD)/bin/staticcheck-$(STATICCHECK)

# A PYTHON that was asked for is also the workers'.
ifneq ($(origin PYTHON),undefined)
export PYPOOL_PYTHON := $(if $(findstring /,$(PYTHON)),$(abspath $(PYTHON)),$(PYTHON))
endif
INTERPRETER := $(or $(PYPOOL_PYTHON),python3)

# The race detector needs a C compiler; Go itself sets CGO_ENABLED to 0 where there is none.
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

say = printf '\n== %s\n'

.PHONY: help demo test test-go test-python test-core lint lint-go lint-python examples bench clean

help: ## Show this list
	@echo 'usage: make TARGET [PYTHON=/path/to/python3]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## Measure the Python standard library with a pool of workers: a tour in half a minute (ARGS="-workers 4")
	@$(say) 'building examples/quickstart'
	@cd examples/quickstart && go build -o $(BUILD)/bin/quickstart .
	@$(say) 'running it; Ctrl-C ends it'
	@cd examples/quickstart && exec $(BUILD)/bin/quickstart $(ARGS)

test: test-go test-python ## Run all tests, Go (with the race detector) and Python

test-go:
	@[ -n "$(RACE)" ] || echo 'no C compiler: the tests run without the race detector'
	@failed=; for module in $(MODULES); do \
		$(say) "go test $(RACE) ./... in $$module (the first run compiles everything; the tests take minutes)"; \
		(cd $$module && go test $(RACE) ./...) || failed="$$failed $$module"; \
	done; \
	if [ -n "$$failed" ]; then echo "tests failed in:$$failed"; exit 1; fi

test-python: $(VENV)/ready
	@$(say) 'pytest in python'
	@cd python && $(TOOLS) pytest

test-core: ## Run the tests of the pooling essentials only, in seconds
	go test $(RACE) -run '$(CORE)' .

lint: lint-go lint-python ## Check format, vet, staticcheck, ruff, mypy --strict

lint-go: $(LINTER)
	@$(say) 'gofmt'
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' 2>/dev/null || find . -name '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted; run gofmt -w on:" $$unformatted; exit 1; fi
	@for module in $(MODULES); do \
		$(say) "go vet and staticcheck in $$module"; \
		(cd $$module && go vet ./... && $(LINTER) ./...) || exit 1; \
	done
	@$(say) 'go build for the other systems'
	@for os in darwin windows; do GOOS=$$os go build ./... || exit 1; done

lint-python: $(VENV)/ready
	@$(say) 'ruff and mypy --strict'
	@cd python && $(TOOLS) ruff check . && $(TOOLS) mypy
	@$(TOOLS) ruff check --config python/pyproject.toml examples
	@for worker in examples/*/*.py; do MYPYPATH=python $(TOOLS) mypy --strict --cache-dir $(BUILD)/mypy $$worker || exit 1; done

examples: ## Build every example into build/examples
	@for dir in $$(cd examples && ls -d */); do \
		if ls examples/$$dir*.go >/dev/null 2>&1; then \
			$(say) "examples/$$dir"; (cd examples && go build -o $(BUILD)/examples/ ./$$dir) || exit 1; \
		fi; \
	done
	@echo; echo 'run one in its folder, like: cd examples/quickstart && go run .'

bench: ## Run the benchmarks
	@if [ ! -f bench/go.mod ]; then echo 'there is no bench/ yet'; exit 1; fi
	cd bench && go test -run '^$$' -bench . $(ARGS) ./...

clean: ## Remove what the other targets made
	rm -rf $(BUILD)
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf python/.mypy_cache python/.ruff_cache python/.pytest_cache .ruff_cache .mypy_cache

$(VENV)/ready: python/requirements-dev.txt
	@$(say) 'installing pytest, ruff and mypy into build/venv'
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 8))' || \
		{ echo '$(INTERPRETER) is missing or older than Python 3.8: make PYTHON=/path/to/python3 ...'; exit 1; }
	@$(INTERPRETER) -m venv --clear $(VENV) || \
		{ echo '$(INTERPRETER) cannot make a virtual environment: is its venv module installed (python3-venv)?'; exit 1; }
	@$(TOOLS) pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(LINTER):
	@$(say) 'building staticcheck $(STATICCHECK)'
	@GOBIN=$(BUILD)/bin go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK)
	@mv $(BUILD)/bin/staticcheck $@
