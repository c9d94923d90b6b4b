"""Who each process of a step believes to be: virtual ids, groups and umask.

The kernel carries them from process to process: an identity is a number that is kept in the
soft limit of POSIX message queues, which fork and exec hand down and one call reads back.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, NamedTuple

from builder.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.sandbox.credentials import Credentials

LIMIT = resource.RLIMIT_MSGQUEUE
_MOST = 100_000  # identities of one step; each is a change of ids, groups or umask
NOBODY = 65534


class Identity(NamedTuple):
    """Real, effective and saved ids, groups, umask, and the guest path of a chroot."""

    ruid: int = 0
    euid: int = 0
    suid: int = 0
    rgid: int = 0
    egid: int = 0
    sgid: int = 0
    groups: tuple[int, ...] = ()
    umask: int = 0o022
    root: bytes = b""
    keeps: bool = False  # capabilities stay when root's ids go (PR_SET_KEEPCAPS)
    capable: bool = False  # they did: ids and groups can still be changed, until exec

    @classmethod
    def of(cls, owner: Credentials) -> Identity:
        """The identity of who a step runs as."""
        return cls(*(owner.uid,) * 3, *(owner.gid,) * 3, tuple(sorted(owner.groups)))


class Identities:
    """Identities by process."""

    def __init__(self, first: Identity, *, followed: bool = False) -> None:
        """Give every process the first identity until it changes.

        `followed` says that forget() is called for every task that begins or ends.
        """
        self._followed = followed
        self._seen: dict[int, Identity] = {}  # by task, while nobody changes
        self._known = [first]
        self._numbers = {first: 0}
        self.restricted = first.euid != 0  # whether anybody ever was not root
        soft, hard = resource.getrlimit(LIMIT)
        limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        self.base = min(limits) if limits else 819_200
        self._hard = hard

    @property
    def known(self) -> Sequence[Identity]:
        """All there are, by number: what the limit of a task is below `base`."""
        return self._known

    def of(self, task: int) -> Identity:
        """Who a task is."""
        if len(self._known) == 1:
            return self._known[0]
        identity = self._seen.get(task)
        if identity is None:
            number = self.base - resource.prlimit(task, LIMIT)[0]
            identity = self._known[number] if 0 <= number < len(self._known) else self._known[0]
            if self._followed:
                self._seen[task] = identity
        return identity

    def forget(self, task: int) -> None:
        """A task is new, or gone."""
        self._seen.pop(task, None)

    def become(self, task: int, identity: Identity) -> None:
        """Change who a task's process is.

        Raises:
            SandboxError: more identities than a step can have.
        """
        number = self._numbers.get(identity)
        if number is None:
            number = len(self._known)
            if number >= min(_MOST, self.base):
                raise SandboxError("the step took on more identities than can be told apart")
            self._known.append(identity)
            self.restricted = self.restricted or identity.euid != 0
            self._numbers[identity] = number
        self._seen.clear()  # threads are the same process
        resource.prlimit(task, LIMIT, (self.base - number, self._hard))
