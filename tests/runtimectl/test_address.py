"""URLs of daemons."""

import pytest

from runtimectl.address import parse
from runtimectl.errors import UsageProblem


@pytest.mark.parametrize(
    ("url", "authority", "prefix", "tls"),
    [
        ("http://127.0.0.1:38800", "127.0.0.1:38800", "", False),
        ("http://[::1]:38800/", "[::1]:38800", "", False),
        ("https://runtime.example.org", "runtime.example.org:443", "", True),
        ("https://runtime.example.org:8443/a/b-1/", "runtime.example.org:8443", "/a/b-1", True),
        ("http://localhost/runtimed", "localhost:80", "/runtimed", False),
        ("unix:/run/runtimed.sock", "localhost", "", False),
    ],
)
def test_a_url_names_a_host_a_port_and_the_path_that_the_api_is_below(url, authority, prefix, tls):
    found = parse(url)
    assert (found.authority, found.prefix, found.tls) == (authority, prefix, tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x",
        "http://",
        "http://u:p@x",
        "http://x/a b",
        "http://x/%2e",
        "http://x/?q",
        "http://x/#f",
    ],
)
def test_a_url_of_another_form_is_refused_with_what_is_accepted(url):
    with pytest.raises(UsageProblem, match=r"^url: expected http://HOST:PORT, https://HOST"):
        parse(url)
