# The commands of the project; `make` alone explains them. Each installs what it needs first (`.ci/setup`, silent when nothing is missing).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo up test soak load drill lint bench

export PATH := $(CURDIR)/.tools/bin:$(PATH)
export NATS_SERVER ?= $(CURDIR)/.tools/bin/nats-server
# Where cargo builds: a folder shared by checkouts when the environment names one.
BUILT := $(or $(CARGO_TARGET_DIR),target)
# Passed on to the program: make demo ARGS='--gated --exit'
ARGS ?=

help: ## Show this text
	@echo "StreamGate: a self-hosted media gateway. From a fresh checkout:"
	@echo
	@echo "  make demo     first build: some minutes; then a sample video is uploaded and a URL that plays is printed"
	@echo
	@echo "All targets (make TARGET ARGS='--flags for the program'):"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo
	@echo "README.md has a walkthrough with curl, streamgate --help has every command."

setup: ## Install what building and running need (apt, with sudo; the rest into .tools)
	@.ci/setup $(if $(filter --gated,$(ARGS)),gated)

demo: setup ## Start everything, upload the sample clip, print a URL that plays; ARGS=--gated by a token, ARGS=--exit ends then
	@cargo build --profile demo --workspace --locked
	@$(BUILT)/demo/streamgate demo $(ARGS)

up: release ## Start everything on this machine, with its own broker and a data folder
	@$(BUILT)/release/streamgate up $(ARGS)

test: ## Run all tests; ARGS='-E test(name)' chooses some
	@.ci/setup test
	@cargo build --workspace --all-targets --locked
	@if .ci/doc-examples; then cargo test --doc --workspace --locked; fi
# Many wait for a broker or a time of the product: one more at once than there are processors keeps these busy.
	@NEXTEST_TEST_THREADS=$${NEXTEST_TEST_THREADS:-$$(($$(nproc) + 1))} cargo nextest run --workspace --locked $(ARGS)

# The tests that take a number of rounds or units from the environment, at length; `make test` runs each with the smallest number.
soak: ## Run the fault tests at length: SOAK_ROUNDS (9) times seven kills, SOAK_JOBS (100000) ended jobs, SOAK_FREEZES_S (20,60) of a broker, SOAK_OUTAGE_S (20) of a store; then load for SOAK_LOAD (1h), which must not make anything grow
	@.ci/setup test
	@cargo build --workspace --all-targets --locked
	@SOAK_ROUNDS=$${SOAK_ROUNDS:-9} SOAK_JOBS=$${SOAK_JOBS:-100000} SOAK_FREEZES_S=$${SOAK_FREEZES_S:-20,60} SOAK_OUTAGE_S=$${SOAK_OUTAGE_S:-20} cargo nextest run --workspace --locked --profile soak -E 'test(soak) + test(outages::)' $(ARGS)
	@$(BUILT)/debug/examples/load --flat --for=$${SOAK_LOAD:-1h}

load: release ## Mixed load for a minute: times, errors, what is saturated first, and whether all uploads are accounted for; ARGS=--help
	@cargo run --release --locked --package streamgate --example load -- $(ARGS)

drill: ## Make each alert fire and end against a real installation with Prometheus and Alertmanager; ARGS=--time-scale=20
	@.ci/setup drill
	@cargo build --workspace --locked
	@tests/drill/drill.py $(ARGS)

lint: setup ## Check the formatting and run clippy, warnings denied
	@cargo fmt --all --check
	@cargo lint

bench: ## Measure against the ffmpeg and cat of this machine, and against @tus/server
	@.ci/setup bench
	@cargo build --profile dist --locked --package streamgate --package media-child
	@cargo run --profile dist --locked --package streamgate --example bench -- $(ARGS)

.PHONY: release
release: setup
	@cargo build --release --locked --package streamgate --package media-child
