# Works with GNU make 3.81 (macOS) and later. ARGS passes more arguments on: make test ARGS='tests/unit -x'
.DEFAULT_GOAL := help
.PHONY: help setup demo test unit lint format types contracts check protocol bench chaos mutants races losses rollbacks soak versions clean

PYTHON = .venv/bin/python
ARGS =

help: ## Show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1@/p' $(firstword $(MAKEFILE_LIST)) | awk -F@ '{printf "%-18s%s\n", $$1, $$2}'

setup: .venv/.set-up ## Make .venv with everything for development (the other targets do it when needed)

.venv/.set-up: pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh

demo: .venv/.set-up ## Start real servers, publish events, watch the cache follow, check every key
	$(PYTHON) -m demo $(ARGS)

test: .venv/.set-up ## Run all tests, on real servers too
	$(PYTHON) -m pytest -n 3 --dist worksteal $(ARGS)

unit: .venv/.set-up ## Run the unit tests alone: no server, no other process
	$(PYTHON) -m pytest -n 3 --dist worksteal tests/unit $(ARGS)

versions: .venv/.set-up ## The contract on the oldest and newest redis-py and pymongo, with and without hiredis
	$(PYTHON) -m tests.repo.versions $(ARGS)

lint: .venv/.set-up ## ruff: rules and format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: .venv/.set-up ## Let ruff rewrite what it can
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types: .venv/.set-up ## mypy, strict
	$(PYTHON) -m mypy

contracts: .venv/.set-up ## import-linter: who may import whom
	.venv/bin/lint-imports

check: lint types contracts ## lint, types and contracts

protocol: .venv/.set-up ## Search all interleavings of the cache protocol (the whole space, long)
	$(PYTHON) -m verification.protocol --full $(ARGS)

bench: .venv/.set-up ## Measure, print tables, write benchmarks/results/ and with it docs/figures.md
	$(PYTHON) -m benchmarks $(ARGS); status=$$?; $(PYTHON) scripts/figures.py && exit $$status

SEED = 1
DURATION = 8
RUNS = 1
SERIES =
MUTANT =
BROKER =

chaos: .venv/.set-up ## Faults while all is in use, every read checked: SEED=7 DURATION=60 RUNS=20 SERIES=all
	$(PYTHON) -m verification.chaos --seed $(SEED) --duration $(DURATION) --runs $(RUNS) \
		$(if $(SERIES),--series $(SERIES)) $(if $(MUTANT),--mutant $(MUTANT)) $(ARGS); \
		status=$$?; $(PYTHON) scripts/figures.py && exit $$status

races: .venv/.set-up ## Play every race, with this project and with what people use today; who is stale?
	$(PYTHON) -m verification races; status=$$?; $(PYTHON) scripts/figures.py && exit $$status

losses: .venv/.set-up ## Kill processes at every gap, by every path and on both brokers; is a committed change lost? (long)
	$(PYTHON) -m verification losses; status=$$?; $(PYTHON) scripts/figures.py && exit $$status

rollbacks: .venv/.set-up ## A Redis with older data, a deposed MongoDB primary: how long are they believed?
	$(PYTHON) -m verification rollbacks; status=$$?; $(PYTHON) scripts/figures.py && exit $$status

soak: .venv/.set-up ## An hour of load and reconnects on each broker: what grows? DURATION=3600 BROKER=all
	$(PYTHON) -m verification.soak $(if $(filter command line,$(origin DURATION)),--duration $(DURATION)) \
		$(if $(BROKER),--broker $(BROKER)) $(if $(MUTANT),--mutant $(MUTANT)) $(ARGS); \
		status=$$?; $(PYTHON) scripts/figures.py && exit $$status

mutants: .venv/.set-up ## The same with known-bad variants: how soon each is caught
	$(PYTHON) -m verification.chaos.mutating $(ARGS); status=$$?; $(PYTHON) scripts/figures.py && exit $$status

clean: ## Remove .venv and everything built or cached
	rm -rf .venv .versions build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
