#!/usr/bin/env bash
# Tests and measures every kernel level that a machine has, where nothing can be built: takes a folder with three
# programs built elsewhere, `bitnet`, `fixtures` and `kernel-tests` (the library's unit tests), and leaves what it found
# in another. For machines with instruction sets that the build machine lacks (AMX).
# Usage: ci/levels.sh PROGRAMS OUT [THREADS], after ci/levels.sh --build PROGRAMS where they can be built.
set -euo pipefail

if [[ ${1:-} == --build ]]; then
  cd "$(dirname "$0")/.."
  mkdir -p "$2"
  cargo build --release --locked -p bitnet-cli -p bitforge-fixtures
  tests=$(cargo test --locked -p bitnet-runtime --lib --no-run --message-format=json \
    | python3 -c 'import json, sys
found = [m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == "bitnet_runtime"]
print(*found)')
  cp target/release/bitnet target/release/fixtures "$2/"
  cp "$tests" "$2/kernel-tests"
  exit 0
fi

programs=$1 out=$2 threads=${3:-$(nproc)}
mkdir -p "$out"
say() { printf 'levels: %s\n' "$*" >&2; }

lscpu >"$out/cpu.txt"
"$programs/bitnet" kernels --json >"$out/kernels.json"
levels=$(python3 -c 'import json, sys; print(*json.load(open(sys.argv[1]))["selection"]["detected"])' "$out/kernels.json")
say "this machine has: $levels"

say "tests of the kernels, each against the scalar definition"
"$programs/kernel-tests" kernels:: >"$out/tests.txt" 2>&1 || { tail -n 40 "$out/tests.txt" >&2; exit 1; }
grep '^test result' "$out/tests.txt" >&2

model=$(mktemp -d)/synth-2b4t-bitnet-i2_s.gguf
"$programs/fixtures" synth 2b4t --arch bitnet --type i2_s --out "$model" >/dev/null
"$programs/bitnet" limits --threads 1,"$threads" --ms 300 --json >"$out/limits.json"

# The logits of a prompt of 40 tokens, whole tiles and a rest, must not depend on the level.
tokens=$(seq -s, 100 139)
digest=
for level in ${levels/scalar/}; do
  "$programs/bitnet" logits --device cpu --model "$model" --tokens "$tokens" --kernels "$level" --threads "$threads" --out "$out/logits" >/dev/null 2>&1
  found=$(sha256sum <"$out/logits")
  rm "$out/logits"
  if [[ -n $digest && $found != "$digest" ]]; then
    say "FAILED: the logits of $level differ from those of the level before"
    exit 1
  fi
  digest=$found
  say "logits of $level: ${found%% *}"
  "$programs/bitnet" bench --device cpu --model "$model" --kernels "$level" --threads "$threads" --pp 512 --tg 64 --repetitions 3 --json >"$out/bench-$level.json" 2>/dev/null
  python3 -c 'import json, sys
for r in json.load(open(sys.argv[1]))["results"]: print("levels:", sys.argv[2], r["test"], round(r["median_tokens_per_second"], 1), "tokens/s")' "$out/bench-$level.json" "$level" >&2
done
rm -r "$(dirname "$model")"
