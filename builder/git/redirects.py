"""Where a repository moved to: redirects that credentials may follow, and those they may not (F04).

Git sends a header it was given wherever a reply leads. So it follows no reply at all when it has
credentials; here is read where a reply led, and only another path of the same host counts. Must
not know what was fetched.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from builder.git.program import GitError, GitFailedError
from builder.git.remote import Remote, redacted
from frontend.source import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from builder.git.program import GitProgram

    _T = TypeVar("_T")

_MAX_REDIRECTS = 5
_TIMEOUT = 300.0  # seconds of asking where
_REFUSED = re.compile(r"returned error: 30[12378]")
_LOCATION = re.compile(r"<= Recv header: location: (\S+)", re.IGNORECASE)
_ASKED_FOR = "/info/refs"
# What curl does goes to standard error, without credentials and without bodies.
_TRACE = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}
_UPGRADE = (("http", 80), ("https", 443))


def following(program: GitProgram, remote: Remote, act: Callable[[Remote], _T]) -> _T:
    """Do something with a remote, and again where it says that it moved to.

    Raises:
        GitError: what `act` raises, or that it moved to another host.
    """
    for _ in range(_MAX_REDIRECTS):
        try:
            return act(remote)
        except GitError as error:
            failure = error if isinstance(error, GitFailedError) else error.__cause__
            if not remote.auth or not isinstance(failure, GitFailedError):
                raise
            if _REFUSED.search(failure.stderr) is None:
                raise
        remote = _moved(program, remote)
    raise GitError(f"{remote.shown} was reached by {_MAX_REDIRECTS} redirects and leads on")


def _moved(program: GitProgram, remote: Remote) -> Remote:
    try:
        program.run(
            "ls-remote", "--", remote.url, "HEAD",
            settings=remote.settings, extra=_TRACE, timeout=_TIMEOUT,
        )  # fmt: skip
    except GitFailedError as error:
        places = _LOCATION.findall(error.stderr)
    else:
        return remote
    place = urljoin(f"{remote.url}{_ASKED_FOR}", places[-1]) if places else ""
    url, asked_for, _ = place.partition(_ASKED_FOR)
    if not asked_for or not _is_same_host(remote.url, url):
        to = printable(redacted(url))[:200] or "nowhere"
        raise GitError(
            f"{remote.shown} redirects to {to}, where its credentials do not belong",
            hint="name that URL instead, and give its host a secret: GIT_AUTH_TOKEN.HOST",
        )
    return remote.at(url)


def _is_same_host(old: str, new: str) -> bool:
    """Whether two URLs have one origin, or the other one is the same host's https."""
    try:
        before, after = urlsplit(old), urlsplit(new)
        ends = [
            (parts.scheme, parts.port or dict(_UPGRADE).get(parts.scheme, -1))
            for parts in (before, after)
        ]
    except ValueError:
        return False
    if "@" in after.netloc or before.hostname != after.hostname:
        return False
    return ends[0] == ends[1] or tuple(ends) == _UPGRADE
