#!/usr/bin/env bash
# What a Ray cluster must hold, on one of three nodes on loopback: a text in twelve shards has the perplexity that one machine gives, also
# where a node is killed meanwhile; answers survive the death of a replica and of a node; two replicas behind Ray are nearly as fast
# as without. Everything ends by itself.
# Usage: ci/ray.sh [eval|jobs|kill|serve|speed]... (default: all; BINARY and MODEL from the environment). Needs python3, and the network once for
# the wheels of tools/ray/requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

export BITNET_BINARY=${BINARY:-target/release/bitnet}
model=${MODEL:-fixtures/trained/kjv-b158.gguf}
text=fixtures/trained/held-out.txt
state=${CARGO_TARGET_DIR:-target}/cluster.json
receipt=${CARGO_TARGET_DIR:-target}/receipts/cluster-eval.json
say() { printf 'ray: %s\n' "$*" >&2; }
[[ -x $BITNET_BINARY ]] || { say "there is no $BITNET_BINARY; build it with: cargo build --release -p bitnet-cli"; exit 1; }
out=$(mktemp -d)
front=
cleanup() {
  [[ -z $front ]] || { kill "$front" 2>/dev/null && wait "$front" || true; }
  cargo xtask cluster down || true
  rm -rf "$out"
}
trap cleanup EXIT

up() { timeout 300 cargo xtask cluster up --local "$1"; }
down() { timeout 120 cargo xtask cluster down; }

# The perplexity in twelve shards, to $1.
sharded() { timeout 600 cargo xtask --json cluster eval --model "$model" --text "$text" --shards 12 --seconds 500 >"$1"; }

# Whether $1 is the perplexity of one machine to 1e-6, and $2 shards at least were lost on the way.
same() {
  [[ -s $out/one.json ]] || "$BITNET_BINARY" perplexity --json --model "$model" --file "$text" >"$out/one.json"
  python3 - "$out/one.json" "$1" "$2" <<'END'
import json, sys
one, all_of_them = (json.load(open(path)) for path in sys.argv[1:3])
apart = abs(all_of_them["perplexity"] / one["perplexity"] - 1)
print(f"ray: {all_of_them['perplexity']!r} in {all_of_them['shards']} shards, {one['perplexity']!r} on one machine, apart by {apart:.1e}; "
      f"{all_of_them['lost']} shards lost", file=sys.stderr)
assert apart <= 1e-6 and all_of_them["scored"] == one["scored"] and all_of_them["lost"] >= int(sys.argv[3])
END
}

eval_() {
  up 3
  sharded "$out/all.json"
  same "$out/all.json" 0
  cargo xtask receipt verify "$receipt" --replay 4
  sed '0,/"nll": \[/{/"nll": \[/{n;s/[0-9]\.[0-9]/7.7/}}' "$receipt" >"$out/edited.json"
  ! cmp -s "$receipt" "$out/edited.json"
  if cargo xtask receipt verify "$out/edited.json" >/dev/null 2>&1; then say "an edited sum was not noticed"; exit 1; fi
  down
}

# A node is killed when the third shard is done.
kill_() {
  up 3
  rm -f target/logs/cluster.log
  sharded "$out/killed.json" &
  local job=$!
  for _ in $(seq 1200); do
    grep -q '^3 of 12' target/logs/cluster.log 2>/dev/null && break
    kill -0 "$job" 2>/dev/null || break
    sleep 0.1
  done
  python3 tools/ray/drill.py kill "$state" "node 2"
  wait "$job"
  same "$out/killed.json" 1
  cargo xtask receipt verify "$receipt"
  down
}

jobs_() {
  up 2
  timeout 300 cargo xtask cluster run crossval --model "$model" --tokens 64
  cargo xtask receipt verify "${receipt%/*}/crossval.json"
  timeout 300 cargo xtask cluster run bench --model "$model" --pp 64 --tg 16 --repetitions 2
  cargo xtask receipt verify "${receipt%/*}/bench.json"
  timeout 600 cargo xtask cluster run fuzz --count 200 --seeds 2
  cargo xtask receipt verify "${receipt%/*}/fuzz.json"
  down
}

# Serves, with the arguments given; $url is where.
serve() {
  : >"$out/url"
  cargo xtask --json cluster serve --model "$model" --port 0 --parallel 64 "$@" -- --kv-sequences 24 --ctx-size 512 >"$out/url" &
  front=$!
  for _ in $(seq 1200); do
    [[ -s $out/url ]] && break
    kill -0 "$front" 2>/dev/null || { cat target/logs/cluster-serve.log >&2; exit 1; }
    sleep 0.1
  done
  url=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"])' "$out/url")
}

# Ends it in an orderly way, which Ctrl-C's exit code says.
unserve() {
  local code=0
  kill -TERM "$front"
  wait "$front" || code=$?
  front=
  [[ $code == 130 ]] || { say "the front ended with $code"; cat target/logs/cluster-serve.log >&2; exit 1; }
}

serve_() {
  up 3
  serve --min-replicas 2
  timeout 60 cargo xtask cluster status
  timeout 240 python3 tools/ray/drill.py survive "$state" "$url" "$BITNET_BINARY" "$model"
  # Some streams had begun.
  grep -q 'a replica was lost, [1-9]' target/logs/cluster-serve.log
  unserve
  down
}

speed() {
  up 2
  serve --min-replicas 2
  timeout 180 python3 tools/ray/drill.py speed "$state" "$url" "$BITNET_BINARY" "$model"
  unserve
  down
}

(( $# )) || set -- eval jobs kill serve speed
for part; do
  case $part in
    eval) eval_ ;;
    jobs) jobs_ ;;
    kill) kill_ ;;
    serve) serve_ ;;
    speed) speed ;;
    *) say "unknown: $part"; exit 2 ;;
  esac
  say "$part holds"
done
