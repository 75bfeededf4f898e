"""URLs of daemons."""

import pytest

from runtimectl.client.address import parse
from runtimectl.client.tls import TlsOptions
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
def test_a_url_gives_the_host_the_port_and_the_prefix_of_the_api(
    url: str, authority: str, prefix: str, tls: bool
) -> None:
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
def test_a_url_of_another_form_is_refused_with_the_accepted_forms(url: str) -> None:
    with pytest.raises(UsageProblem, match=r"^url: expected http://HOST:PORT, https://HOST"):
        parse(url)


def test_an_address_shows_as_its_url() -> None:
    assert repr(parse("unix:/run/runtimed.sock")) == "Address('unix:/run/runtimed.sock')"


def test_a_file_without_certificates_is_named_and_what_is_expected_of_it() -> None:
    options = TlsOptions(ca="/nonexistent")
    with pytest.raises(UsageProblem, match=r"^ca file /nonexistent: expected certificates in PEM: No such file"):
        options.make_context()
