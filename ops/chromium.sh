#!/usr/bin/env bash
# Installs Chromium for the tests of the console, where this is Debian and we may; else says how.
set -euo pipefail
for name in chromium chromium-browser google-chrome chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Chromium: not here; the tests of the console need it: apt-get install chromium" >&2
  exit 1
fi
echo "chromium: apt-get install chromium (about 100 MB, once)"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null 2>&1 || {
  apt-get update -qq >/dev/null
  apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
}
