#!/usr/bin/env bash
# Checks what compiles for a target whose machines are not here: no linker and no run. For macOS that is the library and the crates
# below it. For Windows it is the crates below it alone: the library writes at positions of files, starts process groups and links
# files as Unix does. Why a script of its own: where rustup cannot fetch the target's standard library, Debian's compiler and
# the source of its standard library check that as well.
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

# A folder of its own: another compiler would make cargo build everything anew each time.
args=(check --locked --lib --target "$target" --target-dir target/compile)
if [[ ! -d $(rustc --print target-libdir --target "$target") ]] \
  && ! { command -v rustup >/dev/null && timeout 120 rustup target add "$target"; }; then
  say "no standard library through rustup; checking Debian's source of it"
  if [[ ! -d /usr/lib/rustlib/src/rust/library && ! -d $(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library ]]; then
    command -v apt-get >/dev/null && [[ $EUID -eq 0 ]] || { say "please install, as root: rustc-web rust-web-src"; exit 10; }
    { apt-get update -q && apt-get install -qy --no-install-recommends rustc-web rust-web-src; } >&2
  fi
  export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
  args+=(-Zbuild-std=std,panic_abort)
fi

# Without default features: fetching models brings C code, which would need a C compiler for the target.
cargo "${args[@]}" "${crates[@]}" --no-default-features
say "compiled for $target: ${crates[*]//-p/}"
