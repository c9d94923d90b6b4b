"""Authentication: challenges, realms, tokens, and who never sees a credential."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import registry as fake
from support.registry import FakeRegistry
from support.remote_images import AMD64, OneCredential, client_for, name, publish, small_image

from builder.errors import RegistryError
from builder.registry import challenge
from builder.registry.auth import Access, Authenticator
from builder.registry.client import RegistryClient
from builder.registry.credentials import Credential
from builder.registry.location import Location, Origin
from builder.registry.settings import RegistryConfig
from builder.registry.transport import Transport
from cache.spec import oci

if TYPE_CHECKING:
    from collections.abc import Iterator

ANN = Credential("ann", "s3cret")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry that asks for bearer tokens and has one image."""
    with FakeRegistry(auth="bearer") as running:
        publish(running, "team/app", "v1", small_image())
        yield running


def resolve(registry, credential=ANN, **options):
    """Resolve team/app:v1."""
    with client_for(registry, credential, **options) as client:
        return client.resolve(name(registry), AMD64)


def test_bearer_tokens_are_fetched_once_for_a_scope(registry):
    """One token serves the manifest and the config; the request names service and scope."""
    assert resolve(registry).matches
    asked = registry.requests("/token")
    assert asked == ["GET /token?service=fake&scope=repository%3Ateam%2Fapp%3Apull&account=ann"]


def test_basic_is_sent_to_the_registry(registry):
    """A Basic challenge is answered, and later requests carry the header at once."""
    registry.auth = "basic"
    assert resolve(registry).matches
    assert [entry.headers.get("Authorization", "") != "" for entry in registry.log] == [
        False,
        True,
        True,
    ]


def test_anonymous_tokens_need_no_credential(registry):
    """Without a credential a token is asked for all the same."""
    registry.anonymous = True
    assert resolve(registry, None).matches


def test_a_refusal_says_what_was_tried(registry):
    """C31: a 401 without remedy names the source and the command; no secret is in it."""
    with pytest.raises(RegistryError) as caught:
        resolve(registry, Credential("ann", "wrong-pw"))
    assert caught.value.status == 401
    assert "the test's credential" in (caught.value.hint or "")
    assert f"pybuild login {registry.host}" in (caught.value.hint or "")
    assert "wrong-pw" not in str(caught.value) + (caught.value.hint or "")


def test_identity_tokens_go_by_post(registry):
    """A refresh token is exchanged with OAuth2's POST and never stands in a URL."""
    assert resolve(registry, Credential(identity_token="refresh-me")).matches
    assert registry.requests("^POST /token$")
    assert not any("refresh-me" in entry.path for entry in registry.log)


def test_an_expired_token_is_renewed_once_per_refusal(registry):
    """R30: a token that stops working midway is replaced and the pull goes on."""
    image = small_image((b"x" * 100_000,))
    publish(registry, "team/app", "v1", image)
    with client_for(registry, ANN) as client:
        found = client.resolve(name(registry), AMD64)
        registry.tokens.clear()
        with client.fetch_blob(name(registry), found.image.layers[0].blob) as stream:
            assert len(stream.read()) == 100_000
    assert len(registry.requests("/token")) == 2


def test_tokens_that_never_work_end_soon(registry):
    """R30: no endless loop of tokens; two renewals at most."""
    refused = fake.answer(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})
    registry.plan("GET", "/manifests/", refused, times=99)
    with pytest.raises(RegistryError):
        resolve(registry)
    assert len(registry.requests("/token")) <= 2


def test_a_push_survives_losing_its_token(registry):
    """R30: a 401 in the middle of an upload costs one renewal, not the push."""
    image = small_image((b"x" * 1_000_000,))
    lost = fake.answer(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})

    def lose(handler):
        handler.registry.tokens.clear()
        return lost(handler)

    registry.plan("PATCH", "uploads", lose)
    with client_for(registry, ANN) as client:
        client.push_image(
            name(registry), image.manifest, oci.OCI_MANIFEST, image.blobs, image.content
        )
    assert registry.manifests["team/app", "v1"][1] == image.manifest


def test_pull_and_push_tokens_are_apart(registry):
    """F22: a token is asked for per scope; the push's names push."""
    image = small_image()
    with client_for(registry, ANN) as client:
        client.resolve(name(registry), AMD64)
        client.push_image(
            name(registry, "team/new:v1"),
            image.manifest,
            oci.OCI_MANIFEST,
            image.blobs,
            image.content,
        )
    scopes = {path.partition("scope=")[2].partition("&")[0] for path in registry.requests("/token")}
    assert scopes == {"repository%3Ateam%2Fapp%3Apull", "repository%3Ateam%2Fnew%3Apull%2Cpush"}


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": ""}',
        b'{"token": 7}',
        b'{"token": "' + b"x" * 100_000 + b'"}',
        b" " * (2 << 20),
    ],
)
def test_senseless_token_replies_are_refused(registry, body):
    """F11 E01: HTML, junk, header injection and floods give an error."""
    registry.plan("GET", "/token", fake.answer(200, {}, body), times=9)
    with pytest.raises(RegistryError):
        resolve(registry)


@pytest.mark.parametrize("life", [b"-1", b"0", b"1000000000000000000", b"1", b"2.5", b'"x"'])
def test_any_lifetime_is_bounded(registry, life):
    """F11: whatever expires_in says, the pull works."""
    registry.tokens["t0"] = ("repository:team/app:pull",)
    reply = fake.answer(200, {}, b'{"access_token": "t0", "expires_in": ' + life + b"}")
    registry.plan("GET", "/token", reply, times=9)
    assert resolve(registry).matches


def test_a_redirected_token_request_is_refused(registry):
    """F04: credentials do not follow a token server's redirect."""
    with FakeRegistry() as other:
        moved = fake.answer(307, {"Location": f"{other.url}/token"})
        registry.plan("GET", "/token", moved, times=9)
        with pytest.raises(RegistryError):
            resolve(registry)
        assert other.log == []


def test_a_realm_on_another_loopback_port_works(registry):
    """F02 twin: a loopback registry may have its token server on loopback."""
    with FakeRegistry() as other:
        other.tokens = registry.tokens
        registry.challenge = f'Basic realm="x", Bearer realm="{other.url}/token",service="s"'
        assert resolve(registry).matches
        assert other.requests("/token")


class _NoConnections(Transport):
    """A transport that records where it would connect, and resolves from a table."""

    def __init__(self, table=()):
        super().__init__(RegistryConfig(), lambda host, _: dict(table).get(host, ["93.184.216.34"]))
        self.sent = []

    def _once(self, request, address, proxy):
        self.sent.append((str(request.location), address, dict(request.headers)))
        msg = "stopped"
        raise RegistryError(msg)


class _Challenged:
    """A reply that carries a challenge."""

    def __init__(self, header):
        self.header_lines = [header]

    def headers(self, _name):
        return self.header_lines


def ask(realm, table=(), registry="registry.example.com"):
    """Answer a challenge of a public https registry; gives what would have been sent."""
    transport = _NoConnections(table)
    origin = Location.parse(f"https://{registry}/").origin
    authenticator = Authenticator(transport, OneCredential(registry, ANN))
    reply = _Challenged(f'Bearer realm="{realm}",service="s"')
    with pytest.raises(RegistryError):
        authenticator.answer(reply, Access(registry, origin, ("a",)), None)
    return transport.sent


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "127.0.0.1",
        "0.0.0.0",  # noqa: S104 - a host in a URL, not bound
        "[::]",
        "[::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "2130706433",
        "0x7f.1",
        "127.1",
        "localhost",
        "x.localhost",
        "①②⑦.0.0.1",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "10.1.2.3",
        "192.168.0.1",
        "100.64.0.1",
        "[fd00:ec2::254]",
        "inside.example",
        "mixed.example",
    ],
)
def test_no_realm_of_a_public_registry_is_closer_than_it(host):
    """F02: no connection is even tried to private, loopback or link-local realms."""
    table = {
        "inside.example": ["10.0.0.1"],
        "mixed.example": ["93.184.216.34", "169.254.169.254"],
    }
    assert ask(f"https://{host}/token", table.items()) == []


@pytest.mark.parametrize(
    "realm",
    [
        "http://registry.example.com/token",
        "http://other.example.com/token",
        "file:///etc/passwd",
        "gopher://x/",
        "https://user:pw@other.example.com/",
        "https://other.example.com/#x",
        "https://other.example.com/\\r\\nX: y",
        "https://" + "x" * 1_000_000,
        "//other.example.com/token",
    ],
)
def test_unfit_realms_are_refused(realm):
    """F01 F03: downgrades, other schemes, userinfo, fragments and junk reach no network."""
    assert ask(realm) == []


def test_a_public_realm_elsewhere_gets_the_credential():
    """F02 twin: docker.io's pattern works, and existing query values are kept or replaced."""
    sent = ask("https://auth.example.net/token?x=1&service=old")
    assert sent == [
        (
            "https://auth.example.net/token?x=1&service=s&scope=a&account=ann",
            "93.184.216.34",
            {"Authorization": ANN.basic},
        )
    ]


def test_a_private_registry_may_have_its_realm_at_home():
    """F02 twin: the same host and port is allowed whatever its address."""
    sent = ask("https://10.0.0.5:5000/token", registry="10.0.0.5:5000")
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/",scope="x,y"', "bearer"),
        ('Negotiate, Bearer realm="r"', "bearer"),
        ('Negotiate abc==, Basic realm="r"', "basic"),
        ("Basic", "basic"),
        ('Basic realm="x", Bearer realm="r"', "bearer"),
        ('Digest realm="x", nonce="a\\"b"', None),
        ("Bearer realm=", None),
        ("", None),
        ('Bearer realm="r', RegistryError),
        ('Bearer realm="a", realm="b"', RegistryError),
        ('Bearer realm="a\nb"', RegistryError),
        ("Bearer " + "x" * 20_000, RegistryError),
        ('="x"', RegistryError),
    ],
)
def test_challenges_are_read_strictly(header, expected):
    """F03: several challenges are told apart; junk is an error, not a guess."""
    if expected is RegistryError:
        with pytest.raises(RegistryError):
            challenge.parse([header])
        return
    chosen = challenge.choose(challenge.parse([header]))
    assert (chosen.scheme if chosen else None) == expected


@given(st.text(max_size=400))
def test_no_header_breaks_the_parser(text):
    """F03: any header is parsed or refused, in little time."""
    start = time.monotonic()
    with contextlib.suppress(RegistryError):
        challenge.parse([text])
    assert time.monotonic() - start < 1


def test_blob_redirects_lose_the_authorization(registry):
    """F05: storage elsewhere sees no token, and its own challenge gets no answer."""
    image = small_image((b"layer",))
    publish(registry, "team/app", "v1", image)
    layer = image.blobs[1]
    with FakeRegistry() as storage:
        storage.put_blob("s", b"layer")
        moved = fake.answer(307, {"Location": f"{storage.url}/v2/s/blobs/{layer.digest}"})
        with client_for(registry, ANN) as client:
            client.resolve(name(registry), AMD64)
            registry.plan("GET", "/blobs/", moved, times=2)
            with client.fetch_blob(name(registry), layer) as stream:
                assert stream.read() == b"layer"
            storage.auth = "basic"
            with pytest.raises(RegistryError), client.fetch_blob(name(registry), layer):
                pass
        assert len(storage.log) == 2
        assert all("Authorization" not in entry.headers for entry in storage.log)


@pytest.mark.parametrize("to", ["http://169.254.169.254/x", "file:///etc/passwd", "", "http://[x/"])
def test_blob_redirects_to_forbidden_places_are_refused(registry, to):
    """F05 B17: link-local and other schemes are not followed to."""
    registry.auth = ""
    registry.plan("GET", "/blobs/", fake.answer(307, {"Location": to}), times=9)
    with pytest.raises(RegistryError):
        resolve(registry)


def test_credentials_of_one_client_are_not_anothers(registry):
    """F22: two clients share no token."""
    resolve(registry)
    with pytest.raises(RegistryError):
        resolve(registry, None)


def test_nothing_is_asked_of_helpers_before_a_challenge(registry):
    """C32: a registry that asks for nothing costs no credential lookup."""
    registry.auth = ""

    class Never:
        def lookup(self, registry):
            raise AssertionError(registry)

    with RegistryClient(RegistryConfig(), credentials=Never()) as client:
        assert client.resolve(name(registry), AMD64).matches


def test_secrets_have_no_repr():
    """F16: printing a credential or a token shows no secret."""
    assert "s3cret" not in repr(ANN)
    assert "zz" not in repr(Credential(identity_token="zz", bearer="zz"))
    assert Origin("https", "a", 443).authority == "a"
