# The newest of these that is installed; a launcher that finds no interpreter behind it does not count.
PYTHONS := python3.13 python3.12 python3.11
PYTHON ?= $(shell for python in $(PYTHONS); do $$python -c "import ensurepip, venv" 2> /dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install train test test-browser lint

install: $(VENV)/.installed

# The stamp names what was installed, so that a changed pin or dependency installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "needs one of $(PYTHONS), with venv" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[minatar,test,video]'
	touch $@

train: install
	$(BIN)/python scripts/train.py atari-cpu

test-browser: install
	command -v chromium || { apt-get update && apt-get install --yes --no-install-recommends chromium; }
	$(BIN)/python -m pytest -q tests/browser_report.py

test: install
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
