"""Contract section 7: what an ack promises, and what a run looks like."""

import contextlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Answer, Daemon, Until

ZERO = "wo_0000000000000000"


def _names(events: list[Any]) -> list[str]:
    return [one["payload"]["event"] for one in events]


@pytest.fixture
def gate(daemon: Daemon) -> Path:
    """A script that waits for this file goes on once it is there."""
    return daemon.home / "shared" / secrets.token_hex(4)


def _waiting(gate: Path, before: str = "", after: str = "") -> str:
    return f"{before}\nwhile [ ! -e '{gate}' ]; do sleep 0.02; done\n{after}"


def _input(daemon: Daemon, worker_id: str, content: str = "x", kind: str = "user") -> Answer:
    return daemon.curl("POST", f"/v1/workers/{worker_id}/input", {"kind": kind, "content": content})


def test_an_acked_input_is_in_the_transcript_and_in_the_feed(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    for number in range(5):
        ack = daemon.input(worker_id, f"hello {number}")
        entry = daemon.items(worker_id)[ack["transcript_sequence"] - 1]
        assert (entry["sequence"], entry["cursor"]) == (ack["transcript_sequence"], ack["cursor"])
        assert (entry["role"], entry["content"]) == ("user", f"hello {number}")
        daemon.idle(worker_id)
        event = next(one for one in daemon.log(worker_id) if one["event_id"] == ack["cursor"])
        segments = [{"kind": "text", "content": f"hello {number}"}]
        assert event["payload"] == {"event": "user_message", "data": {"segments": segments}}


def test_a_system_input_is_a_system_item_and_a_system_entry(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    events = daemon.run(worker_id, "take note", "system")
    item = {"kind": "embedded_worker_system_input", "content": "take note"}
    assert events[0]["payload"] == {"event": "system_item", "data": {"item": item}}
    first = daemon.items(worker_id)[0]
    assert (first["role"], first["content"], first["cursor"]) == ("system", "take note", events[0]["cursor"])


def test_the_input_comes_before_everything_of_its_run(daemon: Daemon) -> None:
    for worker_id, content in ((daemon.echo(), "hello"), (daemon.shell(), "echo hello")):
        for _ in range(3):
            names = _names(daemon.run(worker_id, content))
            assert names[0] == "user_message"
            assert names.count("user_message") == 1
            assert names[-1] == "run_end"
            assert names.count("run_end") == 1


def test_each_text_done_is_an_assistant_entry_and_the_other_way_round(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    for number in range(3):
        daemon.run(worker_id, f"echo {number}; sleep 0.01; echo again")
    done = [one for one in daemon.log(worker_id) if one["payload"]["event"] == "text_done"]
    entries = [one for one in daemon.items(worker_id) if one["role"] == "assistant"]
    assert [(one["event_id"], one["payload"]["data"]["text"]) for one in done] == [
        (one["cursor"], one["content"]) for one in entries
    ]
    assert [one["content"] for one in entries] == [f"{number}\nagain\n" for number in range(3)]
    assert [one["sequence"] for one in daemon.items(worker_id)] == list(range(1, 7))


def test_the_deltas_of_a_text_are_the_text(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    events = daemon.run(worker_id, "for i in 1 2 3 4; do echo line $i; sleep 0.02; done")
    deltas = [one["payload"]["data"]["text"] for one in events if one["payload"]["event"] == "text_delta"]
    done = [one["payload"]["data"]["text"] for one in events if one["payload"]["event"] == "text_done"]
    assert ["".join(deltas)] == done == ["line 1\nline 2\nline 3\nline 4\n"]


def test_a_worker_is_busy_from_the_input_to_the_end_of_the_run(daemon: Daemon, gate: Path) -> None:
    worker_id = daemon.shell()
    daemon.input(worker_id, _waiting(gate))
    execution = daemon.worker(worker_id)["execution"]
    assert (execution["backend"], execution["run_state"]) == ("connected", "busy")
    assert execution["last_result"]["operation"] == "input"
    assert execution["last_result"]["outcome"] == "accepted"
    with daemon.observe(worker_id) as observer:
        observer.envelope()
        gate.touch()
        observer.up_to("run_end")
        assert daemon.worker(worker_id)["execution"]["run_state"] == "idle"


def test_an_input_while_busy_is_rejected_recorded_and_leaves_no_trace(daemon: Daemon, gate: Path) -> None:
    worker_id = daemon.shell()
    daemon.input(worker_id, _waiting(gate))
    message = _input(daemon, worker_id, "echo too early").refused(409, "worker_execution_rejected")
    result = daemon.worker(worker_id)["execution"]["last_result"]
    assert (result["operation"], result["outcome"], result["run_state"]) == ("input", "busy", "busy")
    assert result["message"] in message
    assert len(daemon.items(worker_id)) == 1
    gate.touch()
    daemon.idle(worker_id)
    log = daemon.log(worker_id)
    assert _names(log).count("user_message") == 1
    assert "too early" not in str(log)
    daemon.run(worker_id, "echo in time")
    assert [one["content"] for one in daemon.items(worker_id)][-1] == "in time\n"


def test_what_a_running_worker_has_said_is_in_flight_in_a_snapshot(daemon: Daemon, gate: Path) -> None:
    worker_id = daemon.shell()
    with daemon.observe(worker_id) as first:
        first.envelope()
        daemon.input(worker_id, _waiting(gate, "echo hello", "echo goodbye"))
        said = first.up_to("text_delta")
        with daemon.observe(worker_id) as late:
            snapshot = late.envelope()
            data = snapshot["payload"]["data"]
            assert data["status"] == "running"
            assert [one["role"] for one in data["entries"]] == ["user"]
            blocks = data["in_flight"]["blocks"]
            assert [one["text"] for one in blocks if one["kind"] == "text"] == ["hello\n"]
            calls = [one for one in blocks if one["kind"] == "tool_call"]
            told = {one["payload"]["data"]["id"] for one in said if one["payload"]["event"] == "tool_call_start"}
            assert {one["id"] for one in calls} == told
            gate.touch()
            rest = late.up_to("run_end")
        assert first.up_to("run_end") == rest
    assert snapshot["cursor"] == said[-1]["cursor"]
    done = next(one for one in rest if one["payload"]["event"] == "text_done")
    assert done["payload"]["data"]["text"] == "hello\ngoodbye\n"
    assert [one["payload"]["data"]["text"] for one in rest if one["payload"]["event"] == "text_delta"] == [
        "goodbye\n"
    ]


@pytest.mark.parametrize(("verb", "status"), [("stop", "stopped"), ("cancel", "cancelled")])
def test_a_run_that_is_cut_ends_its_output_says_so_and_is_rolled_back(
    daemon: Daemon, gate: Path, verb: str, status: str
) -> None:
    worker_id = daemon.shell()
    with daemon.observe(worker_id) as observer:
        observer.envelope()
        daemon.input(worker_id, _waiting(gate, "echo hello"))
        observer.up_to("text_delta")
        body = {"reason": "changed my mind"}
        ack = daemon.curl("POST", f"/v1/workers/{worker_id}/{verb}", body).ok("ack", "LifecycleAck")
        rest = observer.up_to("shutdown")
    assert rest[-1]["event_id"] == ack["cursor"]
    names = _names(rest)
    assert names[-3:] == ["alert", "run_end", "shutdown"]
    assert {"tool_result", "text_done"} <= set(names[:-3])
    assert "changed my mind" in rest[-3]["payload"]["data"]["message"]
    assert rest[-2]["payload"]["data"] == {"result": "rolled_back"}
    worker = daemon.worker(worker_id)
    assert (worker["status"], worker["execution"]["run_state"]) == (status, "stopped")
    assert (worker["execution"]["last_result"]["operation"], worker["execution"]["last_result"]["outcome"]) == (
        verb,
        "accepted",
    )
    assert [one["content"] for one in daemon.items(worker_id)][1:] == ["hello\n"]
    with daemon.observe(worker_id) as observer:
        data = observer.envelope()["payload"]["data"]
    assert "in_flight" not in data
    assert data["status"] == "idle"


@pytest.mark.parametrize("verb", ["stop", "cancel"])
def test_a_worker_that_is_not_running_takes_no_input(daemon: Daemon, verb: str) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")
    daemon.call("POST", f"/v1/workers/{worker_id}/{verb}").ok("ack")
    with daemon.unchanged():
        _input(daemon, worker_id).refused(400, "invalid_request")
    assert len(daemon.items(worker_id)) == 2


def test_a_worker_of_an_unknown_profile_exists_and_takes_no_input(daemon: Daemon) -> None:
    profile = {"kind": "builtin", "value": "builtin:nowhere"}
    worker = daemon.curl("POST", "/v1/workers", {"profile": profile}).ok("worker", "WorkerDetail")
    worker_id = worker["worker_id"]
    assert worker["status"] == "running"
    assert worker["execution"]["backend"] == "unconnected"
    assert worker["execution"]["run_state"] == "rejected"
    result = worker["execution"]["last_result"]
    assert (result["operation"], result["outcome"], result["run_state"]) == ("spawn", "rejected", "rejected")
    assert "builtin:nowhere" in result["message"]
    message = _input(daemon, worker_id).refused(409, "worker_execution_unavailable")
    assert result["message"] in message
    assert daemon.items(worker_id) == []
    assert daemon.log(worker_id) == []
    assert daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")["status"] == "stopped"
    assert _names(daemon.log(worker_id)) == ["shutdown"]


def test_inputs_of_many_clients_at_once_are_each_taken_once_or_refused(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    path = f"/v1/workers/{worker_id}/input"
    with ThreadPoolExecutor(16) as pool:
        bodies = [{"kind": "user", "content": f"input {number}"} for number in range(100)]
        answers = list(pool.map(lambda body: daemon.call("POST", path, body), bodies))
    taken = {body["content"] for body, answer in zip(bodies, answers, strict=True) if answer.status == 200}
    for answer in answers:
        if answer.status != 200:
            answer.refused(409, "worker_execution_rejected")
    daemon.idle(worker_id)
    items = daemon.items(worker_id)
    said = [one["content"] for one in items if one["role"] == "user"]
    assert sorted(said) == sorted(taken)
    assert [one["content"] for one in items if one["role"] == "assistant"] == said


def _patient(daemon: Daemon, worker_id: str, content: str, when_busy: str) -> dict[str, Any]:
    body = {"kind": "user", "content": content, "when_busy": when_busy}
    ack: dict[str, Any] = daemon.curl("POST", f"/v1/workers/{worker_id}/input", body).ok("ack", "InteractionAck")
    return ack


def test_an_interrupt_ends_a_script_and_the_shell_goes_on(daemon: Daemon, until: Until) -> None:
    worker_id = daemon.shell()
    daemon.run(worker_id, "kept=1")
    sleep = ("sleep", f"1000.{secrets.randbelow(10**12):012}")
    with daemon.observe(worker_id) as observer:
        observer.envelope()
        daemon.input(worker_id, f"echo begun; {' '.join(sleep)}; echo after")
        observer.up_to("text_delta")
        until(lambda: _is_running(*sleep))
        ack = daemon.curl("POST", f"/v1/workers/{worker_id}/interrupt").ok("ack", "LifecycleAck")
        seen = observer.up_to("run_end")
    assert (ack["status"], ack["cursor"]) == ("running", seen[-1]["cursor"])
    assert _names(seen)[-2:] == ["alert", "run_end"]
    assert seen[-1]["payload"]["data"] == {"result": "rolled_back"}
    daemon.run(worker_id, "echo kept=$kept")
    assert [item["content"] for item in daemon.items(worker_id)][-3:] == ["begun\n", "echo kept=$kept", "kept=1\n"]


def _is_running(*command: str) -> bool:
    """Whether some process has become this very command."""
    wanted = "".join(f"{part}\0" for part in command).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == wanted:
                return True
    return False


def test_an_interrupt_where_nothing_runs_changes_nothing(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    log = daemon.run(worker_id, "hello")
    for _ in range(2):
        ack = daemon.call("POST", f"/v1/workers/{worker_id}/interrupt").ok("ack", "LifecycleAck")
        assert (ack["status"], ack["cursor"]) == ("running", log[-1]["cursor"])
    assert daemon.call("POST", f"/v1/workers/{worker_id}/interrupt", {}).ok("ack")["status"] == "running"
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    assert daemon.call("POST", f"/v1/workers/{worker_id}/interrupt").ok("ack")["status"] == "stopped"
    daemon.call("POST", f"/v1/workers/{daemon.unknown_worker()}/interrupt").refused(404, "worker_not_found")


def test_a_queued_input_runs_behind_the_run_that_goes_on(daemon: Daemon, gate: Path) -> None:
    worker_id = daemon.shell()
    daemon.input(worker_id, _waiting(gate))
    ack = _patient(daemon, worker_id, "echo second", "queue")
    assert ack["queued"]
    assert daemon.items(worker_id)[-1]["content"] == "echo second"
    _input(daemon, worker_id, "echo third").refused(409, "worker_execution_rejected")
    gate.touch()
    with daemon.observe(worker_id, ZERO) as observer:
        events = [*observer.up_to("run_end"), *observer.up_to("run_end")]
    started = [one for one in events if one["payload"]["event"] == "system_item"]
    assert [one["payload"]["data"]["item"]["cursor"] for one in started] == [ack["cursor"]]
    daemon.idle(worker_id)
    assert [item["content"] for item in daemon.items(worker_id)][1:] == ["echo second", "second\n"]


def test_an_interrupting_input_cuts_the_run_and_goes_first(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    daemon.input(worker_id, "sleep 1000")
    _patient(daemon, worker_id, "echo patient", "queue")
    _patient(daemon, worker_id, "echo urgent", "interrupt")
    with daemon.observe(worker_id, ZERO) as observer:
        for _ in range(3):
            observer.up_to("run_end")
    said = [item["content"] for item in daemon.items(worker_id) if item["role"] == "assistant"]
    assert said == ["urgent\n", "patient\n"]


def test_an_unknown_when_busy_is_refused_and_the_accepted_are_named(daemon: Daemon) -> None:
    body = {"kind": "user", "content": "x", "when_busy": "later"}
    message = daemon.curl("POST", f"/v1/workers/{daemon.echo()}/input", body).refused(400, "invalid_json")
    assert message == "when_busy: expected one of reject, queue, interrupt"
