"""config.json of a bundle: complete, and no weaker than our own sandbox (issue 4)."""

from __future__ import annotations

import json

import pytest

from builder.sandbox import process, seccomp
from builder.sandbox.credentials import Credentials
from builder.sandbox.host import Extent
from builder.sandbox.oci_config import CAPABILITIES, Confinement, HostBind, config
from builder.sandbox.seccomp_profile import profile
from builder.sandbox.seccomp_table import ALLOWED

OWNER = Credentials(1000, 1001, (1001, 5), "/home")
PLAIN = Confinement("host", "x86_64", 1 << 20)


def made(kept=PLAIN):
    return config("/r", ("a", "b c"), (("K", "v=w"),), "/w", OWNER, kept)


def test_the_process_is_the_steps():
    """Issue 4: argv, variables, directory, ids and umask as given."""
    document = made()["process"]
    assert document["args"] == ["a", "b c"]
    assert document["env"] == ["K=v=w"]
    assert document["user"] == {
        "uid": 1000,
        "gid": 1001,
        "umask": 0o22,
        "additionalGids": [1001, 5],
    }
    assert (document["cwd"], document["terminal"], document["noNewPrivileges"]) == (
        "/w",
        False,
        False,
    )


def test_capabilities_are_those_of_our_sandbox():
    """D11: the same fourteen, none of them inheritable."""
    numbers = {
        "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
        "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_CHROOT": 18, "MKNOD": 27,
        "AUDIT_WRITE": 29, "SETFCAP": 31,
    }  # fmt: skip
    mask = sum(1 << numbers[name.removeprefix("CAP_")] for name in CAPABILITIES)
    assert mask == process.CAPABILITIES
    sets = made()["process"]["capabilities"]
    assert set(sets) == {"bounding", "effective", "permitted"}
    assert sets["bounding"] == list(CAPABILITIES)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_what_ours_allows(machine):
    """D11: by name what our filter has by number; clone3 does not exist, namespaces are refused."""
    document = profile(machine)
    allowed = document["syscalls"][0]["names"]
    column = {"x86_64": 1, "aarch64": 2}[machine]
    numbers = {row.split(":")[0]: row.split(":")[column] for row in ALLOWED.split()}
    assert sorted(int(numbers[name]) for name in allowed) == list(seccomp.allowed_numbers(machine))
    by_name = {rule["names"][0]: rule for rule in document["syscalls"][1:]}
    assert by_name["clone3"]["errnoRet"] == 38
    assert by_name["clone"]["args"][0]["op"] == "SCMP_CMP_MASKED_EQ"
    assert document["defaultErrnoRet"] == 1


def test_insecure_leaves_out_what_confines():
    """R21: every capability, no filter, nothing masked."""
    document = made(Confinement("h", "x86_64", 1, insecure=True))
    assert not {"seccomp", "maskedPaths", "readonlyPaths"} & set(document["linux"])
    assert "CAP_SYS_ADMIN" in document["process"]["capabilities"]["ambient"]


def test_mounts_and_limits():
    """R23: sizes and limits as asked; a bind says all that holds of it."""
    binds = (
        HostBind("/s", "/dev/t", readonly=True, noexec=True),
        HostBind("/dev/x", "/dev/x", plain=False),
    )
    ulimits = (("nofile", 10, -1),)
    document = made(Confinement("h", "x86_64", 4096, binds=binds, ulimits=ulimits))
    assert document["mounts"][-2]["options"] == ["rbind", "nosuid", "nodev", "noexec", "ro"]
    assert document["mounts"][-1]["options"] == ["rbind"]
    assert any("size=4096" in mount["options"] for mount in document["mounts"])
    assert document["process"]["rlimits"] == [
        {"type": "RLIMIT_CORE", "soft": 1, "hard": 1},
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1},
    ]


def test_a_user_namespace_is_asked_for_with_its_map():
    """Issue 4: a bundle that an ordinary user starts."""
    ids = (Extent(0, 1000, 1), Extent(1, 100_000, 65_536))
    linux = made(Confinement("h", "x86_64", 1, uids=ids, gids=ids))["linux"]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["uidMappings"][1] == {"containerID": 1, "hostID": 100_000, "size": 65_536}
    json.dumps(linux)
