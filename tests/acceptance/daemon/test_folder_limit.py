"""The disk space of a Worker's folder has a limit, which is its own."""

from pathlib import Path
from typing import Any

from tests.acceptance.daemon.conftest import Daemon, Launch, Until
from tests.conftest import granting

SMALL = """
[profiles."builtin:shell"]
backend = "shell"
capabilities = ["shell"]
max_folder_bytes = 4194304

[workspaces."team:files"]
path = "{files}"
mode = "copy"
"""
FILES = [{"name": "cwd", "reference": "team:files"}]
FILL = "fallocate -l 9000000 big"
"""Takes all of its room at once: a folder that is seen halfway has another size."""


def _launch(launch: Launch, tmp_path: Path, shared: Path) -> Daemon:
    files = tmp_path / "files"
    files.mkdir()
    (files / "given").write_bytes(bytes(1_000_000))
    config = tmp_path / "config.toml"
    config.write_text(SMALL.format(files=files) + granting(shared))
    return launch("--config", str(config), store=f"fs:{tmp_path / 'store'}").ready()


def _errors(events: list[dict[str, Any]]) -> list[tuple[str | None, str]]:
    errors = [one["payload"]["data"] for one in events if one["payload"]["event"] == "error"]
    return [(error.get("reason"), error["message"]) for error in errors]


def _said(daemon: Daemon, worker_id: str, script: str) -> str:
    events = daemon.run(worker_id, script)
    assert _errors(events) == []
    return "".join(one["payload"]["data"]["text"] for one in events if one["payload"]["event"] == "text_done")


def test_a_worker_that_fills_its_folder_is_ended_alone_and_its_deletion_removes_all(
    launch: Launch, tmp_path: Path, shared: Path, until: Until
) -> None:
    daemon = _launch(launch, tmp_path, shared)
    full, other = daemon.shell(), daemon.shell()
    _said(daemon, other, "kept=kept; head -c 1000000 /dev/zero >little")
    folders = tmp_path / "store" / "workers"

    events = daemon.run(full, f"{FILL}; sleep 1000")

    ((reason, message),) = _errors(events)
    assert reason == "disk"
    assert "max_folder_bytes allows (4,194,304 bytes): the Worker's folder has 9," in message
    assert events[-1]["payload"] == {"event": "run_end", "data": {"result": "rolled_back"}}
    assert (folders / full / "home" / "big").stat().st_size == 9_000_000
    assert _said(daemon, other, "echo $kept; wc -c <little") == "kept\n1000000\n"
    assert _said(daemon, full, "rm big; ls") == ""
    daemon.call("POST", f"/v1/workers/{full}/stop").ok("ack")
    assert daemon.curl("DELETE", f"/v1/workers/{full}").status == 204
    until(lambda: [path.name for path in folders.iterdir()] == [other])


def test_what_the_daemon_made_in_the_folder_counts_and_what_is_outside_does_not(
    launch: Launch, tmp_path: Path, shared: Path, until: Until
) -> None:
    daemon = _launch(launch, tmp_path, shared)
    copied = daemon.create(
        profile={"kind": "builtin", "value": "builtin:shell"},
        requested_capabilities=[{"name": "shell"}],
        workspace_refs=FILES,
    )
    assert _said(daemon, copied, f"head -c 9000000 /dev/zero >{shared}/outside; wc -c <given") == "1000000\n"

    events = daemon.run(copied, f"{FILL}; sleep 1000")

    ((reason, message),) = _errors(events)
    assert reason == "disk"
    assert "the Worker's folder has 1" in message  # the copy, and the repository that holds how it began
    daemon.call("POST", f"/v1/workers/{copied}/stop").ok("ack")
    assert daemon.curl("DELETE", f"/v1/workers/{copied}?force=true").status == 204
    until(lambda: not list((tmp_path / "store" / "workers").iterdir()))
