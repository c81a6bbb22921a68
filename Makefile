# make run: the whole demo. make test: every test. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check bench lock clean

run: .venv/installed
	$(BIN)/ablate run

test: .venv/installed
	$(BIN)/pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Speed and memory side by side, into bench/: 35 minutes on two cores, which should have nothing else to do.
bench: .venv/installed
	$(BIN)/ablate bench attention
	$(BIN)/ablate bench model
	$(BIN)/ablate bench variants
	$(BIN)/ablate bench data

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# What is installed now becomes what everybody installs.
lock:
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' > requirements.lock

clean:
	rm -rf .venv runs data bench
