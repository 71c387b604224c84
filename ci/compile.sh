#!/usr/bin/env bash
# Checks what compiles for a target whose machines are not here: no linker and no run. For macOS that is the library and the crates
# below it. For Windows it is the crates below it alone: the library writes at positions of files, starts process groups and links
# files as Unix does. Why a script of its own: the target's standard library is fetched
# through rustup where it is missing.
# Usage: ci/compile.sh aarch64-apple-darwin|x86_64-pc-windows-gnu
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:?usage: ci/compile.sh TARGET}
say() { printf 'compile: %s\n' "$*" >&2; }
crates=(-p bitforge-schema -p bitforge-receipt-schema -p bitforge-charts)
case $target in
  aarch64-apple-darwin) crates+=(-p bitnet-runtime) ;;
  x86_64-pc-windows-gnu) ;;
  *) say "$target is not one of aarch64-apple-darwin, x86_64-pc-windows-gnu"; exit 2 ;;
esac

if [[ ! -d $(rustc --print target-libdir --target "$target") ]]; then
  command -v rustup >/dev/null || { say "there is no standard library for $target; install it, or use rustup"; exit 10; }
  rustup target add "$target"
fi
# Without default features: fetching models brings C code, which would need a C compiler for the target.
cargo check --locked --lib --target "$target" "${crates[@]}" --no-default-features
say "compiled for $target: ${crates[*]//-p/}"
