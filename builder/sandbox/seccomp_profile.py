"""The seccomp filter of a RUN process as an OCI runtime reads it: the same list, by name.

Pure. What is unknown to the runtime's own table it answers with ENOSYS itself.
"""

from __future__ import annotations

import errno
from typing import Any

from builder.sandbox.seccomp_table import ALLOWED

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_COLUMNS = {"x86_64": 1, "aarch64": 2}
_NAMESPACE_FLAGS = 0x7E020000  # every CLONE_NEW* that clone(2) takes
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_ALG, _AF_VSOCK = 38, 40


def _rule(names: list[str], *conditions: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    return rule | ({"args": list(conditions)} if conditions else {})


def _when(op: str, value: int, more: int = 0) -> dict[str, Any]:
    """A condition on the first argument."""
    return {"index": 0, "value": value, "valueTwo": more, "op": f"SCMP_CMP_{op}"}


def profile(machine: str) -> dict[str, Any]:
    """The filter for a machine name, as linux.seccomp of a bundle."""
    column = _COLUMNS[machine]
    rows = (item.split(":") for item in ALLOWED.split())
    names = sorted(row[0] for row in rows if row[column])
    refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            _rule(names),
            _rule(["clone"], _when("MASKED_EQ", _NAMESPACE_FLAGS)),
            {"names": ["clone3"], **refused},
            *(_rule(["personality"], _when("EQ", value)) for value in _PERSONALITIES),
            _rule(["socket"], _when("LT", _AF_ALG)),
            _rule(["socket"], _when("EQ", _AF_ALG + 1)),
            _rule(["socket"], _when("GT", _AF_VSOCK)),
        ],
    }
