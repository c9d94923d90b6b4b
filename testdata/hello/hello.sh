#!/bin/sh
# Builds the hello image from this machine's own static busybox and runs it: no registry.
set -eu
cd "$(dirname "$0")"
busybox=$(command -v busybox) || { echo "busybox is missing: apt-get install busybox-static" >&2; exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp Dockerfile name.txt "$work/"
cp "$busybox" "$work/busybox"
pybuild=$(cd ../.. && pwd)/.venv/bin/pybuild
echo "\$ pybuild build -t hello $(pwd)"
"$pybuild" build -t hello "$work"
echo
echo "\$ pybuild run hello"
"$pybuild" run hello
