"""A daemon that has done some work, and its metrics as one scrape shows them."""

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests import programs
from tests.conftest import COVERAGE_VARIABLES

DEADLINE_S = 60
CONFIGURATION = """
[gateways.upstream]
upstream = "http://127.0.0.1:9"
allow = ["GET /x"]

[profiles."builtin:gated"]
backend = "shell"
capabilities = ["shell"]
env = { UPSTREAM = "gateway:upstream", KEY = "gateway-key:upstream" }
"""
GATED = {"profile": {"kind": "builtin", "value": "builtin:gated"}, "requested_capabilities": [{"name": "shell"}]}


@attrs.frozen
class WatchedDaemon:
    """A running daemon with `--listen-metrics`."""

    url: str
    metrics_url: str
    token: str

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer to a request with the token."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return json.load(answer)

    def get(self, path: str) -> str:
        """What the address of the metrics answers."""
        with urllib.request.urlopen(f"{self.metrics_url}{path}", timeout=DEADLINE_S) as answer:
            return str(answer.read().decode())

    def families(self) -> Mapping[str, Metric]:
        """The metrics by name."""
        return {family.name: family for family in text_string_to_metric_families(self.get("/metrics"))}

    def series(self) -> set[str]:
        """The names of all series."""
        return {sample.name for family in self.families().values() for sample in family.samples}

    def work(self) -> None:
        """Do some of everything that is counted."""
        worker = self.call("POST", "/v1/workers", GATED)["worker"]
        path = f"/v1/workers/{worker['worker_id']}"
        script = 'curl -s -H "Authorization: Bearer $KEY" "$UPSTREAM/no"; true'
        self.call("POST", f"{path}/input", {"kind": "user", "content": script})
        self.call("GET", f"{path}/wait?for=idle&timeout_s=60")


@contextmanager
def watched_daemon(home: Path) -> Iterator[WatchedDaemon]:
    """Start a daemon with a durable store and a gateway, and have it work."""
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    config, log = home / "config.toml", home / "log"
    config.write_text(CONFIGURATION)
    options = ["--config", str(config), "--store", f"fs:{home / 'store'}", "--listen", "127.0.0.1:0"]
    options += ["--listen-metrics", "127.0.0.1:0", "--log-format", "json"]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": programs.ROOT, "HOME": str(home)}
    env |= {"XDG_RUNTIME_DIR": str(home / "run"), **COVERAGE_VARIABLES}
    with log.open("wb") as err:
        process = programs.start(
            [*programs.RUNTIMED, *options], env, stdout=subprocess.PIPE, stderr=err, stdin=subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None
            ready = process.stdout.readline().decode()
            url = re.findall(r"listening on (\S+)", ready)
            assert url, log.read_text()
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            [metrics_url] = [line["url"] for line in lines if line["message"] == "listening for scrapes"]
            daemon = WatchedDaemon(url[0], metrics_url, (home / "store" / "token").read_text().strip())
            daemon.work()
            yield daemon
        finally:
            process.terminate()
            deadline = time.monotonic() + DEADLINE_S
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
