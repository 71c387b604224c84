# What the lanes that run tests on an emulated CPU share; sourced, not run. Timings under an emulator mean nothing.

say() { printf '%s: %s\n' "$lane" "$*" >&2; }

# Installs Debian packages where that can be done, and says what is missing where it cannot.
install() {
  if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    say "please install, as root: $*"
    exit 10
  fi
  say "installing $*"
  apt-get update -q && apt-get install -qy --no-install-recommends "$@"
}

# Whether the binary $3, started through the rest, detects exactly the levels $1 and selects $2.
selects() {
  local detected=$1 selected=$2 line
  shift 2
  line=$("$@" kernels | head -n 1)
  if [[ $line != *" detected=[$detected] selected=$selected "* ]]; then
    say "expected detected=[$detected] selected=$selected, got: $line"
    exit 1
  fi
}

passed=0

# Runs cargo with the arguments given, which are those of one `cargo test`, and adds up what passed; nothing is a failure.
tests() {
  local log count
  log=$(mktemp)
  if ! cargo test "$@" 2>&1 | tee "$log" >&2; then
    say "failed: cargo test $*"
    exit 1
  fi
  count=$(awk '/^test result: ok/ { sum += $4 } END { print sum + 0 }' "$log")
  rm "$log"
  if ((count == 0)); then
    say "no test ran: cargo test $*"
    exit 1
  fi
  passed=$((passed + count))
}
