#!/usr/bin/env bash
# Runs the kernels' tests and the fixtures' goldens on emulated aarch64 CPUs: one with NEON alone, one with dotprod, one
# with i8mm. Cross-compiles on an x86-64 Debian machine and installs what that takes. Why a script of its own: compilers
# and emulators for another CPU are no part of the everyday tests. Timings under an emulator mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'aarch64: %s\n' "$*" >&2; }

# Installs Debian packages where that can be done, and says what is missing where it cannot.
install() {
  if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    say "please install, as root: $*"
    exit 10
  fi
  say "installing $*"
  apt-get update -q && apt-get install -qy --no-install-recommends "$@"
}

# Whether the binary $3, started through the rest, detects exactly the levels $1 and selects $2.
selects() {
  local detected=$1 selected=$2 line
  shift 2
  line=$("$@" kernels)
  line=${line%%$'\n'*}
  if [[ $line != *" detected=[$detected] selected=$selected "* ]]; then
    say "expected detected=[$detected] selected=$selected, got: $line"
    exit 1
  fi
}

passed=0

# Runs cargo with the arguments given, which are those of one `cargo test`, and adds up what passed; nothing is a failure.
tests() {
  local log count
  log=$(mktemp)
  if ! cargo test "$@" 2>&1 | tee "$log" >&2; then
    say "failed: cargo test $*"
    exit 1
  fi
  count=$(awk '/^test result: ok/ { sum += $4 } END { print sum + 0 }' "$log")
  rm "$log"
  if ((count == 0)); then
    say "no test ran: cargo test $*"
    exit 1
  fi
  passed=$((passed + count))
}

target=aarch64-unknown-linux-gnu
command -v qemu-aarch64 >/dev/null || install qemu-user
command -v aarch64-linux-gnu-gcc >/dev/null || install gcc-aarch64-linux-gnu libc6-dev-arm64-cross
if [[ ! -d $(rustc --print target-libdir --target $target) ]] \
  && ! { command -v rustup >/dev/null && timeout 120 rustup target add $target; }; then
  # Debian has a compiler and a standard library that fit each other.
  if [[ ! -d $(/usr/bin/rustc --print target-libdir --target $target 2>/dev/null) ]]; then
    dpkg --add-architecture arm64
    install rustc-web libstd-rust-web-dev:arm64
  fi
  export RUSTC=/usr/bin/rustc
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# Dynamically linked, tests would need `-E LD_LIBRARY_PATH` beside qemu's `-L` wherever Debian's libc6:arm64 is installed too: with
# ld.so of one build and libc.so of another, threads hang at their start.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
# A folder of its own: another compiler would make cargo build everything anew each time.
args=(--target $target --target-dir target/aarch64)
cargo build "${args[@]}" -p bitnet-cli --bin bitnet

on() {
  local cpu=$1 levels=$2 selected=$3
  say "on $cpu: $levels"
  selects "$levels" "$selected" qemu-aarch64 -cpu "$cpu" target/aarch64/$target/debug/bitnet
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="timeout 600 qemu-aarch64 -cpu $cpu"
  tests "${args[@]}" -p bitnet-runtime --lib -- kernels:: quant::
  tests "${args[@]}" -p bitnet-cli --test it -- reference:: golden:: logits:: replay::
}
on cortex-a72 scalar,neon neon
on cortex-a76 scalar,neon,dotprod dotprod
on max scalar,neon,dotprod,i8mm i8mm
echo "aarch64: $passed test runs passed on 3 emulated CPUs (NEON, dotprod, i8mm), none failed"
