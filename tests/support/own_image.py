"""pybuild's own image, built by pybuild from deploy/Dockerfile on this machine's Debian."""

from __future__ import annotations

from support import bases, peers
from support.layout_files import Layout
from support.manifests import Image
from support.pybuild_cli import REPOSITORY


def own_image(pybuild, debian, directory):
    """Build it on a Debian image and unpack it with umoci in a directory."""
    directory.mkdir()
    base = directory / "base"
    base.mkdir()
    # Variables of the base would come before pip's configuration.
    (base / "Dockerfile").write_text(f"FROM {debian}\nENV PIP_CERT= NODE_EXTRA_CA_CERTS=\n")
    pybuild.good("-t", "own-base", base)
    settings = directory / "pip.conf"
    settings.write_text(bases.pip_settings("/run/secrets/ca"))
    secrets = [f"id=pip.conf,src={settings}", f"id=ca,src={bases.CERTIFICATES}"]
    pybuild.good(
        *("-f", REPOSITORY / "deploy/Dockerfile", "--build-arg", "BASE=own-base"),
        *(word for secret in secrets for word in ("--secret", secret)),
        *("-o", f"type=oci,tar=false,dest={directory / 'layout'},name=own", REPOSITORY),
        timeout=900,
    )
    layout = Layout(directory / "layout").check()
    peers.copy(f"oci:{layout.path}", f"oci:{directory / 'named'}:own")
    root = peers.unpack(directory / "named", "own", directory / "bundle")
    return Image(root, layout.config["config"])
