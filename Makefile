# make demo · make test · make bench: each does all of its own set-up.
#   make demo                 the mesh and a sample shop on loopback, a live table until Ctrl-C
#   make demo DURATION=30s    the same unattended, with a script; exits 0 only if the mesh did its job (OUTPUT=json for one JSON document)
#   make test                 installs what the tests need (apt, pip), then runs everything
#   make bench                Weft beside Envoy, nginx and HAProxy, half an hour (BENCH=quick: under three minutes; BENCH=soak: ten minutes, BENCH_SOAK=60s shortens it)
#   make dist                 weft-proxy as it is shipped, in target/dist: laid out by a profile of its own load (ten minutes the first time)
#   make flamegraph           an SVG of each hot path of the sidecar under load, in target/flamegraph
#   make bench-control        what the control plane costs: compiling, encoding, memory, streams (BENCH=quick: under a minute; BENCH=fleet: thousands of sidecars)
#   make mutants              mutation tests of weft-policy (MUTANTS='-f proxy/policy/src/route/share.rs' for one file)
#   make screenshots          pictures of every page of the dashboard, in target/screenshots
#   make lint                 formatting, clippy, documentation, licences

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
DURATION ?=
OUTPUT ?= table
BENCH ?= full
BENCH_FLAGS ?=
MUTANTS ?=
# Without a terminal the build says one line a crate only when something is built; with one, cargo draws its bar.
DEMO_FLAGS := $(if $(DURATION),--duration $(DURATION)) --output $(OUTPUT)

.PHONY: screenshots demo test unit dist bench flamegraph mutants lint fmt clippy doc deny book tools clean

# Everything but the program's own output goes to stderr: with OUTPUT=json stdout is one document.
demo:
	@$(CARGO) build --locked --bin weft --bin weft-proxy --bin weft-shop 1>&2
	@exec $(TARGET)/debug/weft demo $(DEMO_FLAGS)

# The programs first: the end-to-end tests run them as users do.
test: tools
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked --doc
	WEFT_KUBECTL=$$(integration/setup kubectls) $(CARGO) test --workspace --locked --lib --bins --tests --no-fail-fast

# The sidecar and its core alone: no Kubernetes client, no store, no root.
unit:
	$(CARGO) test --locked -p weft-proto -p weft-certs -p weft-codec -p weft-resident -p weft-policy -p weft-proxy

# The loads that the profile is taken under are the benchmark's own.
dist:
	@integration/setup bench
	$(CARGO) build --release --locked -p weft-load
	$(CARGO) build --release --locked -p weft-cli
	@CARGO="$(CARGO)" integration/dist

# The sidecar as it is shipped; everything else only has to be fast enough.
bench: dist
	integration/bench/run $(BENCH) $(BENCH_FLAGS)

flamegraph:
	@integration/setup bench
	$(CARGO) build --release --locked -p weft-proxy
	$(CARGO) build --release --locked -p weft-load
	$(CARGO) build --release --locked -p weft-cli
	WEFT_PROXY=$(TARGET)/release/weft-proxy integration/bench/flamegraph $(BENCH_FLAGS)

bench-control:
	WEFT_BENCH_OUT=$(CURDIR)/target/bench $(CARGO) bench --locked -p weft-control --bench control -- $(BENCH)

# Not part of `make test`: each of the changes, some 2,500 in all, is built and tested by itself.
mutants:
	@CARGO="$(CARGO)" integration/mutants $(MUTANTS)

# Needs Node 20.19 or newer; the browser is Debian's.
screenshots: tools
	$(CARGO) build --locked --bin weft --bin weft-proxy --bin weft-shop
	cd control-plane/dashboard && npm ci --ignore-scripts && WEFT=$(abspath $(TARGET))/debug/weft npm run screenshots

tools:
	@integration/setup

lint: fmt clippy doc deny

fmt:
	$(CARGO) fmt --all -- --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --no-deps --locked

deny:
	@integration/setup deny
	@integration/deny

clean:
	$(CARGO) clean
