"""Every command through nginx and Caddy, configured as docs/how-to/proxy.md shows."""

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import runtimectl
from tests import programs
from tests.certificates import Authority, Certificate
from tests.conftest import COVERAGE_VARIABLES
from tests.docs.conftest import DOCS, Page
from tests.programs import RUNTIMECTL
from tests.runtimectl.conftest import DEADLINE_S, ROOT, Daemon, Tail, wait_until

TOKEN = "the-token-behind-the-proxy"
START = "wo_0000000000000000"
LARGE = 64 * 2**20
"""The largest body that the configurations of the page take."""

BUNDLE = {
    "metadata": {
        "id": "bundle-1",
        "revision": "rev-1",
        "workspace_id": "workspace-1",
        "created_at": "2026-06-26T00:00:00Z",
        "provenance": {"source": "test"},
    }
}


class Site:
    """The API as a proxy serves it, at the root of a host or below a path."""

    def __init__(self, env: dict[str, str], port: int, prefix: str, authority: Authority, token: Path) -> None:
        self._env, self._port, self.prefix = env, port, prefix
        self._tls = authority.client_context()
        self.url, self.ca = f"https://localhost:{port}{prefix}", str(authority.ca)
        self.options: tuple[str, ...] = ("--url", self.url, "--ca", self.ca, "--token-file", str(token))

    def ctl(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*RUNTIMECTL, args[0], *self.options, *args[1:]]
        return programs.run(command, self._env, text=stdin, timeout=DEADLINE_S)

    def run(self, *args: str, code: int = 0, stdin: str = "") -> str:
        found = self.ctl(*args, stdin=stdin)
        assert found.returncode == code, (args, found.stdout, found.stderr)
        return found.stdout

    def list_acp_sessions(self) -> list[object]:
        """What `runtimectl acp` answers to an editor that lists the sessions."""
        requests = [("initialize", {"protocolVersion": 1}), ("session/list", {})]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with programs.start([*RUNTIMECTL, "acp", *self.options], self._env, text=True, **pipes) as face:
            assert face.stdin is not None
            assert face.stdout is not None
            for number, (method, params) in enumerate(requests):
                message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
                face.stdin.write(f"{json.dumps(message)}\n")
                face.stdin.flush()
                answer = json.loads(face.stdout.readline())
        found: list[object] = answer["result"]["sessions"]
        return found

    @contextmanager
    def start_ctl(self, *args: str) -> Iterator[Tail]:
        with closing(Tail(self._env, args[0], *self.options, *args[1:])) as tail:
            yield tail

    @contextmanager
    def link(self) -> Iterator[http.client.HTTPSConnection]:
        with closing(http.client.HTTPSConnection("localhost", self._port, timeout=30, context=self._tls)) as link:
            yield link

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with self.link() as link:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            head = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **given}
            link.request(method, f"{self.prefix}{path}", body, head)
            answer = link.getresponse()
            return answer.status, answer.headers, answer.read()


class Proxied:
    """A daemon that can be restarted, and a proxy in front of it."""

    root: Site
    below: Site

    def __init__(self, env: dict[str, str], behind: int, folder: Path, token: Path) -> None:
        self._env = env
        options = ("--store", f"fs:{folder}/store", "--token-file", str(token))
        self._options = (*options, "--listen", f"127.0.0.1:{behind}")
        self.start()

    def start(self) -> None:
        self.daemon = Daemon(self._env, *self._options)
        self.daemon.await_ready()

    def end(self) -> None:
        self.daemon.end()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"behind {name}")) for name in ("nginx", "caddy")],
)
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Proxied]:
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    token = folder / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    with ExitStack() as started:
        behind, *ports = [started.enter_context(_free_port()) for _ in range(3)]
        env = _environment(folder)
        found = Proxied(env, behind, folder, token)
        started.callback(found.end)
        found.root = Site(env, ports[0], "", authority, token)
        found.below = Site(env, ports[1], "/runtimed", authority, token)
        start = _start_nginx if request.param == "nginx" else _start_caddy
        started.enter_context(start(folder, ports, behind, authority.issue(request.param, "DNS:localhost")))
        yield found


def _environment(folder: Path) -> dict[str, str]:
    for name in ("run", "config", "home"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "RUNTIMED_MAX_BODY_BYTES": str(LARGE),
        "LANG": "C.UTF-8",
        **COVERAGE_VARIABLES,
    }


@contextmanager
def _free_port() -> Iterator[int]:
    """Find a port that the system gives to nobody else meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def _blocks(language: str) -> list[str]:
    page = DOCS / "how-to/proxy.md"
    return Page(page, page.read_text()).blocks(language)


def _replaced(text: str, changed: dict[str, str]) -> str:
    for here, there in changed.items():
        assert here in text
        text = text.replace(here, there)
    return text


@contextmanager
def _start_nginx(folder: Path, ports: list[int], behind: int, certificate: Certificate) -> Iterator[None]:
    """Start nginx with the blocks of the page: with the ports and files of the test, and without privileges."""
    whole, below = _blocks("nginx")
    variables, _, server = whole.partition("server {")
    root = re.search(r"    location / \{.*?^    \}\n", server, re.MULTILINE | re.DOTALL)
    assert root is not None
    servers = [
        _replaced(
            f"server {{{text}",
            {
                "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
                "/etc/ssl/certs/runtime.pem": str(certificate.cert),
                "/etc/ssl/private/runtime.key": str(certificate.key),
                "127.0.0.1:38800": f"127.0.0.1:{behind}",
            },
        )
        for text, port in zip((server, server.replace(root[0], below)), ports, strict=True)
    ]
    folders = "".join(
        f"    {name}_temp_path {folder}/nginx-{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nevents {{}}\n"
    config = folder / "nginx.conf"
    config.write_text(f"{head}http {{\n    access_log off;\n{folders}{variables}{''.join(servers)}}}\n")
    log = folder / "nginx.log"
    with _running(["nginx", "-e", str(log), "-c", str(config), "-p", str(folder)], ports, log):
        yield


@contextmanager
def _start_caddy(folder: Path, ports: list[int], behind: int, certificate: Certificate) -> Iterator[None]:
    """Start Caddy with the blocks of the page, with the ports and files of the test."""
    sites = [
        _replaced(
            block,
            {
                "runtime.example.org {": f"https://localhost:{port} {{\n    bind 127.0.0.1",
                "/etc/ssl/certs/runtime.pem": str(certificate.cert),
                "/etc/ssl/private/runtime.key": str(certificate.key),
                "127.0.0.1:38800": f"127.0.0.1:{behind}",
            },
        )
        for block, port in zip(_blocks("caddy"), ports, strict=True)
    ]
    config, log = folder / "Caddyfile", folder / "caddy.log"
    config.write_text("".join(["{\n    admin off\n    auto_https disable_redirects\n}\n", *sites]))
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "XDG_DATA_HOME": str(folder / "home")}
    command = ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]
    with _running(command, ports, log, variables):
        yield


@contextmanager
def _running(command: list[str], ports: list[int], log: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("ab") as written, subprocess.Popen(command, env=env, stderr=written, stdout=written) as proxy:
        try:
            wait_until(lambda: proxy.poll() is not None or all(map(_listens, ports)), command[0])
            assert proxy.poll() is None, log.read_text()
            yield
        finally:
            proxy.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["root", "below"])
def site(request: pytest.FixtureRequest, proxied: Proxied) -> Site:
    found: Site = getattr(proxied, request.param)
    return found


def test_every_command_works_through_the_proxy(proxied: Proxied, site: Site, tmp_path: Path) -> None:
    run = site.run
    bundle = tmp_path / "bundle.json"
    bundle.write_text(json.dumps(BUNDLE))

    assert run("status", "-o", "name").strip() == proxied.daemon.runtime_id
    worker, second = [
        run("workers", "create", "--profile", "builtin:shell", "--capability", "shell", "-o", "name").strip()
        for _ in range(2)
    ]
    assert {worker, second} <= set(run("workers", "list", "-o", "name").split())
    assert worker in run("workers", "get", worker)
    assert run("workers", "input", worker, "echo hello", "--wait") == "hello\n"
    assert run("workers", "input", worker, "exit 3", "--wait", code=1) == ""
    assert "hello" in run("transcript", worker)
    assert "hello" in run("events", "tail", worker, "--from-start", "--until", "run_end")
    assert "hello" in run("events", "tail", "--all", "--from-start", "--no-follow")
    exported = run("events", "export", worker)
    assert run("events", "tail", worker, "--from-start", "--no-follow", "-o", "jsonl").endswith(exported)
    assert run("permissions", "list", "-o", "json") == '{"permissions": []}\n'
    run("permissions", "answer", worker, "00000000", "yes", code=3)
    reference = run("bundles", "push", str(bundle), "-o", "name").strip()
    assert run("bundles", "check", reference, "-o", "name").strip() == reference
    assert reference in run("bundles", "list", "-o", "name").split()
    run("workers", "interrupt", worker)
    run("workers", "restore", worker)
    run("workers", "stop", worker)
    assert run("transcript", worker, "--follow", "-o", "name")
    run("workers", "cancel", second)
    assert run("workers", "delete", worker, second, "-o", "name").split() == [worker, second]
    assert run("run", "--", "echo", "hello") == "hello\n"
    findings = [json.loads(line) for line in run("doctor", "-o", "jsonl").splitlines()]
    assert {"runtime", "version", "clock", "store"} <= {one["subject"] for one in findings if one["status"] == "ok"}
    assert site.list_acp_sessions() == []


def test_the_library_works_through_the_proxy(site: Site) -> None:
    with runtimectl.Client(site.url, TOKEN, ca=site.ca) as client:
        worker = client.create_worker()
        assert worker.run("hello").text == "hello"
        worker.stop()
        seen = [event.cursor for event in worker.events(START)]

    async def observe() -> list[str]:
        async with runtimectl.AsyncClient(site.url, TOKEN, ca=site.ca) as client:
            assert (await client.worker(worker.id).detail()).status == "stopped"
            return [event.cursor async for event in client.worker(worker.id).events(START)]

    assert seen == asyncio.run(observe()) == sorted(set(seen))


def test_a_tail_and_a_run_go_on_over_a_restart_of_the_daemon_with_each_event_once(
    proxied: Proxied, tmp_path: Path
) -> None:
    site = proxied.root
    worker = site.run("workers", "create", "-o", "name").strip()
    result, events = tmp_path / "result", tmp_path / "events"
    files = ("--result", str(result), "--events", str(events))
    with (
        site.start_ctl("events", "tail", worker, "-o", "jsonl") as tail,
        site.start_ctl("run", *files, "--", "sh", "-c", "echo begun; sleep 600") as running,
    ):
        site.run("workers", "input", worker, "before", "--wait")
        running.wait_for("begun")
        tail.wait_for("before")
        proxied.daemon.end()
        try:
            tail.wait_for("reconnecting", stream="err")
            wait_until(lambda: site.ask("GET", "/v1/runtime")[0] == 502, "a proxy with no daemon behind it")
            assert site.ctl("status").returncode == 7
        finally:
            proxied.start()
        tail.wait_for("feed resumed", stream="err")
        site.run("workers", "input", worker, "behind", "--wait")
        site.run("workers", "stop", worker)
        assert tail.finished() == 0
        assert running.finished() == 1

    tailed = _cursors(tail.out)
    exported = _cursors(site.run("events", "export", worker).splitlines())
    assert tailed == exported[-len(tailed) :]
    assert any("before" in line for line in tail.out)
    assert any("behind" in line for line in tail.out)
    assert json.loads(result.read_text())["outcome"] == "lost"
    followed = _cursors(events.read_text().splitlines())
    assert followed == sorted(set(followed))


def _cursors(lines: list[str]) -> list[str]:
    """The cursors of events, without those of snapshots."""
    envelopes = [json.loads(line) for line in lines]
    return [envelope["cursor"] for envelope in envelopes if envelope["payload"]["event"] != "snapshot"]


def test_an_event_stream_passes_the_proxy_unbuffered_and_ends_with_its_worker(site: Site) -> None:
    worker = site.run("workers", "create", "-o", "name").strip()
    with site.link() as link:
        path = f"{site.prefix}/v1/workers/{worker}/events?until=over&cursor={START}"
        link.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"})
        answer = link.getresponse()
        assert b"snapshot" in answer.readline() + answer.readline()
        site.run("workers", "stop", worker)
        assert re.search(rb"event: shutdown\n", answer.read())


def test_bodies_of_64_mib_reach_the_daemon_and_it_refuses_larger_ones_itself(site: Site) -> None:
    start, end = b'{"kind":"user","content":"', b'"}'
    largest = start + b"x" * (LARGE - len(start) - len(end)) + end
    status, _, body = site.ask("POST", "/v1/workers/worker-0fffffff/input", largest)
    assert (status, json.loads(body)["error"]["code"]) == (404, "worker_not_found")
    worker = site.run("workers", "create", "-o", "name").strip()
    found = site.ctl("workers", "input", worker, "-", stdin="x" * LARGE)
    assert (found.returncode, found.stderr[:31]) == (5, "runtimectl: payload_too_large: ")


def test_errors_and_headers_of_the_daemon_pass_the_proxy_unchanged(proxied: Proxied, site: Site) -> None:
    status, _, body = site.ask("GET", "/v1/runtime", Origin="https://runtime.example.org")
    assert (status, json.loads(body)["error"]["code"]) == (403, "forbidden_origin")
    status, _, body = site.ask("GET", "/v1/runtime", Authorization="Bearer wrong")
    assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")
    status, _, body = site.ask("GET", "/v1/workers/..%2f..%2fetc")
    assert json.loads(body)["error"]["code"] in {"not_found", "worker_not_found", "invalid_worker_id"}
    direct = http.client.HTTPConnection(proxied.daemon.url.removeprefix("http://"), timeout=30)
    with closing(direct):
        given = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "request-1"}
        direct.request("HEAD", "/v1/runtime", headers=given)
        expected = direct.getresponse()
        status, headers, body = site.ask("HEAD", "/v1/runtime", X_Request_Id="request-1")
    assert (status, body) == (expected.status, b"")
    assert headers["X-Request-Id"] == expected.headers["X-Request-Id"] == "request-1"


def test_a_proxy_without_a_trusted_certificate_gets_no_token(proxied: Proxied, tmp_path: Path) -> None:
    site = proxied.root
    untrusted = Authority(tmp_path / "other")
    for options in ((), ("--ca", str(untrusted.ca))):
        command = [*RUNTIMECTL, "status", *site.options[:2], *site.options[4:], *options]
        found = programs.run(command, _environment(tmp_path), timeout=DEADLINE_S)
        assert (found.returncode, found.stdout) == (6, "")
        assert "its certificate is not trusted" in found.stderr
    found = site.ctl("status", "--ca", str(tmp_path / "none"))
    assert (found.returncode, found.stderr[:20]) == (2, "runtimectl: ca file ")
