#!/usr/bin/env bash
# Shows that one portable binary runs on CPUs with and without AVX2, and picks the right kernels on each: the release
# binary under qemu-user as a Nehalem (no AVX2) and as a Haswell (AVX2), against its own scalar kernels on this CPU.
# Usage: ci/portable.sh [BINARY]. Installs qemu-user through apt-get where it may; fails where it may not, since a skipped check is no check.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:-target/release/bitnet}
model=fixtures/gguf/ok/bitnet-b158-i2_s.gguf
say() { printf 'portable: %s\n' "$*" >&2; }

if [[ $(uname -m) != x86_64 ]]; then
  say "this machine is no x86-64"
  exit 11
fi
if ! command -v qemu-x86_64 >/dev/null; then
  if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    say "there is no qemu-x86_64; install the package qemu-user"
    exit 10
  fi
  say "installing qemu-user"
  { apt-get update -q && apt-get install -qy --no-install-recommends qemu-user; } >&2
fi
if [[ ! -x $binary ]]; then
  say "there is no $binary; build it with: cargo build --release -p bitnet-cli"
  exit 1
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Runs "$@" (a way to start the binary): prints the level it selects and the digest of its logits, bit for bit.
levels_and_logits() {
  "$@" logits --model "$model" --tokens 1,5,9,2,40,41,42,43,44,45,46,47,48,49,50,51,52 --threads 2 --out "$out/logits" --json \
    2>"$out/messages" >"$out/json" || { cat "$out/messages" >&2; return 1; }
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["engine"]["selection"]["selected"])' "$out/json"
  sha256sum <"$out/logits"
}
expect() {
  if [[ $2 != "$3" ]]; then
    say "FAILED: $1: expected '$2', found '$3'"
    exit 1
  fi
  say "$1: ${3%%$'\n'*}"
}

digest=$(BITNET_KERNELS=scalar levels_and_logits "$binary" | tail -n 1)
expect "a CPU without AVX2" "scalar"$'\n'"$digest" "$(levels_and_logits qemu-x86_64 -cpu Nehalem "$binary")"
expect "a CPU with AVX2" "avx2"$'\n'"$digest" "$(levels_and_logits qemu-x86_64 -cpu Haswell "$binary")"

# A level that the CPU lacks is refused when it is forced, with the exit code of what is unavailable.
code=0
qemu-x86_64 -cpu Nehalem "$binary" kernels --kernels avx2 >"$out/json" 2>"$out/messages" || code=$?
expect "AVX2 forced on a CPU without it" "exit code 5" "exit code $code"
say "one binary, three CPUs, the same logits"
