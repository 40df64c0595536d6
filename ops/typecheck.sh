#!/usr/bin/env bash
# mypy over the packages under the names they are imported by: the folders schemas/, cache/, …
# are the packages readstates.schemas, readstates.cache, …, which mypy cannot see from pyproject.
# The tests are checked with them, as strictly.
set -euo pipefail
python=$(realpath -s "$1/python")
project=$PWD
farm=$(mktemp -d)
trap 'rm -rf "$farm"' EXIT
mkdir "$farm/readstates"
for package in schemas cache streams ops; do ln -s "$PWD/$package" "$farm/readstates/$package"; done
ln -s "$project/tests" "$farm/tests"
cd "$farm"  # from the checkout, streams/cassandra would be found under a second name
MYPYPATH=$farm "$python" -m mypy --config-file "$project/pyproject.toml" \
  --cache-dir "$project/.mypy_cache" --explicit-package-bases \
  -p readstates.schemas -p readstates.cache -p readstates.streams -p readstates.ops \
  -p tests
