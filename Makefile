# make demo | test | fuzz | conformance | bench | recovery | elasticity | screenshots | docs | lint: each sets up what it needs first;
# the second time it starts at once.
#
#   PYTHON=python3.12   the interpreter that .venv is made with
#   ARGS="-k redis"     more for pytest (test) or bench (bench)
#   ROUNDS=5            of make bench
#   SECONDS=600         of make fuzz, for all targets together
#   PACKETDRILL=DIR     of make conformance: gtests/net of a built packetdrill

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
ROUNDS ?= 5
SECONDS ?= 600
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := $(shell find src -name '*.py' -o -name '*.pxd' -o -name '*.[ch]' -o -name '*.def')

.PHONY: help setup demo test fuzz conformance bench recovery elasticity screenshots docs lint clean root
help:
	@echo "make setup, demo, test, fuzz, conformance, bench, recovery, elasticity, screenshots, docs, lint or clean; README.md says what they do"

setup: build/.built
	@echo "setup: ready"

demo: root setup
	@echo "demo: lighttpd on a stack of two replicas, one of which is killed"
	$(RUN) -m bench.demo </dev/null

test: root setup
	@echo "test: pytest"
	status=0
	# in two workers, which mostly wait, each with whole files; then one by one what is marked so
	$(if $(ARGS),exec $(RUN) -m pytest $(ARGS) </dev/null)
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" </dev/null || status=$$?
	$(RUN) -m pytest -m alone </dev/null || status=$$?
	exit $$status

fuzz: setup
	@echo "fuzz: $(SECONDS) seconds of guided inputs; what is found is put into build/fuzz/crashes, new inputs into tests/fuzz/corpus"
	MERGE=1 SECONDS_ALL=$(SECONDS) tests/fuzz/fuzz.sh $(RUN) </dev/null

conformance: root setup
	@echo "conformance: packetdrill's scripts, on the kernel's stack and on this one"
	if [ -z "$${PACKETDRILL:-}" ]; then
		echo "make: name the directory gtests/net of a built packetdrill: make conformance PACKETDRILL=DIR" >&2
		exit 1
	fi
	$(RUN) -m tools.conformance "$$PACKETDRILL" $(ARGS) </dev/null

bench: root setup
	@echo "bench: the kernel's stack and this one alternately, $(ROUNDS) rounds; then what recovery and elasticity cost"
	$(RUN) -m bench --rounds $(ROUNDS) $(ARGS) </dev/null

recovery: root setup
	@echo "recovery: the experiment of docs/recovery.md at full size (half an hour)"
	$(RUN) -m bench.full_recovery $(ARGS) </dev/null

elasticity: root setup
	@echo "elasticity: the experiments of docs/elasticity.md at full size, into build"
	$(VENV)/bin/neat experiment scaling --out build/scaling </dev/null
	$(VENV)/bin/neat experiment elasticity --out build/elasticity </dev/null
	$(VENV)/bin/neat experiment flows --out build/flows </dev/null

screenshots: root setup
	@echo "screenshots: docs/images, of a stack under load (two minutes)"
	$(RUN) -m tools.screenshots </dev/null

docs: setup
	@echo "docs: docs/rfc.md"
	$(RUN) -m tools.rfc

lint: setup
	@echo "lint: ruff, mypy"
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/mypy --no-error-summary

clean:
	@echo "clean: build, .venv, compiled files"
	rm -rf build dist $(VENV) src/*.egg-info
	find src -name '*.so' -o -name '*.bpf.o' | xargs -r rm

root:
	@if [ "$$(id -u)" -ne 0 ]; then
		echo "make: namespaces and TAP interfaces need root: sudo make $(MAKECMDGOALS)" >&2
		exit 1
	fi

build/.packages: tools/packages.sh
	@echo "setup: Debian packages"
	tools/packages.sh $(PYTHON)
	mkdir -p build
	touch $@

$(VENV)/.ready: requirements.txt | build/.packages
	@echo "setup: Python packages into $(VENV)"
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install -qq -r requirements.txt </dev/null
	touch $@

# the first build is the installation's own, which leaves its results in place; later ones build what has changed
$(VENV)/.installed: pyproject.toml $(VENV)/.ready
	@echo "setup: building the stack and the command $(VENV)/bin/neat (some minutes the first time)"
	$(VENV)/bin/pip install -qq --no-deps --no-build-isolation -e . </dev/null
	touch $@

build/.built: setup.py $(SOURCES) $(VENV)/.installed
	@echo "setup: what has changed since"
	$(RUN) setup.py -q build_ext -i
	touch $@
