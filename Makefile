# Everything a person or CI runs. Needs Python 3.11 or newer, make and a package index; nothing else.
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format docs docs-serve benchmark clean

VENV := .venv
BIN := $(VENV)/bin
# uv resolves in seconds what takes pip minutes on a slow machine.
INSTALL = $(if $(shell command -v uv 2>/dev/null),uv pip install --python $(BIN)/python,$(PIP))
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# Each file's tests stay together, and what needs the machine for itself on one worker (tests/conftest.py).
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

# The first of these that runs, is new enough and can make environments (Debian's bare python3 cannot).
SUITABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
FIND_PYTHON := for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && { echo $$p; break; }; done
PYTHON = $(shell $(FIND_PYTHON))

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## install, run both stages on a small set, print where the result is
	$(BIN)/medal demo $(ARGS)

test: $(VENV)/.dev ## the whole suite on two cores; WORKERS=0 for one process
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.dev ## every case of what `make test` samples, drawn differently each time
	$(PYTEST) -m "slow or not slow" --timeout 3600 --hypothesis-profile slow $(ARGS)

lint: $(VENV)/.dev ## ruff, mypy --strict, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --package medal
	$(BIN)/lint-imports

format: $(VENV)/.dev ## put the code into ruff's shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## run the blocks of all pages, then build the site into docs/_build, warnings as errors
	$(PYTEST) --dist load -m docs tests/test_docs.py tests/test_docs_site.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build $(ARGS)
	@echo "docs/_build/index.html"

docs-serve: docs ## the same, shown at http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build 8000

benchmark: $(VENV)/.dev ## measure start-up time
	$(BIN)/python benchmarks/startup.py

clean: ## remove what make and the tools made; caches/, runs/ and demo/ stay
	rm -rf $(VENV) .typing docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that a set-up succeeded; a change of pyproject.toml makes it stale.
$(VENV)/.created:
	@python="$(PYTHON)"; test -n "$$python" || \
		{ echo "make: no Python 3.11 or newer with venv found; try 'make PYTHON=/path/to/python'" >&2; exit 1; }; \
	echo "making $(VENV) with $$python"; "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml
	@echo "installing into $(VENV); the first time this fetches PyTorch, which is large"
	$(INSTALL) --editable '.[demo]'
	@touch $@

# mypy and pyright see the root as the package `medal` through this link.
$(VENV)/.dev: $(VENV)/.created pyproject.toml
	@echo "installing into $(VENV); the first time this fetches PyTorch, which is large"
	$(INSTALL) --editable '.[dev]'
	mkdir -p .typing
	ln -sfn .. .typing/medal
	@touch $@

# Beside .dev, whose libraries the reference is read from.
$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) --editable '.[docs]'
	@touch $@
