"""`runtimectl acp` over real pipes: sessions, prompts, tool calls, permissions, restarts and ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimectl import Client
from runtimectl.acp.workers import MAX_LISTED_SESSIONS
from tests.runtimectl.acp.conftest import Editor
from tests.runtimectl.conftest import DEADLINE_S, Ctl, Daemon, wait_until

StartEditor = Callable[..., Editor]
AGENT = ("--profile", "builtin:agent")
SHELL = ("--profile", "builtin:shell")
OPTIONS = [
    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]
CALLED = {"toolCallId": "call-1", "title": "write a file", "kind": "edit"}
ASKING = {"session/prompt": [[["ask", CALLED, OPTIONS], ["end"]]]}
CALL = {"toolCallId": "call-1", "title": "edit a file", "kind": "edit"}
DIFF = {"type": "diff", "path": "/srv/a", "oldText": "old", "newText": "new"}
FINISHED = {"stopReason": "end_turn"}
PLAN = {"sessionUpdate": "plan", "entries": [{"content": "a", "priority": "low", "status": "pending"}]}
WORKING: dict[str, Any] = {
    "session/prompt": [
        [
            ["thought", "hmm"],
            ["text", "first "],
            ["text", "answer"],
            [
                "update",
                {"sessionUpdate": "plan", "entries": [{"content": "a", "priority": "low", "status": "pending"}]},
            ],
            ["update", {"sessionUpdate": "tool_call", **CALL, "rawInput": {"path": "a"}}],
            ["update", {"sessionUpdate": "tool_call_update", "toolCallId": "call-1", "status": "in_progress"}],
            [
                "update",
                {
                    "sessionUpdate": "tool_call_update",
                    "toolCallId": "call-1",
                    "status": "completed",
                    "content": [DIFF, {"type": "content", "content": {"type": "text", "text": "edited"}}],
                },
            ],
            ["text", "done"],
            ["end"],
        ],
        [["text", "again"], ["end"]],
    ]
}


def test_a_session_is_initialized_without_a_daemon(start_editor: StartEditor) -> None:
    editor = start_editor()

    found = editor.call("initialize", protocolVersion=1, clientCapabilities={})

    assert found["protocolVersion"] == 1
    assert found["agentCapabilities"]["loadSession"] is True
    refused = editor.begin("session/new", cwd="/tmp", mcpServers=[])()
    assert "no daemon is running here" in refused["error"]["message"]
    assert editor.end() == 0


def test_a_prompt_streams_its_text_tool_calls_diffs_and_plans(
    start_editor: StartEditor, serve_agent: Callable[..., Daemon]
) -> None:
    serve_agent(WORKING)
    editor = start_editor(*AGENT)

    answer = editor.prompt(editor.new_session(), "go")()

    assert answer["result"] == FINISHED
    assert editor.texts("agent_thought_chunk") == ["hmm"]
    assert "".join(editor.texts()) == "first answerdone"
    assert editor.texts("user_message_chunk") == []
    messages = {update["messageId"] for update in editor.updates if update["sessionUpdate"] == "agent_message_chunk"}
    assert len(messages) == 2
    [started, running, ended] = [update for update in editor.updates if "toolCallId" in update]
    assert (started["sessionUpdate"], started["title"], started["status"]) == ("tool_call", "edit a file", "pending")
    assert (running["status"], running["rawInput"]) == ("in_progress", {"path": "a"})
    assert ended["status"] == "completed"
    assert [content["type"] for content in ended["content"]] == ["diff", "content"]
    assert PLAN in editor.updates


def test_a_script_of_a_shell_is_a_tool_call_that_executes(start_editor: StartEditor, daemon: Daemon) -> None:
    editor = start_editor(*SHELL)

    answer = editor.prompt(editor.new_session(), "echo hello; exit 3")()

    assert answer["result"] == FINISHED
    assert "".join(editor.texts()) == "hello\n"
    [started, running, ended] = [update for update in editor.updates if "toolCallId" in update]
    assert (started["kind"], running["title"], ended["rawOutput"]["exit_status"]) == (
        "execute",
        "echo hello; exit 3",
        3,
    )


def test_a_worker_works_in_the_folder_of_the_editor_or_in_the_one_of_the_options(
    start_editor: StartEditor, daemon: Daemon, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    plain, named = start_editor(*SHELL), start_editor(*SHELL, "--workspace", f"cwd=dir:{tmp_path}/other")

    plain.prompt(plain.new_session(), "pwd")()
    named.prompt(named.new_session(), "pwd")()

    assert plain.texts() == [f"{project}\n"]
    assert named.texts() == [f"{tmp_path}/other\n"]


def test_a_folder_that_the_daemon_does_not_allow_is_refused_with_how_to_allow_it(
    start_editor: StartEditor, start_daemon: Callable[..., Daemon], project: Path
) -> None:
    daemon = start_daemon()

    refused = start_editor(*SHELL).begin("session/new", cwd=str(project), mcpServers=[])()

    message = refused["error"]["message"]
    assert "workspace_roots" in message
    assert "--workspace cwd=REF" in message
    assert _client(daemon).workers() == ()


def test_a_second_prompt_waits_for_its_turn(start_editor: StartEditor, daemon: Daemon, shared: Path) -> None:
    editor = start_editor(*SHELL)
    session = editor.new_session()
    gate = shared / "gate"

    first = editor.prompt(session, f"while [ ! -e {gate} ]; do sleep 0.05; done; echo first")
    wait_until(lambda: any("toolCallId" in update for update in editor.updates), "the first run")
    second = editor.prompt(session, "echo second")
    wait_until(lambda: _client(daemon).worker(session).detail().queued_inputs == 1, "the second prompt")
    gate.touch()

    assert [first()["result"], second()["result"]] == [FINISHED] * 2
    assert editor.texts() == ["first\n", "second\n"]


def test_a_cancelled_prompt_is_interrupted_and_so_are_those_behind_it(
    start_editor: StartEditor, daemon: Daemon
) -> None:
    editor = start_editor(*SHELL)
    session = editor.new_session()
    first = editor.prompt(session, "echo begun; sleep 600")
    wait_until(lambda: editor.texts() == ["begun\n"], "the first run")
    second = editor.prompt(session, "echo second; sleep 600")
    wait_until(lambda: _client(daemon).worker(session).detail().queued_inputs == 1, "the second prompt")

    editor.notify("session/cancel", sessionId=session)

    assert [first()["result"], second()["result"]] == [{"stopReason": "cancelled"}] * 2
    assert editor.prompt(session, "echo third")()["result"] == FINISHED


def test_one_prompt_is_taken_back_by_its_request_and_the_one_that_runs_goes_on(
    start_editor: StartEditor, daemon: Daemon, shared: Path
) -> None:
    editor = start_editor(*SHELL)
    session, gate = editor.new_session(), shared / "gate"
    first = editor.prompt(session, f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo first")
    wait_until(lambda: editor.texts() == ["begun\n"], "the first run")
    second = editor.prompt(session, "sleep 600")
    number = editor.last_request
    wait_until(lambda: _client(daemon).worker(session).detail().queued_inputs == 1, "the second prompt")

    editor.notify("$/cancel_request", requestId=number)
    editor.notify("$/cancel_request", requestId="unknown")
    gate.touch()

    assert first()["result"] == FINISHED
    assert second()["result"] == {"stopReason": "cancelled"}
    running = editor.prompt(session, "echo third; sleep 600")
    wait_until(lambda: editor.texts()[-1:] == ["third\n"], "the third run")
    editor.notify("$/cancel_request", requestId=editor.last_request)
    assert running()["result"] == {"stopReason": "cancelled"}


def test_running_sessions_are_listed_by_their_folders_the_newest_first(
    start_editor: StartEditor, daemon: Daemon, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    editor, named = start_editor(*SHELL, "--name", "fix it"), start_editor(*SHELL)
    first, second = editor.new_session(), editor.new_session()
    further = {"cwd": f"{tmp_path}/other", "additionalDirectories": [str(project)]}
    other = named.call("session/new", mcpServers=[], **further)["sessionId"]
    _client(daemon).create_worker(profile="builtin:echo")
    editor.call("session/delete", sessionId=editor.new_session())

    shown = [{"sessionId": one, "cwd": str(project), "title": "fix it"} for one in (second, first)]
    assert editor.call("session/list", cwd=str(project)) == {"sessions": shown}
    assert editor.call("session/list") == {"sessions": [{"sessionId": other, **further}, *shown]}
    assert editor.call("session/list", cursor=second) == {"sessions": shown[1:]}


def test_sessions_are_listed_page_by_page(start_editor: StartEditor, daemon: Daemon, project: Path) -> None:
    client = _client(daemon)
    folder = {"cwd": f"dir:{project}"}
    made = [
        client.create_worker(profile="builtin:echo", workspaces=folder).id for _ in range(MAX_LISTED_SESSIONS + 1)
    ]
    editor = start_editor()

    page = editor.call("session/list")
    rest = editor.call("session/list", cursor=page["nextCursor"])

    found = [one["sessionId"] for one in (*page["sessions"], *rest["sessions"])]
    assert found == made[::-1]
    assert "nextCursor" not in rest


def test_a_run_that_fails_is_an_error_with_its_reason(
    start_editor: StartEditor, serve_agent: Callable[..., Daemon]
) -> None:
    serve_agent(
        {"session/prompt": [[["text", "hm"], ["error", -32000, "the model is down"]], [["leave", 3, "oops"]]]}
    )
    editor = start_editor(*AGENT)
    session = editor.new_session()

    assert "the model is down" in editor.prompt(session, "go")()["error"]["message"]
    assert "oops" in editor.prompt(session, "go")()["error"]["message"]


def test_a_permission_is_answered_in_the_editor(
    start_editor: StartEditor, serve_agent: Callable[..., Daemon]
) -> None:
    serve_agent(ASKING)
    editor = start_editor(*AGENT)
    editor.on_permission = lambda _: "no"

    answer = editor.prompt(editor.new_session(), "go")()

    assert answer["result"] == FINISHED
    [asked] = editor.asked
    assert (asked["toolCall"], asked["options"]) == (CALLED, OPTIONS)
    assert json.loads("".join(editor.texts())) == {"outcome": "selected", "optionId": "no"}


def test_two_editors_on_one_session_see_the_same_and_the_first_answer_counts(
    start_editor: StartEditor, serve_agent: Callable[..., Daemon]
) -> None:
    daemon = serve_agent(ASKING)
    first, second = start_editor(*AGENT), start_editor(*AGENT)
    session = first.new_session()
    second.call("session/load", sessionId=session, cwd="/tmp", mcpServers=[])
    wait_until(lambda: bool(second.updates) == bool(first.updates), "the same updates")

    running = first.prompt(session, "go")
    wait_until(lambda: bool(first.asked and second.asked), "both to be asked")
    [request] = _client(daemon).worker(session).permissions()
    _client(daemon).worker(session).answer(request.request_id, "yes")
    running()

    wait_until(lambda: second.texts() == first.texts(), "the same texts")
    assert second.texts("user_message_chunk") == ["go"]
    assert first.texts("user_message_chunk") == []
    wait_until(lambda: bool(first.withdrawn and second.withdrawn), "the requests to be withdrawn")


def test_a_session_is_loaded_with_its_messages_and_tool_calls(
    start_editor: StartEditor, serve_agent: Callable[..., Daemon]
) -> None:
    serve_agent(WORKING)
    first = start_editor(*AGENT)
    session = first.new_session()
    first.prompt(session, "go")()
    first.end()
    second = start_editor(*AGENT)

    second.call("session/load", sessionId=session, cwd="/tmp", mcpServers=[])

    assert second.texts("user_message_chunk") == ["go"]
    assert second.texts() == ["first answer", "done"]
    assert [update for update in second.updates if "toolCallId" in update] == [
        update for update in first.updates if "toolCallId" in update
    ]
    assert second.prompt(session, "again")()["result"] == FINISHED
    assert second.texts("user_message_chunk") == ["go"]


def test_a_session_is_resumed_without_its_past_or_behind_a_cursor(start_editor: StartEditor, daemon: Daemon) -> None:
    first = start_editor()
    session = first.new_session()
    first.prompt(session, "one")()
    cursor = _client(daemon).worker(session).detail().last_cursor
    first.prompt(session, "two")()
    plain, behind = start_editor(), start_editor()

    plain.call("session/resume", sessionId=session, cwd="/tmp", mcpServers=[])
    behind.call("session/resume", sessionId=session, cwd="/tmp", mcpServers=[], _meta={"cursor": cursor})
    plain.prompt(session, "three")()

    wait_until(lambda: behind.texts() == ["two", "three"], "what is behind the cursor")
    assert plain.texts() == ["three"]


def test_the_editor_lives_through_a_kill_of_the_daemon_and_sees_each_delta_once(
    start_editor: StartEditor, start_daemon: Callable[..., Daemon], roots: tuple[str, ...], tmp_path: Path
) -> None:
    store = ("--store", f"fs:{tmp_path}/store", *roots)
    daemon = start_daemon(*store)
    editor = start_editor(*SHELL)
    session = editor.new_session()
    cut = editor.prompt(session, "for n in $(seq 1000); do echo $n; sleep 0.01; done")
    wait_until(lambda: len(editor.texts()) > 20, "the run")

    daemon.end(signal.SIGKILL)
    waiting = editor.prompt(session, "echo after")
    again = start_daemon(*store)

    assert "error" in cut()
    assert waiting()["result"] == FINISHED
    texts = "".join(editor.texts()).split()
    assert texts == [*map(str, range(1, len(texts))), "after"]
    entries = _client(again).worker(session).transcript()
    assert "".join(entry.content for entry in entries if entry.role == "assistant").split() == texts


def test_a_worker_that_is_refused_is_an_error_and_leaves_nothing(
    start_editor: StartEditor, start_daemon: Callable[..., Daemon], project: Path, tmp_path: Path
) -> None:
    config = tmp_path / "broken.toml"
    profile = '[profiles."builtin:agent"]\nbackend = "acp"\ncommand = ["/not/here"]\n'
    config.write_text(f"workspace_roots = [{json.dumps(str(tmp_path))}]\n{profile}")
    daemon = start_daemon("--config", str(config))
    editor = start_editor(*AGENT)

    refused = editor.begin("session/new", cwd=str(project), mcpServers=[])()

    assert "could not be started" in refused["error"]["message"]
    assert _client(daemon).workers() == ()


def test_mcp_servers_that_are_not_handed_on_are_named_in_the_session(
    start_editor: StartEditor, daemon: Daemon, project: Path
) -> None:
    editor = start_editor()
    editor.call(
        "session/new", cwd=str(project), mcpServers=[{"name": "issues", "command": "/bin/x", "args": [], "env": []}]
    )

    wait_until(lambda: any("issues" in text for text in editor.texts()), "the remark")


@pytest.mark.parametrize(("options", "status"), [((), "running"), (("--stop-on-exit",), "stopped")])
@pytest.mark.parametrize(("with_signal", "code"), [(None, 0), (signal.SIGTERM, 143)])
def test_workers_live_on_when_the_editor_ends_unless_they_are_to_be_stopped(
    start_editor: StartEditor,
    daemon: Daemon,
    options: tuple[str, ...],
    status: str,
    with_signal: int | None,
    code: int,
) -> None:
    editor = start_editor(*options)
    session = editor.new_session()

    assert editor.end(with_signal) == code
    assert _client(daemon).worker(session).detail().status == status


def test_an_editor_that_leaves_in_several_ways_at_once_stops_its_workers(
    env: dict[str, str], daemon: Daemon, project: Path
) -> None:
    command = [sys.executable, "-m", "runtimectl", "acp", *SHELL, "--stop-on-exit"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(4):
            params = {"cwd": str(project), "mcpServers": []}
            request = {"jsonrpc": "2.0", "id": number, "method": "session/new", "params": params}
            process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        created = 0
        while created < 4:
            created += "result" in json.loads(process.stdout.readline())
        process.stdout.close()
        process.stdin.close()
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)

    assert [worker.status for worker in _client(daemon).workers()] == ["stopped"] * 4


def test_a_worker_that_is_being_created_when_the_editor_ends_is_stopped_too(
    start_editor: StartEditor, serve_agent: Callable[..., Daemon], project: Path, shared: Path
) -> None:
    gate = shared / "gate"
    daemon = serve_agent({"session/new": [["until_file", str(gate)], ["answer", {"sessionId": "s"}]]})
    editor = start_editor(*AGENT, "--stop-on-exit")
    editor.begin("session/new", cwd=str(project), mcpServers=[])
    wait_until(lambda: _client(daemon).workers(), "the Worker")

    assert editor.process.stdin is not None
    editor.process.stdin.close()
    gate.touch()

    assert editor.end() == 0
    assert [worker.status for worker in _client(daemon).workers()] == ["stopped"]


def test_a_session_is_closed_or_deleted(start_editor: StartEditor, daemon: Daemon) -> None:
    editor = start_editor()
    closed, deleted = editor.new_session(), editor.new_session()

    editor.call("session/close", sessionId=closed)
    editor.call("session/delete", sessionId=deleted)

    assert [worker.worker_id for worker in _client(daemon).workers()] == [closed]
    assert "is not open" in editor.prompt(closed, "hello")()["error"]["message"]


def test_a_prompt_is_answered_when_its_session_is_closed_or_loaded_anew(
    start_editor: StartEditor, daemon: Daemon
) -> None:
    editor = start_editor(*SHELL)
    session = editor.new_session()
    replaced = editor.prompt(session, "echo begun; sleep 600")
    wait_until(lambda: editor.texts() == ["begun\n"], "the first run")

    editor.call("session/load", sessionId=session, cwd="/tmp", mcpServers=[])
    assert replaced()["error"]["message"] == "the session was closed"
    closed = editor.prompt(session, "echo second")
    wait_until(lambda: _client(daemon).worker(session).detail().queued_inputs == 1, "the second prompt")
    editor.call("session/close", sessionId=session)

    assert closed()["result"] == {"stopReason": "cancelled"}


def test_a_prompt_that_is_cancelled_at_once_is_cancelled(start_editor: StartEditor, daemon: Daemon) -> None:
    editor = start_editor(*SHELL)
    session = editor.new_session()

    prompts = []
    for _ in range(5):
        prompts.append(editor.prompt(session, "sleep 600"))
        editor.notify("session/cancel", sessionId=session)

    assert [prompt()["result"] for prompt in prompts] == [{"stopReason": "cancelled"}] * 5


@pytest.mark.parametrize(
    ("method", "params", "code", "message"),
    [
        ("session/fly", {}, -32601, "method not found: session/fly"),
        ("session/new", {"cwd": "here"}, -32602, "cwd: expected an absolute path"),
        ("session/new", {"cwd": "/tmp", "mcpServers": "none"}, -32602, "mcpServers: expected a list"),
        ("session/list", {"cwd": "here"}, -32602, "cwd: expected an absolute path"),
        ("session/list", {"cursor": 1}, -32602, "cursor: expected a text"),
        ("session/new", {"cwd": "/tmp", "mcpServers": [{}]}, -32602, "mcpServers[0].name: expected a text"),
        ("session/load", {}, -32602, "sessionId: expected a text"),
        ("session/load", {"sessionId": "worker-0000ffff"}, -32002, "worker_not_found"),
        ("session/prompt", {"sessionId": "worker-0000ffff"}, -32002, "is not open"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_wrong(
    start_editor: StartEditor, daemon: Daemon, method: str, params: dict[str, Any], code: int, message: str
) -> None:
    error = start_editor().begin(method, **params)()["error"]

    assert error["code"] == code
    assert message in error["message"]


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"jsonrpc": "2.0", "id": 1.5, "method": "initialize"}', b"\xff"])
def test_a_line_that_is_no_request_is_refused_and_the_next_one_is_served(
    start_editor: StartEditor, line: bytes
) -> None:
    editor = start_editor()

    editor.write(line)

    assert editor.call("initialize", protocolVersion=1)["protocolVersion"] == 1


def test_wrong_options_are_refused_before_the_editor_is_served(ctl: Ctl) -> None:
    found = ctl("acp", "--label", "broken")

    assert found.returncode == 2
    assert found.stderr.startswith("runtimectl: --label: expected K=V")


def _client(daemon: Daemon) -> Client:
    """A client of the daemon; the test's endpoint files have its token."""
    assert daemon.url
    return Client.from_env()
