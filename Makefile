# Two commands for a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE := -n auto --maxprocesses=4 --dist=loadfile

.PHONY: demo test quick check fmt notebooks clean

$(VENV)/.user: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.user
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.user
	$(BIN)/mimsuite demo out=runs/demo overwrite=true

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

quick: $(VENV)/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/strip_notebooks.py notebooks/*.ipynb

notebooks: $(VENV)/.dev
	$(BIN)/python -m nbconvert --to html --execute --log-level=ERROR \
		--ExecutePreprocessor.extra_arguments=--log-level=ERROR --output-dir notebooks/html notebooks/*.ipynb

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
