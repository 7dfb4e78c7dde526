# Everything happens in .venv, which the first command makes; nothing is installed outside this
# folder. `make` alone says what there is. Another Python: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
# One BLAS thread each: there is a process per core.
PYTEST := OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --editable

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demos test fresh kills lowest parity docs pictures bench operations vectors mutants fuzz lint gpu clean

help: ## say what there is
	@sed -nE 's/^([a-z]+):.*## (.*)$$/make \1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

# TEXT reaches the command through the environment, as it is: neither `make` nor the shell reads it.
unexport TEXT
demo: export MINIMONO_TEXT := $(value TEXT)
demo: .venv/.with-core ## the main job on real text (TEXT=file for your own); ends with a report
	@$(BIN)/minimono demo $${MINIMONO_TEXT:+--text "$$MINIMONO_TEXT"}

demos: .venv/.with-demos ## every experiment in demos/, in quick mode; pictures go to runs/
	@for demo in demos/*.py; do \
	    echo "== $$demo --quick"; $(BIN)/python $$demo --quick || exit 1; done

test: .venv/.with-test ## all tests but those against PyTorch; those for a GPU run where there is one
	@$(PYTEST) -m "not parity"

fresh: .venv/.with-test ## the package as others get it: from its wheel, in an empty folder
	@.ci/fresh $(BIN)/python

kills: .venv/.with-test ## kill a tiny demo 200 times, go on each time, compare the bits (some minutes)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/experiments/kills.py 200
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/experiments/kills.py 20 --draw

# `==` for the lowest that pyproject.toml allows, in an environment of its own.
lowest: ## the tests with the lowest versions of all that minimono needs
	@$(MAKE) --no-print-directory .venv-lowest/.with-lowest
	@$(subst $(BIN),.venv-lowest/bin,$(PYTEST)) -m "not parity" $(TESTS)

.venv-lowest/.with-lowest: pyproject.toml
	@echo "Installing minimono with the lowest versions of what it needs into .venv-lowest ..."
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python tests/lowest.py pyproject.toml > .venv-lowest/constraints.txt
	@.venv-lowest/bin/python -m pip install -qq --disable-pip-version-check \
	    --constraint .venv-lowest/constraints.txt --editable ".[test]"
	@touch $@

parity: .venv/.with-test .venv/.with-parity ## the tests against PyTorch (a large download)
	@$(PYTEST) -m parity

docs: .venv/.with-docs ## the documentation, readable offline
	@$(BIN)/sphinx-build -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html
	@$(BIN)/python docs/check_offline.py docs/_build/html
	@echo "Open docs/_build/html/index.html in a browser."

pictures: .venv/.with-core ## draw the pictures of the documentation again
	@for script in docs/pictures*.py; do $(BIN)/python $$script || exit 1; done

mutants: .venv/.with-test .venv/.with-mutants ## wrong copies of the metric code: do the tests see each? (an hour)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/mutmut run $(if $(JOBS),--max-children $(JOBS)); $(BIN)/python docs/mutants.py

fuzz: .venv/.with-test ## files with something wrong in them, for every loader (an hour; MINUTES=5)
	@$(BIN)/python tests/fuzz/long.py $(if $(MINUTES),--minutes $(MINUTES))

vectors: .venv/.with-test ## make the oracle's test vectors anew (then look at git diff)
	@$(BIN)/python -c "from minimono.oracle import vectors; vectors.write()"

lint: .venv/.with-test ## style (ruff) and types (mypy)
	@$(BIN)/ruff check
	@$(BIN)/mypy

bench: .venv/.with-bench ## speed beside other frameworks (a large download); writes the page, QUICK=1 only prints (PIECES=metric)
	@$(BIN)/python -m benchmarks $(PIECES) $(if $(QUICK),--quick,--write docs/performance.md)

operations: .venv/.with-bench ## speed of each operation beside PyTorch's (a quarter of an hour); writes the page
	@$(BIN)/python -m benchmarks.operations --out docs/operations.md

# Where there is a GPU there may be nothing to install from: what PYTHON has must do.
gpu: ## tests and speed on a GPU, with what PYTHON has installed (eight minutes; OUT=folder)
	@$(PYTHON) -m benchmarks.gpu $(if $(OUT),--out $(OUT))

clean: ## remove all that these commands made, except your results in runs/
	rm -rf .venv .venv-lowest docs/_build dist mutants .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find minimono tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per extra: pip runs again only when the requirements changed.
.venv/.with-core: pyproject.toml | $(BIN)/python
	@echo "Installing minimono and what it needs into .venv (a minute or two, once) ..."
	@$(PIP_INSTALL) .
	@touch $@

.venv/.with-%: pyproject.toml | $(BIN)/python
	@echo "Installing minimono with what \"$*\" needs into .venv (a minute or two, once) ..."
	@$(PIP_INSTALL) ".[$*]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'minimono needs Python 3.11 or newer, and "$(PYTHON)" is not that.' >&2; \
	    echo 'If you have one under another name: make ... PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo 'Python module "venv" is missing. On Debian and Ubuntu: sudo apt install python3-venv' >&2; exit 1; }
	@$(PYTHON) -m venv .venv
