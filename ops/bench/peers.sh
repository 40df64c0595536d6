#!/usr/bin/env bash
# Installs the peers under $1, for the benches only: nothing of the project's own environment changes.
#   $1/lib      libraries that a bench loads into its own process (PYTHONPATH)
#   $1/quix     quixstreams with what it needs, for a process of its own
#   $1/redis    the distribution's Redis server, and the libraries that it needs
#   $1/streams  Kafka Streams and the compiled fold, for a JVM of its own
set -euo pipefail
python=$2
here=$(cd "$(dirname "$0")" && pwd)
install() {
  "$python" -m pip install --quiet --disable-pip-version-check --target "$1" \
    --require-hashes -r "$here/$2.lock"
}
if [ ! -f "$1/.installed" ]; then
  echo "bench: installing the peers under $1 (about a minute, once)"
  rm -rf "$1"
  install "$1/lib" lib
  install "$1/quix" quix
  touch "$1/.installed"
fi
if [ ! -d "$1/redis" ]; then
  command -v apt-get > /dev/null || {
    echo "bench: the peer with Redis needs Debian's packages (apt-get)" >&2
    exit 1
  }
  mkdir -p "$1/debs"
  (cd "$1/debs" && apt-get download -qq redis-tools libjemalloc2 liblzf1)
  for deb in "$1"/debs/*.deb; do dpkg -x "$deb" "$1/redis"; done
  rm -r "$1/debs"
fi
if [ ! -d "$1/streams/lib" ]; then
  jars=$("$python" -m readstates.ops.local.libs kafka-streams)
  rm -rf "$1/streams" && mkdir -p "$1/streams"
  ln -s "$jars" "$1/streams/lib"
fi
if [ "$here/streams/Fold.java" -nt "$1/streams/Fold.class" ]; then
  command -v javac > /dev/null || {
    echo "bench: javac is missing (Debian, Ubuntu: apt-get install openjdk-17-jdk-headless)" >&2
    exit 1
  }
  javac -cp "$1/streams/lib/*" -d "$1/streams" "$here/streams/Fold.java"
fi
