#!/usr/bin/env bash
# Installs the peers under $1, for the benches only: nothing of the project's own environment changes.
#   $1/lib    libraries that a bench loads into its own process (PYTHONPATH)
#   $1/quix   quixstreams with what it needs, for a process of its own
set -euo pipefail
python=$2
install() { "$python" -m pip install --quiet --disable-pip-version-check --target "$1" "${@:2}"; }
if [ ! -f "$1/.installed" ]; then
  echo "bench: installing the peers under $1 (about a minute, once)"
  rm -rf "$1"
  install "$1/lib" cachetools lru-dict cachebox diskcache matplotlib
  install "$1/quix" quixstreams
  touch "$1/.installed"
fi
