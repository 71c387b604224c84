#!/usr/bin/env bash
# What `bitnet serve` must hold with clients that are not ours: the openai packages for Python and JavaScript, curl,
# schemathesis against the committed OpenAPI file, and load with wrk. Everything runs on loopback and ends by itself.
# Usage: ci/serve.sh clients|schema|load [SECONDS]  (BINARY and MODEL from the environment; without an
# argument clients, schema and a short load). Needs python3, and for its part npm, wrk (Debian) and the network for packages.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${BINARY:-target/release/bitnet}
model=${MODEL:-fixtures/trained/kjv-b158.gguf}
key=a-key-for-this-run-alone
say() { printf 'serve: %s\n' "$*" >&2; }
[[ -x $binary ]] || { say "there is no $binary; build it with: cargo build --release -p bitnet-cli"; exit 1; }
out=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; rm -rf "$out"' EXIT

# Starts the server with "$@"; $url is where it listens.
start() {
  BITNET_LOG=warn "$binary" serve --model "$model" --port 0 --json --temperature 0 "$@" >"$out/told" 2>"$out/log" &
  server=$!
  for _ in $(seq 600); do
    [[ -s $out/told ]] && break
    kill -0 "$server" 2>/dev/null || { cat "$out/log" >&2; exit 1; }
    sleep 0.1
  done
  url=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"])' "$out/told")
}

# Ends it in an orderly way, which must be one.
stop() {
  kill -TERM "$server"
  wait "$server" || { say "the server ended with $?"; cat "$out/log" >&2; exit 1; }
  server=
}

venv() {
  local folder=target/serve-venv
  [[ -x $folder/bin/python ]] || python3 -m venv "$folder"
  "$folder/bin/pip" install -q --disable-pip-version-check --require-hashes -r tools/serve/requirements.txt
}

clients() {
  venv
  echo "$key" >"$out/keys"
  start --api-key-file "$out/keys" --ctx-size 512
  target/serve-venv/bin/python tools/serve/clients.py "$url" "$key"
  local body='{"prompt":"In the beginning","max_tokens":4}'
  curl -sf "$url/health" >/dev/null
  curl -sf "$url/v1/completions" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' -d "$body" >/dev/null
  [[ $(curl -s -o "$out/refused" -w '%{http_code}' "$url/v1/models") == 401 ]]
  say "curl: health, completions, a refusal"
  command -v npm >/dev/null || { say "there is no npm for the JavaScript client; install Node.js with npm"; exit 10; }
  mkdir -p target/serve-npm
  cp tools/serve/package.json tools/serve/package-lock.json tools/serve/clients.mjs target/serve-npm/
  (cd target/serve-npm && npm ci --no-fund --no-audit --silent && node clients.mjs "$url" "$key")
  stop
}

schema() {
  venv
  start --ctx-size 128 --max-tokens 4 --parallel 16
  local root=$PWD
  # It keeps what it found in the folder where it runs.
  (cd "$out" && "$root/target/serve-venv/bin/schemathesis" run "$root/docs/reference/openapi.json" --url "$url" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,negative_data_rejection \
    --max-examples "${1:-60}" --workers 1 --seed 1 --request-timeout 60 --no-color)
  stop
}

load() {
  command -v wrk >/dev/null || { say "there is no wrk; install the package wrk"; exit 1; }
  python3 tools/serve/load.py "$binary" "$model" --seconds "${1:-30}" --json target/serve-load.json
}

case ${1:-all} in
  clients) clients ;;
  schema) schema "${2:-}" ;;
  load) load "${2:-}" ;;
  all) clients; schema; load ;;
  *) say "unknown: $1"; exit 2 ;;
esac
