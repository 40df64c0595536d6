#!/usr/bin/env bash
# Writes ops/requirements.lock: what a worker needs and what builds it (pyproject.toml), with the
# hash of every file, for each Python from 3.11 on. A version that is locked already stays unless
# pyproject.toml rules it out; UPGRADE=yes takes the newest of each.
set -euo pipefail
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$python" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")' |
  "$folder/venv/bin/uv" pip compile pyproject.toml - --extra worker --universal \
    --generate-hashes --no-emit-index-url --quiet --custom-compile-command 'make lock' \
    ${UPGRADE:+--upgrade} --output-file ops/requirements.lock
echo "ops/requirements.lock: $(grep -c == ops/requirements.lock) packages"
