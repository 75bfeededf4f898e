"""Every command through nginx, configured as docs/how-to/serve.md shows."""

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.docs.conftest import DOCS, Page
from tests.runtimectl.conftest import Ctl, Daemon, StartCtl, StartDaemon, wait_until

pytestmark = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("openssl")), reason="there is no nginx, or no openssl"
)

TOKEN = "the-token-behind-the-proxy"
BUNDLE = {
    "metadata": {
        "id": "bundle-1",
        "revision": "rev-1",
        "workspace_id": "workspace-1",
        "created_at": "2026-06-26T00:00:00Z",
        "provenance": {"source": "test"},
    }
}
START = "wo_0000000000000000"


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Finds ports that the system gives to nobody else during the test."""
    with ExitStack() as held:

        def find() -> int:
            found = held.enter_context(socket.socket())
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(("127.0.0.1", 0))
            return int(found.getsockname()[1])

        yield find


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "runtime.pem", folder / "runtime.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files


class Proxied:
    """A daemon behind nginx: the options that name it, and a way to send any request."""

    daemon: Daemon
    restart: Callable[[], Daemon]

    def __init__(self, port: int, prefix: str, certificate: Path, token_file: Path) -> None:
        self.port, self.prefix, self.certificate = port, prefix, certificate
        self.options: tuple[str, ...] = ("--url", f"https://localhost:{port}{prefix}", "--ca", str(certificate))
        self.options += ("--token-file", str(token_file))

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=self.certificate)
        with closing(http.client.HTTPSConnection("localhost", self.port, timeout=30, context=context)) as link:
            head = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
            link.request(method, f"{self.prefix}{path}", body, head)
            answer = link.getresponse()
            return answer.status, answer.read()


Serve = Callable[..., Proxied]


@pytest.fixture
def serve(
    env: dict[str, str],
    start_daemon: StartDaemon,
    free_port: Callable[[], int],
    certificate: tuple[Path, Path],
    tmp_path: Path,
) -> Iterator[Serve]:
    """Starts a daemon, and nginx that serves the API below a path. The daemon can be restarted."""
    with ExitStack() as started:

        def start(prefix: str = "", *options: str) -> Proxied:
            behind, port = free_port(), free_port()
            token = tmp_path / "token"
            token.touch(0o600)
            token.write_text(TOKEN)
            again = ("--store", f"fs:{tmp_path}/store", "--listen", f"127.0.0.1:{behind}", "--token-file", str(token))
            daemon = start_daemon(*again, *options)
            config = tmp_path / "nginx.conf"
            config.write_text(_config(tmp_path, port, behind, certificate, prefix))
            command = ["nginx", "-e", str(tmp_path / "nginx.log"), "-c", str(config), "-p", str(tmp_path)]
            nginx = started.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            started.callback(nginx.terminate)
            wait_until(lambda: nginx.poll() is not None or _listens(port), "nginx")
            assert nginx.poll() is None, (tmp_path / "nginx.log").read_text()
            found = Proxied(port, prefix, certificate[0], token)
            found.daemon, found.restart = daemon, lambda: start_daemon(*again, *options)
            return found

        yield start


def _config(tmp_path: Path, port: int, behind: int, certificate: tuple[Path, Path], prefix: str) -> str:
    """Return the block of the page with the ports and files of the test, in an unprivileged configuration."""
    [block] = Page(DOCS / "how-to/serve.md", (DOCS / "how-to/serve.md").read_text()).blocks("nginx")
    changed = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/ssl/certs/runtime.pem": str(certificate[0]),
        "/etc/ssl/private/runtime.key": str(certificate[1]),
        "127.0.0.1:38800;": f"127.0.0.1:{behind}{'/' if prefix else ''};",
        "location / {": f"location {prefix}/ {{",
    }
    for here, there in changed.items():
        assert here in block
        block = block.replace(here, there)
    folders = "".join(
        f"    {name}_temp_path {tmp_path}/nginx-{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"daemon off;\nmaster_process off;\npid {tmp_path}/nginx.pid;\nevents {{}}\n"
    return f"{head}http {{\n    access_log off;\n{folders}{block}}}\n"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("prefix", ["", "/runtimed"])
def test_every_command_works_through_the_proxy(
    ctl: Ctl, env: dict[str, str], serve: Serve, tmp_path: Path, prefix: str
) -> None:
    proxied = serve(prefix)
    bundle = tmp_path / "bundle.json"
    bundle.write_text(json.dumps(BUNDLE))

    def run(*args: str, code: int = 0) -> str:
        found = ctl(*args, *proxied.options)
        assert found.returncode == code, (args, found.stdout, found.stderr)
        return found.stdout

    assert run("status", "-o", "name").strip() == proxied.daemon.runtime_id
    worker, second = [
        run("workers", "create", "--profile", "builtin:shell", "--capability", "shell", "-o", "name").strip()
        for _ in range(2)
    ]
    assert run("workers", "list", "-o", "name").split() == [worker, second]
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
    assert run("bundles", "list", "-o", "name").strip() == reference
    run("workers", "interrupt", worker)
    run("workers", "restore", worker)
    run("workers", "stop", worker)
    assert run("transcript", worker, "--follow", "-o", "name")
    run("workers", "cancel", second)
    assert run("workers", "delete", worker, second, "-o", "name").split() == [worker, second]
    findings = [json.loads(line) for line in run("doctor", "-o", "jsonl").splitlines()]
    assert {"runtime", "version", "clock", "store"} <= {one["subject"] for one in findings if one["status"] == "ok"}


def test_a_follower_reconnects_after_a_restart_of_the_daemon_behind_the_proxy(
    ctl: Ctl, start_ctl: StartCtl, serve: Serve
) -> None:
    proxied = serve()
    worker = ctl("workers", "create", "-o", "name", *proxied.options).stdout.strip()
    tail = start_ctl("events", "tail", worker, *proxied.options)
    tail.wait_for("snapshot")
    proxied.daemon.end()
    tail.wait_for("reconnecting", stream="err")
    wait_until(lambda: proxied.ask("GET", "/v1/runtime")[0] == 502, "the answer of a proxy with no daemon behind it")
    assert ctl("status", *proxied.options).returncode == 7
    proxied.restart()
    tail.wait_for("feed resumed", stream="err")
    assert ctl("workers", "stop", worker, *proxied.options).returncode == 0
    assert tail.finished() == 0
    assert "shutdown" in tail.out[-1]


def test_an_event_stream_passes_the_proxy_unbuffered_and_ends_with_its_worker(ctl: Ctl, serve: Serve) -> None:
    proxied = serve()
    worker = ctl("workers", "create", "-o", "name", *proxied.options).stdout.strip()
    context = ssl.create_default_context(cafile=proxied.certificate)
    with closing(http.client.HTTPSConnection("localhost", proxied.port, timeout=30, context=context)) as link:
        path = f"/v1/workers/{worker}/events?until=over&cursor={START}"
        link.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"})
        answer = link.getresponse()
        assert b"snapshot" in answer.readline() + answer.readline()
        ctl("workers", "stop", worker, *proxied.options)
        assert re.search(rb"event: shutdown\n", answer.read())


def test_errors_of_the_daemon_pass_the_proxy_unchanged(ctl: Ctl, serve: Serve) -> None:
    proxied = serve()
    worker = ctl("workers", "create", "-o", "name", *proxied.options).stdout.strip()
    found = ctl("workers", "input", worker, "-", *proxied.options, stdin="x" * (8 << 20))
    assert (found.returncode, found.stderr[:31]) == (5, "runtimectl: payload_too_large: ")
    assert ctl("workers", "input", worker, "-", *proxied.options, stdin="x" * (10 << 20)).returncode == 5
    status, body = proxied.ask("GET", "/v1/runtime", Origin="https://runtime.example.org")
    assert (status, json.loads(body)["error"]["code"]) == (403, "forbidden_origin")
    status, body = proxied.ask("GET", "/v1/runtime", Authorization="Bearer wrong")
    assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")
    status, body = proxied.ask("GET", "/v1/workers/..%2f..%2fetc")
    assert json.loads(body)["error"]["code"] in {"not_found", "worker_not_found", "invalid_worker_id"}
    direct = http.client.HTTPConnection(proxied.daemon.url.removeprefix("http://"), timeout=30)
    with closing(direct):
        direct.request("HEAD", "/v1/runtime", headers={"Authorization": f"Bearer {TOKEN}"})
        assert proxied.ask("HEAD", "/v1/runtime") == (direct.getresponse().status, b"")


def test_a_proxy_without_a_trusted_certificate_gets_no_token(ctl: Ctl, serve: Serve, tmp_path: Path) -> None:
    proxied = serve()
    url, token = f"https://localhost:{proxied.port}", str(Path(proxied.options[-1]))
    found = ctl("status", "--url", url, "--token-file", token)
    assert (found.returncode, found.stdout) == (6, "")
    assert "certificate verify failed" in found.stderr
    found = ctl("status", "--url", url, "--token-file", token, "--ca", str(tmp_path / "none"))
    assert (found.returncode, found.stderr[:20]) == (2, "runtimectl: ca file ")
