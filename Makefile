# The only entrance; CI calls the same targets. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SEEDS ?= 2000
PEERS ?= build/bench/peers
export PEERS
# Else every worker and command that is started would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE
# Five processes for two cores, because many tests wait. Files stay in their order, which puts the
# long ones first: at the end each process has work.
PYTEST := $(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-long test-unit bare lock lock-jars kills lint bench bench-quick bounds chaos sim foreign \
        pictures drills promtool image wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## .venv with everything in it

COMPILED := $(addprefix cache/,kernel.py marked.py deletions.py table.py marks.py slots.py rebuild.py verify.py) $(wildcard cache/pxd/*.pxd cache/pxd/readstates/cache/*.pxd) $(addprefix schemas/,fast_decoder.py log_records.py rows.py)

$(STAMP): pyproject.toml ops/setup.lock $(COMPILED)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash ops/setup.sh
	@touch $@

demo: setup ## three kinds of traffic through a real Kafka and Cassandra, and the proof (under two minutes)
	@$(BIN)/python -m readstates.ops.demo

test: setup ## every test, on a real Kafka and Cassandra; TESTS=tests/integration/test_stack.py for some
	@[ -x $(BIN)/prometheus ] || BUILD=no timeout 60 bash ops/promtool.sh $(BIN)/promtool || true
	@timeout 240 bash ops/chromium.sh || true
	@$(PYTEST) $(TESTS)

test-long: setup ## the tests that take minutes: large accounts, badges and workers through more deaths
	@$(BIN)/python -m pytest -m long tests

test-unit: setup ## the tests that need no server
	@$(PYTEST) tests/unit tests/model tests/sim

bare: ## demo, test and `readstates demo` on a Debian that has only Python and make
	@PYTHON="$(PYTHON)" bash ops/bare.sh

lock-jars: setup ## ops/local/jars.lock: the servers' jar files, after a change of a version
	@$(BIN)/python -m readstates.ops.local.relock

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

chaos: setup ## faults of every kind on three brokers, three nodes, three workers (about 25 minutes)
	@$(BIN)/python -m readstates.ops.chaos

foreign: setup ## other people's Kafka clients, and generated models, against a real service
	@nice -n 10 $(BIN)/python -m tests.foreign.run

pictures: setup ## the console, the demo's end and the gateway, as PNGs (nine minutes); FLAGS="--only demo"
	@bash ops/chromium.sh
	@$(BIN)/python -m readstates.ops.console $(FLAGS)

drills: setup ## each alert fires by its real cause, and its runbook's fix clears it (about 15 minutes)
	@[ -x $(BIN)/prometheus ] || bash ops/promtool.sh $(BIN)/promtool
	@$(BIN)/python -m readstates.ops.drills

promtool: $(BIN)/promtool ## Prometheus' tester of rules, for the tests of the alerts

$(BIN)/promtool: | setup
	@bash ops/promtool.sh $@

image: setup ## the worker's image, and a worker's life in it, where docker, podman or buildah runs
	@$(BIN)/python -m readstates.ops.image $(FLAGS)

lock: setup ## the locks: what the image, setup, bench and foreign install; UPGRADE=yes takes newer ones
	@bash ops/lock.sh $(BIN)/python

wheel: setup ## wheels, checked and tested: PYTHONS="python3.12 python3.13" for those (one: 3 minutes)
	@$(BIN)/python -m readstates.ops.wheel $(PYTHONS)

clean: ## what the other targets made
	rm -rf $(VENV) build dist *.egg-info {cache,schemas}/*.{so,c} .mypy_cache .pytest_cache .ruff_cache
