# Every target says what it does: `make help`. All of them install what they need; root and Debian are all they ask.

SHELL := /bin/bash
PYTHON := .venv/bin/python
PACKAGES := overlay ipam driver plugin lab bench
ENGINES ?= $(shell $(PYTHON) -m lab engines)
SECONDS ?= 1800
comma := ,
# What the tests of etcd, kernel and firewall run on this machine itself, in namespaces of their own
TEST_PACKAGES := iproute2 nftables iptables procps faketime mmdebstrap debian-archive-keyring iputils-ping

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

.PHONY: demo
demo: .venv/ready ## Two Docker hosts, one etcd, the plugin, and containers that talk (KEEP=1 leaves the lab running)
	@$(PYTHON) -m lab demo $(if $(KEEP),--keep)

.PHONY: test
test: check ## Check, then the tests: unit, contract (etcd, kernel), system (the longest on one engine each), chaos
	$(PYTHON) -m lab packages $(TEST_PACKAGES)
	$(PYTHON) -m lab prepare
	$(PYTHON) -m pytest -m 'not system' -n 4 --dist loadfile
	$(PYTHON) -m pytest -m system tests/lab --timeout 600
	$(MAKE) --no-print-directory -j3 --output-sync=target $(addprefix system-,$(ENGINES))
	$(PYTHON) -m lab chaos --seconds 180 --seed 3

# One engine: make system-28.5
system-%: .venv/ready
	$(PYTHON) -m pytest tests/system --engine $* --deal --timeout 600

.PHONY: unit
unit: .venv/ready ## The tests that need neither root nor a lab
	$(PYTHON) -m pytest -m 'not system and not contract' -n 2

.PHONY: cover
cover: .venv/ready ## Branch coverage of the tests that need no lab
	.venv/bin/coverage run -m pytest -q -m 'not system'
	.venv/bin/coverage report --skip-covered

.PHONY: check
check: .venv/ready ## Formatting, lint, types, and the contracts of the house
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: fmt
fmt: .venv/ready ## Format and fix what can be fixed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: lab
lab: .venv/ready ## Bring up hosts to play with (ARGS="--hosts 3 --engine 28.5"); see python -m lab --help
	$(PYTHON) -m lab up $(ARGS)

.PHONY: plugin
plugin: .venv/ready ## Build the plugin's image and root file system from the Dockerfile
	$(PYTHON) -m lab plugin

.PHONY: bench
bench: .venv/ready ## Measure: prints a table, writes bench/results.json
	$(PYTHON) -m lab prepare
	$(PYTHON) -m bench

.PHONY: chaos
chaos: .venv/ready ## Break everything at random for half an hour: do containers still talk? (SECONDS=1800 SEED=by chance)
	$(PYTHON) -m lab prepare
	$(PYTHON) -m lab chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: reboots
reboots: .venv/ready ## Cut the power of hosts 50 times: is every container back? (COUNT=50 SEED=by chance ENGINES="28.5")
	$(PYTHON) -m lab prepare
	$(PYTHON) -m lab reboots --count $(or $(COUNT),50) $(if $(SEED),--seed $(SEED)) --engine $(subst $(eval) ,$(comma),$(strip $(ENGINES)))

.PHONY: matrix
matrix: .venv/ready ## Every test on every engine and firewall, reboots, crowds, chaos: hours; goes on where it was (ONLY='suite_28.5_*,crowd*', FRESH=1)
	$(PYTHON) -m lab packages $(TEST_PACKAGES)
	$(PYTHON) -m lab prepare
	$(PYTHON) -m lab matrix $(if $(ONLY),--only '$(ONLY)') $(if $(FRESH),--fresh)

.PHONY: random
random: .venv/ready ## A thousand random operations with kills: does anything leak? (ENGINE=28.5 SEED=by chance)
	$(PYTHON) -m lab prepare
	$(PYTHON) -m lab random $(if $(ENGINE),--engine $(ENGINE)) $(if $(SEED),--seed $(SEED))

.PHONY: lock
lock: .venv/ready ## Resolve the dependencies anew and write the lock files
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --upgrade pyproject.toml -o requirements.lock
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	printf 'setuptools\nwheel\n' | .venv/bin/uv pip compile -q --universal --generate-hashes - -o requirements-build.lock

.PHONY: clean
clean: ## End all labs and remove what the targets made, caches included
	if [ -x $(PYTHON) ]; then $(PYTHON) -m lab down --all && $(PYTHON) -m lab clean; fi
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage build *.egg-info

# etcd3 comes as source alone and its build must use hashed tools too: hence the build lock and no isolation.
.venv/ready: requirements-build.lock requirements-dev.lock
	python3 -c 'import venv, ensurepip' 2>/dev/null || (apt-get update -qq && apt-get install -y -qq python3 python3-venv)
	python3 -m venv .venv
	.venv/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements-build.lock
	.venv/bin/pip install -qq --disable-pip-version-check --require-hashes --no-build-isolation -r requirements-dev.lock
	touch .venv/ready
