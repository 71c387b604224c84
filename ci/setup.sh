#!/usr/bin/env bash
# Installs what a fresh machine lacks for `cargo xtask test`: a Rust toolchain with clippy and rustfmt (through
# rustup), a C compiler for linking and python3 (through the system's package manager, where that is apt-get).
# Changes nothing where everything is there. Why a script of its own: these tools are needed before xtask builds.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v python3 >/dev/null || packages+=(python3 python3-venv)
if ((${#packages[@]})); then
  command -v apt-get >/dev/null || { say "please install: ${packages[*]}"; exit 10; }
  say "installing ${packages[*]}"
  apt-get update -q && apt-get install -qy --no-install-recommends "${packages[@]}"
fi

if ! command -v cargo >/dev/null && ! command -v rustup >/dev/null; then
  say "neither cargo nor rustup is on PATH; install rustup first"
  exit 10
fi
if ! rustc --version >/dev/null 2>&1; then
  say "installing stable Rust"
  rustup toolchain install stable --profile minimal --component clippy --component rustfmt
fi
for component in clippy fmt; do
  if ! cargo "$component" --version >/dev/null 2>&1; then
    say "installing cargo $component"
    rustup component add "${component/#fmt/rustfmt}"
  fi
done
