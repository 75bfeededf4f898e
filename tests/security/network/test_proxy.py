"""What the programs of a Worker reach of a network, by themselves and through the proxy."""

import json
from collections.abc import Mapping, Sequence

import pytest

from tests.security.conftest import USERS, Mechanism, User, each_mechanism, each_mechanism_once, each_user
from tests.security.network.conftest import LISTED, FindOnline, OnlineSite, share_sites
from tests.security.network.internet import HOST, LOCAL_PORT, NEARBY, PORT, WEB

pytestmark = share_sites

NOT_PUBLIC = "its address is not public, and no rule writes the address out"
NO_RULE = "no rule allows it"

confined = pytest.mark.parametrize("profile", ["closed", "public", "listed", "listed-process"])


def servers(site: OnlineSite) -> Sequence[str]:
    """Return servers of all kinds, each of which the host reaches."""
    ports = (LOCAL_PORT, site.daemon.address[1])
    own = [f"{address}:{port}" for address in ("127.0.0.1", "0.0.0.0") for port in ports]
    return [f"{WEB}:{PORT}", f"{HOST}:{LOCAL_PORT}", *own, *(f"{address}:{PORT}" for address in NEARBY)]


@confined
@each_user
@each_mechanism
def test_no_server_is_reached_but_through_the_proxy(
    find_online: FindOnline, mechanism: Mechanism, user: User, profile: str
) -> None:
    site = find_online(user, mechanism)
    attempts = {server: ("direct", server) for server in servers(site)} | {"names": ("look up", "45.0.0.3")}

    found = site.attempt(profile, attempts)

    assert {name: why for name, why in found.items() if not why.startswith("failed: ")} == {}


@each_user
def test_all_servers_are_reached_without_a_sandbox(find_online: FindOnline, user: User) -> None:
    site = find_online(user, "none")
    attempts = {server: ("direct", server) for server in servers(site)} | {"names": ("look up", "45.0.0.3")}

    found = site.attempt("closed", attempts)

    assert {name: why for name, why in found.items() if why.startswith("failed: ")} == {}


@each_user
@each_mechanism
def test_with_the_network_of_the_host_all_servers_are_reached(
    find_online: FindOnline, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)

    found = site.reach("host", "direct", servers(site))

    assert {name: why for name, why in found.items() if why.startswith("failed: ")} == {}
    assert site.attempt("host", {"proxy": ("tunnel", f"{WEB}:{PORT}")}) == {"proxy": "failed: there is no proxy"}


@each_user
@each_mechanism
def test_without_a_network_there_is_no_proxy(find_online: FindOnline, mechanism: Mechanism, user: User) -> None:
    site = find_online(user, mechanism)

    found = site.attempt("closed", {"variable": ("tunnel", f"{WEB}:{PORT}"), "port": ("direct", "127.0.0.1:3128")})

    assert found["variable"] == "failed: there is no proxy"
    assert found["port"].startswith("failed: ")


@each_mechanism_once
def test_public_is_every_public_server_and_no_other(
    find_online: FindOnline, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    public = (f"{WEB}:{PORT}", f"web.test:{PORT}", f"WEB.Test.:{PORT}")
    mapped = [f"[::ffff:{address}]:{PORT}" for address in ("127.0.0.1", "10.1.2.3", "169.254.169.254")]
    names = ("metadata.test:80", "nearby.wild.test:80", "loopback.test:8080", "localhost:8080", "LOCALHOST.:8080")
    refused = [*servers(site)[2:], *mapped, *names, "[::1]:8080", "[::]:8080", "[fd00:ec2::254]:80"]
    own = (f"{HOST}:{LOCAL_PORT}", f"host.test:{LOCAL_PORT}")

    for way, url in (("tunnel", "{}"), ("fetch", "http://{}/asked")):
        found = site.reach("public", way, [url.format(name) for name in (*public, *refused, *own)])
        said = {name: found[url.format(name)] for name in (*public, *refused, *own)}
        assert {said[name] for name in public} == {f"200 {WEB} /asked"}
        assert {name: text for name, text in said.items() if name in refused and NOT_PUBLIC not in text} == {}
        assert all("its address is one of this host" in said[name] for name in own), said
        assert {text.split()[0] for name, text in said.items() if name not in public} == {"403"}


@each_mechanism_once
def test_other_ways_to_write_an_address_are_no_destinations(
    find_online: FindOnline, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    spelled: tuple[str, ...] = (
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0x7f.1",
        "0",
        "017700000001",
        "127.0.0.1.0x0",
    )
    spelled += ("[::1%lo]", "[::127.0.0.1]x", "127.0.0.1@web.test", "web.test@127.0.0.1", "127.0.0.1#.web.test")

    found = site.reach("public", "tunnel", [f"{host}:{LOCAL_PORT}" for host in spelled])

    assert {name: text for name, text in found.items() if not text.startswith("400 ")} == {}


@pytest.mark.parametrize("profile", ["listed", "listed-process"])
@each_mechanism_once
def test_a_list_permits_its_hosts_and_ports_and_no_others(
    find_online: FindOnline, mechanism: Mechanism, user: User, profile: str
) -> None:
    site = find_online(user, mechanism)
    expected: Mapping[str, str] = {
        "web.test:80": f"200 {WEB}",
        "Web.TEST.:80": f"200 {WEB}",
        "api.wild.test:80": f"200 {WEB}",
        "API.Wild.Test.:80": f"200 {WEB}",
        "10.1.2.3:80": "200 10.1.2.3",
        "inside.test:80": "200 10.1.2.3",
        "web.test:443": NO_RULE,
        "web.test:81": NO_RULE,
        "wild.test:80": NO_RULE,
        "api.wild.test:443": NO_RULE,
        "notwild.test:80": NO_RULE,
        "web.test.evil.test:80": NO_RULE,
        f"{WEB}:80": NO_RULE,
        "10.1.2.3:8080": NO_RULE,
        "192.168.7.7:80": NO_RULE,
        f"127.0.0.1:{site.daemon.address[1]}": NO_RULE,
        "nearby.wild.test:80": NOT_PUBLIC,
        "metadata.test:80": NOT_PUBLIC,
        "loopback.test:8080": NOT_PUBLIC,
    }

    found = site.reach(profile, "tunnel", list(expected))

    assert {name: text for name, text in found.items() if expected[name] not in text} == {}
    assert site.daemon.worker(site.of(profile))["execution"]["sandbox"]["network"] == "allow-list"


@each_mechanism_once
def test_the_address_that_was_checked_is_the_one_connected_to(
    find_online: FindOnline, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    names = site.internet.names
    names.changing[:] = [WEB, "192.168.7.7"]
    names.asked.clear()

    found = site.attempt(
        "listed", {"first": ("tunnel", "changing.test:80"), "second": ("tunnel", "changing.test:80")}
    )

    assert found["first"] == f"200 {WEB} /asked"
    assert NOT_PUBLIC in found["second"]
    assert names.asked.count("changing.test") == 2


@each_mechanism_once
def test_a_name_without_a_rule_is_not_looked_up(find_online: FindOnline, mechanism: Mechanism, user: User) -> None:
    site = find_online(user, mechanism)
    site.internet.names.asked.clear()

    site.reach("listed", "tunnel", ["a-secret.evil.test:80", "web.test:80"])

    assert set(site.internet.names.asked) == {"web.test"}


@each_mechanism
def test_the_narrower_of_the_networks_of_profile_and_bundle_holds(
    find_online: FindOnline, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)
    destinations = ("web.test:80", "api.wild.test:80", "other.test:80", f"{WEB}:80")

    found = {
        profile: {
            name: text.split()[0]
            for name, text in site.attempt(
                profile,
                {name: ("tunnel", name) for name in destinations},
                site.new(profile, network_policy="network:narrow"),
            ).items()
        }
        for profile in ("listed", "public", "closed")
    }

    assert found == {
        "listed": dict(zip(destinations, ("200", "403", "403", "403"), strict=True)),
        "public": dict(zip(destinations, ("200", "403", "502", "403"), strict=True)),
        "closed": dict.fromkeys(destinations, "failed:"),
    }


@each_mechanism
def test_variables_tell_programs_of_the_proxy_and_to_leave_loopback_addresses_alone(
    find_online: FindOnline, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")

    said = site.run("shell", "sh", "-c", "env", worker_id=site.of("public"))

    variables = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    assert len({variables[name] for name in names}) == 1
    assert variables["HTTP_PROXY"].startswith("http://")
    assert variables["NO_PROXY"] == variables["no_proxy"] == "127.0.0.1,localhost,::1"
    assert variables["NODE_USE_ENV_PROXY"] == "1"


MALFORMED: Mapping[str, str] = {
    "GET /\r\n\r\n": "400",  # HTTP/0.9
    "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n": "400",
    "CONNECT web.test:80 HTTP/1.1\n\n": "400",
    "CONNECT web.test:80 HTTP/2.0\r\n\r\n": "400",
    "CONNECT web.test HTTP/1.1\r\n\r\n": "400",
    "CONNECT web.test:0 HTTP/1.1\r\n\r\n": "400",
    "CONNECT web.test:80 HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde": "400",
    "GET http://web.test/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n": "400",
    "GET http://web.test/ HTTP/1.1\r\nA: b\rX: y\r\n\r\n": "400",
    "GET http://web.test/\rX: y HTTP/1.1\r\n\r\n": "400",
    "GET http://web.test/ HTTP/1.1\r\nA : b\r\n\r\n": "400",
    "GET http://web.test/ HTTP/1.1\r\nA: \0\r\n\r\n": "400",
    "GET http://me:a-secret@web.test/ HTTP/1.1\r\n\r\n": "400",
    "GET https://web.test/ HTTP/1.1\r\n\r\n": "400",
    "GET ftp://web.test/ HTTP/1.1\r\n\r\n": "400",
    "POST http://web.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "400",
    "POST http://web.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab": "400",
    "POST http://web.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n": "400",
    "POST http://web.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n": "400",
    "POST http://web.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n": "400",
    f"GET http://web.test/ HTTP/1.1\r\nA: {'a' * 40_000}\r\n\r\n": "431",
    f"CONNECT {'a' * 40_000}": "431",
}


@each_mechanism
def test_a_malformed_request_to_the_proxy_is_refused_and_no_server_sees_it(
    find_online: FindOnline, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)
    site.internet.seen.clear()
    attempts = {str(number): ("raw", text) for number, text in enumerate(MALFORMED)}

    found = site.attempt("public", attempts)

    assert [text.split()[0] for text in found.values()] == list(MALFORMED.values())
    assert site.internet.seen == []
    assert "a-secret" not in json.dumps([site.refusals(site.of("public")), site.daemon.errors])


@each_mechanism
def test_connections_beyond_the_limit_are_told_so_and_others_are_served_afterwards(
    find_online: FindOnline, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)

    further, after = json.loads(site.attempt("public", {"many": ("many", "256")})["many"])

    assert further == "503 runtimed: this Worker has 256 connections already"
    assert after.startswith("403 ")


@each_mechanism_once
def test_a_refused_connection_is_an_event_at_most_once_a_minute_for_each_host_and_port(
    find_online: FindOnline, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    worker_id = site.new("listed")
    destinations = ("192.168.7.7:80", "192.168.7.7:80", "192.168.7.7:81", "other.test:80", "OTHER.test.:80")
    attempts = {str(number): ("tunnel", name) for number, name in enumerate(destinations)}
    attempts["with secrets"] = ("fetch", "http://other.test:82/a-secret?key=a-secret")

    site.attempt("listed", attempts, worker_id)

    rules = ", ".join(LISTED)
    reason = {"kind": "network_refused", "reason": f"no rule allows it, the rules are {rules}"}
    assert site.refusals(worker_id) == [
        reason | {"host": "192.168.7.7", "port": 80},
        reason | {"host": "192.168.7.7", "port": 81, "left_out": 1},
        reason | {"host": "other.test", "port": 80},
        reason | {"host": "other.test", "port": 82, "left_out": 1},
    ]
    tailed = site.ctl("events", "tail", worker_id, "--from-start", "--no-follow")
    assert "192.168.7.7" in tailed
    assert "network_refused" in tailed


@each_mechanism
def test_a_program_that_tries_many_hosts_makes_a_bounded_number_of_events(
    find_online: FindOnline, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)
    worker_id = site.new("listed")

    site.attempt("listed", {str(port): ("tunnel", f"192.168.7.7:{port}") for port in range(1000, 1200)}, worker_id)

    assert len(site.refusals(worker_id)) == 64
