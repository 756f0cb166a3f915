# Everything below works from a fresh clone; what is missing is set up first.
# PYTHON=python3.13 make test    uses that Python;  PYTEST="-k embedded" make test    runs some tests.

SHELL := /bin/sh
.SHELLFLAGS := -ec
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
IMAGE ?= sytq:latest
PYTEST ?=
STORM ?=
export PYTHON
# A test run starts some thousand Python processes, each of which would compile sytq anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-test run demo test test-faults storm bench lint screenshots openapi audit sbom lock clean install uninstall \
	build run-api run-worker docker-build docker-up docker-down docker-logs

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## make .venv with sytq and its locked dependencies
	@tools/venv $(VENV) run

setup-test:
	@tools/venv $(VENV) test

run: setup ## start the whole service here, embedded, with made-up history, and run one sample valuation
	@exec $(BIN)/sytq dev --seed 5000

demo: setup ## run it once and exit; status 0 when the sample valuation succeeded
	@exec $(BIN)/sytq dev --once

test: setup-test ## run the tests on real servers of their own
	@tools/test-servers
	@VENV=$(VENV) tools/test-generators
	@$(BIN)/python -m pytest -n 6 --dist worksteal -m "not faults and not browser" $(PYTEST)
	@# One process for one browser and one service; 5: PYTEST selects none of them.
	@$(BIN)/python -m pytest -m browser tests/browser $(PYTEST) || [ $$? = 5 ]

test-faults: setup-test ## run the tests that kill processes and servers, or run long
	@tools/test-servers
	@$(BIN)/python -m pytest -n 6 --dist worksteal -m faults $(PYTEST)

storm: setup-test ## ten minutes of random faults under load; STORM="--seed 7 --minutes 2"
	@tools/test-servers
	@$(BIN)/python -m tests.faults.storm $(STORM)

bench: setup-test ## measure sytq beside its peers, in ratios; fifteen minutes, alone on a machine
	@tools/test-servers
	@$(BIN)/python -m bench.broker
	@$(BIN)/python -m bench.pickup
	@$(BIN)/python -m bench.api --workers 2 --database mysql
	@$(BIN)/python -m bench.webhooks
	@$(BIN)/python -m bench.llm
	@$(BIN)/python -m bench.full_limiter

lint: setup-test ## ruff, mypy (strict) and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --platform darwin
	@$(BIN)/lint-imports

screenshots: setup-test ## take the docs' pictures of the dashboard again (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots

openapi: setup-test ## regenerate docs/openapi.json
	@SYTQ_CONFIG= $(BIN)/sytq openapi >docs/openapi.json

audit: setup-test ## check the locked dependencies for known vulnerabilities (needs the network)
	@$(BIN)/python tools/audit.py

sbom: setup-test ## write an SBOM of the development environment (CycloneDX, JSON)
	@$(BIN)/python tools/sbom.py

lock: ## regenerate requirements.lock
	@tools/lock "$${PYTHON:-python3}"

build: setup ## build the wheel into dist/ and check that it is complete
	@rm -rf build dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@$(BIN)/python tools/check-wheel.py dist/*.whl

run-api: setup ## the API alone, as configured
	@exec $(BIN)/sytq api

run-worker: setup ## the workers alone, as configured
	@exec $(BIN)/sytq worker

install: ## install into /opt/sytq with systemd units (root; DESTDIR=... for packagers)
	@systemd/install install

uninstall: ## remove that again, but not /etc/sytq and /var/lib/sytq
	@systemd/install uninstall

docker-build: ## build the image
	docker build -t $(IMAGE) .

docker-up: ## start API, workers, Redis and MySQL with Docker Compose
	docker compose up -d --build --wait

docker-down: ## stop them; the data stays in their volumes
	docker compose down

docker-logs: ## follow their logs
	docker compose logs -f

clean: ## remove what was built, not your data in .sytq/
	@rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find sytq plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
