#!/bin/sh
# Makes .venv with the locked packages; installs Debian packages as root, names them otherwise.
#   sh tests/setup.sh hello|test PYTHON
set -eu
cd "$(dirname "$0")/.."
what=$1
python=$2

hello="python3-venv uidmap busybox-static"
peers="$hello skopeo umoci runc crun podman buildah docker-registry apache2-utils debootstrap mmdebstrap
 libcap2-bin attr strace xz-utils zstd gcc musl-tools git openssh-client openssl passt
 slirp4netns qemu-user-static"
case $what in
  hello) wanted=$hello lock=requirements.txt mark=.venv/installed ;;
  test) wanted=$peers lock=requirements-dev.txt mark=.venv/installed-dev ;;
esac

missing=
for package in $wanted; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "missing Debian packages:$missing" >&2
    echo "install them as root: apt-get install$missing" >&2
    exit 3
  fi
  echo "installing Debian packages:$missing"
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

command -v "$python" >/dev/null || python=python3
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing locked Python packages"
.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r "$lock"
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps -e .
# isolated: neither PYTHONPATH nor the user's site may put code in front of ours; -S: a cached build
# is over before it would need a directory of packages (builder/start.py)
.venv/bin/python -I - .venv/bin/pybuild "$PWD" <<'EOF'
import re, sys
with open(sys.argv[1], "r+") as file:
    first = file.readline().rstrip()
    if re.fullmatch("#!.*/python[0-9.]*", first):  # too long a path has another form: left as it is
        file.seek(0)
        file.truncate()
        file.write(f"{first} -IS\nimport sys\n\nsys.path.append({sys.argv[2]!r})\n")
        file.write("from builder.start import main\n\nsys.exit(main())\n")
EOF
.venv/bin/python -m compileall -q builder frontend cache
touch .venv/installed
touch "$mark"
