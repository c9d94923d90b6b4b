"""Run a command as hosts that allow less would: other ids, refused system calls, fewer rights.

    python confined.py SETTINGS_JSON COMMAND...

Settings: `uid` (no account needed), `no_new_privileges`, `filter` ("default" is what containers
get, "namespaces" refuses new user namespaces with EPERM, "apparmor" with EACCES), `capabilities`
(a bounding set for root). Must be started as root; nothing else is changed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import sys
from pathlib import Path

_LOAD, _EQUAL, _ANY, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NEWUSER = 0x10000000
_UNSHARE = {"x86_64": 272, "aarch64": 97}
_LAST_CAPABILITY = 40

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from builder.sandbox import seccomp, syscalls  # noqa: E402 - the repository's own


def _refuse_user_namespaces(number):
    """A filter: unshare(CLONE_NEWUSER) fails with an errno."""
    rows = [
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 3, _UNSHARE[os.uname().machine]),
        (_LOAD, 0, 0, 16),
        (_ANY, 0, 1, _NEWUSER),
        (_RETURN, 0, 0, _ERRNO | number),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


def _filter(name):
    if name == "default":
        return seccomp.program(syscalls.MACHINE)
    return _refuse_user_namespaces(errno.EACCES if name == "apparmor" else errno.EPERM)


def main():
    """Become what the settings say and execute the command."""
    settings, command = json.loads(sys.argv[1]), sys.argv[2:]
    code = _filter(settings["filter"]) if settings.get("filter") else b""
    if code:
        syscalls.install_filter((ctypes.c_char * len(code)).from_buffer_copy(code))
    if "capabilities" in settings:
        for capability in range(_LAST_CAPABILITY + 1):
            if not settings["capabilities"] >> capability & 1:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        syscalls.set_capabilities(settings["capabilities"])
    uid = settings.get("uid", 0)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if settings.get("no_new_privileges"):
        syscalls.prctl(38, 1)
    os.execv(command[0], command)  # noqa: S606 - a test's own command


if __name__ == "__main__":
    main()
