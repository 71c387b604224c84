#!/usr/bin/env bash
# `bitnet serve` beside llama.cpp's own server, in turns on this machine: total tokens per second of one client and of eight.
# llama.cpp's server is built here from the pinned source distribution of llama-cpp-python, for this CPU, at its best.
# Usage: ci/serve-compare.sh [ROUNDS]  (BINARY, MODEL, SECONDS_EACH, THREADS and JOBS from the environment; the
# model is smollm2-135m where none is named). A lane, no test: what it says depends on the machine. Needs python3, a C++ compiler
# and, the first time, the network for pip.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${BINARY:-target/release/bitnet}
folder=target/llama-server
server=$folder/build/bin/llama-server
say() { printf 'serve-compare: %s\n' "$*" >&2; }
[[ -x $binary ]] || { say "there is no $binary; build it with: cargo build --release -p bitnet-cli"; exit 1; }

if [[ ! -x $server ]]; then
  say "building llama.cpp's server in $folder"
  [[ -x $folder/venv/bin/python ]] || python3 -m venv "$folder/venv"
  PATH=$PWD/$folder/venv/bin:$PATH
  pip install -q --disable-pip-version-check --require-hashes -r tools/requirements-build.txt
  pip install -q --disable-pip-version-check --require-hashes -r tools/serve/llama-server-build.txt
  pip download -q --disable-pip-version-check --require-hashes --no-deps --no-binary :all: --no-build-isolation \
    -r tools/serve/llama-server.txt -d "$folder"
  tar -xzf "$folder/llama_cpp_python-0.3.36.tar.gz" -C "$folder"
  flags=(
    CMAKE_BUILD_TYPE=Release GGML_NATIVE=ON GGML_OPENMP=OFF GGML_CCACHE=OFF LLAMA_BUILD_SERVER=ON LLAMA_BUILD_TOOLS=ON
    LLAMA_BUILD_TESTS=OFF LLAMA_BUILD_EXAMPLES=OFF LLAMA_BUILD_APP=OFF LLAMA_BUILD_UI=OFF LLAMA_USE_PREBUILT_UI=OFF
    LLAMA_CURL=OFF LLAMA_OPENSSL=OFF
  )
  cmake -S "$folder/llama_cpp_python-0.3.36/vendor/llama.cpp" -B "$folder/build" -G Ninja "${flags[@]/#/-D}" >"$folder/configure.log" 2>&1 ||
    { tail -20 "$folder/configure.log" >&2; exit 1; }
  ninja -C "$folder/build" -j "${JOBS:-$(nproc)}" llama-server >"$folder/build.log" 2>&1 ||
    { tail -20 "$folder/build.log" >&2; exit 1; }
fi

model=${MODEL:-}
if [[ -z $model ]]; then
  "$binary" models fetch smollm2-135m >&2
  model=$("$binary" models path smollm2-135m)
fi
python3 tools/serve/compare.py "$binary" "$server" "$model" --rounds "${1:-5}" --seconds "${SECONDS_EACH:-5}" \
  --threads "${THREADS:-$(nproc)}" --json target/serve-compare.json
