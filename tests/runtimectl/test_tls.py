"""Clients of a daemon with TLS: what they trust, what they say when they don't, and their own certificates."""

import asyncio
import json
import re
import socket
from pathlib import Path

import pytest

import runtimectl
from runtimectl.client.address import Address
from runtimectl.errors import NotConnected, UsageProblem
from tests.certificates import Authority, Certificate
from tests.runtimectl.conftest import Ctl, Daemon, StartCtl, StartDaemon

TOKEN = "the-token-of-these-tests"
START = "wo_0000000000000000"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    return path


@pytest.fixture
def serve(start_daemon: StartDaemon, token: Path) -> "Serve":
    return Serve(start_daemon, token)


class Serve:
    """Starts daemons with TLS."""

    def __init__(self, start_daemon: StartDaemon, token: Path) -> None:
        self._start_daemon, self._token = start_daemon, token

    def __call__(self, server: Certificate, *options: str) -> Daemon:
        tls = ("--tls-cert", str(server.cert), "--tls-key", str(server.key), "--token-file", str(self._token))
        daemon = self._start_daemon("--store", "memory", *tls, *options)
        assert daemon.url.startswith("https://127.0.0.1:")
        return daemon


def test_the_daemon_of_this_user_is_trusted_by_its_endpoint_file_whatever_its_certificate_is_for(
    ctl: Ctl, serve: Serve, authority: Authority
) -> None:
    daemon = serve(authority.issue("elsewhere", "DNS:runtime.example.org"))

    assert ctl("status", "-o", "name").stdout.strip() == daemon.runtime_id
    assert ctl("run", "--", "echo", "hello").stdout == "hello\n"
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    assert ctl("workers", "input", worker, "hi", "--wait").returncode == 0
    assert "hi" in ctl("events", "tail", worker, "--from-start", "--until", "run_end").stdout
    findings = [json.loads(line) for line in ctl("doctor", "-o", "jsonl").stdout.splitlines()]
    assert {"runtime", "store"} <= {one["subject"] for one in findings if one["status"] == "ok"}
    [certificate] = [one for one in findings if one["subject"] == "certificate"]
    assert certificate["status"] == "warn"
    assert re.fullmatch(r"valid until \w{3} .* GMT; renew it", certificate["message"])
    assert ctl("status", "--url", daemon.url).returncode == 0
    other = ctl("status", "--ca", str(authority.ca))
    assert (other.returncode, "its certificate is for another host" in other.stderr) == (6, True)


def test_a_named_daemon_is_verified_with_the_authorities_that_are_given(
    ctl: Ctl, start_ctl: StartCtl, serve: Serve, authority: Authority, token: Path
) -> None:
    port = serve(authority.issue("server")).url.rpartition(":")[2]
    url, ca = f"https://localhost:{port}", str(authority.ca)
    options = ("--url", url, "--token-file", str(token))

    assert ctl("status", *options, "--ca", ca).returncode == 0
    assert ctl("status", *options, extra={"RUNTIMECTL_CA": ca}).returncode == 0
    assert ctl("context", "set", "lab", *options, "--ca", ca).returncode == 0
    assert ctl("status", "--context", "lab").returncode == 0
    assert ctl("status", "--context", "lab", extra={"RUNTIMECTL_CA": "/nowhere"}).returncode == 0
    assert json.loads(ctl("context", "list", "-o", "json").stdout)["contexts"][0]["ca"] == ca
    worker = ctl("workers", "create", "-o", "name", "--context", "lab").stdout.strip()
    tail = start_ctl("events", "tail", worker, "--context", "lab")
    tail.wait_for("snapshot")
    ctl("workers", "stop", worker, "--context", "lab")
    assert tail.finished() == 0

    with runtimectl.Client(url, token_file=str(token), ca=ca) as client:
        assert client.worker(worker).detail().status == "stopped"
        assert [event.payload.event for event in client.worker(worker).events(START)][-1] == "shutdown"

    async def look() -> None:
        async with runtimectl.AsyncClient(url, token_file=str(token), ca=ca) as client:
            assert (await client.worker(worker).detail()).status == "stopped"
            events = [event async for event in client.worker(worker).events(START)]
            assert events[-1].payload.event == "shutdown"

    asyncio.run(look())


def test_requests_share_a_connection_with_tls(
    serve: Serve, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(authority.issue("server")).url
    opened: list[Address] = []
    connect = Address.connect

    def counted(self: Address, timeout: float) -> socket.socket:
        opened.append(self)
        return connect(self, timeout)

    monkeypatch.setattr(Address, "connect", counted)
    with runtimectl.Client(url, TOKEN, ca=str(authority.ca)) as client:
        for _ in range(5):
            client.runtime()

    assert len(opened) == 1


@pytest.mark.parametrize(
    ("names", "days", "problem"),
    [
        ("DNS:runtime.example.org", 2, "its certificate is for another host"),
        ("DNS:localhost", -1, "its certificate has expired"),
        ("DNS:localhost", 2, "its certificate is not trusted"),
    ],
)
def test_a_certificate_that_does_not_hold_is_named_and_no_token_is_sent(
    ctl: Ctl, serve: Serve, authority: Authority, token: Path, tmp_path: Path, names: str, days: int, problem: str
) -> None:
    elsewhere = {"XDG_RUNTIME_DIR": str(tmp_path)}  # without the endpoint file of the daemon
    port = serve(authority.issue("bad", names, days)).url.rpartition(":")[2]
    url, ca = f"https://localhost:{port}", None if "trusted" in problem else str(authority.ca)
    options = ("--url", url, "--token-file", str(token), *(("--ca", ca) if ca else ()))

    backup = ("backup", str(tmp_path / "backup"))
    for command in (("status",), ("events", "tail", "worker-00000001"), ("workers", "create"), backup):
        found = ctl(*command, *options, extra=elsewhere)
        assert (found.returncode, found.stdout) == (6, "")
        assert f"runtimectl: cannot reach {url}: {problem}" in found.stderr
    assert ctl("run", *options, "--", "true", extra=elsewhere).returncode == 125
    with runtimectl.Client(url, TOKEN, ca=ca) as client, pytest.raises(NotConnected, match=problem):
        client.runtime()

    async def ask() -> None:
        async with runtimectl.AsyncClient(url, TOKEN, ca=ca) as client:
            with pytest.raises(NotConnected, match=problem):
                await client.runtime()
            with pytest.raises(NotConnected, match=problem):
                await anext(client.worker("worker-00000001").events())

    asyncio.run(ask())


def test_a_daemon_that_requires_a_client_certificate_says_so_and_takes_the_right_one(
    ctl: Ctl, serve: Serve, authority: Authority, token: Path, tmp_path: Path
) -> None:
    daemon = serve(authority.issue("server"), "--tls-client-ca", str(authority.ca))
    client, stranger = authority.issue("client"), Authority(tmp_path / "other").issue("stranger")
    url = daemon.url
    requires, refuses = "it requires a client certificate", "it refuses the client certificate"
    given = {"RUNTIMECTL_CERT": str(client.cert), "RUNTIMECTL_KEY": str(client.key)}

    unknown = {"RUNTIMECTL_CERT": str(stranger.cert), "RUNTIMECTL_KEY": str(stranger.key)}
    for command in (("status",), ("events", "tail", "worker-00000001"), ("backup", str(tmp_path / "backup"))):
        for problem, extra in ((requires, {}), (refuses, unknown)):
            found = ctl(*command, extra=extra)
            assert (found.returncode, f"cannot reach {url}: {problem}" in found.stderr) == (6, True), found.stderr
    assert ctl("status", extra=given).returncode == 0
    assert ctl("run", "--", "echo", "hello", extra=given).stdout == "hello\n"
    trust = ("--url", url, "--token-file", str(token), "--ca", str(authority.ca))
    certificate = ("--cert", str(client.cert), "--key", str(client.key))
    assert ctl("context", "set", "lab", *trust, *certificate).returncode == 0
    assert ctl("status", "--context", "lab").returncode == 0

    ca, cert, key = str(authority.ca), str(client.cert), str(client.key)
    with runtimectl.Client(url, TOKEN, ca=ca, cert=cert, key=key) as library:
        assert library.runtime().runtime_id == daemon.runtime_id

    async def ask() -> None:
        async with runtimectl.AsyncClient(url, TOKEN, ca=ca, cert=cert, key=key) as library:
            assert (await library.runtime()).runtime_id == daemon.runtime_id
        async with runtimectl.AsyncClient(url, TOKEN, ca=ca) as library:
            with pytest.raises(NotConnected, match=requires):
                await library.runtime()

    asyncio.run(ask())


def test_files_of_a_client_certificate_that_cannot_be_used_are_named(
    ctl: Ctl, authority: Authority, tmp_path: Path
) -> None:
    client, other = authority.issue("client"), authority.issue("other")
    lax = tmp_path / "lax.key"
    lax.write_bytes(client.key.read_bytes())
    lax.chmod(0o640)
    url = ("--url", "https://localhost:1")

    def said(cert: object, key: object) -> str:
        with_token = {"RUNTIMECTL_TOKEN": TOKEN, "RUNTIMECTL_CERT": str(cert), "RUNTIMECTL_KEY": str(key)}
        found = ctl("status", *url, extra=with_token)
        assert found.returncode == 2
        return found.stderr

    assert f"client key {lax}: mode 0640 lets others read it; expected 0600" in said(client.cert, lax)
    assert "expected a certificate and its key in PEM" in said(client.cert, other.key)
    assert "No such file" in said("/nowhere", client.key)
    assert "RUNTIMECTL_CERT: required with RUNTIMECTL_KEY" in said("", client.key)
    assert ctl("context", "set", "x", *url, "--key", "k").returncode == 2
    with pytest.raises(UsageProblem, match=r"^cert: required with key$"):
        runtimectl.Client("https://localhost:1", TOKEN, key="k")


def test_a_daemon_without_tls_is_named_as_such(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    url = daemon.url.replace("http://", "https://")
    for command in (("status",), ("events", "tail", "worker-00000001"), ("backup", str(tmp_path / "backup"))):
        found = ctl(*command, "--url", url, extra={"RUNTIMECTL_TOKEN": TOKEN, "XDG_RUNTIME_DIR": str(tmp_path)})
        assert found.returncode == 6
        assert f"cannot reach {url}: it does not speak TLS: use http://" in found.stderr
