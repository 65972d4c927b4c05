# make demo   compare optimizers on real data (about a minute)     make test    run every test
# make lint   style and types                                      make mutants break the rule on purpose, see who notices
# make bench  time the optimizer                                   make clean   remove what the others made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYPROJECT := pyproject.toml constraints.txt

.PHONY: demo test lint mutants bench clean

demo: $(VENV)/lab
	$(BIN)/rmsprop compare digits

test: $(VENV)/dev
	@scripts/install-chromium
	$(BIN)/pytest -n auto

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutants: $(VENV)/dev
	$(BIN)/python scripts/mutants.py

bench: $(VENV)/lab
	$(BIN)/python benchmarks/step.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

# The stamps say which extra is installed; they are older than pyproject.toml when it has changed.
$(VENV)/lab: $(VENV)/made $(PYPROJECT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab]'
	@touch $@

$(VENV)/dev: $(VENV)/made $(PYPROJECT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/lab
