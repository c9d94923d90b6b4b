"""Random faults at random requests: transfers are right or refused, never wrong, never endless."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st
from support import registry as fake
from support.registry import FakeRegistry
from support.remote_images import AMD64, client_for, name, publish, small_image

from builder.registry.credentials import Credential
from builder.registry.settings import RegistryConfig
from cache.errors import PybuildError
from cache.spec import oci

BIG = bytes(range(256)) * 1200
ANN = Credential("ann", "s3cret")
HASTY = RegistryConfig(idle_timeout=0.5)  # some faults leave one side waiting
ZERO = f"sha256:{'0' * 64}"

# A registry that stumbles but never says something was done that was not.
HONEST = [
    fake.reset(),
    fake.cut(0),
    fake.cut(7),
    fake.cut(100_000),
    fake.answer(401),
    fake.answer(401, {"WWW-Authenticate": 'Basic realm="again"'}),
    fake.answer(403),
    fake.answer(404),
    fake.answer(416),
    fake.answer(429, {"Retry-After": "1"}),
    fake.answer(500),
    fake.answer(503),
    fake.answer(307, {"Location": "/v2/"}),
    fake.raw(b""),
    fake.raw(b"junk\r\n\r\n"),
    fake.extra_headers({"Content-Length": "3"}),
    fake.extra_headers({"Docker-Content-Digest": ZERO}),
    fake.extra_headers({"Location": "http://169.254.169.254/"}),
    fake.extra_headers({"Range": "0-99999999"}),
    fake.extra_headers({"Range": "0-5"}),
    fake.reset_while_reading(1000),
]
LYING = [
    fake.answer(200),
    fake.answer(206),
    fake.answer(202, {"Location": "/v2/team/app/blobs/uploads/none"}),
    fake.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
    fake.other_body(b"!" * len(BIG)),
    fake.other_body(b""),
    fake.extra_headers({"Content-Encoding": "gzip"}),
]
methods = st.sampled_from(["GET", "GET", "HEAD", "POST", "PATCH", "PUT"])


def plans(faults):
    """Up to five faults, each at some later request of a method."""
    return st.lists(st.tuples(methods, st.sampled_from(faults), st.integers(0, 3)), max_size=5)


def planned(registry, plan):
    """Hit the n-th request of a method from here on."""
    for method, fault, skipped in plan:
        registry.plan(method, "", lambda _: False, times=skipped)
        registry.plan(method, "", fault)


@settings(max_examples=40, deadline=None)
@given(plan=plans(HONEST + LYING), auth=st.sampled_from(["", "basic", "bearer"]))
def test_a_pull_under_faults_is_right_or_an_error(plan, auth):
    """R24-R30 E06: the bytes that come are the right ones, or an error tells."""
    image = small_image((BIG, b"two"))
    with FakeRegistry(auth=auth) as registry:
        publish(registry, "team/app", "v1", image)
        planned(registry, plan)
        start = time.monotonic()
        try:
            with client_for(registry, ANN, config=HASTY) as client:
                found = client.resolve(name(registry), AMD64)
                assert found.manifest == image.manifest
                for layer in found.image.layers:
                    with client.fetch_blob(found.reference, layer.blob) as stream:
                        assert stream.read() == image.content.blobs[layer.blob.digest]
        except PybuildError:
            assert plan
        assert time.monotonic() - start < 20
        assert len(registry.log) < 80


@settings(max_examples=40, deadline=None)
@given(plan=plans(HONEST), auth=st.sampled_from(["", "basic", "bearer"]))
def test_a_push_under_faults_is_whole_or_an_error(plan, auth):
    """R24-R33: after a push that did not fail the registry has every byte."""
    image = small_image((BIG, b"two"))
    with FakeRegistry(auth=auth) as registry:
        planned(registry, plan)
        start = time.monotonic()
        try:
            with client_for(registry, ANN, config=HASTY) as client:
                client.push_image(
                    name(registry), image.manifest, oci.OCI_MANIFEST, image.blobs, image.content
                )
        except PybuildError:
            assert plan
        else:
            assert registry.manifests["team/app", "v1"] == (oci.OCI_MANIFEST, image.manifest)
            assert {digest for _, digest in registry.blobs} == {str(b.digest) for b in image.blobs}
            for (_, digest), data in registry.blobs.items():
                assert digest == str(image.content.add(data).digest)
        assert time.monotonic() - start < 20
        assert len(registry.log) < 150
