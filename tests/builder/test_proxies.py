"""Proxies out of docker's config.json."""

from __future__ import annotations

import json

import pytest

from builder.errors import UsageError
from builder.proxies import configured


def config(tmp_path, document):
    """An environment whose docker configuration is `document`."""
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "config.json").write_text(text)
    return {"DOCKER_CONFIG": str(tmp_path)}


def test_default_proxies_become_build_arguments_in_both_cases(tmp_path):
    """Docker gives its builds the proxies of `default`, those given on the command line aside."""
    proxies = {"httpProxy": "http://p:1", "noProxy": "internal", "httpsProxy": "", "allProxy": 7}
    environ = config(tmp_path, {"proxies": {"default": proxies, "tcp://other": {"ftpProxy": "x"}}})
    assert configured(environ, ["no_proxy", "A"]) == (
        ("HTTP_PROXY", "http://p:1"),
        ("http_proxy", "http://p:1"),
    )
    assert dict(configured(environ, []))["NO_PROXY"] == "internal"


@pytest.mark.parametrize(
    "document",
    [{}, {"auths": {}}, {"proxies": []}, {"proxies": {"default": 1}}, {"proxies": {}}, [],
     {"proxies": {"default": {"httpProxy": "a\0b"}}}, '["\\"proxies\\""]'],
)  # fmt: skip
def test_a_config_without_them_gives_nothing(tmp_path, document):
    """What is absent or of another shape is as if it were not there."""
    assert configured(config(tmp_path, document), []) == ()


def test_no_config_gives_nothing(tmp_path):
    """Neither a missing file nor a missing home is an error."""
    assert configured({"HOME": str(tmp_path)}, []) == ()
    assert configured({}, []) == ()


@pytest.mark.parametrize("text", ['{"proxies": ', "[" * 100_000 + '"proxies"'])
def test_broken_config_is_named(tmp_path, text):
    """A file that is no JSON is an error that names it."""
    with pytest.raises(UsageError, match=r"config\.json is not JSON"):
        configured(config(tmp_path, text), [])
