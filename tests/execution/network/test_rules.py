"""What rules allow."""

import pytest

from runtimed.execution.network.addresses import parse_host
from runtimed.execution.network.rules import PUBLIC, NetworkPolicy, NetworkRule


def policy(*lists: list[str]) -> NetworkPolicy:
    return NetworkPolicy(tuple(tuple(NetworkRule.parse(text) for text in rules) for rules in lists))


@pytest.mark.parametrize(
    ("rule", "host", "port", "allowed"),
    [
        ("api.example.com:443", "api.example.com", 443, True),
        ("API.example.com.:443", "api.EXAMPLE.com", 443, True),
        ("api.example.com:443", "api.example.com.", 443, True),
        ("api.example.com:443", "api.example.com", 80, False),
        ("api.example.com:443", "x.api.example.com", 443, False),
        ("api.example.com:443", "xapi.example.com", 443, False),
        ("api.example.com:*", "api.example.com", 80, True),
        ("*.example.com:443", "a.example.com", 443, True),
        ("*.example.com:443", "a.b.example.com", 443, True),
        ("*.example.com:443", "example.com", 443, False),
        ("*.example.com:443", "badexample.com", 443, False),
        ("*.example.com:443", "example.com.evil.org", 443, False),
        ("*:443", "anything.org", 443, True),
        ("*:443", "8.8.8.8", 443, True),
        ("*:443", "anything.org", 80, False),
        ("10.0.0.0/8:443", "10.255.0.1", 443, True),
        ("10.0.0.0/8:443", "[::ffff:10.1.2.3]", 443, True),
        ("10.0.0.0/8:443", "11.0.0.1", 443, False),
        ("10.0.0.0/8:443", "[a00::1]", 443, False),
        ("10.0.0.0/8:443", "ten.example.com", 443, False),
        ("192.0.2.1:80", "192.0.2.1", 80, True),
        ("192.0.2.1:80", "192.0.2.2", 80, False),
        ("[::1]:8080", "[0:0::1]", 8080, True),
        ("[fd00::/8]:*", "[fd00:ec2::254]", 80, True),
        ("[fd00::/8]:*", "[fe80::1]", 80, False),
        ("[::]:80", "0.0.0.0", 80, False),
    ],
)
def test_a_rule_is_about_the_host_as_it_was_named(rule: str, host: str, port: int, allowed: bool) -> None:
    assert (policy([rule]).refuse(parse_host(host), port) is None) is allowed


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("API.Example.com.:443", "api.example.com:443"),
        ("*.Example.com:*", "*.example.com:*"),
        ("*:443", "*:443"),
        ("10.0.0.0/8:443", "10.0.0.0/8:443"),
        ("192.0.2.1/32:80", "192.0.2.1:80"),
        ("[0:0::1]:8080", "[::1]:8080"),
        ("[fd00::/8]:443", "[fd00::/8]:443"),
    ],
)
def test_a_rule_is_written_in_one_form(text: str, written: str) -> None:
    assert str(NetworkRule.parse(text)) == written


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "HOST:PORT"),
        ("example.com", "HOST:PORT"),
        (":443", "expected a host name"),
        ("example.com:", "expected a port"),
        ("example.com:0", "expected a port"),
        ("example.com:99999", "expected a port"),
        ("https://example.com:443", "network"),
        ("a.*.com:443", "expected a host name"),
        ("**.com:443", "expected a host name"),
        ("*.10.0.0.1:443", "stands before a name"),
        ("::1:443", "expected a host name"),
        ("[::1:443", "expected an IPv6 address in brackets"),
        ("fd00::/8:443", "an IPv6 network stands in brackets"),
        ("[10.0.0.0/8]:443", "an IPv6 network stands in brackets"),
        ("10.0.0.1/8:443", "10.0.0.1/8 has host bits set"),
        ("10.0.0.0/33:443", "10.0.0.0/33"),
        ("[::ffff:10.0.0.0/104]:443", "write IPv4 networks as such"),
        ("0x7f000001:443", "four decimal numbers"),
        ("bücher.example:443", "xn--"),
        ("x" * 400 + ":443", "HOST:PORT"),
    ],
)
def test_the_error_of_a_malformed_rule_says_what_is_accepted(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match='expected "HOST:PORT"') as error:
        NetworkRule.parse(text)

    assert problem in str(error.value)


def test_an_address_that_is_not_public_needs_a_rule_that_writes_it_out() -> None:
    loopback = parse_host("127.0.0.1")
    assert not isinstance(loopback, str)

    assert policy(["*:443"]).refuse_address(loopback, 443)
    assert policy(["db.example.com:443"]).refuse_address(loopback, 443)
    assert policy(["127.0.0.1:80"]).refuse_address(loopback, 443)
    assert policy(["db.example.com:443", "127.0.0.0/8:443"]).refuse_address(loopback, 443) is None


def test_the_narrowest_of_several_lists_holds() -> None:
    narrow = NetworkPolicy((PUBLIC, *policy(["api.example.com:443", "10.0.0.1:443"]).lists))
    private = parse_host("10.0.0.1")
    assert not isinstance(private, str)

    assert narrow.refuse("api.example.com", 443) is None
    assert (
        narrow.refuse("other.example.com", 443)
        == "no rule allows it, the rules are api.example.com:443, 10.0.0.1:443"
    )
    assert narrow.refuse_address(private, 443) == ('no rule writes the address out, network is "public"')


def test_without_a_list_and_with_an_empty_one_everything_is_refused() -> None:
    assert policy().refuse("example.com", 443) == "no rule allows it, there are no rules"
    assert NetworkPolicy((PUBLIC, ())).refuse("example.com", 443) == "no rule allows it, there are no rules"


def test_a_long_list_is_named_in_part() -> None:
    text = policy([f"host{number}.example.com:443" for number in range(13)]).refuse("example.com", 443)

    assert text is not None
    assert text.endswith("host9.example.com:443 and 3 more")
