#!/bin/sh
# The whole check: formatting, lint, types, import contracts, sizes, then every test.
set -eu
cd "$(dirname "$0")/.."
make -s lint
exec .venv/bin/pytest -q -n 2 --dist loadgroup "$@"
