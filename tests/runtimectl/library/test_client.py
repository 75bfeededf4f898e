"""The client library against a real daemon."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

from runtimectl import AsyncClient, Client
from runtimectl.errors import ApiError, ClientError, TimedOut, Unreachable, UsageProblem
from runtimed.model.bundle import BundleMetadata, ConfigBundle, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.event import Payload, RunEnd, Shutdown, Snapshot, TextDone, UserMessage
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest, TaskIntent
from tests.runtimectl.conftest import DEADLINE_S, Daemon

MISSING = "worker-0000ffff"


def test_a_worker_is_created_used_read_and_deleted(client: Client) -> None:
    worker = client.create_worker(name="first", labels={"team": "a"}, capabilities=["read"])

    ack = worker.input("hello")
    with worker.events(ack.cursor) as events:
        payloads: list[Payload] = []
        while not isinstance(payloads and payloads[-1], RunEnd):
            payloads.append(next(events).payload)
    stopped = worker.stop("done")
    entries = worker.transcript()
    worker.delete()

    assert TextDone("hello") in payloads
    assert (stopped.status, [entry.content for entry in entries]) == ("stopped", ["hello", "hello"])
    assert client.workers() == ()


def test_lists_are_filtered_by_status_and_labels(client: Client) -> None:
    first = client.create_worker(labels={"team": "a"})
    second = client.create_worker(labels={"team": "b"})
    second.cancel()

    assert [found.worker_id for found in client.workers()] == [first.id, second.id]
    assert [found.worker_id for found in client.workers("cancelled")] == [second.id]
    assert [found.worker_id for found in client.workers(labels={"team": "a"})] == [first.id]
    assert [found.worker_id for found in client.workers(labels=["team=b"])] == [second.id]
    assert client.runtime().worker_count == 2


def test_what_is_given_by_name_replaces_the_same_field_of_a_request(client: Client) -> None:
    request = CreateWorkerRequest(TaskIntent("count"), BuiltinProfile("builtin:shell"), name="counter")

    detail = client.create_worker(request, profile="default", name="teller").detail()

    assert (detail.intent, detail.profile.kind, detail.name) == (TaskIntent("count"), "runtime_default", "teller")


def test_a_long_transcript_comes_whole_and_from_any_entry(
    start_daemon: Callable[..., Daemon], token_file: Path
) -> None:
    daemon = start_daemon(
        "--store", "memory", "--token-file", str(token_file), "--max-transcript-projection-items", "3"
    )
    with Client(daemon.url, token_file=str(token_file)) as client:
        worker = client.create_worker()
        for number in range(4):
            worker.input(f"input {number}", when_busy="queue")
        with worker.events() as events:
            while worker.detail().transcript_len < 8:
                next(events)

        assert [entry.sequence for entry in worker.transcript()] == list(range(1, 9))
        assert [entry.sequence for entry in worker.transcript(start=6)] == [7, 8]


def test_events_begin_with_a_snapshot_or_behind_a_cursor_and_end_where_the_worker_is_over(client: Client) -> None:
    worker = client.create_worker()
    first = worker.input("one")
    live = worker.events()
    snapshot = next(live)
    worker.stop()

    assert isinstance(snapshot.payload, Snapshot)
    assert [event.payload for event in live][-1] == Shutdown()
    behind = list(worker.events("wo_0000000000000000"))
    assert isinstance(behind[0].payload, UserMessage)
    assert (behind[0].cursor, behind[-1].payload) == (first.cursor, Shutdown())
    assert [event.cursor for event in behind] == sorted({event.cursor for event in behind})


def test_events_of_all_workers_begin_with_those_from_now_on(client: Client) -> None:
    before = client.create_worker(labels={"team": "a"})
    before.input("before")
    before.stop()

    with client.events(labels={"team": "a"}) as events:
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.append(next(events).worker_id))
        thread.start()
        while thread.is_alive():
            client.create_worker(labels={"team": "b"}).input("not for these events")
            after = client.create_worker(labels={"team": "a"})
            after.input("after")
            thread.join(0.1)

    assert seen[0] != before.id
    assert seen[0] in {found.worker_id for found in client.workers(labels={"team": "a"})}


def test_an_error_of_the_daemon_has_its_code_status_and_message(client: Client) -> None:
    worker = client.worker(MISSING)

    for ask in (worker.detail, worker.transcript, lambda: next(worker.events()), worker.interrupt):
        with pytest.raises(ApiError) as refused:
            ask()
        assert (refused.value.code, refused.value.status) == ("worker_not_found", 404)
        assert MISSING in refused.value.message
        assert str(refused.value) == f"worker_not_found: {refused.value.message}"


def test_a_wrong_token_is_an_error_of_the_daemon(daemon: Daemon) -> None:
    with Client(daemon.url, "not-the-token-of-this-daemon") as client, pytest.raises(ApiError) as refused:
        client.runtime()
    assert (refused.value.code, refused.value.status) == ("unauthorized", 401)


def test_bundles_are_pushed_checked_and_listed(client: Client) -> None:
    bundle = new_bundle()

    client.push_bundle(bundle)

    assert client.check_bundle("bundle-1", bundle.metadata.digest).summary in client.bundles()
    assert client.check_bundle_on_host("bundle-1", bundle.metadata.digest).reference.id == "bundle-1"
    with pytest.raises(ApiError) as refused:
        client.check_bundle("bundle-1", "0" * 64)
    assert refused.value.code == "config_bundle_digest_mismatch"


def new_bundle() -> ConfigBundle:
    """A bundle that has nothing but its metadata."""
    metadata = BundleMetadata("bundle-1", "", "rev-1", "workspace-1", "2026-06-26T00:00:00Z", Provenance("test"))
    digest = bundle_digest(ConfigBundle(metadata))
    return ConfigBundle(attrs.evolve(metadata, digest=digest))


def test_a_permission_is_listed_and_answered(
    agent_config: Callable[[dict[str, Any]], Path], start_daemon: Callable[..., Daemon], token_file: Path
) -> None:
    options = [{"optionId": "yes", "name": "Allow", "kind": "allow_once"}]
    asking = {"session/prompt": [[["ask", {"toolCallId": "call-1", "title": "write a file"}, options], ["end"]]]}
    daemon = start_daemon("--config", str(agent_config(asking)), "--token-file", str(token_file))
    with Client(daemon.url, token_file=str(token_file)) as client:
        worker = client.create_worker(profile="builtin:agent")
        ack = worker.input("write")
        with worker.events(ack.cursor) as events:
            while not worker.permissions():
                next(events)
            [request] = worker.permissions()
            [listed] = client.permissions()
            resolved = worker.answer(request.request_id, "yes")
            while not isinstance(next(events).payload, RunEnd):
                pass

    assert (listed.worker_id, listed.title, listed.request_id) == (worker.id, "write a file", request.request_id)
    assert (resolved.outcome, resolved.option_id) == ("selected", "yes")


def test_a_daemon_that_is_not_there_fails_at_once_and_one_that_is_silent_after_the_timeout(
    dead_url: str, serve_raw: Callable[[Callable[[socket.socket], object]], str]
) -> None:
    with Client(dead_url, "x" * 16) as client, pytest.raises(Unreachable):
        client.create_worker()

    silent = threading.Event()
    url = serve_raw(lambda _connection: silent.wait(DEADLINE_S))
    with Client(url, "x" * 16, timeout=0.2) as client, pytest.raises(TimedOut, match=r"within 0.2 s"):
        client.runtime()
    silent.set()


def test_what_answers_without_being_a_daemon_is_reported(
    serve_raw: Callable[[Callable[[socket.socket], object]], str],
) -> None:
    def answer(connection: socket.socket) -> None:
        body = b'{"runtime": {"runtime_id": 7}}'
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with (
        Client(serve_raw(answer), "x" * 16) as client,
        pytest.raises(ClientError, match=r"unexpected response: runtime"),
    ):
        client.runtime()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "ftp://x"}, "url: expected"),
        ({"url": "unix:x", "token": "a", "token_file": "b"}, "token: cannot be combined with token_file"),
        ({"url": "unix:x", "timeout": 0}, "timeout: expected a number of seconds above 0, at most 31536000, got 0"),
        ({"url": "unix:x", "timeout": float("nan")}, "timeout: expected"),
        ({"url": "unix:x", "timeout": float("inf")}, "timeout: expected"),
        ({"url": "unix:x", "reconnect_for": -1}, "reconnect_for: expected a number of seconds, at least 0, got -1"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_wrong_arguments_are_refused_when_the_client_is_made(
    kind: type[Client] | type[AsyncClient], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageProblem, match=message):
        kind(**arguments)


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "a\r\nX-Other: b"])
def test_an_idempotency_key_that_is_no_value_of_a_header_is_never_sent(client: Client, key: str) -> None:
    with pytest.raises(UsageProblem, match=r"idempotency_key: expected 1 to 255 visible ASCII"):
        client.create_worker(idempotency_key=key)

    assert client.workers() == ()


def test_the_client_of_the_environment_finds_the_only_daemon_here(daemon: Daemon, env: dict[str, str]) -> None:
    program = "from runtimectl import Client\nprint(Client.from_env().runtime().runtime_id)"
    ended = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert ended.stdout == f"{daemon.runtime_id}\n"


def test_a_client_speaks_over_a_unix_socket(
    start_daemon: Callable[..., Daemon], token_file: Path, tmp_path: Path
) -> None:
    start_daemon("--listen", f"unix:{tmp_path}/socket", "--token-file", str(token_file))
    with Client(f"unix:{tmp_path}/socket", token_file=str(token_file)) as client:
        worker = client.create_worker()
        worker.input("hello")
        worker.stop()
        assert [event.payload for event in worker.events("wo_0000000000000000")][-1] == Shutdown()


def test_several_threads_use_one_client_at_once(client: Client) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(client.create_worker().id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == [worker.worker_id for worker in client.workers()]
    assert len(set(found)) == 8


def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_happens_twice(
    daemon: Daemon, token_file: Path, serve_raw: Callable[[Callable[[socket.socket], object]], str]
) -> None:
    host = urlsplit(daemon.url).netloc
    lost: list[bytes] = []

    def forward(connection: socket.socket) -> None:
        """Hand a request on to the daemon, and drop every other answer to a POST."""
        request = _request(connection)
        head, _, body = request.partition(b"\r\n\r\n")
        head = re.sub(rb"(?m)^Host: [^\r\n]*", b"Host: %b\r\nConnection: close" % host.encode(), head, count=1)
        with socket.create_connection((urlsplit(daemon.url).hostname, urlsplit(daemon.url).port)) as upstream:
            upstream.sendall(head + b"\r\n\r\n" + body)
            answer = b"".join(iter(lambda: upstream.recv(1 << 16), b""))
        if request.startswith(b"POST") and len(lost) % 2 == 0:
            lost.append(request)
            return
        if request.startswith(b"POST"):
            lost.append(b"")
        connection.sendall(answer)

    with Client(serve_raw(forward), token_file=str(token_file)) as client:
        workers = [client.create_worker() for _ in range(5)]
        for worker in workers:
            worker.input("hello")
        entries = [entry.content for worker in workers for entry in worker.transcript() if entry.role == "user"]

        assert [worker.id for worker in workers] == [found.worker_id for found in client.workers()]
        assert entries == ["hello"] * 5
        assert len([request for request in lost if request]) == 10


def _request(connection: socket.socket) -> bytes:
    """Receive one whole request."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1 << 16)
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"(?im)^Content-Length: (\d+)", head)
    while found and len(body) < int(found[1]):
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.workers(labels="team=a"), "labels: expected an object of labels by key, or a list"),
        (lambda client: client.create_worker(capabilities="read"), "capabilities: expected a list of names, got a"),
        (lambda client: client.create_worker(idempotency_key=""), "idempotency_key: expected 1 to 255 visible"),
    ],
)
def test_wrong_arguments_of_a_call_are_refused_before_it_is_sent(
    call: Callable[[Client], object], message: str, dead_url: str
) -> None:
    with Client(dead_url, "x" * 16) as client, pytest.raises(UsageProblem, match=re.escape(message)):
        call(client)
