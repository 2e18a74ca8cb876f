# Everything a developer or a user from source types. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= demo
LOOM_FLAGS := --cfg loom
# By number, not by name as other ways to share tests out: those of the OpenAPI document have one name.
SIDE_BY_SIDE := --numprocesses 2 --dist worksteal

# MLX's backend: none to choose on a Mac; on Linux an NVIDIA driver decides.
EXTRA := $(shell if [ "$$(uname)" = Darwin ]; then echo; elif command -v nvidia-smi >/dev/null; then echo '[cuda13]'; else echo '[cpu]'; fi)

.PHONY: help run test check format lint-python lint-rust test-rust test-python histories chaos fuzz soak mutants tsan audit bench setup blas clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: setup ## Set up, build, fetch the demo model if needed, and serve it
	$(BIN)/mlxspec serve $(MODEL)

test: ## Set up, lint, and run every test
	$(MAKE) --jobs 2 check test-rust
	$(MAKE) test-python

check: lint-rust lint-python ## Run every linter and type checker

setup: blas $(VENV)/installed

# Rebuilt when anything that goes into the wheel's metadata or the extension changes.
$(VENV)/installed: pyproject.toml Cargo.toml Cargo.lock $(wildcard rust/scheduler/Cargo.toml rust/scheduler/src/*.rs)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.$(EXTRA)' --group dev
	touch $@

# Without OpenBLAS MLX's CPU backend runs on a reference BLAS; installed where we may, else told.
blas:
	@if [ "$(EXTRA)" = '[cpu]' ] && ! ldconfig -p | grep -q libopenblas.so.0; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && apt-get install -y -qq libopenblas0-pthread; \
	  else echo "for 10x faster prefill: sudo apt-get install libopenblas0-pthread (or your system's openblas)"; fi; fi

lint-rust: ## rustfmt and clippy, without and with the Python face
	cargo fmt --all --check
	cargo clippy --all-targets -- --deny warnings
	cargo clippy --lib --features python -- --deny warnings

lint-python: setup ## ruff, mypy, import contract, and the stub against the built extension
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/stubtest mlxspec._scheduler

test-rust: ## Unit, property and model-checking tests of the scheduler
	cargo test
	RUSTFLAGS="$(LOOM_FLAGS)" LOOM_MAX_PREEMPTIONS=3 cargo test --package mlxspec-scheduler --test loom --target-dir target/loom

mutants: setup ## Break one thing at a time and see which tests notice: takes hours (docs/mutants.md)
	command -v cargo-mutants >/dev/null || { echo "first: cargo install --locked cargo-mutants"; exit 1; }
	cargo mutants --baseline skip --timeout 120
	$(BIN)/python tests/mutants.py

tsan: ## Tests of the scheduler's threads under ThreadSanitizer; needs nightly Rust with rust-src
	RUSTFLAGS=-Zsanitizer=thread cargo +nightly test -Zbuild-std --target $(shell rustc -vV | sed -n 's/host: //p') \
	  --target-dir target/tsan --test inbox --test engine

test-python: setup ## Python tests, end to end against a started server with a real model
	$(BIN)/mlxspec pull demo
	$(BIN)/mlxspec pull minilm
	$(BIN)/pytest $(SIDE_BY_SIDE)

histories: ## A million operations on the scheduler, its books checked after each
	cargo test --test scheduler -- --ignored

chaos: setup ## Fault tests at full size: takes hours
	$(BIN)/pytest tests/faults tests/scheduler/test_step_faults.py tests/scheduler/test_residency.py \
	  --ignore tests/faults/test_soak.py -m 'not parts' --full --timeout 14400

fuzz: setup ## Hostile inputs by the million on all cores: takes an hour; needs Linux and nightly Rust
	command -v cargo-fuzz >/dev/null || { echo "first: cargo install --locked cargo-fuzz"; exit 1; }
	$(BIN)/python -m pip install --quiet --group fuzz
	$(BIN)/pytest tests/faults -m parts --full --timeout 14400 --numprocesses auto --dist worksteal
	$(BIN)/python tests/fuzz/parsers.py | \
	  xargs -P $(shell nproc) -I{} $(BIN)/python tests/fuzz/parsers.py {} -runs=1000000
	cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz corpus_file -- -runs=1000000

soak: setup ## Half an hour of mixed traffic: memory, files and threads stay flat
	$(BIN)/pytest --capture no tests/faults/test_soak.py --full --timeout 3600

audit: setup ## Known vulnerabilities, licences and sources of all dependencies; needs the network
	command -v cargo-deny >/dev/null || { echo "first: cargo install --locked cargo-deny"; exit 1; }
	cargo deny check
	$(BIN)/python -m pip install --quiet --group audit
	$(BIN)/pip-audit --skip-editable

bench: setup ## Measure: scheduler, step, server (benches/README.md has the last figures)
	cargo bench --bench scheduler -- --quick
	$(BIN)/python benches/step.py
	$(BIN)/python benches/http_layer.py
	$(BIN)/python benches/serve.py

format: setup ## Format all code
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what was built
	rm -rf $(VENV) target python/mlxspec/*.so
