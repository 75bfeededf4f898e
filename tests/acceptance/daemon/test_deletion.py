"""`DELETE /v1/workers/{worker_id}`: all of a Worker goes, at once to whoever asks, and nothing of it comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Answer, Daemon, Launch, Until

ZERO = "wo_0000000000000000"
SECRET = "the-words-that-must-not-stay"


def _stopped(daemon: Daemon, content: str = "hello") -> str:
    """A Worker that has said something and is over."""
    worker_id = daemon.echo()
    daemon.run(worker_id, content)
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    return worker_id


def _delete(daemon: Daemon, worker_id: str) -> Answer:
    answer = daemon.curl("DELETE", f"/v1/workers/{worker_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("Content-Type") is None
    return answer


def _asked(worker_id: str) -> list[tuple[str, str]]:
    of_worker = f"/v1/workers/{worker_id}"
    gets = [of_worker, f"{of_worker}/transcript", f"{of_worker}/events", f"{of_worker}/events/ws"]
    return [*(("GET", path) for path in gets), *(("POST", f"{of_worker}/{verb}") for verb in ("stop", "cancel"))]


def _events(daemon: Daemon) -> list[dict[str, Any]]:
    """The events of all Workers."""
    page = json.loads(daemon.call("GET", "/v1/events").body)
    found = page["events"]
    while page["has_more"]:
        page = json.loads(daemon.call("GET", f"/v1/events?cursor={page['next_cursor']}").body)
        found += page["events"]
    return list(found)


def test_a_worker_that_is_over_is_deleted_with_all_that_can_be_asked_of_it(daemon: Daemon) -> None:
    kept, gone = _stopped(daemon), _stopped(daemon)
    assert {event["worker_id"] for event in _events(daemon)} >= {kept, gone}
    before = daemon.runtime()
    _delete(daemon, gone)
    for method, path in _asked(gone):
        daemon.curl(method, path).refused(404, "worker_not_found")
    daemon.curl("POST", f"/v1/workers/{gone}/input", {"kind": "user", "content": "x"}).refused(
        404, "worker_not_found"
    )
    daemon.curl("DELETE", f"/v1/workers/{gone}").refused(404, "worker_not_found")
    listed = [worker["worker_id"] for worker in daemon.workers()]
    assert kept in listed
    assert gone not in listed
    told = daemon.call("GET", "/v1/diagnostics").ok("diagnostics")
    assert {remark.get("worker_id") for remark in told} >= {kept}
    assert gone not in {remark.get("worker_id") for remark in told}
    assert gone not in {event["worker_id"] for event in _events(daemon)}
    after = daemon.runtime()
    assert before["worker_count"] - after["worker_count"] == 1
    assert before["stopped_worker_count"] - after["stopped_worker_count"] == 1
    assert before["diagnostic_count"] - after["diagnostic_count"] == 2
    assert len(daemon.items(kept)) == 2


def test_a_running_worker_is_not_deleted(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")
    with daemon.unchanged():
        message = daemon.curl("DELETE", f"/v1/workers/{worker_id}").refused(409, "worker_running")
    assert "stop" in message
    daemon.run(worker_id, "still here")
    daemon.call("POST", f"/v1/workers/{worker_id}/cancel").ok("ack")
    _delete(daemon, worker_id)


@pytest.mark.parametrize(
    ("worker_id", "status", "code"),
    [
        ("worker-1", 404, "worker_not_found"),
        ("worker-0000FFFF", 404, "worker_not_found"),
        ("%2e%2e", 404, "worker_not_found"),
        ("%20", 400, "invalid_worker_id"),
    ],
)
def test_what_is_no_worker_is_not_deleted(daemon: Daemon, worker_id: str, status: int, code: str) -> None:
    with daemon.unchanged():
        daemon.curl("DELETE", f"/v1/workers/{worker_id}").refused(status, code)


def test_a_worker_that_does_not_exist_is_not_deleted(daemon: Daemon) -> None:
    unknown = daemon.unknown_worker()
    with daemon.unchanged():
        daemon.curl("DELETE", f"/v1/workers/{unknown}").refused(404, "worker_not_found")


def test_a_deletion_wants_the_token(daemon: Daemon) -> None:
    worker_id = _stopped(daemon)
    daemon.curl("DELETE", f"/v1/workers/{worker_id}", token=None).refused(401, "unauthorized")
    assert daemon.worker(worker_id)["status"] == "stopped"


def test_the_workers_as_a_whole_can_not_be_deleted(daemon: Daemon) -> None:
    daemon.curl("DELETE", "/v1/workers").refused(405, "method_not_allowed")


def test_an_observer_is_told_that_the_worker_is_gone(daemon: Daemon) -> None:
    worker_id = _stopped(daemon)
    with daemon.observe(worker_id, ZERO) as observer:
        observer.up_to("shutdown")
        _delete(daemon, worker_id)
        [last] = observer.rest()
    assert last["diagnostic"]["code"] == "runtime.worker_not_found"


def test_an_id_is_never_given_out_again(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    first, second = _stopped(daemon), _stopped(daemon)
    for worker_id in (second, first):
        _delete(daemon, worker_id)
    assert daemon.runtime()["worker_count"] == 0
    assert daemon.echo() == "worker-00000003"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_deletion_is_for_good(launch: Launch, tmp_path: Path, until: Until, how: signal.Signals) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    kept, gone = _stopped(daemon), daemon.shell()
    for number in range(3):
        daemon.run(gone, f"echo {SECRET} {number} | tee file")
    daemon.call("POST", f"/v1/workers/{gone}/stop").ok("ack")
    folder = tmp_path / "store" / "workers" / gone
    assert SECRET in (folder / "home" / "file").read_text()
    log = daemon.log(kept)
    _delete(daemon, gone)
    daemon.stop() if how is signal.SIGTERM else daemon.kill()

    again = launch(store=store).ready()
    until(lambda: not folder.exists())
    assert [worker["worker_id"] for worker in again.workers()] == [kept]
    again.curl("GET", f"/v1/workers/{gone}").refused(404, "worker_not_found")
    assert again.log(kept) == log
    assert again.echo() == "worker-00000003"
    found = again.call("GET", "/v1/runtime/events").body
    kinds = {event["kind"] for event in json.loads(found)["events"] if event.get("worker_id") == gone}
    assert kinds == {"worker_created", "worker_input_accepted", "worker_stopped"}
    check = again.call("GET", "/v1/runtime/check").ok("check", "StoreCheck")
    assert check == {"workers": 2, "entries": 2, "events": len(log), "findings": []}


LEAVINGS = {
    "1,200 levels": "{python} -c 'import os\nfor n in range(1200): os.mkdir(chr(100)); os.chdir(chr(100))'",
    "links": "ln -s {outside} link; ln -s . self; mkdir inner; ln -s ../.. inner/up; ln {outside}/precious hard",
    "closed folders": "mkdir -p a/b/c && touch a/b/c/file && chmod 0 a/b/c && chmod 500 a/b && chmod 400 a",
    "a link in the place of the folder": "cd ../.. && rm -rf {worker_id} && ln -s {outside} {worker_id}",
    "a pipe": "mkfifo pipe",
}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that no deletion may touch."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "precious").write_text("precious")
    (made / "precious").chmod(0o400)
    yield made
    assert [(path.name, path.read_text()) for path in made.iterdir()] == [("precious", "precious")]
    assert (made / "precious").stat().st_mode & 0o777 == 0o400


def _left(daemon: Daemon, worker_id: str, script: str) -> None:
    """Have a Worker run a script and stop it."""
    daemon.run(worker_id, script)
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_a_deletion_removes_what_a_worker_left_whatever_it_is(
    launch: Launch, tmp_path: Path, outside: Path, until: Until, leaving: str
) -> None:
    daemon = launch(store=f"fs:{tmp_path / 'store'}").ready()
    worker_id = daemon.shell()
    names = {"python": sys.executable, "outside": outside, "worker_id": worker_id}
    _left(daemon, worker_id, f"echo {SECRET} >note; " + LEAVINGS[leaving].format(**names))

    _delete(daemon, worker_id)

    until(lambda: not os.path.lexists(tmp_path / "store" / "workers" / worker_id))
    assert "delete_failed" not in daemon.call("GET", "/v1/diagnostics").body.decode()


def test_a_daemon_in_memory_leaves_no_folder_behind_however_deep(launch: Launch, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    daemon = launch(env={"TMPDIR": str(scratch)}).ready()
    daemon.run(daemon.shell(), LEAVINGS["1,200 levels"].format(python=sys.executable))
    assert list(scratch.iterdir())

    daemon.stop()

    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("chattr"), reason="needs root and chattr")
def test_what_can_not_be_removed_is_a_diagnostic_and_goes_with_a_later_start(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    worker_id = daemon.shell()
    folder = tmp_path / "store" / "workers" / worker_id
    _left(daemon, worker_id, "mkdir -p a/b; echo kept >a/kept; echo gone >a/b/gone; echo gone >gone")
    kept = folder / "home" / "a" / "kept"
    if subprocess.run(["chattr", "+i", str(kept)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be made immutable here")

    def failures(one: Daemon) -> list[dict[str, Any]]:
        told = one.call("GET", "/v1/diagnostics").ok("diagnostics")
        return [remark for remark in told if remark["code"] == "worker.delete_failed"]

    try:
        _delete(daemon, worker_id)
        until(lambda: failures(daemon))
        [told] = failures(daemon)
        assert (told["worker_id"], told["severity"]) == (worker_id, "error")
        assert "Operation not permitted" in told["message"]
        assert str(tmp_path) not in told["message"]
        assert sorted(path.name for path in folder.rglob("*")) == ["a", "home", "kept"]
        daemon.curl("GET", f"/v1/workers/{worker_id}").refused(404, "worker_not_found")
        daemon.stop()

        again = launch(store=store).ready()
        until(lambda: len(failures(again)) == 1 and "cannot remove the folder of a Worker" in again.errors)
        again.stop()
    finally:
        subprocess.run(["chattr", "-i", str(kept)], check=True)

    last = launch(store=store).ready()
    until(lambda: not folder.exists() and not failures(last))
    assert last.call("GET", "/v1/runtime/check").ok("check", "StoreCheck")["findings"] == []
