"""Base images for the tests, made on this machine: busybox, and Debian by debootstrap.

The mirror, its key, the package indexes of pip and npm and the certificates are this machine's,
read when the tests run. What debootstrap gave is kept between runs in the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.peers import run

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_LIST_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)")
_KEPT_SETTING = re.compile(r"^Acquire::(?:Check-|https?::|Retries|ForceIPv)", re.IGNORECASE)

BUSYBOX = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY passwd group /etc/
RUN mkdir -p /root /var /home/bob && mkdir -m 1777 /tmp && chown bob:bob /home/bob
ENV PATH=/bin
CMD ["/bin/sh"]
"""
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1000:Bob:/home/bob:/bin/sh
nobody:x:65534:65534::/:/bin/false
"""
GROUP = "root:x:0:\nbob:x:1000:\nextra:x:20:bob\nnogroup:x:65534:\n"

DEBIAN = """\
FROM scratch
ADD base.tar /
RUN rm -f /etc/apt/sources.list
COPY sources/ /etc/apt/sources.list.d/
COPY settings /etc/apt/apt.conf.d/90tests
COPY unsafe /etc/dpkg/dpkg.cfg.d/tests
COPY certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN apt-get update -q
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \\
    NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
CMD ["/bin/bash"]
"""
INSTALL = """\
FROM {base}
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends {packages}
"""
NPM = """\
ADD npm.tgz /opt/
RUN mv /opt/package /opt/npm && ln -s /opt/npm/bin/npm-cli.js /usr/bin/npm && npm --version
"""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where this machine's Debian comes from."""

    uri: str
    suite: str
    keyring: str
    files: tuple[Path, ...]  # the source lists that name it


def busybox_context(directory):
    """A build context for the busybox base; gives the directory."""
    directory.mkdir()
    program = shutil.which("busybox")
    if program is None:
        raise RuntimeError("busybox is missing: apt-get install busybox-static")
    shutil.copy(program, directory / "busybox")
    for name, text in (("Dockerfile", BUSYBOX), ("passwd", PASSWD), ("group", GROUP)):
        (directory / name).write_text(text)
    return directory


def mirror():
    """The Debian mirror this machine installs from."""
    suite = _codename()
    found = None
    files = []
    folder = Path("/etc/apt")
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.suffix not in {".list", ".sources"} or not path.is_file():
            continue
        entries = _stanzas(path) if path.suffix == ".sources" else _lines(path)
        ours = [entry for entry in entries if suite in entry[1]]
        if ours:
            files.append(path)
            found = found or ours[0]
    if found is None:
        msg = f"no mirror for {suite} in /etc/apt/sources.list or /etc/apt/sources.list.d"
        raise RuntimeError(msg)
    return Mirror(found[0], suite, found[2] or KEYRING, tuple(files))


def _codename():
    text = Path("/etc/os-release").read_text()
    return re.search(r'^VERSION_CODENAME="?([\w-]+)"?$', text, re.MULTILINE)[1]


def _stanzas(path):
    for stanza in re.split(r"\n\s*\n", path.read_text()):
        fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        if "URIs" in fields and fields.get("Enabled", "yes") != "no":
            yield fields["URIs"].split()[0], fields["Suites"].split(), fields.get("Signed-By", "")


def _lines(path):
    for line in path.read_text().splitlines():
        match = _LIST_LINE.match(line)
        if match:
            keyring = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield match["uri"], [match["suite"]], keyring[1] if keyring else ""


def debian_tar():
    """The path of a tar of a minimal Debian, made by debootstrap unless the cache has it."""
    source = mirror()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "pybuild-tests"
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{source.suite}-minbase.tar"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _bootstrap(source, cache / f"{source.suite}.tree", path)
    return path


def _bootstrap(source, tree, path):
    if os.geteuid() != 0:
        # debootstrap makes device nodes and chroots; this one does the same in a user namespace
        flags = ["--mode=unshare", "--variant=minbase", f"--keyring={source.keyring}"]
        flags += ["--include=ca-certificates", "--format=tar", "--skip=output/dev"]
        partial = path.with_suffix(".partial")
        run("mmdebstrap", *flags, source.suite, partial, source.uri, timeout=1200)
        partial.rename(path)
        return
    _remove(tree)
    flags = ["--variant=minbase", f"--keyring={source.keyring}", "--include=ca-certificates"]
    run("debootstrap", *flags, source.suite, tree, source.uri, timeout=1200)
    left_out = ["./proc/*", "./sys/*", "./dev/*", "./var/lib/apt/lists/*", "./var/cache/apt/*"]
    excluded = [f"--exclude={pattern}" for pattern in left_out]
    partial = path.with_suffix(".partial")
    run("tar", "-C", tree, "--numeric-owner", *excluded, "-cf", partial, ".")
    partial.rename(path)
    _remove(tree)


def _remove(tree):
    run("rm", "-rf", "--one-file-system", tree)


def debian_context(directory):
    """A build context for the Debian base; gives the directory."""
    source = mirror()
    (directory / "sources").mkdir(parents=True)
    for path in source.files:
        shutil.copy(path, directory / "sources" / path.name)
    shutil.copy(debian_tar(), directory / "base.tar")
    shutil.copy(CERTIFICATES, directory / "certificates.crt")
    (directory / "settings").write_text(_apt_settings())
    (directory / "unsafe").write_text("force-unsafe-io\n")
    (directory / "Dockerfile").write_text(DEBIAN)
    return directory


def _apt_settings():
    """How this machine's apt reaches its mirror."""
    lines = run("apt-config", "dump").stdout.splitlines()
    kept = [line for line in lines if _KEPT_SETTING.match(line)]
    ours = ['Acquire::GzipIndexes "true";', 'Acquire::Languages "none";']
    return "\n".join([*ours, *kept, ""])


def install_context(directory, base, *packages):
    """A build context that installs Debian packages on a base; gives the directory."""
    directory.mkdir()
    dockerfile = INSTALL.format(base=base, packages=" ".join(packages))
    (directory / "Dockerfile").write_text(dockerfile)
    return directory


def node_context(directory, base):
    """A build context for Debian's node.

    Debian's npm is some four hundred packages; the same npm in one archive, fetched by this
    machine's npm, takes their place where there is one.
    """
    directory.mkdir()
    if shutil.which("npm") is None:
        text = INSTALL.format(base=base, packages="nodejs npm")
    else:
        run("npm", "pack", "--silent", "npm@9", cwd=directory)
        next(directory.glob("npm-*.tgz")).rename(directory / "npm.tgz")
        text = INSTALL.format(base=base, packages="nodejs") + NPM
    (directory / "Dockerfile").write_text(text)
    return directory


def index_arguments():
    """--build-arg words that tell pip and npm in RUN this machine's package indexes."""
    found = {
        "PIP_INDEX_URL": _setting("pip", "config", "get", "global.index-url"),
        "PIP_TRUSTED_HOST": _setting("pip", "config", "get", "global.trusted-host"),
        "NPM_CONFIG_REGISTRY": _setting("npm", "config", "get", "registry"),
    }
    chosen = {name: os.environ.get(name) or text for name, text in found.items()}
    return [word for name, text in chosen.items() for word in ("--build-arg", f"{name}={text}")]


def pip_settings(certificates):
    """A pip.conf with this machine's package index and a file of certificates."""
    lines = ["[global]", f"cert = {certificates}"]
    for name in ("index-url", "trusted-host"):
        text = os.environ.get(f"PIP_{name.upper().replace('-', '_')}") or _setting(
            "pip", "config", "get", f"global.{name}"
        )
        lines += [f"{name} = {text}"] if text else []
    return "\n".join([*lines, ""])


def _setting(*command):
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
