"""A run survives the loss of answers and of the daemon: nothing runs twice, and each event is seen once."""

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

from runtimectl.client.http import TIMEOUT_S
from runtimectl.job.conversation import Conversation
from runtimectl.job.inbox import Failed, Inbox
from tests.runtimectl.conftest import DEADLINE_S
from tests.runtimectl.job.conftest import Jobs

RUNS = 14
DROPS = 5
"""How many answers to each request are lost."""

RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards requests and answers."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.upstream = (str(parts.hostname), int(parts.port or 0))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._authority = b"127.0.0.1:%d" % self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection), closing(socket.create_connection(self.upstream)) as upstream, suppress(OSError):
            while request := _message(connection):
                upstream.sendall(
                    request.replace(self._authority, b"%s:%d" % (self.upstream[0].encode(), self.upstream[1]))
                )
                if b"\r\nAccept: text/event-stream" in request:
                    _tunnel(connection, upstream)
                    return
                answer = self.answer(request.partition(b"\r\n\r\n")[0].decode(), _message(upstream))
                if answer is None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    return
                connection.sendall(answer)

    def answer(self, _head: str, answer: bytes) -> bytes | None:
        """Return the answer to a request with this head; None to close the connection instead."""
        return answer


class DroppingProxy(Proxy):
    """Closes the connection instead of answering, the first times for each request whose head contains a text."""

    def __init__(self, url: str, only: str = "", drops: int = DROPS) -> None:
        self.dropped: Counter[str] = Counter()
        self._only, self._drops = only, drops
        self._lock = threading.Lock()
        super().__init__(url)

    def answer(self, head: str, answer: bytes) -> bytes | None:
        return None if self._is_dropped(head) else answer

    def _is_dropped(self, head: str) -> bool:
        """A request with a key is known by it, any other by its path."""
        keys = [line for line in head.split("\r\n") if line.startswith("Idempotency-Key: ")]
        name = keys[0] if keys else head.partition("\r\n")[0]
        with self._lock:
            is_dropped = self._only in head and self.dropped[name] < self._drops
            self.dropped[name] += is_dropped
            return is_dropped


class HoldingProxy(Proxy):
    """Holds the answer to the first request whose head contains a text, until `release`."""

    def __init__(self, url: str, held: str) -> None:
        self.is_holding, self.release = threading.Event(), threading.Event()
        self._held = held
        super().__init__(url)

    def answer(self, head: str, answer: bytes) -> bytes | None:
        if self._held in head and not self.is_holding.is_set():
            self.is_holding.set()
            self.release.wait(DEADLINE_S)
        return answer


class RefusingProxy(Proxy):
    """Answers that an interrupt was refused."""

    def answer(self, head: str, answer: bytes) -> bytes | None:
        body = json.dumps({"error": {"code": "worker_execution_rejected", "message": "it resists"}}).encode()
        refusal = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        return refusal if "/interrupt" in head.splitlines()[0] else answer


def _message(connection: socket.socket) -> bytes:
    """Read a request or an answer whose length is in its head; empty at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = (int(lengths[0].split(b":")[1]) if lengths else 0) - len(body)
    while missing > 0 and (more := connection.recv(missing)):
        data, missing = data + more, missing - len(more)
    return data


def _tunnel(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_pipe, args=(other, one))
    back.start()
    _pipe(one, other)
    back.join(DEADLINE_S)


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
        source.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Jobs]:
    """A daemon with a durable store, and none beside it."""
    made = Jobs(tmp_path, f"fs:{tmp_path}/store")
    yield made
    made.daemon.end()


def test_200_lost_answers_run_nothing_twice(durable: Jobs) -> None:
    with closing(DroppingProxy(durable.daemon.url)) as proxy, ThreadPoolExecutor(RUNS) as threads:
        runs = [
            threads.submit(durable.run, *through(proxy, durable), "-o", "json", "--", "echo", str(number))
            for number in range(RUNS)
        ]
        found = [run.result() for run in runs]

    results = [json.loads(run.stdout) for run in found]
    assert [result.get("reason") for result in results] == [None] * RUNS
    assert [(run.returncode, run.stderr) for run in found] == [(0, "")] * RUNS
    assert sum(proxy.dropped.values()) >= 200
    workers = durable.ctl("workers", "list", "-o", "name").stdout.split()
    assert sorted(result["worker_id"] for result in results) == workers
    for number, result in enumerate(results):
        said = durable.ctl("transcript", result["worker_id"]).stdout
        assert said == f"#1 user: echo {number}\n#2 assistant: {number}\n"


def test_a_create_an_input_and_a_detached_run_happen_once_if_their_answers_are_lost(durable: Jobs) -> None:
    with closing(DroppingProxy(durable.daemon.url)) as proxy:
        options = through(proxy, durable)
        created = durable.ctl("workers", "create", "-o", "name", *options).stdout.strip()
        given = durable.ctl("workers", "input", created, "hello", *options)
        detached = durable.run("--detach", *options, "--", "echo", "hi").stdout.strip()

    assert (given.returncode, given.stderr) == (0, "")
    assert durable.ctl("workers", "list", "-o", "name").stdout.split() == [created, detached]
    for worker, said in ((created, "hello"), (detached, "echo hi")):
        assert durable.ctl("workers", "wait", worker).returncode == 0
        assert durable.ctl("transcript", worker, "--limit", "1").stdout == f"#1 user: {said}\n"
        assert len(durable.ctl("transcript", worker).stdout.splitlines()) == 2
    assert set(proxy.dropped.values()) == {DROPS}


@pytest.mark.parametrize("when_gone", ["wait", "fail"])
def test_a_daemon_that_is_killed_is_waited_for_or_not(durable: Jobs, when_gone: str) -> None:
    events = durable.folder / "events"
    args = ("--when-gone", when_gone, "--events", str(events), "--keep", "-o", "jsonl")
    with ExitStack() as at_end:
        process = durable.start(*args, "--", "sh", "-c", f"touch {durable.shared}/begun; echo said; sleep 600")
        at_end.callback(process.communicate)
        at_end.callback(process.kill)
        assert process.stdout is not None
        assert any('"text_delta"' in line for line in iter(process.stdout.readline, ""))

        durable.daemon.end(signal.SIGKILL)
        if when_gone == "wait":
            durable.daemon = durable.serve(f"fs:{durable.folder}/store")
        out, err = process.communicate(timeout=DEADLINE_S)

    result = json.loads(out.splitlines()[-1])
    assert (process.returncode, result["outcome"], result["text"]) == (
        1 if when_gone == "wait" else 125,
        "lost",
        "said\n",
    )
    seen = [json.loads(line)["cursor"] for line in events.read_text().splitlines()]
    assert seen == sorted(set(seen))
    if when_gone == "wait":
        assert "feed resumed" in err
        assert events.read_text() == durable.ctl("events", "export", result["worker_id"]).stdout
    else:
        durable.daemon = durable.serve(f"fs:{durable.folder}/store")


def test_a_daemon_that_does_not_come_back_is_given_up(durable: Jobs) -> None:
    process = durable.start("--reconnect-for", "0.5", "--", "sh", "-c", "echo said; sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == "said\n"
    durable.daemon.end(signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 125
    assert err.splitlines()[-1].startswith("runtimectl: ")
    durable.daemon = durable.serve(f"fs:{durable.folder}/store")


def test_a_signal_while_the_daemon_is_away_completes_the_files(durable: Jobs) -> None:
    result = durable.folder / "result"
    with ExitStack() as at_end:
        process = durable.start("--result", str(result), "--", "sh", "-c", "echo said; sleep 600")
        at_end.callback(process.communicate)
        at_end.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "said\n"
        durable.daemon.end(signal.SIGKILL)
        assert "reconnecting" in process.stderr.readline()

        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE_S) == 143
    told = json.loads(result.read_text())
    assert (told["outcome"], told["text"]) == ("interrupted", "said\n")
    durable.daemon = durable.serve(f"fs:{durable.folder}/store")


@pytest.mark.parametrize("ending", ["signal", "timeout"])
def test_a_run_ends_although_the_daemon_has_stopped_answering(durable: Jobs, ending: str) -> None:
    result = durable.folder / "result"
    options = ("--timeout", "5") if ending == "timeout" else ()
    with ExitStack() as at_end:
        process = durable.start(*options, "--result", str(result), "--", "sh", "-c", "echo said; sleep 600")
        at_end.callback(process.communicate)
        at_end.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "said\n"
        durable.daemon.process.send_signal(signal.SIGSTOP)
        at_end.callback(durable.daemon.process.send_signal, signal.SIGCONT)
        if ending == "signal":
            process.send_signal(signal.SIGTERM)

        assert process.wait(TIMEOUT_S - 5) == (143 if ending == "signal" else 124)
    assert json.loads(result.read_text())["text"] == "said\n"


def signal_while_held(durable: Jobs, request: str, *options: str) -> None:
    """Run a command, and end it by a signal while a proxy holds its request of this kind back."""
    with closing(HoldingProxy(durable.daemon.url, request)) as proxy, ExitStack() as at_end:
        process = durable.start(*through(proxy, durable), *options, "--", "sleep", "600")
        at_end.callback(process.communicate)
        at_end.callback(process.kill)
        assert proxy.is_holding.wait(DEADLINE_S)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "ending the run" in process.stderr.readline()
        proxy.release.set()

        assert process.wait(DEADLINE_S) == 143


def test_a_signal_during_the_creation_stops_the_worker_before_it_gets_the_input(durable: Jobs) -> None:
    signal_while_held(durable, "POST /v1/workers HTTP")

    [worker] = durable.ctl("workers", "list", "-o", "name").stdout.split()
    assert durable.worker(worker)["status"] == "stopped"
    assert durable.ctl("transcript", worker).stdout == ""


def test_a_run_whose_input_is_being_accepted_is_interrupted_once_it_has_begun(durable: Jobs) -> None:
    events = durable.folder / "events"
    signal_while_held(durable, "/input HTTP", "--events", str(events))

    names = [json.loads(line)["payload"]["event"] for line in events.read_text().splitlines()]
    assert names[-2:] == ["run_end", "shutdown"]


def test_a_worker_whose_run_resists_an_interrupt_is_stopped(durable: Jobs) -> None:
    with closing(RefusingProxy(durable.daemon.url)) as proxy, ExitStack() as at_end:
        process = durable.start(*through(proxy, durable), "--", "sh", "-c", "echo said; sleep 600")
        at_end.callback(process.communicate)
        at_end.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "said\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 143
    assert "cannot interrupt the run: worker_execution_rejected: it resists" in err
    [worker] = durable.ctl("workers", "list", "-o", "name").stdout.split()
    assert durable.worker(worker)["status"] == "stopped"


def test_a_detached_run_without_its_input_says_so_and_names_its_worker(durable: Jobs) -> None:
    with closing(DroppingProxy(durable.daemon.url, only="/input HTTP", drops=1000)) as proxy:
        options = (*through(proxy, durable), "--detach", "--reconnect-for", "0.2")
        found = durable.run(*options, "--", "true")

    [worker] = durable.ctl("workers", "list", "-o", "name").stdout.split()
    assert (found.returncode, found.stdout) == (125, f"{worker}\n")
    assert found.stderr.startswith(f"runtimectl: refused: {worker} did not get its input: cannot reach ")


class BrokenSession:
    """A session whose client fails in a way that nobody expects."""

    def another(self) -> "BrokenSession":
        return self

    def client(self) -> NoReturn:
        raise RecursionError("too deep")


def test_a_conversation_that_fails_unexpectedly_tells_its_job() -> None:
    inbox = Inbox()
    session: Any = BrokenSession()

    Conversation(session, {}, "hi", inbox, 1.0).start()

    failed = inbox.get(DEADLINE_S)
    assert isinstance(failed, Failed)
    assert "RecursionError('too deep')" in str(failed.error)


def through(proxy: Proxy, jobs: Jobs) -> tuple[str, ...]:
    """Return the options that send requests through a proxy."""
    return ("--url", proxy.url, "--token-file", str(jobs.folder / "store" / "token"))


def test_a_wait_goes_on_over_a_restart_and_a_daemon_that_stays_away_is_exit_6(durable: Jobs) -> None:
    shell = ("workers", "create", "--profile", "builtin:shell", "--capability", "shell", "-o", "name")
    worker = durable.ctl(*shell).stdout.strip()
    with ExitStack() as at_end:
        waiting = [
            subprocess.Popen(
                [sys.executable, "-m", "runtimectl", "workers", "wait", worker, "--for", "stopped", *options],
                env=durable.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for options in ((), ("--reconnect-for", "0.5"))
        ]
        for process in waiting:
            at_end.callback(process.communicate)
            at_end.callback(process.kill)
            _until_waiting(process.pid)

        durable.daemon.end(signal.SIGKILL)
        _, err = waiting[1].communicate(timeout=DEADLINE_S)
        assert (waiting[1].returncode, err.count("\n")) == (6, 1)
        assert f"process {durable.daemon.process.pid} that served {durable.daemon.url} has ended" in err
        durable.daemon = durable.serve(f"fs:{durable.folder}/store")
        assert durable.ctl("workers", "stop", worker).returncode == 0

        out, err = waiting[0].communicate(timeout=DEADLINE_S)
        assert (waiting[0].returncode, out, err) == (0, f"{worker}  stopped\n", "")


def _until_waiting(pid: int) -> None:
    """Wait until a `workers wait` waits: one thread for its output, one that watches stdout, one that asks."""
    deadline = time.monotonic() + DEADLINE_S
    while len(list(Path(f"/proc/{pid}/task").iterdir())) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
