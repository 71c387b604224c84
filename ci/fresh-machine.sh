#!/usr/bin/env bash
# Walks the README as a newcomer does, on a machine that has nothing else: a Debian root made by debootstrap with gcc, python3,
# git and curl, rustup's toolchain, and a clone of this commit. A command that README or a page no longer shows fails here.
# Usage: ci/fresh-machine.sh [--root DIR] [STEP...]: root toolchain clone up-offline build up test chat serve library tutorial (where
# none is named all but up-offline and build, in this order). Needs root or sudo, and Debian or Ubuntu; registries are reached as
# the host's apt, cargo and pip reach them. Why a script of its own: it needs a machine, not a crate.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'fresh-machine: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

root=$PWD/target/fresh-machine
if [[ ${1:-} == --root ]]; then
  root=${2:?--root wants a folder}
  shift 2
fi
steps=("$@")
[[ ${#steps[@]} -gt 0 ]] || steps=(root toolchain clone up test chat serve library tutorial)
if [[ $EUID -ne 0 ]]; then
  command -v sudo >/dev/null || { say "making a root needs root"; exit 10; }
  exec sudo -E env PATH="$PATH" HOME="$HOME" "$PWD/ci/fresh-machine.sh" --root "$root" "${steps[@]}"
fi

# The user of the new machine, whose home is where the clone lies.
home=/newcomer
checkout=$home/bitforge

# What the host says about proxies, certificates and registries, for the programs that read it there.
settings() {
  env -0 | grep -zE '^(([a-z]+|[A-Z]+)_(proxy|PROXY)|CARGO_(HTTP|NET|REGISTR|SOURCE)[A-Z_]*|PIP_(INDEX|EXTRA|CERT|PROXY|TRUSTED|DEFAULT)[A-Z_]*|(SSL_CERT|CURL_CA|REQUESTS_CA|GIT_SSL)[A-Z_]*)=' || true
}

# Runs a command line in the new machine, as the newcomer, in the clone where there is one.
inside() {
  local pairs=()
  while IFS= read -r -d '' pair; do pairs+=("$pair"); done < <(settings)
  unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
    root=$1 command=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    exec chroot --userspec=newcomer:newcomer "$root" env -i "$@" bash -euo pipefail -c "$command"
  ' inside "$root" "$1" HOME=$home USER=newcomer LANG=C.UTF-8 TERM=xterm \
    PATH=$home/.cargo/bin:/usr/local/bin:/usr/bin:/bin "${pairs[@]}"
}

# Runs a command that a page shows, word for word.
as_written() {
  local page=$1 command=$2
  grep -qF -- "$command" "$page" || fail "$page no longer shows: $command"
  say "\$ $command"
  inside "cd $checkout && $command"
}

step_root() {
  if [[ -e $root/etc/debian_version ]]; then
    say "there is a root at $root already"
    return
  fi
  if ! command -v debootstrap >/dev/null; then
    say "installing debootstrap"
    { apt-get update -q && apt-get install -qy --no-install-recommends debootstrap; } >&2
  fi
  local release mirror parts=main
  release=$(. /etc/os-release && printf %s "$VERSION_CODENAME")
  grep -q '^ID=ubuntu' /etc/os-release && parts=main,universe
  # The first repository that apt itself uses, but for security updates.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
  debootstrap --variant=minbase --components=$parts --include=gcc,libc6-dev,python3,python3-venv,git,curl,ca-certificates \
    "$release" "$root.partial" "${mirror:?apt knows no repository}" >&2
  cp /etc/resolv.conf "$root.partial/etc/resolv.conf"
  # Certificates and pip settings that the host was given.
  local file
  for file in /etc/ssl/certs /usr/local/share/ca-certificates /etc/pip.conf /etc/hosts; do
    [[ ! -e $file ]] || cp -aT "$file" "$root.partial$file"
  done
  chroot "$root.partial" useradd --home-dir $home --create-home --shell /bin/bash newcomer
  for file in .cargo/config.toml .config/pip .pip; do
    [[ ! -e $HOME/$file ]] || install -D -m 644 -t "$root.partial$home/$(dirname "$file")" "$HOME/$file"
  done
  mv "$root.partial" "$root"
}

# rustup with the toolchain of the host, as `rustup toolchain install` leaves it; copied, since it is large.
step_toolchain() {
  local sysroot name rustup
  sysroot=$(rustc --print sysroot)
  name=$(basename "$sysroot")
  rustup=$root$home/.rustup
  mkdir -p "$rustup/toolchains" "$root$home/.cargo/bin"
  cp -a "${RUSTUP_HOME:-$HOME/.rustup}/settings.toml" "$rustup/"
  if [[ ! -d $rustup/toolchains/$name ]]; then
    mkdir "$rustup/toolchains/$name"
    tar -C "$sysroot" --exclude ./share/doc -cf - . | tar -C "$rustup/toolchains/$name" -xf -
  fi
  install -m 755 "$(readlink -f "$(command -v rustup)")" "$root$home/.cargo/bin/rustup"
  for name in cargo cargo-clippy cargo-fmt clippy-driver rustc rustdoc rustfmt; do
    ln -sf rustup "$root$home/.cargo/bin/$name"
  done
  chroot "$root" chown -R newcomer:newcomer $home
  inside 'cargo --version' >&2
}

step_clone() {
  rm -rf "${root:?}$checkout"
  git clone -q --no-hardlinks . "$root$checkout"
  chroot "$root" chown -R newcomer:newcomer $checkout
}

step_up-offline() {
  as_written README.md 'cargo fetch --locked'
  grep -qF -- '`--offline`' README.md || fail "README.md no longer shows --offline"
  inside "cd $checkout && cargo xtask up --offline"
}
step_build() { as_written docs/tutorial/first-ten-minutes.md 'cargo build --release -p bitnet-cli'; }
step_up() { as_written README.md 'cargo xtask up'; }
step_test() { as_written README.md 'cargo xtask test'; }

step_chat() {
  local chat='target/release/bitnet chat --model'
  grep -qF -- "$chat M" README.md || fail "README.md no longer shows: $chat M"
  say "\$ $chat fixtures/trained/kjv-b158.gguf"
  inside "cd $checkout && printf 'Who art thou?\n/quit\n' | $chat fixtures/trained/kjv-b158.gguf --max-tokens 24" | grep .
}

# The server of the guide with the model that is there, and its curl.
step_serve() {
  local curl
  curl=$(sed -n '/^curl .*chat\/completions/,/^```/{/^```/d;p}' docs/howto/serve.md)
  [[ -n $curl ]] || fail "docs/howto/serve.md no longer shows a curl"
  inside "cd $checkout
    target/release/bitnet serve --model fixtures/trained/kjv-b158.gguf >/dev/null 2>target/serve.log &
    trap 'kill \$!' EXIT
    until curl -sf http://127.0.0.1:8080/ready >/dev/null; do kill -0 \$!; sleep 0.2; done
    ${curl%%$'\n\n'*}" | python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])'
}

# The library in another crate, with the dependency and the lines of README, on the model of the clone.
step_library() {
  local dependency
  dependency=$(grep -o 'bitnet-runtime = { path = "[^"]*" }' README.md)
  inside "rm -rf $home/other && cargo init -q --name other $home/other && cd $home/other
    echo '${dependency/bitforge/..\/bitforge}' >>Cargo.toml
    sed -n '/^\`\`\`rust$/,/^\`\`\`$/{/^\`/d;p}' $checkout/README.md >src/main.rs
    sed -i 's#\"/../fixtures#\"/../bitforge/fixtures#' src/main.rs
    cargo run -q --release"
}

step_tutorial() { inside "cd $checkout && python3 ci/tutorial.py"; }

for step in "${steps[@]}"; do
  declare -F "step_$step" >/dev/null || fail "there is no step '$step'"
done
for step in "${steps[@]}"; do
  began=$SECONDS
  "step_$step"
  say "$step: $((SECONDS - began)) s"
done
