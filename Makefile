# What is done with this repository. `make` alone lists it.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Seconds for each target of `make fuzz`.
FUZZ_SECONDS ?= 60

TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help build demo check test test-vm test-vm-all test-vm-matrix test-vm-package fuzz bench bench-egress \
    release deb tarball reproducible install

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the `toolcell` executable, optimised
	$(CARGO) build --release --locked -p toolcell

demo: ## Build, and show an MCP session: a call that works, and seven that a cell is for
	@test -x /usr/bin/python3 || test "$$(id -u)" -ne 0 || \
	    { apt-get update && apt-get install -y --no-install-recommends python3; }
	$(CARGO) build --release --locked -p toolcell -p toolcell-demo
	@$(TARGET)/release/toolcell-demo

check: ## Check format, lints and licences; no test runs
	integration-tests/run.sh check

test: ## Install what the tests need, then check and test everything, as root and as an ordinary user
	integration-tests/run.sh all

test-vm: ## Test in a virtual machine with systemd and cgroup v2, as root and as a user who logged in
	integration-tests/vm/test.sh ci

test-vm-all: ## The same with every test that matters there
	integration-tests/vm/test.sh all

test-vm-matrix: ## Escapes, layers and ends of calls on every kernel, compared with docs/hosts.md
	integration-tests/vm/test.sh matrix $(GUESTS)
test-vm-package: ## Install, run, crash, upgrade and purge the Debian package in a virtual machine
	integration-tests/vm/packaging.sh

fuzz: ## Fuzz every target for FUZZ_SECONDS (needs nightly Rust and cargo-fuzz)
	fuzz/run.sh $(FUZZ_SECONDS)

bench-egress: build ## Measure egress by turns with direct loopback, and with `srt` if SRT names it (as root)
	$(CARGO) bench --locked -p toolcell-integration-tests --bench egress

bench: build ## Measure calls by turns with bare spawns, and with the sandboxes that are installed here
	$(CARGO) bench --locked -p toolcell-integration-tests --bench calls

release: ## Build what is released: one static executable, its manual pages and completions, in target/dist
	packaging/release.sh

deb: release ## Make a Debian package of it (needs cargo-deb)
	packaging/deb.sh

tarball: release ## Make a tarball of it, for any Linux of this architecture
	packaging/tarball.sh

reproducible: ## Build the committed source twice, in different directories, and compare the bytes
	packaging/reproducible.sh

install: build ## Install the executable, manual pages, completions and systemd's units below PREFIX
	packaging/collect.sh $(TARGET)/release/toolcell $(TARGET)/collected
	PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) packaging/install.sh $(TARGET)/collected
