# The only entrance; CI calls the same targets. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SEEDS ?= 2000
PEERS ?= build/bench/peers
export PEERS

.PHONY: help setup demo test test-unit kills lint bench bench-quick bounds chaos sim pictures drills promtool clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## .venv with everything in it

COMPILED := $(addprefix cache/,table.py slots.py rebuild.py verify.py store_barrier.pxd) schemas/fast_decoder.py schemas/rows.py

$(STAMP): pyproject.toml $(COMPILED)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash ops/setup.sh
	@touch $@

demo: setup ## steady traffic, a burst and a storm through a real Kafka and Cassandra, and the proof
	@$(BIN)/python -m readstates.ops.demo

test: setup ## every test, on a real Kafka and Cassandra
	@[ -x $(BIN)/prometheus ] || BUILD=no timeout 60 bash ops/promtool.sh $(BIN)/promtool || true
	@timeout 240 bash ops/chromium.sh || true
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-unit: setup ## the tests that need no server
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/model tests/sim

sim: setup ## the simulation: SEEDS=20000 for more (about 15 a second and processor)
	@$(BIN)/python -m tests.sim --seeds $(SEEDS)

kills: setup ## 1,000 times kill -9 of a process that changes a table, with each build
	@KILLS=1000 $(BIN)/python -m pytest -q -s tests/model/test_table_kill.py

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@bash ops/typecheck.sh $(BIN)

bench: setup ## ours and its peers in turn, in one run, and one table: all benches
	@bash ops/bench/peers.sh $(PEERS) $(BIN)/python
	@PYTHONPATH=$(PEERS)/lib $(BIN)/python -m readstates.ops.bench $(BENCHES)

bench-quick: setup ## the same, smaller (meant to end in five minutes)
	@bash ops/bench/peers.sh $(PEERS) $(BIN)/python
	@PYTHONPATH=$(PEERS)/lib $(BIN)/python -m readstates.ops.bench --quick $(BENCHES)

bounds: setup ## memory, errors and recovery under floods (about twelve minutes)
	@$(BIN)/python -m readstates.ops.bounds

chaos: setup ## faults of every kind on three brokers, three nodes, three workers (about 16 minutes)
	@$(BIN)/python -m readstates.ops.chaos

pictures: setup ## the console at rest, under load and in an outage, as PNGs (about four minutes)
	@bash ops/chromium.sh
	@$(BIN)/python -m readstates.ops.console

drills: setup ## each alert fires by its real cause, and its runbook's fix clears it (about 15 minutes)
	@[ -x $(BIN)/prometheus ] || bash ops/promtool.sh $(BIN)/promtool
	@$(BIN)/python -m readstates.ops.drills

promtool: $(BIN)/promtool ## Prometheus' tester of rules, for the tests of the alerts

$(BIN)/promtool: | setup
	@bash ops/promtool.sh $@

clean: ## what the other targets made
	rm -rf $(VENV) build dist *.egg-info {cache,schemas}/*.{so,c} .mypy_cache .pytest_cache .ruff_cache
