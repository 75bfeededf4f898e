"""Tenants of a real daemon: what its configuration allows each, and what a restart keeps of them."""

import json
from pathlib import Path
from typing import Any

from tests.acceptance.daemon.conftest import Daemon, Launch

LIMITS = """
[tenants.acme]
max_workers = 2

[tenants.slow]
max_requests_per_s = 0.01
"""


def make(daemon: Daemon, name: str, tenant: str | None) -> str:
    """The secret of a new admin's token."""
    answer = daemon.call("POST", "/v1/tokens", {"name": name, "role": "admin", "tenant": tenant})
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["secret"])


def listed(daemon: Daemon, secret: str) -> list[tuple[str, Any]]:
    """The ids and tenants of the Workers that a token sees."""
    return [
        (worker["worker_id"], worker.get("tenant"))
        for worker in daemon.call("GET", "/v1/workers", token=secret).ok("workers")
    ]


def test_tenants_keep_their_workers_and_their_limits_across_a_kill(launch: Launch, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(LIMITS)
    arguments = ("--config", str(config))
    daemon = launch(*arguments, store=f"fs:{tmp_path / 'store'}").ready()
    acme, slow, other = [make(daemon, name, name) for name in ("acme", "slow", "other")]
    for secret in (acme, other, acme):
        assert daemon.call("POST", "/v1/workers", {}, token=secret).status == 200
    daemon.call("POST", "/v1/workers", {}, token=acme).refused(400, "invalid_request")
    own = [("worker-00000001", "acme"), ("worker-00000003", "acme")]
    assert (listed(daemon, acme), listed(daemon, other)) == (own, [("worker-00000002", "other")])
    daemon.kill()

    daemon = launch(*arguments, store=f"fs:{tmp_path / 'store'}").ready()

    assert (listed(daemon, acme), listed(daemon, other)) == (own, [("worker-00000002", "other")])
    assert [tenant for _, tenant in listed(daemon, daemon.token)] == ["acme", "other", "acme"]
    daemon.call("GET", "/v1/workers/worker-00000002", token=acme).refused(404, "worker_not_found")
    daemon.call("POST", "/v1/workers", {}, token=acme).refused(400, "invalid_request")
    assert listed(daemon, slow) == []
    daemon.call("GET", "/v1/workers", token=slow).refused(429, "rate_limited")
    assert daemon.call("GET", "/v1/runtime/check").ok("check")["findings"] == []
