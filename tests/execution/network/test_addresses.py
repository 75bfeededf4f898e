"""Which addresses are public, and how hosts are written."""

from ipaddress import IPv4Address, ip_address

import pytest

from runtimed.execution.network.addresses import is_public, parse_host, parse_port, unmapped


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "2001:200::1",
        "2003::1",
        "64:ff9b::8.8.8.8",
    ],
)
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::8.8.8.8",
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:0808:0808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_all_other_addresses_are_not(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM.", "api.example.com"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_acme.example.com", "_acme.example.com"),
        ("1e100.net", "1e100.net"),
        ("10.0.0.1", ip_address("10.0.0.1")),
        ("10.0.0.1.", ip_address("10.0.0.1")),
        ("[::1]", ip_address("::1")),
        ("[2606:4700:0:0::1111]", ip_address("2606:4700::1111")),
        ("[::ffff:10.0.0.1]", ip_address("10.0.0.1")),
        ("[::FFFF:a00:1]", ip_address("10.0.0.1")),
    ],
)
def test_a_host_has_one_form_however_it_is_written(text: str, host: object) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.0x1",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.٤",
        "",
        ".",
        "a..b",
        ".a",
        "a.b..",
        "-a.com",
        "a-.com",
        "a b",
        "a@b",
        "a/b",
        "a%00b",
        "bücher.example",
        "::1",
        "[::1",
        "[fe80::1%eth0]",
        "[1.2.3.4]",
        "[]",
        "x" * 64 + ".com",
        "x." * 127 + "com",
        "a\x00.com",
        "a_.com-",
    ],
)
def test_other_spellings_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_host(text)


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "+1", " 1", "1_0", "٤", "123456", "http"])
def test_a_port_is_a_number_in_range(text: str) -> None:
    assert (parse_port("1"), parse_port("65535")) == (1, 65535)
    with pytest.raises(ValueError, match="expected a port from 1 to 65535"):
        parse_port(text)


def test_a_mapped_address_is_the_ipv4_address_it_stands_for() -> None:
    assert unmapped(ip_address("::ffff:127.0.0.1")) == IPv4Address("127.0.0.1")
    assert unmapped(ip_address("::1")) == ip_address("::1")
