#!/usr/bin/env bash
# Puts promtool, Prometheus' own tester of rules, at $1, and prometheus beside it (for the drills):
# from Debian's package where apt-get is, else built by Go (1.26 or newer; it fetches much, and
# takes long on two cores), unless BUILD=no.
# Says what is missing where neither works.
set -euo pipefail
target=$(realpath -m "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
if apt-get download prometheus >/dev/null 2>&1; then
  dpkg -x prometheus_*.deb .
  cp usr/bin/promtool "$target"
  cp usr/bin/prometheus "$(dirname "$target")/"
elif [ "${BUILD:-yes}" = yes ] && command -v go >/dev/null; then
  GOBIN=$folder go install github.com/prometheus/prometheus/cmd/{promtool,prometheus}@v0.316.0
  cp promtool "$target"
  cp prometheus "$(dirname "$target")/"
else
  echo "promtool: needs Debian's package lists (apt-get update), or Go 1.26" >&2
  exit 1
fi
"$target" --version
