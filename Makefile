# What a newcomer types.  Each target installs what a fresh Debian machine lacks, says so, and is quick
# the second time.  PG_CONFIG chooses the PostgreSQL; where nobody sets it, it is the pg_config in the path
# and stays unset, so that make and cargo build the same things.

.PHONY: help all deps build install test test-all quick lint demo bench package clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

# What PGXN's client calls first.
all: build

deps: ## install the packages and tools that are missing
	@ci/deps

build: deps ## compile the extension, the command and the tests
	cargo build --workspace --all-targets

install: deps ## install the extension and the command (optimised) into the PostgreSQL of PG_CONFIG
	@ci/install release

test: deps ## run every test: embedded catalog, and Citus where it is installed
	@ci/test

test-all: deps ## the same with whole matrices, and the other releases of PostgreSQL
	@ci/test all

quick: deps ## seconds: tests that need no server
	@ci/test unit

demo: deps ## a cluster, transfers, backups with and without the block, restored and audited; a split under load
	@ci/install dev
	@cargo run --quiet --package demo -- $(DEMO_ARGS)

bench: deps ## measure, ratios side by side
	@ci/install release
	@cargo run --quiet --release --package benches -- $(BENCH_ARGS)

lint: deps ## format, clippy, licences, structure, other releases of PostgreSQL
	@ci/lint

package: deps ## Debian packages of the extension and of the command, and the archive for PGXN
	@ci/package

clean: ## forget what was built
	cargo clean
