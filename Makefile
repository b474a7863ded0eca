# The ways in. `make` alone lists them; each is a script or a cargo command that can be run by hand as well.
SHELL := /bin/bash
MODEL ?= 270m
.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-all serve bench bench-engine model lint fuzz clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the Debian packages that are missing, and fetch the embedding model
	@scripts/setup
	@scripts/fetch-embedder

build: setup ## build the module: target/release/libengram.so
	cargo build --release -p engram-module

demo: ## from nothing to a server that remembers and answers, in front of your eyes
	@scripts/demo

test: ## build and pass all tests (installs what is missing first)
	@scripts/test

test-all: ## the same, also on Redis 8.0 and Valkey 8, and a short run of the fuzzers
	@scripts/test --all

serve: setup ## start a server with the module in the foreground; options: scripts/serve --help
	@scripts/serve

bench: ## measure beside the peers, write docs/benchmarks.md and its plots; make bench BENCH=--help lists parts
	@scripts/bench $(BENCH)

bench-engine: ## measure the generation engine beside llama.cpp, write docs/engine.md; make bench-engine BENCH=--help lists options
	@scripts/bench-engine $(BENCH)

model: ## fetch a real Gemma 3 model: make model MODEL=270m (or 1b); see scripts/fetch-model --help
	@scripts/fetch-model $(MODEL)

lint: ## formatting, clippy and shellcheck, warnings as errors
	@scripts/lint

fuzz: ## run every fuzzer for FUZZ_SECONDS (60) seconds; needs cargo-fuzz and a nightly compiler
	@scripts/fuzz

clean: ## delete what was built and the demo's data, not the models
	cargo clean
	rm -rf var .cache/wheels
