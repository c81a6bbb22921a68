# make run: the whole demo. make test: what a change is likely to break. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all check gpu bench rehearsal fuzz chaos faults kills stalls flips hostile at-once scale lock clean

run: .venv/installed
	$(BIN)/ablate run

# Some processes of tests, each taking whole files: their fixtures are made once.
TESTS = $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
test: .venv/installed
	$(TESTS) -m "not long"

# Also the longest launches and faults, of which some take minutes.
test-all: .venv/installed
	$(TESTS)

# Mutated inputs of every reader, 2,700 of them.
fuzz: .venv/installed
	$(BIN)/pytest -m fuzz --hypothesis-profile fuzz

# The records and tables of 50 grids whose workers, nodes, drivers and disks fail at random: an hour on two cores.
chaos: .venv/installed
	$(BIN)/python tests/chaos.py --runs 50

# What machines, neighbours and other people's files do, tried at every place where it can happen: hours on two cores.
# Each prints how many tries it made and how many went wrong, of which kind; --only NUMBER repeats one.
faults: kills stalls flips hostile at-once

# Kills and errors at every call that changes a file (1,000), processes that are held up for longer than their lease
# (300), damage in every kind of file (2,500), run folders of somebody else (230), and 50 reports at once.
kills stalls flips hostile at-once: .venv/installed
	$(BIN)/python tests/campaigns/campaign.py $@ --jobs 2

# How long plan, status and report take over a thousand recorded cells: minutes.
scale: .venv/installed
	$(BIN)/python tests/scale.py

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Every path of a GPU, pass or fail each, in minutes: needs one.
gpu: .venv/installed
	$(BIN)/pytest -v tests/gpu_paths.py

# Speed and memory side by side, into bench/: 35 minutes on two cores, which should have nothing else to do.
bench: .venv/installed
	$(BIN)/ablate bench attention
	$(BIN)/ablate bench model
	$(BIN)/ablate bench variants
	$(BIN)/ablate bench data
	$(BIN)/ablate bench grid

# The paper's study on a generated VQA 2.0, at LXMERT's size: prepare, plan, run, predict, score, report.
REHEARSED = --runs rehearsal/runs --data rehearsal/data --variants softmax,span --set steps=3 --set batch_size=8 \
  --set evaluations=1 --set pretrained=rehearsal/lxmert/model_LXRT.pth
FIRST = $$($(BIN)/ablate status paper --runs rehearsal/runs --json | $(BIN)/python -c "import json,sys; print(json.load(sys.stdin)[0]['id'])")
rehearsal: .venv/installed
	rm -rf rehearsal
	$(BIN)/python -m suite.data.generate rehearsal/lxmert --base
	$(BIN)/ablate data prepare vqa2 --from rehearsal/lxmert --data rehearsal/data
	$(BIN)/ablate data verify vqa2 --data rehearsal/data
	$(BIN)/ablate plan paper $(REHEARSED)
	$(BIN)/ablate run paper $(REHEARSED)
	$(BIN)/ablate predict paper $(FIRST) --runs rehearsal/runs --data rehearsal/data --out rehearsal/answers.json \
	  --questions rehearsal/lxmert/vqa/test.json
	$(BIN)/ablate score add $(FIRST) --runs rehearsal/runs --split test-dev 0.5
	$(BIN)/ablate report paper --runs rehearsal/runs

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# What is installed now becomes what everybody installs.
lock:
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' > requirements.lock

clean:
	rm -rf .venv runs data bench rehearsal
