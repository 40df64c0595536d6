#!/usr/bin/env bash
# What a visitor gets who has only Python and make: in a new Debian without Java, Maven, a C compiler
# and git, as a user without rights, it runs
#   make demo, make test          in the committed files (or those in TARGETS)
#   readstates demo               of the wheel, in a virtual environment without anything else
# Needs root and debootstrap; without them it is skipped. The Debian shares this machine's network.
# Proxies, certificates, mirrors and TESTS of `make test` are handed on from the environment (PASSED).
set -euo pipefail
SUITE=${SUITE:-bookworm}
TARGETS=${TARGETS-demo test}
WHEEL=${WHEEL-yes}
PACKAGES=python3,python3-venv,make
ABSENT="java javac mvn cc gcc git"
PASSED="http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE
  REQUESTS_CA_BUNDLE PIP_CERT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_DEFAULT_TIMEOUT
  MAVEN_MIRROR TESTS"

if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null || ! command -v unshare >/dev/null; then
  echo "bare: skipped: it needs root, unshare and debootstrap (apt-get install debootstrap)"
  exit 0
fi
if [ -z "${BARE_WORK:-}" ]; then
  # Everything that is mounted and started inside goes with the inner shell, however it ends.
  BARE_WORK=$(mktemp -d)
  export BARE_WORK
  trap 'rm -rf --one-file-system "$BARE_WORK"' EXIT
  unshare --mount --pid --fork --kill-child "$BASH" "$0"
  exit
fi

cd "$(dirname "$0")/.."
work=$BARE_WORK
root=$work/root
source=/home/visitor/source

echo "bare: a Debian $SUITE with $PACKAGES (about a minute)"
debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$root" >"$work/log" 2>&1 || {
  tail -n 20 "$work/log" >&2
  exit 1
}
mount --bind "$root" "$root"  # Java asks for the file system of a folder, so / must be a mount
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs shm "$root/dev/shm"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
echo "visitor:x:1000:1000::/home/visitor:/bin/bash" >>"$root/etc/passwd"
environment=(HOME=/home/visitor USER=visitor LANG=C.UTF-8 PATH=/usr/bin:/bin)
for name in $PASSED; do
  [ -n "${!name:-}" ] || continue
  environment+=("$name=${!name}")
  if [ -f "${!name}" ]; then install -D -m 644 "${!name}" "$root${!name}"; fi
done
inside() { chroot --userspec=1000:1000 "$root" /usr/bin/env -i "${environment[@]}" bash -c "cd && $1"; }

mkdir -p "$root$source" "$work/source"
git archive HEAD >"$work/source.tar"
for folder in "$work/source" "$root$source"; do tar -x -C "$folder" -f "$work/source.tar"; done
chown -R 1000:1000 "$root/home/visitor"
inside "for name in $ABSENT; do ! command -v \$name || exit 1; done; python3 --version; make --version | head -1"
echo "bare: not there: $ABSENT"

timed() {  # name, command
  local begin=$SECONDS
  echo "bare: $1"
  inside "$2" || { echo "bare: $1 failed" >&2; exit 1; }
  echo "bare: $1: exit 0 after $((SECONDS - begin)) s"
}
for target in $TARGETS; do timed "make $target" "cd $source && make $target"; done
if [ -n "$WHEEL" ]; then
  # Built outside, where there is a compiler; a wheel fits one minor version of Python only.
  "$PYTHON" -m venv "$work/venv"
  "$work/venv/bin/pip" --quiet wheel --no-deps -w "$root/home/visitor/dist" "$work/source"
  timed "pip install" "python3 -m venv own && own/bin/pip install --quiet \$(echo dist/*.whl)[local]"
  timed "readstates demo" "own/bin/readstates demo"
fi
