"""A conversation with registries: requests with authorization, retries and clear refusals.

Owns the joining of transport, authenticator and retry policy. Knows no image.
"""

from __future__ import annotations

from builder.registry.auth import Access, Authenticator
from builder.registry.location import Location, Origin, endpoint
from builder.registry.reply import refusal
from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Collection

    from builder.registry.reply import Reply
    from builder.registry.retry import Retry
    from builder.registry.settings import RegistryConfig
    from builder.registry.transport import Request, Transport
    from cache.spec.reference import Reference

_ANSWERS = 2  # 401 replies to one request that are answered
_HUB = "docker.io"


@value
class Session:
    """What pull and push speak through."""

    config: RegistryConfig
    transport: Transport
    authenticator: Authenticator
    retry: Retry

    def origin(self, registry: str) -> Origin:
        """Where a registry is reached."""
        return endpoint(registry, self.config, self.transport.secured_hosts())

    def place(self, reference: Reference, path: str) -> Location:
        """The URL of something in the reference's repository."""
        origin = self.origin(reference.registry)
        return Location(origin, f"/v2/{reference.repository}/{path}")

    def access(self, reference: Reference, actions: str, *others: str) -> Access:
        """What is asked for: actions on the repository, and further scopes."""
        scope = f"repository:{reference.repository}:{actions}"
        return Access(reference.registry, self.origin(reference.registry), (scope, *others))

    def call(self, request: Request, access: Access, ok: Collection[int], doing: str) -> Reply:
        """Send until it succeeds, retrying what is temporary. The caller closes the reply.

        Raises:
            RegistryError: refused for good or broken too often.
        """
        return self.retry.run(lambda: self.once(request, access, ok, doing))

    def once(self, request: Request, access: Access, ok: Collection[int], doing: str) -> Reply:
        """Send with authorization, answering a 401 but retrying nothing else.

        A body that is a stream is not sent again for a 401: the caller knows how far it came.

        Raises:
            RegistryError: any status but those in `ok`.
        """
        reply = self._authorised(request, access)
        if reply.status in ok:
            return reply
        with reply:
            if reply.status in {401, 403}:
                raise refusal(reply, doing, self.authenticator.explain(access))
            raise refusal(reply, doing)

    def _authorised(self, request: Request, access: Access) -> Reply:
        home = request.location.origin == access.origin
        header = self.authenticator.header(access) if home else None
        answered = 0
        while True:
            sent = request.with_header("Authorization", header)
            reply = self._send(sent, access)
            # A 401 of the place a redirect led to is not for our credentials (F05).
            ours = home and reply.location.origin == access.origin
            if reply.status != 401 or not ours or answered == _ANSWERS:  # noqa: PLR2004
                return reply
            renewed = self._renewed(reply, access, header)
            if renewed is None or callable(request.body):
                return reply
            header = renewed
            answered += 1
            reply.close()

    def _renewed(self, reply: Reply, access: Access, header: str | None) -> str | None:
        try:
            renewed = self.authenticator.answer(reply, access, header)
        except BaseException:
            reply.close()
            raise
        # The same Basic credential again would be refused again.
        return None if renewed == header else renewed

    def _send(self, request: Request, access: Access) -> Reply:
        if request.method in {"GET", "HEAD"}:
            return self.transport.follow(request, access.origin)
        return self.transport.send(request, access.origin)
