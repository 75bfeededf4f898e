"""Interface section 8: a daemon that is drained takes no new work, and ends once its runs are over."""

import json
import secrets
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch, Until
from tests.conftest import granting

LONG = {"RUNTIMED_DRAIN_S": "3600"}
QUEUED = {"kind": "user", "content": "echo second", "when_busy": "queue"}


@pytest.fixture
def waiting(tmp_path: Path, shared: Path) -> str:
    """A script that goes on until the file `go` is in the shared folder, to which Workers can write."""
    config = tmp_path / "config" / "runtimed" / "config.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(granting(shared))
    return f"until [ -e {shared}/go ]; do sleep 0.02; done; echo first"


def _drain(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.call("POST", "/v1/runtime/drain").ok("drain", "Drain")
    return found


def test_runs_go_on_and_queued_inputs_run_after_the_next_start(
    launch: Launch, tmp_path: Path, shared: Path, waiting: str, until: Until
) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store, env=LONG).ready()
    worker_id, idle = daemon.shell(), daemon.echo()
    daemon.input(worker_id, waiting)
    daemon.call("POST", f"/v1/workers/{worker_id}/input", QUEUED).ok("ack")

    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: '"draining"' in daemon.errors)

    with daemon.observe(worker_id) as observer:
        observer.envelope()
        for path, body in (
            ("/v1/workers", {}),
            (f"/v1/workers/{idle}/input", {"kind": "user", "content": "hello"}),
            (f"/v1/workers/{worker_id}/restore", None),
        ):
            answer = daemon.call("POST", path, body)
            assert "draining" in answer.refused(503, "unavailable")
            assert int(answer.header("Retry-After") or "") > 0
        daemon.call("POST", f"/v1/workers/{idle}/stop").ok("ack")
        (shared / "go").touch()
        assert "run_end" in [
            frame["envelope"]["payload"]["event"] for frame in observer.rest() if "envelope" in frame
        ]
    assert daemon.ended() == 0

    again = launch(store=store).ready()
    until(lambda: [item["content"] for item in again.items(worker_id)][-1] == "second\n")
    texts = [item["content"] for item in again.items(worker_id) if item["role"] == "assistant"]
    assert texts == ["first\n", "second\n"]


def test_a_drain_by_the_route_is_answered_again_and_ends_with_the_last_run(
    launch: Launch, store: str, waiting: str
) -> None:
    daemon = launch(store=store, env=LONG).ready()
    worker_id = daemon.shell()
    daemon.input(worker_id, waiting)

    first = _drain(daemon)
    assert first["runs"] == 1
    assert _drain(daemon) == first
    daemon.call("POST", f"/v1/workers/{worker_id}/interrupt").ok("ack")

    assert daemon.ended() == 0


def test_a_drain_without_runs_ends_the_daemon_at_once(launch: Launch) -> None:
    daemon = launch(env=LONG).ready()
    daemon.echo()

    assert _drain(daemon)["runs"] == 0

    assert daemon.ended() == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, None], ids=["signal", "route"])
def test_a_further_stop_signal_cuts_the_runs(
    launch: Launch, tmp_path: Path, waiting: str, until: Until, first: signal.Signals | None
) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store, env=LONG).ready()
    worker_id = daemon.shell()
    daemon.input(worker_id, waiting)

    if first is None:
        _drain(daemon)
    until(lambda: first or '"draining"' in daemon.errors)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: '"draining"' in daemon.errors)
    assert daemon.worker(worker_id)["execution"]["run_state"] == "busy"
    daemon.process.send_signal(signal.SIGINT)

    assert daemon.ended() == 0
    again = launch(store=store).ready()
    assert [event["payload"]["event"] for event in again.log(worker_id)][-1] == "run_end"


@pytest.mark.parametrize(
    "fields",
    [{"role": "observer"}, {"role": "operator"}, {"role": "admin", "tenant": "acme"}],
    ids=["observer", "operator", "tenant"],
)
def test_only_an_admin_of_all_tenants_may_drain(daemon: Daemon, fields: dict[str, Any]) -> None:
    name = f"drain-{secrets.token_hex(4)}"
    answer = daemon.call("POST", "/v1/tokens", {"name": name, **fields})
    secret = json.loads(answer.body)["secret"]

    daemon.call("POST", "/v1/runtime/drain", token=secret).refused(403, "forbidden")

    daemon.run(daemon.echo(), "still here")
    assert daemon.call("DELETE", f"/v1/tokens/{name}").status == 204


def test_runs_are_not_waited_for_unless_drain_s_says_so(launch: Launch, waiting: str) -> None:
    daemon = launch().ready()
    daemon.input(daemon.shell(), waiting)

    assert _drain(daemon)["runs"] == 1

    assert daemon.ended() == 0


def test_a_time_below_zero_is_no_setting(launch: Launch, tmp_path: Path) -> None:
    config = tmp_path / "below.toml"
    config.write_text(f"drain_s = {json.dumps(-1)}\n")
    daemon = launch("--config", str(config))

    assert daemon.ended() == 2
    assert "drain_s: expected a number at least 0" in daemon.errors
