# posebook: two commands do everything, `make book` and `make test`; `make check` is the quick part of the latter. Set-up needs only python3, pip and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python

# The checkout comes before anything installed in the environment: notebooks run in book/, and an environment
# that several checkouts share may still know `posebook` as the folder of another one.
export PYTHONPATH := $(CURDIR)

# Written last and named after the content of requirements.txt: there only if that very list is installed in full.
STAMP := $(VENV)/.posebook-$(shell cksum < requirements.txt | tr ' ' '-')
# There only while an environment made here has never been completed: then it is made anew, not mended.
HALF := $(VENV)/.posebook-half-made

.PHONY: help setup book check test lab clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile
	@echo "The environment is made in $(VENV); take another with VENV=/some/folder, another Python with PYTHON=python3.13"

setup: $(STAMP) ## make the environment and install requirements.txt (the others do this first)

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "posebook needs Python 3.11 or newer, but there is no '$(PYTHON)' here: name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("posebook needs Python 3.11 or newer, but $(PYTHON) is %d.%d: name a newer one with PYTHON=..." % sys.version_info[:2])'
	@if [ -e $(HALF) ]; then rm -rf $(VENV); fi
	@if [ ! -x $(PY) ]; then \
		if [ -n "$$(ls -A $(VENV) 2>/dev/null)" ] && [ ! -e $(VENV)/pyvenv.cfg ]; then \
			echo "$(VENV) holds other things and no virtual environment: name another folder with VENV=..." >&2; exit 1; \
		fi; \
		mkdir -p $(VENV) && touch $(HALF) && $(PYTHON) -m venv $(VENV); \
	fi
	@rm -f $(VENV)/.posebook-[0-9]*
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@rm -f $(HALF) && touch $@

book: $(STAMP) ## build the book into _build/html/index.html; any warning is an error
	$(PY) tools/build_live.py
	$(VENV)/bin/jupyter-book build . --all -W --keep-going
	$(PY) tools/check_book.py

check: $(STAMP) ## what needs no run: lint, types, notebooks clean, computed pages up to date, every number with its run
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) tools/clean_notebooks.py --check
	$(PY) tools/write_pages.py --check
	$(PY) tools/check_evidence.py

# Two files of tests, or two chapters, at a time (WORKERS=4: four); what belongs together in a file stays together.
WORKERS ?= 2
AT_ONCE := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# One thread: the tests are small, and on a busy machine threads that wait for each other are slower than one.
# The pages are tested too where the book is built and there is a Chromium; POSEBOOK_REQUIRE_PAGES=1 insists on it.
test: export OMP_NUM_THREADS ?= 1
test: export POSEBOOK_PROFILE := smoke
# Lines and branches of the package count as covered by the unit tests alone, and in their own processes: to be watched,
# a process that they start would take several times as long to import PyTorch.
test: check ## make check, then the unit tests with their coverage, the built pages, every chapter in the smoke profile
	$(PY) -m pytest tests $(AT_ONCE) --cov --cov-report=term:skip-covered
	$(PY) -m pytest book $(AT_ONCE) --nbval-lax --nbval-current-env --nbval-cell-timeout 300

lab: $(STAMP) ## open the chapters in JupyterLab
	$(PY) -m jupyterlab

clean: ## remove what was built; the environment, runs/ and cache/ stay
	rm -rf _build assets/live/built .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
	find . \( -name .git -o -path './$(VENV)' \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
