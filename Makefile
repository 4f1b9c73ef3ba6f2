# SPDX-License-Identifier: GPL-3.0-or-later

# Any Python from 3.11 to 3.13; where this one is of another version, contrib/setup.sh looks further.
PYTHON ?= python3
VENV ?= .venv
FUZZ_SECONDS ?= 20

.DEFAULT_GOAL := help
.PHONY: help run stop setup setup-dev check lint test bench fuzz clean

help:
	@echo "make run     start a private daemon, build the example, run what was built"
	@echo "make stop    end that daemon"
	@echo "make test    check everything"
	@echo "make check   check what is quick to check"
	@echo "make bench   measure"
	@echo "make fuzz    feed damaged input to the parsers, $(FUZZ_SECONDS) s each"
	@echo "make clean   remove what was made, the private store included"

run: setup
	@VENV=$(VENV) contrib/run.sh

stop:
	@contrib/stop.sh

setup:
	@PYTHON=$(PYTHON) VENV=$(VENV) contrib/setup.sh

setup-dev:
	@PYTHON=$(PYTHON) VENV=$(VENV) contrib/setup.sh dev

lint: setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint
	$(VENV)/bin/pytest -q -m "not slow and not whole"

test: lint
	$(VENV)/bin/pytest

bench: setup-dev
	$(VENV)/bin/python tests/benchmarks

fuzz: setup-dev
	@for fuzzer in tests/fuzz/fuzz_*.py; do \
		echo "$$fuzzer"; \
		$(VENV)/bin/python "$$fuzzer" --seconds $(FUZZ_SECONDS) || exit 1; \
	done

clean: stop
	chmod -R u+w .run 2>/dev/null || true
	rm -rf .run $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find store storedaemon builder locker reaper tests contrib \
		'(' -name __pycache__ -o -name '*.so' ')' -prune -exec rm -rf {} +
