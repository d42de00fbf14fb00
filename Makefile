# make demo: set everything up and run the whole pipeline on the generated data set. make test: set up, lint, test.
PYTHON ?= python3
BIN := .venv/bin
# One test process more than cores, since many tests wait for others; four at most, for memory.
PARALLEL := -n $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 1 : 4))) --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-fast test-cluster torture lint clean
.DELETE_ON_ERROR:

demo: .venv/installed
	dvc repro
	twostream results

test: .venv/installed lint
	python -m pytest $(PARALLEL)

# For the inner loop: without the tests that are marked slow.
test-fast: .venv/installed
	python -m pytest $(PARALLEL) -m "not slow"

# A Dask cluster, an S3 server and torchrun, all on this machine. What cannot be installed is skipped, with the reason.
test-cluster: .venv/installed
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[cluster]' 'moto[server]==5.2.5' dvc-s3==3.3.0
	python -m pytest -rs tests/core/test_cluster.py tests/stages/test_remote.py tests/streams/test_processes.py

# Kills, full disks, damaged caches, hostile files and servers; ends with a table of what became of them.
torture: .venv/installed
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests python -m torture

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] else "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
