#!/usr/bin/env bash
# The unit tests of the runtime under AddressSanitizer: reads and writes beside what was allocated, uses after a free, leaks.
#
# The kernels, the memory map, the pool and the panels are where the runtime has unsafe code, and every test of theirs runs
# here. A sanitizer is a feature of nightly compilers; RUSTC_BOOTSTRAP=1 turns it on in the stable one, which has the
# sanitizer's runtime beside its standard library. --target keeps it out of build scripts and macros.
# Usage: ci/asan.sh [FILTER...]
set -euo pipefail
cd "$(dirname "$0")/.."
host="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_NET_OFFLINE=true INSTA_UPDATE=no
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=1:detect_stack_use_after_return=1}"
exec cargo test --locked --package bitnet-runtime --lib --target "$host" --target-dir target/asan -- "$@"
