"""Contract sections 1, 6 and 7: what a durable store keeps through SIGTERM and through kill -9."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import MakeBundle
from tests.acceptance.daemon.conftest import Daemon, Launch, Until

ZERO = "wo_0000000000000000"
ECHO = {"kind": "builtin", "value": "builtin:echo"}


@pytest.fixture
def durable(launch: Launch, tmp_path: Path) -> Launch:
    """Start a daemon on the one folder of the test."""
    return lambda *options, **given: launch(*options, store=f"fs:{tmp_path / 'store'}", **given)


@pytest.fixture(params=["SIGTERM", "kill -9"])
def end(request: pytest.FixtureRequest) -> Callable[[Daemon], None]:
    """End a daemon, kindly or not."""
    return lambda daemon: daemon.stop() if request.param == "SIGTERM" else daemon.kill()


def _names(events: list[Any]) -> list[str]:
    return [one["payload"]["event"] for one in events]


def _without_execution(worker: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in worker.items() if name != "execution"}


def test_everything_is_there_again(durable: Launch, end: Callable[[Daemon], None], bundle: MakeBundle) -> None:
    daemon = durable().ready()
    made = bundle(profiles=[{"selector": ECHO, "label": "é"}], provenance={"source": "s", "detail": "d"})
    reference = daemon.call("POST", "/v1/config-bundles", {"bundle": made}).ok("availability")["reference"]
    plain, shell, stopped, cancelled = daemon.echo(), daemon.shell(), daemon.echo(), daemon.echo()
    full = daemon.create(
        profile=ECHO,
        config_bundle=reference,
        intent={"kind": "role", "role": "reviewer", "purpose": "é🙂"},
        requested_capabilities=[{"name": "a", "reason": "b"}],
        workspace_refs=[{"name": "w", "reference": "r"}],
        mount_refs=[{"name": "m", "reference": "r"}],
    )
    for worker_id in (plain, stopped, cancelled, full):
        daemon.run(worker_id, f"hello {worker_id}")
    daemon.run(plain, "note this", "system")
    daemon.run(shell, "for i in 1 2 3; do echo $i; done")
    daemon.call("POST", f"/v1/workers/{stopped}/stop").ok("ack")
    daemon.call("POST", f"/v1/workers/{cancelled}/cancel").ok("ack")
    ids = [plain, shell, stopped, cancelled, full]
    before = [[_without_execution(daemon.worker(one)), daemon.items(one), daemon.log(one)] for one in ids]
    runtime, bundles = daemon.runtime(), daemon.bundles()
    end(daemon)

    again = durable().ready()
    assert again.runtime_id == daemon.runtime_id
    assert [[_without_execution(again.worker(one)), again.items(one), again.log(one)] for one in ids] == before
    assert again.runtime() == runtime
    assert again.bundles() == bundles
    path = f"/v1/config-bundles/{reference['id']}/availability?digest={reference['digest']}"
    assert again.call("GET", path).ok("availability", "Availability")["reference"] == reference


def test_a_running_worker_is_unconnected_and_comes_back_with_its_next_input(
    durable: Launch, end: Callable[[Daemon], None]
) -> None:
    daemon = durable().ready()
    worker_id, ended = daemon.echo(), daemon.echo()
    daemon.run(worker_id, "hello")
    daemon.call("POST", f"/v1/workers/{ended}/stop").ok("ack")
    end(daemon)

    again = durable().ready()
    worker = again.worker(worker_id)
    assert worker["status"] == "running"
    execution = worker["execution"]
    assert (execution["backend"], execution["run_state"]) == ("unconnected", "unconnected")
    assert again.worker(ended)["status"] == "stopped"
    assert again.worker(ended)["execution"]["run_state"] == "stopped"
    body = {"kind": "user", "content": "anybody there?"}
    log = again.log(worker_id)
    again.curl("POST", f"/v1/workers/{ended}/input", body).refused(400, "invalid_request")
    assert (again.log(worker_id), len(again.items(worker_id))) == (log, 2)
    again.run(worker_id, "anybody there?")
    assert [item["content"] for item in again.items(worker_id)] == ["hello", "hello", *["anybody there?"] * 2]
    assert again.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")["status"] == "stopped"
    assert again.log(worker_id)[: len(log)] == log


@pytest.mark.parametrize("way", ["option", "environment"])
def test_where_nothing_is_to_be_restored_an_input_is_refused_until_it_is_asked_for(
    durable: Launch, end: Callable[[Daemon], None], way: str
) -> None:
    daemon = durable().ready()
    worker_id = daemon.shell()
    daemon.run(worker_id, "kept=1")
    end(daemon)

    options = ("--restore", "never") if way == "option" else ()
    again = durable(*options, env={"RUNTIMED_RESTORE": "never"} if way == "environment" else {}).ready()
    body = {"kind": "user", "content": "echo kept=$kept"}
    message = again.curl("POST", f"/v1/workers/{worker_id}/input", body).refused(409, "worker_execution_unavailable")
    assert "restore" in message
    log = again.log(worker_id)
    worker = again.curl("POST", f"/v1/workers/{worker_id}/restore").ok("worker", "WorkerDetail")
    assert worker["execution"]["run_state"] == "idle"
    (alert,) = again.log(worker_id)[len(log) :]
    assert "fresh shell" in alert["payload"]["data"]["message"]
    again.run(worker_id, "echo kept=$kept")
    assert again.items(worker_id)[-1]["content"] == "kept=\n"
    again.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    again.call("POST", f"/v1/workers/{worker_id}/restore").refused(400, "invalid_request")
    again.call("POST", f"/v1/workers/{again.unknown_worker()}/restore").refused(404, "worker_not_found")


def test_with_eager_restore_all_running_workers_come_back_by_themselves(
    durable: Launch, end: Callable[[Daemon], None]
) -> None:
    daemon = durable().ready()
    running, ended = [daemon.echo() for _ in range(3)], daemon.echo()
    daemon.call("POST", f"/v1/workers/{ended}/stop").ok("ack")
    end(daemon)

    again = durable("--restore", "eager").ready()
    for worker_id in running:
        again.idle(worker_id)
    assert again.worker(ended)["execution"]["run_state"] == "stopped"


def test_inputs_that_wait_outlive_the_daemon_and_run_in_their_order(
    durable: Launch, end: Callable[[Daemon], None], until: Until
) -> None:
    daemon = durable().ready()
    worker_id = daemon.shell()
    daemon.input(worker_id, "sleep 1000")
    for number in range(3):
        body = {"kind": "user", "content": f"echo {number}", "when_busy": "queue"}
        assert daemon.call("POST", f"/v1/workers/{worker_id}/input", body).ok("ack", "InteractionAck")["queued"]
    assert daemon.worker(worker_id)["queued_inputs"] == 3
    end(daemon)

    again = durable().ready()
    until(lambda: [item["content"] for item in again.items(worker_id)][4:] == ["0\n", "1\n", "2\n"])
    again.idle(worker_id)
    assert "queued_inputs" not in again.worker(worker_id)
    names = _names(again.log(worker_id))
    assert (names.count("user_message"), names.count("run_end"), names.count("error")) == (4, 4, 1)


def test_ids_and_cursors_go_on_where_they_were(durable: Launch, end: Callable[[Daemon], None]) -> None:
    daemon = durable().ready()
    first = daemon.echo()
    log = daemon.run(first, "hello")
    end(daemon)

    again = durable().ready()
    with again.observe(first, log[1]["cursor"]) as observer:
        assert observer.envelope()["event_id"] == f"snapshot:{log[1]['cursor']}"
        assert observer.up_to_cursor(log[-1]["cursor"]) == log[2:]
        ack = again.call("POST", f"/v1/workers/{first}/stop").ok("ack")
        assert observer.envelope()["event_id"] == ack["cursor"]
    assert ack["cursor"] > log[-1]["cursor"]
    second = again.echo()
    assert second == "worker-00000002"
    assert again.run(second, "hello")[0]["cursor"] > ack["cursor"]
    newest = again.worker(second)["last_cursor"]
    end(again)

    third = durable().ready()
    assert third.create() == "worker-00000003"
    with third.observe(second) as observer:
        assert observer.envelope()["cursor"] == newest


def test_a_run_that_was_cut_is_closed_by_an_error_and_a_run_end_and_never_run_again(
    durable: Launch, end: Callable[[Daemon], None], tmp_path: Path
) -> None:
    daemon = durable().ready()
    worker_id = daemon.shell()
    runs = tmp_path / "store" / "workers" / worker_id / "home" / "runs"
    with daemon.observe(worker_id) as observer:
        observer.envelope()
        daemon.input(worker_id, f"echo run >> '{runs}'; echo hello; sleep 1000")
        seen = observer.up_to("text_delta")
        end(daemon)

    again = durable().ready()
    log = again.log(worker_id)
    assert log[: len(seen)] == seen
    names = _names(log)
    assert names.count("user_message") == 1
    assert names[-1] == "run_end"
    assert "error" in names[len(seen) :]
    text = [one["payload"]["data"]["text"] for one in log if one["payload"]["event"] == "text_delta"]
    assert "".join(text) == "hello\n"
    worker = again.worker(worker_id)
    assert (worker["status"], worker["execution"]["run_state"]) == ("running", "unconnected")
    with again.observe(worker_id) as observer:
        snapshot = observer.envelope()["payload"]["data"]
    assert snapshot["status"] == "idle"
    assert "in_flight" not in snapshot
    entries = [(one["role"], one["content"]) for one in again.items(worker_id)]
    done = [one["payload"]["data"]["text"] for one in log if one["payload"]["event"] == "text_done"]
    assert entries[1:] == [("assistant", text) for text in done]
    end(again)

    third = durable().ready()
    assert third.log(worker_id) == log
    assert runs.read_text() == "run\n"


def test_acked_inputs_survive_a_kill(durable: Launch) -> None:
    daemon = durable().ready()
    workers = [daemon.echo() for _ in range(5)]
    acks = [(one, f"{number}", daemon.input(one, f"{number}")) for number, one in enumerate(workers)]
    daemon.kill()

    again = durable().ready()
    for worker_id, content, ack in acks:
        items = again.items(worker_id)
        assert (items[0]["content"], items[0]["cursor"]) == (content, ack["cursor"])
        assert [one["role"] for one in items].count("user") == 1
        names = _names(again.log(worker_id))
        assert (names[0], names[-1], names.count("run_end")) == ("user_message", "run_end", 1)


def test_the_runtime_id_stays_and_another_one_is_refused(durable: Launch, end: Callable[[Daemon], None]) -> None:
    daemon = durable("--runtime-id", "mine").ready()
    daemon.echo()
    end(daemon)
    other = durable("--runtime-id", "theirs")
    assert other.ended() == 3
    assert "mine" in other.errors
    assert other.errors.count("\n") == 1
    assert durable("--runtime-id", "mine").ready().runtime()["worker_count"] == 1


def _contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_second_daemon_is_refused_names_the_owner_and_touches_nothing(durable: Launch, tmp_path: Path) -> None:
    daemon = durable().ready()
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")
    before = _contents(tmp_path / "store"), daemon.endpoint.read_bytes()
    for options in ((), ("--runtime-id", "theirs")):
        second = durable(*options)
        assert second.ended() == 3
        assert str(daemon.pid) in second.errors
        assert second.errors.count("\n") == 1
        assert second.output == ""
    assert (_contents(tmp_path / "store"), daemon.endpoint.read_bytes()) == before
    daemon.run(worker_id, "still here")


def test_the_token_of_a_durable_store_stays(durable: Launch, end: Callable[[Daemon], None]) -> None:
    daemon = durable().ready()
    end(daemon)
    assert durable().ready().token == daemon.token


def test_a_memory_store_forgets(launch: Launch) -> None:
    daemon = launch(store="memory").ready()
    daemon.echo()
    daemon.stop()
    assert launch(store="memory").ready().runtime()["worker_count"] == 0
