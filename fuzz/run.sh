#!/usr/bin/env bash
# Fuzzes every target with coverage for so many seconds each; stops at the first input that fails, which
# is left in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo 'this needs nightly Rust and cargo-fuzz; hint: `rustup toolchain install nightly` and `cargo install cargo-fuzz`' >&2
    exit 1
fi
# The same inputs to begin with as `cargo test -p toolcell-fuzz-entries` has.
(cd .. && cargo run --quiet -p toolcell-fuzz-entries --example seeds -- fuzz/corpus)
for target in profile spec arguments placeholder jsonrpc receipts dns client_hello http1 http2 requests; do
    echo "== $target"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20
done
