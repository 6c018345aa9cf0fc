# Two commands for a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE := -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: demo test quick check fmt docs notebooks bench peers clean

PEERS := benchmarks/peers/.venv

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

# The documentation as a site that opens from disk: build/site/index.html
docs: $(VENV)/.dev
	$(BIN)/python scripts/docs_site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

notebooks: $(VENV)/.dev
	$(BIN)/python -m nbconvert --to html --execute --log-level=ERROR \
		--ExecutePreprocessor.extra_arguments=--log-level=ERROR --output-dir notebooks/html notebooks/*.ipynb

# All tables of benchmarks/ in 20 minutes, resumable; the rows of peers only after `make peers`.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py

peers: $(PEERS)/.installed

$(PEERS)/.installed: pyproject.toml benchmarks/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt -e .
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
