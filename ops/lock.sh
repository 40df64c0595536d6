#!/usr/bin/env bash
# Writes the locks: every package that pip installs for this project, with the hashes of its files,
# for each Python from 3.11 on.
#   ops/requirements.lock               the image: what a worker needs, and what builds it
#   ops/setup.lock                      `make setup`: the same, the local servers and the tools
#   ops/uv.lock                         uv, which writes the locks
#   ops/bench/{lib,quix}.lock           the peers of `make bench`
#   tests/foreign/python/requirements.lock   the Python clients of `make foreign`
# A version that is locked already stays unless its requirement rules it out; UPGRADE=yes takes the
# newest of each. uv is installed by its hash, too, unless there is no lock yet.
set -euo pipefail
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
if [ -f ops/uv.lock ]; then
  "${pip[@]}" --require-hashes -r ops/uv.lock
else
  "${pip[@]}" uv
fi
lock() { # the file to write, then what uv compiles
  "$folder/venv/bin/uv" pip compile "${@:2}" --universal --generate-hashes \
    --no-emit-index-url --quiet --custom-compile-command 'make lock' ${UPGRADE:+--upgrade} \
    --output-file "$1"
  echo "$1: $(grep -c == "$1") packages"
}
"$python" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")' >"$folder/build.in"
lock ops/requirements.lock pyproject.toml - --extra worker <"$folder/build.in"
lock ops/setup.lock pyproject.toml - --extra local --extra dev <"$folder/build.in"
lock ops/uv.lock ops/uv.in
lock ops/bench/lib.lock ops/bench/lib.in
lock ops/bench/quix.lock ops/bench/quix.in
lock tests/foreign/python/requirements.lock tests/foreign/python/requirements.txt
