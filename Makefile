# Works with GNU make 3.81 (macOS) and later. ARGS passes further arguments: make test ARGS='tests/unit -x'
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

test: .venv/.set-up ## Run all tests, also those on real servers
	$(PYTHON) -m pytest -n 4 --dist worksteal $(ARGS)

unit: .venv/.set-up ## Run the unit tests only: they start no server and no other process
	$(PYTHON) -m pytest -n 4 --dist worksteal tests/unit $(ARGS)

versions: .venv/.set-up ## Test the contract with the oldest and newest redis-py and pymongo, with or without hiredis
	$(PYTHON) -m tests.repo.versions $(ARGS)

lint: .venv/.set-up ## Check rules and format with ruff
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: .venv/.set-up ## Let ruff rewrite what it can
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types: .venv/.set-up ## Check the types with mypy, strict
	$(PYTHON) -m mypy

contracts: .venv/.set-up ## Check with import-linter which package imports which
	.venv/bin/lint-imports

check: lint types contracts ## Run lint, types and contracts

protocol: .venv/.set-up ## Search all interleavings of the cache protocol (the whole space: takes long)
	$(PYTHON) -m verification.protocol --full $(ARGS)

bench: .venv/.set-up ## Measure, print tables, and write benchmarks/results/ and docs/figures.md
	$(PYTHON) -m benchmarks $(ARGS); status=$$?; $(PYTHON) scripts/figures.py && exit $$status

SEED = 1
DURATION = 8
RUNS = 1
SERIES =
MUTANT =
BROKER =

chaos: .venv/.set-up ## Inject faults under load and check every read: SEED=7 DURATION=60 RUNS=20 SERIES=all
	$(PYTHON) -m verification.chaos --seed $(SEED) --duration $(DURATION) --runs $(RUNS) \
		$(if $(SERIES),--series $(SERIES)) $(if $(MUTANT),--mutant $(MUTANT)) $(ARGS); \
		status=$$?; $(PYTHON) scripts/figures.py && exit $$status

races: .venv/.set-up ## Play every race with this project and with common alternatives: who reads stale values?
	$(PYTHON) -m verification races; status=$$?; $(PYTHON) scripts/figures.py && exit $$status

losses: .venv/.set-up ## Kill processes at every gap, by every path, on both brokers: is a change lost? (takes long)
	$(PYTHON) -m verification losses; status=$$?; $(PYTHON) scripts/figures.py && exit $$status

rollbacks: .venv/.set-up ## Restore older data in Redis, depose a MongoDB primary: for how long are their values served?
	$(PYTHON) -m verification rollbacks; status=$$?; $(PYTHON) scripts/figures.py && exit $$status

soak: .venv/.set-up ## Run load and reconnects for an hour on each broker: what grows? DURATION=3600 BROKER=all
	$(PYTHON) -m verification.soak $(if $(filter command line,$(origin DURATION)),--duration $(DURATION)) \
		$(if $(BROKER),--broker $(BROKER)) $(if $(MUTANT),--mutant $(MUTANT)) $(ARGS); \
		status=$$?; $(PYTHON) scripts/figures.py && exit $$status

mutants: .venv/.set-up ## Run chaos with known-bad variants: how soon is each caught?
	$(PYTHON) -m verification.chaos.mutating $(ARGS); status=$$?; $(PYTHON) scripts/figures.py && exit $$status

clean: ## Remove .venv and everything built or cached
	rm -rf .venv .versions build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
