# Everything installs what it needs into .venv and .cache, and is quick the second time.
#
#   make demo            watch a candidate being compared with the baseline, and a verdict arrive
#   make test            all tests
#   make test-compiled   those of the data plane, of the compiled wheel
#   make wheel           the package with the data plane compiled, in dist/
#   make bench           measure the proxy beside its peers; one: make bench BENCH=proxy-cpu
#   make soak            measure isolation, memory, fairness and outages of the store at length, and then kill and freeze
#                        processes by a seed, about 40 minutes; that alone: make chaos CHAOS_ARGS="--rounds 50 --seed 7"
#   make fuzz            search for inputs that break the proxy, what reads the store, or the API, FUZZ_SECONDS for each
#   make lint            ruff and mypy --strict
#   make docs            write the schema and the pages of docs/ that are made from the code
#   make dashboards      write Grafana's dashboards from deploy/grafana/generator
#   make figures         simulate and draw what docs/statistics.md shows, some minutes; then the pages
#   make screenshots     draw the pictures of the page in docs/images, from a live demo in Chromium
#   make clean           remove what the above made

SCENARIO ?= better
SEED ?= 7
DEMO_ARGS ?=
PYTEST_ARGS ?=
BENCH ?=
BENCH_ARGS ?=
CHAOS_ARGS ?= --rounds 50
FUZZ_SECONDS ?= 600
# Whoever is idle takes over what is left of the other; `make test PARALLEL=` runs them one by one.
PARALLEL ?= --numprocesses 2 --dist worksteal
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
COMPILED := $(CACHE)/compiled
STAMP := $(CACHE)/stamps
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: screenshots demo test test-compiled wheel bench soak chaos fuzz lint docs dashboards figures clean

demo: $(STAMP)/installed-demo $(STAMP)/data
	@# Its exit code is the verdict's. A rollback (1) is an outcome, and no error of make's; to stay undecided (3) is one.
	$(BIN)/shadowproxy demo --scenario $(SCENARIO) --seed $(SEED) $(DEMO_ARGS) || [ $$? -eq 1 ]

test: $(STAMP)/installed-dev $(STAMP)/data $(STAMP)/servers
	@# What measures, or watches whole processes under load, by itself: a browser beside it takes all of a small machine.
	@# No test chosen (5) of one of the two is no error.
	PATH="$(CURDIR)/$(CACHE)/servers/bin:$$PATH" $(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS) \
		--ignore=tests/bench --ignore=tests/whole || [ $$? -eq 5 ]
	PATH="$(CURDIR)/$(CACHE)/servers/bin:$$PATH" $(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS) \
		tests/bench tests/whole || [ $$? -eq 5 ]

# Not the whole: what is compiled, and what stands on it. -P leaves the tree out, so that the installed one is tested.
test-compiled: $(STAMP)/compiled $(STAMP)/servers
	PATH="$(CURDIR)/$(CACHE)/servers/bin:$$PATH" $(COMPILED)/bin/python -P -m pytest tests/proxy \
		tests/conformance/test_responses.py tests/conformance/test_splits.py tests/conformance/test_upgrade.py \
		tests/conformance/test_findings.py tests/conformance/test_fuzz.py \
		tests/pairs/test_codec.py tests/pairs/test_recorder.py tests/pairs/test_spool.py tests/pairs/test_journal.py \
		$(PARALLEL) $(PYTEST_ARGS)

wheel: $(BIN)/python
	SHADOWPROXY_COMPILE=1 $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# What is measured is what is shipped: the compiled wheel.
bench: $(STAMP)/compiled $(STAMP)/servers
	PATH="$(CURDIR)/$(CACHE)/servers/bin:$$PATH" PYTHONPATH=tests $(COMPILED)/bin/python -P -m bench $(BENCH) $(BENCH_ARGS)

soak: BENCH = proxy-isolation proxy-memory proxy-aa pairs-outage
soak: bench chaos

chaos: $(STAMP)/installed-dev $(STAMP)/servers
	PYTHONPATH=tests $(BIN)/python -m whole.chaos $(CHAOS_ARGS)

fuzz: $(STAMP)/installed-fuzz
	for what in listener upstream stored; do \
		$(BIN)/python tests/conformance/fuzzing.py $$what -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done
	SHADOWPROXY_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/serve/test_openapi.py -k schemathesis \
		--timeout $$(($(FUZZ_SECONDS) + 300)) $(PYTEST_ARGS)

lint: $(STAMP)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)/installed-dev
	$(BIN)/shadowproxy check-config --schema > config/shadowproxy.schema.json
	$(BIN)/python tests/pages.py

dashboards: $(STAMP)/installed-dashboards
	PYTHONPATH=deploy/grafana $(BIN)/python -m generator

figures: $(STAMP)/installed-figures
	PYTHONPATH=tests $(BIN)/python -m figures
	$(BIN)/python tests/pages.py

screenshots: $(STAMP)/installed-figures $(STAMP)/servers
	PYTHONPATH=tests $(BIN)/python -m screenshots

clean:
	rm -rf $(VENV) $(CACHE) .shadowproxy

# The package itself is linked, not copied, so that a change of the code needs no new installation.
$(STAMP)/installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/installed-dev: pyproject.toml tests/oracles.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement tests/oracles.txt
	@mkdir -p $(STAMP) && touch $@ $(STAMP)/installed-demo

$(STAMP)/compiled: pyproject.toml tests/oracles.txt hatch_build.py $(shell find shadowproxy -type f -not -name "*.pyc") | $(BIN)/python
	[ -d $(COMPILED) ] || $(BIN)/python -m venv $(COMPILED)
	-$(COMPILED)/bin/python -m pip uninstall --quiet --yes shadowproxy 2>/dev/null
	SHADOWPROXY_COMPILE=1 $(COMPILED)/bin/python -m pip install --quiet '.[bench,test]'
	$(COMPILED)/bin/python -m pip install --quiet --no-deps --requirement tests/oracles.txt
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/installed-fuzz: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,fuzz]'
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/installed-figures: $(STAMP)/installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[figures]'
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/installed-dashboards: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dashboards]'
	@mkdir -p $(STAMP) && touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; name it: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python's venv module is not complete; on Debian: apt-get install python3-venv"; exit 2; }

# MovieLens 100k lies in this wheel. It is read where it lies, never imported, never copied into the repository. Without
# it (no network, say) the demo generates a catalogue, and says so.
$(STAMP)/data: | $(BIN)/python
	@mkdir -p $(CACHE)/demo $(STAMP)
	-$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest $(CACHE)/demo recbole==1.2.1 && touch $@

$(STAMP)/servers: tests/install-servers.sh
	tests/install-servers.sh $(CACHE)/servers
	@mkdir -p $(STAMP) && touch $@
