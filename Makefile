# `make setup` once, then `make test`, `make check`, `make bench`; `make demo` alone needs nothing before it.
#
# Everything lives in this folder: .tools/uv (the installer), .venv (the product and its tests), .tools/parts
# (third-party programs that the demo and the tests run). Each has a stamp inside, so a second run is quick.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
SMALL ?=
SOURCE ?=
REGISTRY ?=
QUICK ?=
TORCH := 2.13.0

export UV_PYTHON_DOWNLOADS := never
UV := .tools/uv/bin/uv
PY := .venv/bin/python
MEMBERS := shared services/master services/worker services/fuse
PROJECTS := pyproject.toml $(MEMBERS:%=%/pyproject.toml)
DISTRIBUTIONS := forebay forebay-master forebay-worker forebay-fuse
SYNC := $(UV) pip sync -q --require-hashes
EDITABLE := $(UV) pip install -q --python .venv --no-deps --no-build-isolation $(MEMBERS:%=-e %)

.PHONY: help setup demo test check bench clean lock system docs compose-test

help:
	@echo 'make demo [SMALL=1] [SOURCE=s3://…|/folder] [REGISTRY=zookeeper]   see it work'
	@echo 'make setup    install everything that the other targets need'
	@echo 'make test     all tests; make check: formatting, lint, types, import rules; make bench [QUICK=1]: all figures'
	@echo 'make lock     resolve dependencies anew and write requirements/*.txt; make clean: remove what was installed'

setup: system .venv/.dev-stamp .venv/.torch-stamp .tools/parts/.demo-stamp .tools/parts/.tools-stamp

system:
	@.ci/system fuse zookeeper test

demo: .venv/.run-stamp .tools/parts/.demo-stamp
	@.ci/system demo $(if $(filter zookeeper,$(REGISTRY)),zookeeper)
	@SMALL='$(SMALL)' SOURCE='$(SOURCE)' REGISTRY='$(REGISTRY)' $(PY) -m bench.demo

# A test that failed is run once more, alone: on two shared cores a deadline can pass for no fault of ours. Both runs are
# printed, and a test that needs the second one is a defect to mend. The slow ones mostly wait for real processes; each
# file stays in one process, for its servers and clusters.
AGAIN := --last-failed --last-failed-no-failures none

test: setup
	@status=0; \
	fast='tests/unit tests/property tests/contract'; slow='tests/deploy tests/isolation tests/integration tests/fuse tests/crash'; \
	$(PY) -m pytest -n 2 $$fast || { echo 'once more, alone:'; $(PY) -m pytest $(AGAIN) $$fast || status=1; }; \
	$(PY) -m pytest -n 2 --dist loadfile $$slow || { echo 'once more, alone:'; $(PY) -m pytest $(AGAIN) $$slow || status=1; }; \
	exit $$status

check: .venv/.dev-stamp
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

bench: setup
	$(PY) -m bench all $(if $(QUICK),--quick)

# What the services serve at /openapi.json, as files and as a page.
docs: .venv/.dev-stamp
	$(PY) docs/write.py

# The cluster of compose/ on an engine of its own: built, hurt, scaled, taken down. Minutes, and root.
compose-test: system .venv/.dev-stamp
	@.ci/system compose
	compose/test/run.sh

clean:
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock: .tools/uv/.stamp
	$(UV) lock -q
	@for name in $(DISTRIBUTIONS); do \
	  $(UV) export -q --frozen --package $$name --no-dev --no-emit-workspace --no-header -o requirements/$$name.txt || exit; \
	done
	@$(UV) export -q --frozen --package forebay-all --no-default-groups --group build --no-emit-workspace --no-header -o requirements/run.txt
	@$(UV) export -q --frozen --package forebay-all --group dev --no-emit-workspace --no-header -o requirements/dev.txt
	@for name in demo tools uv s3-server wheel; do \
	  $(UV) pip compile -q --no-deps --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    requirements/$$name.in -o requirements/$$name.txt || exit; \
	done

.tools/uv/.stamp: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python …'; exit 1; }
	@.ci/system venv
	@$(PYTHON) -m venv .tools/uv
	@.tools/uv/bin/python -m pip install -q --require-hashes -r $<
	@touch $@

# The demo's environment. One with the tests' requirements already has all of it.
.venv/.run-stamp: .tools/uv/.stamp requirements/run.txt $(PROJECTS)
	@[ -d .venv ] || $(UV) venv -q --python '$(PYTHON)' .venv
	@if [ .venv/.dev-stamp -nt requirements/run.txt ]; then $(EDITABLE); else $(SYNC) --python .venv requirements/run.txt && $(EDITABLE); fi
	@touch $@

.venv/.dev-stamp: .tools/uv/.stamp requirements/dev.txt $(PROJECTS)
	@[ -d .venv ] || $(UV) venv -q --python '$(PYTHON)' .venv
	@$(SYNC) --python .venv requirements/dev.txt && $(EDITABLE)
	@touch $@ .venv/.run-stamp

# PyTorch, for the tests of forebay.torch: by pip, whose configuration says where builds without CUDA are (200 MB to
# fetch, 750 MB on disk, half a minute). A sync of .venv removes it, so it comes after each.
.venv/.torch-stamp: .venv/.dev-stamp
	@.tools/uv/bin/python -m pip --python .venv/bin/python install -qq --disable-pip-version-check torch==$(TORCH)
	@touch $@

.tools/parts/.demo-stamp: .tools/uv/.stamp requirements/demo.txt
	@[ -d .tools/parts/bin ] || $(UV) venv -q --python '$(PYTHON)' .tools/parts
	@$(UV) pip install -q --python .tools/parts --require-hashes --no-deps -r requirements/demo.txt
	@touch $@

.tools/parts/.tools-stamp: .tools/parts/.demo-stamp requirements/tools.txt
	@$(UV) pip install -q --python .tools/parts --require-hashes --no-deps -r requirements/tools.txt
	@touch $@
