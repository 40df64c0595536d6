#!/usr/bin/env bash
# Makes $VENV with the project and its tools, and names what is missing with the command to install it.
set -euo pipefail

missing=()
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  missing+=("Python 3.11 or newer        Debian: apt-get install python3    macOS: brew install python@3.12")
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
  missing+=("Python's venv module        Debian: apt-get install python3-venv")
if ((${#missing[@]})); then
  echo "Missing on this machine:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
fi

echo "setup: $VENV (about a minute the first time)"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --require-hashes -r ops/setup.lock
"${pip[@]}" --no-deps --no-build-isolation -e .
"$VENV/bin/python" - <<'PY'
from readstates.cache import deletions, kernel, marked, rebuild, slots, table, verify
if not all(m.COMPILED for m in (kernel, marked, deletions, table, slots, rebuild, verify)):
    print("setup: no C compiler, so the table (cache/) runs as plain Python: everything works, table "
          "operations cost about ten times more. To compile it: apt-get install gcc libc6-dev python3-dev, "
          "then make clean setup")
PY
