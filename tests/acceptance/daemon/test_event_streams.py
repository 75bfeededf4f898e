"""Events as server-sent events, read by curl."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch

from .conftest import CURL, DEADLINE_S

ZERO = "wo_0000000000000000"


class Stream:
    """An event stream as curl prints it, decoded as the standard says."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.place = ""
        self.head = self._head()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def _head(self) -> str:
        lines = [self._line()]
        while lines[-1].strip():
            lines.append(self._line())
        return "".join(lines)

    def next(self) -> tuple[str, Any] | None:
        """The name and the data of the next event, None at the end of the stream."""
        fields: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.rstrip("\n").partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
                continue
            if value:
                continue
            if line == "\n":
                self.place = fields.get("id", self.place)
                if "data" in fields:
                    return fields["event"], json.loads(fields["data"])
                fields = {}
        return None

    def up_to(self, name: str) -> list[Any]:
        """The envelopes up to the next event of that name, with it."""
        found = []
        while event := self.next():
            assert event[0] == event[1]["payload"]["event"]
            assert self.place == event[1]["cursor"]
            found.append(event[1])
            if event[0] == name:
                return found
        raise AssertionError(f"the stream ended before {name}")


@contextmanager
def _stream(
    daemon: Daemon,
    path: str,
    *headers: str,
    options: tuple[str, ...] = (),
    accept: str | None = "Accept: text/event-stream",
) -> Iterator[Stream]:
    if CURL is None:
        pytest.skip("curl is not installed")
    lines = [f"Authorization: Bearer {daemon.token}", *([accept] if accept else []), *headers]
    command = [CURL, "-q", "-sS", "-i", "-N", "--noproxy", "*", "--max-time", str(int(DEADLINE_S)), *options]
    command += [part for line in lines for part in ("-H", line)]
    with subprocess.Popen([*command, f"{daemon.url}{path}"], stdout=subprocess.PIPE) as process:
        try:
            yield Stream(process)
        finally:
            process.kill()


def test_a_worker_is_streamed_a_snapshot_then_what_is_retained_then_what_happens(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    before = daemon.run(worker_id, "one")
    with _stream(daemon, f"/v1/workers/{worker_id}/events?cursor={ZERO}") as stream:
        assert "content-type: text/event-stream" in stream.head.lower()
        assert "x-accel-buffering: no" in stream.head.lower()
        [snapshot] = stream.up_to("snapshot")
        assert (snapshot["cursor"], snapshot["event_id"]) == (ZERO, f"snapshot:{ZERO}")
        assert stream.up_to("run_end") == before
        ack = daemon.input(worker_id, "two")
        live = stream.up_to("run_end")
    assert live[0]["event_id"] == ack["cursor"]
    assert daemon.log(worker_id) == before + live


def test_the_last_event_id_goes_before_the_cursor(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    events = daemon.run(worker_id, "one")
    last = f"Last-Event-ID: {events[1]['cursor']}"
    with _stream(daemon, f"/v1/workers/{worker_id}/events?cursor={ZERO}", last) as stream:
        assert [one["cursor"] for one in stream.up_to("snapshot")] == [events[1]["cursor"]]
        assert stream.up_to("run_end") == events[2:]


def test_a_last_event_id_that_is_no_cursor_is_refused_by_its_name(daemon: Daemon) -> None:
    headers = ["Accept: text/event-stream", "Last-Event-ID: x"]
    for path in (f"/v1/workers/{daemon.echo()}/events", "/v1/events"):
        answer = daemon.call("GET", path, None, headers)
        assert answer.status == 400, answer.body
        assert json.loads(answer.body)["error"]["message"].startswith("Last-Event-ID: ")


@pytest.mark.parametrize(
    ("accepted", "streamed"),
    [
        ("text/event-stream", True),
        ("TEXT/Event-Stream; charset=utf-8", True),
        ("application/json;q=0.5, text/event-stream;q=0.001", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream ; Q=0.000", False),
        ("text/event-streams", False),
        ("application/json", False),
        ("*/*", False),
    ],
)
def test_only_who_accepts_an_event_stream_gets_one(daemon: Daemon, accepted: str, streamed: bool) -> None:
    with _stream(daemon, f"/v1/workers/{daemon.echo()}/events", f"Accept: {accepted}", accept=None) as stream:
        kind = "text/event-stream" if streamed else "application/json"
        assert f"content-type: {kind}" in stream.head.lower()


def test_the_stream_of_all_workers_begins_at_the_head_and_says_where_that_is(daemon: Daemon) -> None:
    first, second = daemon.echo(), daemon.echo()
    newest = daemon.run(first, "before")[-1]["cursor"]
    with _stream(daemon, "/v1/events?events=run_end") as stream:
        daemon.run(first, "one")
        [end] = stream.up_to("run_end")
        assert end["cursor"] > newest
        place = stream.place
    daemon.run(second, "two")
    with _stream(daemon, "/v1/events", f"Last-Event-ID: {place}") as stream:
        assert {one["worker_id"] for one in stream.up_to("run_end")} == {second}


def test_it_works_without_chunks_for_a_client_of_http_1_0(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    with _stream(daemon, f"/v1/workers/{worker_id}/events", options=("--http1.0",)) as stream:
        assert "chunked" not in stream.head.lower()
        stream.up_to("snapshot")
        daemon.input(worker_id, "hello")
        assert stream.up_to("run_end")[0]["payload"]["event"] == "user_message"


def test_errors_before_the_first_byte_are_http_errors(daemon: Daemon) -> None:
    headers = ["Accept: text/event-stream"]
    for path in (f"/v1/workers/{daemon.echo()}/events", "/v1/events"):
        for query, status in (("cursor=x", 400), ("cursor=wo_ffffffffffffffff", 410), ("limit=1", 400)):
            answer = daemon.call("GET", f"{path}?{query}", None, headers)
            assert answer.status == status
            assert answer.header("Content-Type") == "application/json"


def test_a_shutdown_is_the_last_event_and_ends_the_stream(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    with _stream(daemon, f"/v1/workers/{daemon.echo()}/events") as stream, _stream(daemon, "/v1/events") as fleet:
        stream.up_to("snapshot")
        daemon.stop()
        for one in (stream, fleet):
            name, diagnostic = one.next() or ("", {})
            assert (name, diagnostic["code"]) == ("diagnostic", "runtime.upstream_closed")
            assert one.next() is None
            assert one.process.wait(DEADLINE_S) == 0


def test_a_deleted_worker_is_the_last_event(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    with _stream(daemon, f"/v1/workers/{worker_id}/events") as stream, daemon.observe(worker_id) as observer:
        stream.up_to("snapshot")
        daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
        stream.up_to("shutdown")
        assert daemon.call("DELETE", f"/v1/workers/{worker_id}").status == 204
        name, diagnostic = stream.next() or ("", {})
        assert (name, diagnostic["code"]) == ("diagnostic", "runtime.worker_not_found")
        assert stream.next() is None
        assert observer.rest()[-1]["diagnostic"]["code"] == "runtime.worker_not_found"
