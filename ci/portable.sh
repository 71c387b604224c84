#!/usr/bin/env bash
# Shows that one x86-64 binary runs on CPUs of different ages and picks the right kernels: an emulated one without AVX,
# an emulated one with AVX2, and this machine's own; the fixtures' goldens are the same on all. Why a script of its own:
# it needs an emulator.
set -euo pipefail
cd "$(dirname "$0")/.."
lane=portable
source ci/emulate.sh

command -v qemu-x86_64 >/dev/null || install qemu-user
cargo build -p bitnet-runtime --bin bitnet
digest=$(sha256sum target/debug/bitnet)

on() {
  local cpu=$1 levels=$2 selected=$3
  say "on $cpu: $levels"
  selects "$levels" "$selected" qemu-x86_64 -cpu "$cpu" target/debug/bitnet
  export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="timeout 600 qemu-x86_64 -cpu $cpu"
  tests -p bitnet-runtime --test it -- reference:: golden:: logits:: replay::
}
on Nehalem scalar scalar
on Haswell scalar,avx2 avx2
unset CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER
tests -p bitnet-runtime --test it -- reference:: golden:: logits:: replay::
sha256sum --check --quiet <<<"$digest"
echo "portable: $passed test runs of one binary passed, on emulated CPUs without AVX and with AVX2 and on this one; none failed"
