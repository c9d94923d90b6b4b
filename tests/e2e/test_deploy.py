"""deploy/ as it is used: pybuild's own image, and every manifest and job with what it asks for.

The places are those the files describe, read from them; each builds and pushes one application,
and the layers are the same wherever that was.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import pytest
from support import manifests, peers
from support.git_server import Repo, git_server
from support.layout_files import Layout
from support.own_image import own_image
from support.pods import Volume
from support.pybuild_cli import REPOSITORY
from support.registry_process import registry as serve_registry
from support.step_layers import members

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start containers like these"),
    pytest.mark.xdist_group("deploy"),
    pytest.mark.timeout(900),
]

DEPLOY = REPOSITORY / "deploy"
USER, PASSWORD = "ci", "a-password-of-the-registry"
APPLICATION = """\
FROM {base}
COPY . /app
RUN mkdir /d && echo 1 > /d/f && chown 33:44 /d/f && chmod 2750 /d && ln /d/f /d/g && rm /etc/group
RUN test ! -e /var/run/secrets && id > /root/id
USER 65534
RUN id -u > /tmp/x
"""
# manifest: the tier of its steps
MANIFESTS = {
    "restricted.yaml": "emulate",
    "baseline.yaml": "userns",
    "user-namespace.yaml": "userns",
    "nightly.yaml": "emulate",
}
# what doctor says to anybody who starts the image, here and where containers are filtered
ACCOUNTS = {
    0: ("userns", "chroot"),
    1000: ("userns", "emulate"),
    1_000_660_000: ("single", "emulate"),
}


@pytest.fixture(scope="module")
def own(workspace, root_pybuild, debian):
    """Pybuild's own image, unpacked."""
    return own_image(root_pybuild, debian, workspace / "own")


@pytest.fixture(scope="module")
def private(workspace):
    """A registry that asks for a password."""
    with serve_registry(workspace / "private", users={USER: PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def repository(workspace, busybox):
    """The application in git, served."""
    with git_server(workspace / "served") as server:
        repo = Repo(server, "team/app")
        repo.commit({"Dockerfile": APPLICATION.format(base=busybox), "file": "of the project\n"})
        yield repo


@pytest.fixture
def volumes():
    """A directory for volumes, on a file system of the machine's own."""
    place = Path("/var/tmp", f"pybuild-deploy-{os.getpid()}")
    place.mkdir(mode=0o755)
    yield place
    peers.run("rm", "-rf", "--one-file-system", place)


@pytest.fixture(scope="module")
def expected(root_pybuild, repository, workspace):
    """The layers of the application, built here."""
    output = workspace / "deploy-expected"
    root_pybuild.good("-o", f"type=oci,tar=false,dest={output}", f"{repository.url}#main")
    return members(output)


def pushed(name, directory, *flags):
    """The layers of an image in a registry."""
    peers.copy(f"docker://{name}", f"oci:{directory / 'pulled'}:x", *flags)
    return members(Layout(directory / "pulled").path)


def credentials(host):
    """A file of docker's with a registry's password."""
    text = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return json.dumps({"auths": {host: {"auth": text}}})


def checkout(repository, volumes):
    """A clone that anybody may write to, as runners make them."""
    place = volumes / "project"
    shutil.copytree(repository.path, place)
    for path in (place, *place.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return place


def tier(started):
    """What doctor says."""
    return json.loads(started.good("pybuild", "doctor", "--json"))["tier"]


def test_own_image_has_what_is_compiled(own):
    """Libraries stand beside their Python as it is installed, of the image's own compiler (C19)."""
    installed = own.root / "opt/pybuild/venv/lib"
    sources = {path.with_suffix(".so") for path in installed.rglob("builder/**/*.c")}
    assert sources
    assert [path for path in sources if not path.exists()] == []
    assert not (own.root / "usr/bin/gcc").exists()


def test_every_manifest_is_tried():
    """Issue 4: nothing in deploy/ is left out here."""
    assert set(os.listdir(DEPLOY / "kubernetes")) == set(MANIFESTS)
    assert set(os.listdir(DEPLOY / "ci")) == {"github-workflow.yml", "gitlab-ci.yml"}


@pytest.mark.parametrize("name", ["restricted.yaml", "nightly.yaml"])
def test_restricted_pods_are_admitted(name):
    """Issue 4: the restricted standard has nothing against them."""
    spec = manifests.pod_spec(DEPLOY / "kubernetes" / name)
    assert manifests.violations(spec) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_build(name, own, repository, registry, private, volumes, expected):
    """Issue 4, F1: rights, volumes, environment and command line are the manifest's."""
    spec = manifests.pod_spec(DEPLOY / "kubernetes" / name)
    has_password = any("secret" in volume for volume in spec["volumes"])
    target = private if has_password else registry
    given = {"registry.example": target.host, "https://git.example": repository.server.url}
    secrets = {"registry-credentials": {".dockerconfigjson": credentials(target.host)}}
    started = manifests.kubernetes(spec, own, volumes, given, secrets)
    started.good()
    (image,) = (word for word in started.argv if word.startswith(target.host))
    flags = ("--src-creds", f"{USER}:{PASSWORD}") if has_password else ()
    assert pushed(image, volumes, *flags) == expected
    assert tier(started) == MANIFESTS[name]


def test_the_gitlab_job_builds(own, repository, private, volumes, expected):
    """Issue 4: in docker's default container, as the image's user, in a project of root's."""
    project = checkout(repository, volumes)
    variables = {
        "CI_REGISTRY": private.host,
        "CI_REGISTRY_USER": USER,
        "CI_REGISTRY_PASSWORD": PASSWORD,
        "CI_REGISTRY_IMAGE": private.name("team/gitlab"),
        "CI_COMMIT_SHORT_SHA": "0a1b2c3d",
    }
    started = manifests.gitlab(DEPLOY / "ci/gitlab-ci.yml", own, project, variables)
    started.good()
    started.good()  # with the state that GitLab's cache brings back
    image = private.name("team/gitlab:0a1b2c3d")
    assert comparable(pushed(image, volumes, "--src-creds", f"{USER}:{PASSWORD}")) == comparable(
        expected
    )


def test_the_github_job_builds(own, repository, private, volumes, expected):
    """Issue 4: in docker's default container, as root."""
    given = {
        "registry.example": private.host,
        "${{ secrets.REGISTRY_PASSWORD }}": PASSWORD,
        "${{ github.sha }}": "0a1b2c3d",
    }
    project = checkout(repository, volumes)
    started = manifests.github(DEPLOY / "ci/github-workflow.yml", own, project, given)
    started.good()
    image = private.name("team/app:0a1b2c3d")
    assert comparable(pushed(image, volumes, "--src-creds", f"{USER}:{PASSWORD}")) == comparable(
        expected
    )


def comparable(layers):
    """Layers without what a checkout has and a git context has not, modes of the context's files."""
    return [
        {
            name: entry[2:] if name.startswith("app/") else entry
            for name, entry in layer.items()
            if not name.startswith("app/.git")
        }
        for layer in layers
    ]


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("uid", ACCOUNTS)
def test_anybody_may_start_the_image(uid, filtered, own, repository, volumes, expected):
    """Issue 4: as root, as its user, and as a user that has no account."""
    place = volumes / "state"
    place.mkdir()
    place.chmod(0o777)
    pod = own.pod(uid, filtered=filtered, volumes=(Volume(place, "/state"),))
    started = manifests.Started(pod, tuple(own.config["Entrypoint"]), own.config["WorkingDir"])
    output = "type=oci,tar=false,dest=/state/out"
    started.good("pybuild", "-o", output, f"{repository.url}#main")
    assert members(place / "out") == expected
    assert tier(started) == ACCOUNTS[uid][filtered]


def test_newuidmap_has_its_right_from_the_file(own):
    """F9: file capabilities came through build, layer and unpacking; no set-user-id bit is left."""
    for name, right in (("newuidmap", "cap_setuid=ep"), ("newgidmap", "cap_setgid=ep")):
        path = own.root / "usr/bin" / name
        assert right in peers.run("getcap", path).stdout
        assert path.stat().st_mode & 0o7000 == 0
