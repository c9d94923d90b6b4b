"""Choosing a sandbox from facts, and saying what is missing."""

from __future__ import annotations

import errno

import pytest

from builder.errors import HostUnsupportedError
from builder.sandbox import host
from builder.sandbox.host import Extent
from cache.value import replace

ORDINARY = host.Host(
    uid=1000,
    gid=1000,
    user="ann",
    capabilities=0,
    uid_map=(Extent(0, 0, 4294967295),),
    gid_map=(Extent(0, 0, 4294967295),),
    subuid="bob:100000:65536\nann:165536:65536\n",
    subgid="1000:165536:60000\nann:300000:5536\n",
    newuidmap="/usr/bin/newuidmap",
    newgidmap="/usr/bin/newgidmap",
    max_user_namespaces=1000,
)
ROOT = replace(
    ORDINARY, uid=0, gid=0, user="root", capabilities=0x1FFFFFFFFFF, subuid="", subgid=""
)


def test_an_ordinary_user_gets_own_and_subordinate_ids():
    """Own id to 0, then every range of the user, by name or uid."""
    mapping = host.choose(ORDINARY)
    assert mapping.newuidmap
    assert mapping.uids == (Extent(0, 1000, 1), Extent(1, 165536, 65536))
    assert mapping.gids == (
        Extent(0, 1000, 1),
        Extent(1, 165536, 60000),
        Extent(60001, 300000, 5536),
    )


def test_root_maps_what_it_has_by_itself():
    """With the three capabilities no helper is needed; a pod's 65536 ids are enough."""
    assert host.choose(ROOT).uids == (Extent(0, 0, 4294967295),)
    pod = (Extent(0, 231072, 65536),)
    mapping = host.choose(replace(ROOT, uid_map=pod, gid_map=pod, capabilities=0xA80425FB))
    assert (mapping.uids, mapping.newuidmap) == ((Extent(0, 0, 65536),), "")


def test_root_without_capabilities_is_not_trusted_to_map():
    """Uid 0 alone decides nothing (C1)."""
    with pytest.raises(HostUnsupportedError, match="without CAP_SETUID"):
        host.choose(replace(ROOT, capabilities=0))


def test_root_is_told_which_rights_it_lacks():
    """A container's root needs three capabilities, not subordinate ids of its own."""
    bare = replace(ROOT, capabilities=1 << 6, subuid="", subgid="")
    with pytest.raises(HostUnsupportedError, match="without CAP_SETUID, CAP_SETFCAP") as caught:
        host.choose(bare)
    assert "--cap-add SETUID --cap-add SETFCAP" in caught.value.hint
    assert "capabilities: {add: [SETUID, SETFCAP]}" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"max_user_namespaces": 0}, "switched off", "sysctl -w user.max_user_namespaces"),
        ({"newuidmap": ""}, "newuidmap is not installed", "apt install uidmap"),
        ({"newgidmap": ""}, "newgidmap is not installed", "apt install uidmap"),
        (
            {"subuid": "bob:100000:65536\n"},
            'user "ann" has 0 subordinate ids in /etc/subuid',
            "usermod --add-subuids 165536-231071 --add-subgids 305536-371071 ann",
        ),
        ({"subgid": "ann:x:y\nann:5\n\nann:1:-3"}, "0 subordinate ids in /etc/subgid", "usermod"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy(change, message, hint):
    """Each missing piece has its own message and next step (D27)."""
    with pytest.raises(HostUnsupportedError, match=message) as caught:
        host.choose(replace(ORDINARY, **change))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "max_user_namespaces"),
        (errno.EPERM, "seccomp"),
        (errno.EACCES, "AppArmor"),
        (errno.EINVAL, "CONFIG_USER_NS"),
    ],
)
def test_a_refused_unshare_says_who_refuses(number, hint):
    """The errno tells seccomp, AppArmor and limits apart (D27)."""
    assert hint in host.explain_unshare(OSError(number, "no")).hint


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"filtered": True}, "seccompProfile"),
        ({"clone_forbidden": True}, "kernel.unprivileged_userns_clone=1"),
        ({"apparmor_restricts": True}, "apparmor_restrict_unprivileged_userns=0"),
        ({}, "chroot"),
    ],
)
def test_a_forbidden_namespace_names_the_setting(change, hint):
    """EPERM alone has many causes: the settings of the host tell which it is (D27)."""
    error = host.explain_unshare(OSError(errno.EPERM, "no"), replace(ORDINARY, **change))
    assert hint in error.hint


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"apparmor_restricts": True}, "deploy/apparmor/pybuild"),
        ({"no_new_privileges": True}, "allowPrivilegeEscalation: true"),
        ({"bounding": 0}, "setcap cap_setuid+ep"),
        ({}, "setuid root"),
    ],
)
def test_a_refused_id_map_names_the_setting(change, hint):
    """Ubuntu 24.04 makes the namespace and refuses the map: sysctl and profile are named (D27, F9)."""
    error = host.explain_map("operation not permitted", replace(ORDINARY, **change))
    assert "operation not permitted" in error.message
    assert hint in error.hint
    if "apparmor_restricts" in change:
        assert "kernel.apparmor_restrict_unprivileged_userns=0" in error.hint


@pytest.mark.parametrize(
    ("number", "change", "hint"),
    [
        (errno.EACCES, {}, "appArmorProfile"),
        (errno.EACCES, {"apparmor_restricts": True}, "sysctl"),
        (errno.EPERM, {}, "seccomp"),
    ],
)
def test_a_refused_mount_says_who_refuses(number, change, hint):
    """AppArmor answers EACCES where seccomp answers EPERM."""
    assert hint in host.explain_mount(OSError(number, "no"), replace(ORDINARY, **change)).hint


def test_everybody_may_map_the_own_id():
    """A single id needs no program and no entry."""
    mapping = host.single(ORDINARY)
    assert (mapping.uids, mapping.gids, mapping.newuidmap) == (
        (Extent(0, 1000, 1),),
        (Extent(0, 1000, 1),),
        "",
    )
