import re
from collections.abc import Mapping

import pytest

from runtimed.execution.policy import Gateway
from runtimed.gateways.gateway_rules import AllowRule, Upstream, check_gateway


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://API.openai.com/v1/", "https://api.openai.com/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://vllm/a%20b", "http://vllm/a%20b"),
    ],
)
def test_an_upstream_is_an_origin_and_a_path(text: str, read: str) -> None:
    assert str(Upstream.parse(text)) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.openai.com",
        "ftp://a",
        "https://",
        "https://user:password@a",
        "https://a?b",
        "https://a/?",
        "https://a#",
        "https://a:99999",
        "https://a:0",
        "https://a:x",
        "https://a b",
        "https://a/../b",
        "https://[::1",
    ],
)
def test_an_upstream_that_is_no_plain_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"upstream: {text!r}: expected")):
        Upstream.parse(text)


def test_a_rule_matches_its_method_and_its_paths() -> None:
    rule = AllowRule.parse("GET /models/*")

    assert rule.matches("GET", "/models/a")
    assert not rule.matches("POST", "/models/a")
    assert not rule.matches("GET", "/files")
    assert str(rule) == "GET /models/*"


@pytest.mark.parametrize(
    "text", ["", "GET", "GET models", "get /a", "* /a", "TRACE /a", "CONNECT /a", "GET  /a", " /a"]
)
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"allow: {text!r}: expected METHOD PATH")):
        AllowRule.parse(text)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Bad name": "a"}, "headers: 'Bad name': expected the name of an HTTP header"),
        ({"X": "a\nb"}, "headers.X: expected printable ASCII"),
        ({"X": ""}, "headers.X: expected printable ASCII"),
        ({"Host": "a"}, "headers.Host: the gateway sets this header itself"),
        ({"content-length": "1"}, "headers.content-length: the gateway sets this header itself"),
    ],
)
def test_a_header_that_cannot_be_set_is_refused(headers: Mapping[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check_gateway(Gateway("https://a", headers, ("GET /",)))


def test_a_gateway_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="allow: expected at least one request"):
        check_gateway(Gateway("https://a"))


def test_a_whole_gateway_is_accepted() -> None:
    headers = {"Authorization": "Bearer secret:openai", "X-Both": "secret:a:secret:b_c-d", "X-None": "nosecret:e"}

    check_gateway(Gateway("https://api.openai.com/v1", headers, ("POST /responses", "GET /models")))
