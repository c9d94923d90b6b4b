"""Credentials: config.json, helpers, hosts that look alike, login and logout."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest
from support.registry import FakeRegistry
from support.remote_images import Pauses

from builder.errors import RegistryError
from builder.registry.client import RegistryClient
from builder.registry.credentials import Credential, DockerCredentials, canonical_key, server_key
from builder.registry.settings import RegistryConfig

if TYPE_CHECKING:
    from pathlib import Path


def packed(pair: str) -> str:
    """The auth field."""
    return base64.b64encode(pair.encode()).decode()


def write(folder: Path, document: object) -> RegistryConfig:
    """Write config.json and give settings that use it."""
    (folder / "config.json").write_text(json.dumps(document))
    return settings(folder)


def settings(folder: Path) -> RegistryConfig:
    """Settings with a PATH of this folder (and the system's for sh)."""
    path = f"relative:{folder}/bin:/usr/bin:/bin"
    return RegistryConfig(config_dir=str(folder), environ={"PATH": path}, helper_timeout=1.0)


def helper(folder: Path, name: str, script: str) -> None:
    """Write a helper program."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    "key",
    ["docker.io", "index.docker.io", "registry-1.docker.io"],
)
@pytest.mark.parametrize("scheme", ["", "https://", "http://"])
@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v2/"])
def test_all_spellings_of_docker_hub_find_its_entry(tmp_path, key, scheme, path):
    """C30: the entry may be written in any of the ways seen in the wild."""
    config = write(tmp_path, {"auths": {scheme + key + path: {"auth": packed("ann:pw")}}})
    assert DockerCredentials(config).lookup("docker.io").credential == Credential("ann", "pw")
    assert server_key("docker.io") == "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    "key",
    [
        "evil-r.example",
        "r.example.evil.tld",
        "r.example:5000",
        "x@r.example",
        "r.example/team",
        "r\u0435.example",
        "xr.example",
        "https://r.example@evil",
        "*.example",
    ],
)
def test_hosts_that_look_alike_get_nothing(tmp_path, key):
    """F15: only the same host and port is the same registry."""
    config = write(tmp_path, {"auths": {key: {"auth": packed("ann:pw")}}})
    assert DockerCredentials(config).lookup("r.example").credential is None


@pytest.mark.parametrize(
    "key", ["r.example", "R.Example.", "https://r.example/v1/", "r.example:443"]
)
def test_one_canonical_form_finds_the_entry(tmp_path, key):
    """F15: case, trailing dot, scheme and default port do not make another host."""
    config = write(tmp_path, {"auths": {key: {"auth": packed("ann:p:w")}}})
    assert DockerCredentials(config).lookup("r.example").credential == Credential("ann", "p:w")


def test_ipv6_and_zones():
    """F15: an IPv6 registry has one form; a zone is no host."""
    assert canonical_key("[0:0:0:0:0:0:0:1]:5000") == "[::1]:5000"
    assert canonical_key("[fe80::1%25eth0]") is None


@pytest.mark.parametrize(
    "entry",
    [
        {"auth": "!!!"},
        {"auth": packed("nocolon")},
        {"auth": 7},
        {},
        [],
    ],
)
def test_malformed_entries_give_no_credential_and_no_secret(tmp_path, entry):
    """F16: a malformed entry is a miss whose reason names the entry only."""
    found = DockerCredentials(write(tmp_path, {"auths": {"r.example": entry}})).lookup("r.example")
    assert found.credential is None
    assert "nocolon" not in found.where


def test_strange_config_files_give_no_credential(tmp_path):
    """F16: FIFOs, directories, huge and malformed files are named, not waited for."""
    config = settings(tmp_path)
    path = tmp_path / "config.json"
    assert DockerCredentials(config).lookup("r.example").credential is None
    os.mkfifo(path)
    start = time.monotonic()
    assert "regular file" in DockerCredentials(config).lookup("r.example").where
    assert time.monotonic() - start < 1
    path.unlink()
    for text in ("{", "[]", '{"auths": 7}', " " * 2_000_000, '{"auths":{"a":{},"a":{}}}'):
        path.write_text(text)
        assert DockerCredentials(config).lookup("r.example").credential is None
    path.unlink()
    real = tmp_path / "real.json"
    real.write_text(json.dumps({"auths": {"r.example": {"auth": packed("ann:pw")}}}))
    path.symlink_to(real)
    assert DockerCredentials(config).lookup("r.example").credential is not None


def test_a_helper_is_asked_for_its_host_only(tmp_path):
    """A credHelpers entry serves its registry; a user `<token>` gives an identity token."""
    helper(tmp_path, "one", 'cat >"$0.in"; echo \'{"Username":"u","Secret":"s"}\'')
    helper(tmp_path, "tok", 'echo \'{"Username":"<token>","Secret":"t"}\'')
    config = write(tmp_path, {"credHelpers": {"r.example": "one", "t.example": "tok"}})
    source = DockerCredentials(config)
    assert source.lookup("r.example").credential == Credential("u", "s")
    assert (tmp_path / "bin/docker-credential-one.in").read_text() == "r.example"
    assert source.lookup("t.example").credential == Credential(identity_token="t")
    assert source.lookup("x.example").credential is None


def test_docker_hub_has_its_key_in_stores(tmp_path):
    """A store is asked for Docker Hub by the key docker login uses."""
    helper(tmp_path, "st", 'cat >"$0.in"; echo \'{"Username":"u","Secret":"s"}\'')
    config = write(tmp_path, {"credsStore": "st"})
    assert DockerCredentials(config).lookup("docker.io").credential is not None
    asked = (tmp_path / "bin/docker-credential-st.in").read_text()
    assert asked == "https://index.docker.io/v1/"


@pytest.mark.parametrize("name", ["../../x", "/bin/sh", "a;b", "a b", "", "x" * 65, "é"])
def test_helper_names_lead_nowhere(tmp_path, name):
    """F16: only plain names are run."""
    config = write(tmp_path, {"credHelpers": {"r.example": name}})
    assert DockerCredentials(config).lookup("r.example").credential is None


@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",
        "sleep 60 & exit 0",
        "cat /dev/zero",
        "echo junk hunter2",
        "echo hunter2 >&2; exit 1",
        "echo '{\"Username\": 1}'",
        "kill -9 $$",
    ],
)
def test_a_failing_helper_is_a_miss_that_tells_no_secret(tmp_path, capfd, script):
    """F16: hanging, flooding and failing helpers end soon; no other credential is used."""
    helper(tmp_path, "bad", script)
    document = {
        "credHelpers": {"r.example": "bad"},
        "auths": {"r.example": {"auth": packed("other:pw")}},
    }
    start = time.monotonic()
    found = DockerCredentials(write(tmp_path, document)).lookup("r.example")
    assert time.monotonic() - start < 4
    assert found.credential is None
    assert "docker-credential-bad" in found.where
    assert "hunter2" not in found.where + "".join(capfd.readouterr())


def test_a_missing_helper_is_named(tmp_path):
    """A helper that is not in PATH is named in the reason."""
    found = DockerCredentials(write(tmp_path, {"credsStore": "desktop"})).lookup("r.example")
    assert found.credential is None
    assert "docker-credential-desktop is not in PATH" in found.where


def test_not_found_in_a_store_leads_to_the_file(tmp_path):
    """A store without the entry leaves the entry of the same host in auths."""
    helper(tmp_path, "st", "echo credentials not found in native keychain; exit 1")
    document = {"credsStore": "st", "auths": {"r.example": {"auth": packed("ann:pw")}}}
    found = DockerCredentials(write(tmp_path, document)).lookup("r.example")
    assert found.credential == Credential("ann", "pw")


def client(folder: Path) -> RegistryClient:
    """A client over a folder's config.json."""
    return RegistryClient(settings(folder), retry=Pauses().policy())


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_login_checks_and_keeps(tmp_path, auth):
    """A right password is kept in a file of the owner; other fields stay; logout removes it."""
    folder = tmp_path / "docker"
    with FakeRegistry(auth=auth) as registry:
        with client(folder) as cli:
            cli.login(registry.host, "ann", "s3cret")
            path = folder / "config.json"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            document = json.loads(path.read_text())
            assert document == {"auths": {registry.host: {"auth": packed("ann:s3cret")}}}
            path.write_text(json.dumps({**document, "psFormat": "x"}))
            cli.login(registry.host, "ann", "s3cret")
            assert json.loads(path.read_text())["psFormat"] == "x"
            assert cli.logout(registry.host)
            assert json.loads(path.read_text()) == {"auths": {}, "psFormat": "x"}
            assert not cli.logout(registry.host)
        assert sorted(os.listdir(folder)) == ["config.json"]


def test_a_wrong_password_is_not_kept(tmp_path):
    """Nothing is written when the registry refuses."""
    with FakeRegistry(auth="bearer") as registry, client(tmp_path) as cli:
        with pytest.raises(RegistryError) as caught:
            cli.login(registry.host, "ann", "wrong-pw")
        assert "wrong-pw" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_login_keeps_a_link(tmp_path):
    """A linked config.json stays a link; its target is replaced."""
    (tmp_path / "dots").mkdir()
    (tmp_path / "dots/c.json").write_text("{}")
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").symlink_to("../dots/c.json")
    with FakeRegistry(auth="basic") as registry, client(tmp_path / "docker") as cli:
        cli.login(registry.host, "ann", "s3cret")
        assert registry.host in (tmp_path / "dots/c.json").read_text()
    assert (tmp_path / "docker/config.json").is_symlink()


def test_login_hands_over_to_a_store(tmp_path):
    """With a credsStore the secret goes to the helper and not into the file."""
    helper(tmp_path, "st", 'echo "$1" >>"$0.log"; cat >>"$0.log"')
    write(tmp_path, {"credsStore": "st"})
    with FakeRegistry(auth="basic") as registry, client(tmp_path) as cli:
        cli.login(registry.host, "ann", "s3cret")
        cli.logout(registry.host)
    assert "s3cret" not in (tmp_path / "config.json").read_text()
    log = (tmp_path / "bin/docker-credential-st.log").read_text()
    assert log.startswith("store\n{")
    assert "erase" in log


def test_settings_come_from_the_environment():
    """The usual variables give the settings; HTTP_PROXY does not count under CGI."""
    environ = {
        "HOME": "/home/ann",
        "HTTPS_PROXY": "http://p:3128",
        "no_proxy": "a, b",
        "SSL_CERT_FILE": "/ca",
        "HTTP_PROXY": "http://evil",
        "REQUEST_METHOD": "GET",
    }
    config = RegistryConfig.from_environ(environ, attempts=2)
    assert config.config_dir == "/home/ann/.docker"
    assert config.proxies == {"https": "http://p:3128"}
    assert config.no_proxy == ("a", "b")
    assert (config.ca_file, config.attempts) == ("/ca", 2)
    assert "p:3128" not in repr(config)
