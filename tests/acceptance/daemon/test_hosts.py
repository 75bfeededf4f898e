"""Contract section 4: a request that was meant for somebody else, or that a browser sent."""

from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from tests.acceptance.daemon.conftest import EACH_TRANSPORT, Answer, Daemon, Launch, shared_daemon

UPGRADE = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + "A" * 22 + "==",
]
RUNTIME = "GET /v1/runtime HTTP/1.1"


@pytest.fixture(params=EACH_TRANSPORT[:2])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    yield from shared_daemon(request)


def _with_host(daemon: Daemon, host: str, line: str = RUNTIME) -> Answer:
    return daemon.raw_answer(daemon.head(line, host=host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1:{port}.evil.example",
        "127.0.0.2:{port}",
        "localhost.evil.example:{port}",
        "localhost",
        "0.0.0.0:{port}",
        "[::1]:1",
        "",
        ":{port}",
        "127.0.0.1:{port}0",
        "a b",
    ],
)
def test_a_host_that_is_not_ours_is_misdirected(daemon: Daemon, host: str) -> None:
    host = host.format(port=daemon.address[1])
    for line in (RUNTIME, "POST /v1/workers HTTP/1.1", "GET /nowhere HTTP/1.1"):
        _with_host(daemon, host or " ", line).refused(421, "misdirected_request")


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_loopback_with_our_port_is_always_ours(daemon: Daemon, host: str) -> None:
    _with_host(daemon, host.format(port=daemon.address[1])).ok("runtime")


def test_a_request_line_with_another_servers_url_is_misdirected(daemon: Daemon) -> None:
    for url in ("http://evil.example/v1/runtime", f"http://evil.example:{daemon.address[1]}/v1/runtime"):
        daemon.raw_answer(daemon.head(f"GET {url} HTTP/1.1")).refused(421, "misdirected_request")
        evil = daemon.raw_answer(daemon.head(f"GET {url} HTTP/1.1", host="evil.example"))
        evil.refused(421, "misdirected_request")


def test_a_request_line_with_our_url_does_not_hide_another_host(daemon: Daemon) -> None:
    line = f"GET {daemon.url}/v1/runtime HTTP/1.1"
    _with_host(daemon, "evil.example", line).refused(421, "misdirected_request")


def test_a_missing_host_is_refused(daemon: Daemon) -> None:
    answer = daemon.raw_answer(f"{RUNTIME}\r\nAuthorization: Bearer {daemon.token}\r\n\r\n".encode())
    assert answer.status in {400, 421}
    assert answer.header("Content-Type") == "application/json"


def test_two_hosts_are_refused(daemon: Daemon) -> None:
    for more in ("evil.example", daemon.host):
        for first, second in ((daemon.host, more), (more, daemon.host)):
            answer = daemon.raw_answer(daemon.head(RUNTIME, f"Host: {second}", host=first))
            assert answer.status in {400, 421}
            assert answer.header("Content-Type") == "application/json"


def test_the_socket_guards_its_host_too(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    line = f"GET /v1/workers/{worker_id}/events/ws HTTP/1.1"
    daemon.raw_answer(daemon.head(line, *UPGRADE, host="evil.example")).refused(421, "misdirected_request")


def test_an_allowed_host_is_ours_as_well(launch: Launch, store: str) -> None:
    daemon = launch("--allow-host", "runtime.example", "--allow-host", "proxy.example:8443", store=store).ready()
    for host in ("runtime.example", "Runtime.Example", "proxy.example:8443", daemon.host):
        _with_host(daemon, host).ok("runtime")
    for host in ("evil.example", "proxy.example:8444", "a.runtime.example", "runtime.example.evil.example"):
        _with_host(daemon, host).refused(421, "misdirected_request")


def test_a_daemon_on_ipv6_loopback_knows_its_name(launch: Launch, store: str) -> None:
    daemon = launch("--listen", "[::1]:0", store=store).ready()
    assert daemon.url.startswith("http://[::1]:")
    daemon.curl("GET", "/v1/runtime", options=["-g"]).ok("runtime")
    _with_host(daemon, f"localhost:{daemon.address[1]}").ok("runtime")
    _with_host(daemon, "[::2]:80").refused(421, "misdirected_request")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "{url}", "http://localhost"])
def test_any_origin_is_forbidden_on_every_route(daemon: Daemon, origin: str) -> None:
    worker_id = daemon.echo()
    line = f"Origin: {origin.format(url=daemon.url)}"
    with daemon.unchanged():
        for request in (
            RUNTIME,
            "POST /v1/workers HTTP/1.1",
            f"GET /v1/workers/{worker_id} HTTP/1.1",
            "OPTIONS / HTTP/1.1",
        ):
            daemon.raw_answer(daemon.head(request, line)).refused(403, "forbidden_origin")


def test_any_origin_is_forbidden_on_the_socket(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    for origin in ("http://evil.example", daemon.url):
        with pytest.raises(InvalidStatus) as refused, daemon.observe(worker_id, origin=origin):
            pass
        assert refused.value.response.status_code == 403
        assert b"forbidden_origin" in refused.value.response.body


def test_a_preflight_is_not_answered_with_leave(daemon: Daemon) -> None:
    lines = ["Origin: http://evil.example", "Access-Control-Request-Method: POST"]
    # Answer refuses each Access-Control header it sees.
    daemon.curl("OPTIONS", "/v1/workers", None, lines).refused(403, "forbidden_origin")
    unauthorized = daemon.curl("OPTIONS", "/v1/workers", None, lines, token=None)
    assert unauthorized.status in {401, 403}
