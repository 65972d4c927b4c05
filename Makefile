# make demo   compare optimizers on real data (about a minute)     make test    run every test
# make lint   style, types, imports                                 make mutants break the rule on purpose, see who notices
# make kernel the kernel under sanitizers, by Clang, for aarch64   make bench   time the optimizer (about ten minutes)
# make conformance  the real frameworks beside this one            make clean  remove what the others made
# make wheels the wheel alone, with NumPy and nothing else         make docs    the documentation: build/site
# make fuzz SECONDS=1200 SEED=1  the optimizer against the rule, in random order of everything that can happen to it

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYPROJECT := pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/rmsprop/kernel/*)

# Tests start processes, each of which would compile the package's Python anew.
export PYTHONDONTWRITEBYTECODE =

# pip says what it collects, installs and builds: minutes of silence look like a hang.
PIP = $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check

SAY_IF_SLOW = $(BIN)/python -c 'from rmsprop import native; native.kernel or print(native.missing())'

# Tests that are skipped where these frameworks are missing.
NEED_FRAMEWORKS = tests/test_profiles.py \
	'tests/test_keras.py::test_the_optimizer_on_one_backend[tensorflow]' \
	tests/test_recipes.py::test_schedules_and_the_average_are_those_of_tensorflow \
	tests/test_recipes.py::test_a2c_of_stable_baselines_is_that_of_its_source \
	tests/test_state_sources.py::test_a_run_of_timm_or_sb3_goes_on_as_it_would_have_there \
	tests/test_monitor_sinks.py \
	tests/test_trainers.py \
	tests/test_checkpoint_like.py::test_trees_without_names_and_with_slashes_in_them

# Tests wait for processes that they start: two workers more than cores keep these busy.
PYTEST = $(BIN)/pytest -n $$($(PYTHON) -c 'import os; print(os.cpu_count() + 2)') --dist worksteal

SECONDS ?= 120

.PHONY: demo test lint docs conformance mutants kernel wheels fuzz bench clean

demo: $(VENV)/lab
	$(BIN)/rmsprop compare digits

test: $(VENV)/dev
	@scripts/install-chromium
	@scripts/install-datasets $(VENV)
	$(PYTEST)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

docs: $(VENV)/docs
	$(BIN)/python docs/make/site_builder.py

conformance: $(VENV)/conformance
	@scripts/install-postgresql
	$(PYTEST) conformance $(NEED_FRAMEWORKS)

mutants: $(VENV)/dev
	$(BIN)/python scripts/mutants/runner.py $(PART)

kernel: $(VENV)/dev
	scripts/check-kernel $(BIN)/python

wheels: $(VENV)/dev
	scripts/check-wheels $(BIN)/python

fuzz: $(VENV)/dev
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/lab
	$(BIN)/rmsprop bench

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests scripts benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

# The stamps say which extra is installed; they are older than pyproject.toml when it has changed.
$(VENV)/lab: $(VENV)/made $(PYPROJECT)
	@echo "installing rmsprop and what it needs: 2 to 4 minutes, most of it for torch and the kernel's compilation"
	$(PIP) -c constraints.txt -e '.[lab]'
	@$(SAY_IF_SLOW)
	@touch $@

$(VENV)/dev: $(VENV)/made $(PYPROJECT)
	$(PIP) -c constraints.txt -e '.[dev]'
	@$(SAY_IF_SLOW)
	@touch $@ $(VENV)/lab $(VENV)/docs

$(VENV)/docs: $(VENV)/made $(PYPROJECT)
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/lab

$(VENV)/conformance: $(VENV)/made $(PYPROJECT)
	$(PIP) -c constraints.txt -e '.[conformance]'
	@# timm asks for torchvision, whose builds fit one build of torch each; its optimizer does without.
	$(PIP) --no-deps timm==1.0.31
	@$(SAY_IF_SLOW)
	@touch $@ $(VENV)/dev $(VENV)/lab $(VENV)/docs
