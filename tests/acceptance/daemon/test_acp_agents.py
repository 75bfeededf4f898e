"""An ACP agent through the daemon: what it gets, what it tells of its session, and two of them in one repository."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.acceptance.daemon.conftest import DEADLINE_S, Daemon, Launch, Until
from tests.acceptance.daemon.test_workspaces import DELETED, delete, diff, git, listed, make_repository, stop
from tests.conftest import granting
from tests.programs import RUNTIMECTL

AGENT = Path(__file__).parents[2] / "execution" / "acp" / "agent.py"
CODER = {"kind": "builtin", "value": "builtin:coder"}
SCHEMA = {"type": "object", "properties": {"branch": {"type": "string"}}, "required": ["branch"]}
OPTIONS = [
    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]
TELLING = [
    ["update", {"sessionUpdate": "session_info_update", "title": "Mend the roof"}],
    [
        "update",
        {
            "sessionUpdate": "available_commands_update",
            "availableCommands": [{"name": "plan", "description": "Make a plan", "input": {"hint": "what for"}}],
        },
    ],
    ["update", {"sessionUpdate": "notice", "title": "Quota", "description": "nearly used up", "severity": "warning"}],
    [
        "update",
        {"sessionUpdate": "usage_update", "used": 10, "size": 200, "cost": {"amount": 0.5, "currency": "USD"}},
    ],
    ["tell", "elicitation/create", {"mode": "form", "message": "Which branch?", "requestedSchema": SCHEMA}],
    ["ask", {"toolCallId": "call-1", "title": "push it", "kind": "execute"}, OPTIONS],
    ["end"],
]
IMAGE = {"kind": "image", "mime_type": "image/png", "data": "aGVsbG8="}

StartAgents = Callable[[dict[str, Any]], Daemon]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "source" / "repository")


@pytest.fixture
def start_agents(launch: Launch, tmp_path: Path, shared: Path, repository: Path) -> StartAgents:
    """Start a daemon with `builtin:coder`, whose agents do what a script says, and worktrees of the repository."""

    def start(script: dict[str, Any]) -> Daemon:
        (shared / "script.json").write_text(json.dumps(script))
        command = json.dumps([sys.executable, str(AGENT), str(shared / "script.json")])
        config = tmp_path / "config.toml"
        config.write_text(
            f'workspace_roots = ["{repository.parent}"]\n{granting(shared)}'
            f'[profiles."builtin:coder"]\nbackend = "acp"\ncommand = {command}\n'
            'mcp_servers = [{ name = "docs", url = "https://docs.example.org/mcp" }]\n'
            f'[workspaces."repo:worktree"]\npath = "{repository}"\nmode = "worktree"\n'
        )
        return launch("--config", str(config)).ready()

    return start


def permission(daemon: Daemon, worker_id: str, cursor: str) -> dict[str, Any]:
    """Wait for the next permission request behind a cursor."""
    path = f"/v1/workers/{worker_id}"
    daemon.call("GET", f"{path}/wait?for=permission&cursor={cursor}&timeout_s=60").ok("wait")
    (found,) = daemon.call("GET", f"{path}/permissions").ok("permissions")
    return dict(found)


def test_an_agent_gets_all_of_its_request_and_what_it_tells_of_its_session_is_shown(
    start_agents: StartAgents, shared: Path, repository: Path, until: Until
) -> None:
    able = {
        "promptCapabilities": {"image": True},
        "mcpCapabilities": {"http": True},
        "sessionCapabilities": {name: {} for name in ("close", "delete", "additionalDirectories")},
    }
    daemon = start_agents({"capabilities": able, "session/prompt": [TELLING]})

    def heard(method: str) -> list[dict[str, Any]]:
        told = map(json.loads, (shared / "heard.jsonl").read_text().splitlines())
        return [message["params"] for message in told if message.get("method") == method]

    worker_id = daemon.create(
        profile=CODER,
        workspace_refs=[
            {"name": "cwd", "reference": "repo:worktree"},
            {"name": "docs", "reference": f"dir:{repository}"},
        ],
        initial_input={"kind": "user", "content": "mend it", "attachments": [IMAGE]},
    )
    form = permission(daemon, worker_id, "wo_0000000000000000")
    answers = f"/v1/workers/{worker_id}/permissions"
    daemon.call("POST", f"{answers}/{form['request_id']}", {"content": {"branch": "main"}}).ok("permission")
    push = permission(daemon, worker_id, daemon.worker(worker_id)["last_cursor"])
    denial = {"option_id": "no", "reason": "not on a Friday"}
    daemon.call("POST", f"{answers}/{push['request_id']}", denial).ok("permission")
    daemon.idle(worker_id)

    (session,) = heard("session/new")
    (prompt,) = heard("session/prompt")
    assert Path(session["cwd"]).name.startswith(worker_id)
    assert session["additionalDirectories"] == [str(repository)]
    assert [server["url"] for server in session["mcpServers"]] == ["https://docs.example.org/mcp"]
    assert [block["type"] for block in prompt["prompt"]] == ["text", "image"]
    assert (form["tool_kind"], form["schema"]) == ("elicitation", SCHEMA)
    assert (push["tool_kind"], push["title"]) == ("execute", "push it")
    said = [item["content"] for item in daemon.items(worker_id)]
    assert said[1:] == [
        '{"result": {"action": "accept", "content": {"branch": "main"}}}',
        '{"outcome": "selected", "optionId": "no", "_meta": {"reason": "not on a Friday"}}',
    ]
    worker = daemon.worker(worker_id)
    assert worker["title"] == "Mend the roof"
    assert worker["commands"] == [{"name": "plan", "description": "Make a plan", "hint": "what for"}]
    payloads = [event["payload"] for event in daemon.log(worker_id)]
    told = {payload["event"]: payload["data"] for payload in payloads if payload["event"] in {"alert", "usage"}}
    assert (told["alert"]["level"], told["alert"]["message"]) == ("warn", "Quota: nearly used up")
    assert told["usage"]["cost"] == {"amount": 0.5, "currency": "USD"}
    assert [told["usage"][name] for name in ("source", "context_tokens", "context_window")] == ["agent", 10, 200]
    command = [*RUNTIMECTL, "--url", daemon.url, "workers", "get", worker_id]
    environment = {**daemon.environment, "RUNTIMECTL_TOKEN": daemon.token}
    shown = programs.run(command, environment, timeout=DEADLINE_S).stdout
    assert [line.split(maxsplit=1) for line in shown.splitlines() if line.startswith(("Title", "Commands"))] == [
        ["Title", "Mend the roof"],
        ["Commands", "/plan"],
    ]
    stop(daemon, worker_id)
    assert len(heard("session/close")) == 1
    assert delete(daemon, worker_id).status == DELETED
    until(lambda: heard("session/delete"))


def test_two_agents_work_in_one_repository_at_once_and_their_diffs_do_not_mix(
    start_agents: StartAgents, shared: Path, repository: Path, until: Until
) -> None:
    write = "Path(f'{Path.cwd().name}.txt').write_text('mine\\n'); text('written')"
    wait = "while not (script_path.parent / 'go').exists(): time.sleep(0.01)"
    daemon = start_agents({"session/prompt": [[["call_python", write], ["call_python", wait], ["end"]]]})
    refs = [{"name": "cwd", "reference": "repo:worktree"}]
    given = {"kind": "user", "content": "write"}
    able = {"profile": CODER, "workspace_refs": refs, "initial_input": given}

    refused = daemon.create(**able)  # the profile's MCP server needs an agent that takes one
    assert "docs" in daemon.worker(refused)["execution"]["last_result"]["message"]
    script = json.loads((shared / "script.json").read_text())
    (shared / "script.json").write_text(json.dumps({**script, "capabilities": {"mcpCapabilities": {"http": True}}}))
    workers = [daemon.create(**able) for _ in range(2)]
    for worker_id in workers:
        until(lambda: any(e["payload"]["event"] == "text_delta" for e in daemon.log(worker_id)))  # noqa: B023
    patches = [diff(daemon, worker_id) for worker_id in workers]

    assert daemon.busy_workers() == workers
    for worker_id, patch in zip(workers, patches, strict=True):
        (other,) = {*workers} - {worker_id}
        assert patch.count(b"diff --git") == 1
        assert worker_id.encode() in patch
        assert other.encode() not in patch
        assert [one["branch"] for one in listed(daemon, worker_id)] == [f"runtimed/{worker_id}"]
    assert git(repository, "branch", "--list", f"runtimed/{refused}") == ""
    assert git(repository, "status", "--porcelain") == ""
    (shared / "go").touch()
    for worker_id in workers:
        daemon.idle(worker_id)
        stop(daemon, worker_id)
        delete(daemon, worker_id).refused(409, "workspace_dirty")
