#!/usr/bin/env bash
# Drives the web page of `bitnet serve` in a headless Chromium: the real server with the trained fixture, on loopback.
# Installs Debian's chromium and, from their lock file, the two packages of tools/browser where they are missing. Why a
# script of its own: a browser and npm are no part of the everyday tests. Screenshots are left in target/browser.
# Usage: ci/browser.sh [BINARY]
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:-target/release/bitnet}
shots=$PWD/target/browser
say() { printf 'browser: %s\n' "$*" >&2; }

if [[ ! -x $binary ]]; then
  say "there is no $binary; build it with: cargo build --release -p bitnet-cli"
  exit 1
fi
if [[ -z ${CHROMIUM:-} ]] && ! command -v chromium >/dev/null && command -v google-chrome >/dev/null; then
  CHROMIUM=$(command -v google-chrome)
  export CHROMIUM
fi
if [[ -z ${CHROMIUM:-} ]] && ! command -v chromium >/dev/null; then
  if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    say "there is no chromium; install the package chromium, or set CHROMIUM"
    exit 10
  fi
  say "installing chromium"
  { apt-get update -q && apt-get install -qy --no-install-recommends chromium fonts-dejavu-core fonts-noto-color-emoji; } >&2
fi
if ! command -v npm >/dev/null; then
  say "there is no npm; install Node.js 20 or later with npm"
  exit 10
fi
if [[ ! -d tools/browser/node_modules/playwright-core || ! -d tools/browser/node_modules/axe-core ]]; then
  say "installing the packages of tools/browser/package-lock.json"
  npm ci --prefix tools/browser --ignore-scripts --no-audit --no-fund >&2
fi

rm -rf "$shots"
mkdir -p "$shots"
server=
stop() { [[ -z $server ]] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }; }
trap stop EXIT

# Starts the server with the variables and arguments given; sets `url`. Room for answers that are still being made when something
# is pressed.
start() {
  local log=$1
  shift
  stop
  env "$@" "$binary" serve --model fixtures/trained/kjv-b158.gguf --ctx-size 8192 --threads 1 --port 0 >"$log" 2>&1 &
  server=$! url=
  for _ in $(seq 300); do
    url=$(grep -o '^http://[0-9.:]*' "$log" || true)
    [[ -z $url ]] || return 0
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  cat "$log" >&2
  say "the server does not say where it listens"
  exit 1
}

start "$shots/serve.log"
node tools/browser/page.mjs "$url/" "$shots"
start "$shots/serve-key.log" BITNET_API_KEY=only-for-this-check
node tools/browser/key.mjs "$url/" only-for-this-check
say "screenshots are in target/browser"
