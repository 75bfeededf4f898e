"""The agent for editors, without the pipes of one: its messages are bytes that go in and come out."""

import json
import queue
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from runtimectl.acp import agent
from runtimectl.acp.agent import Agent
from runtimectl.acp.jsonrpc import Peer
from runtimectl.errors import Unreachable
from tests.runtimectl.conftest import DEADLINE_S


class FakeWorker:
    """A Worker whose events never come."""

    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        self.ends: list[str] = []

    def stop(self, _reason: str) -> None:
        self.ends.append("stopped")

    def delete(self) -> None:
        self.ends.append("deleted")

    def detail(self) -> SimpleNamespace:
        return SimpleNamespace(oldest_cursor="wo_0000000000000001", last_cursor="wo_0000000000000002")

    def transcript(self) -> NoReturn:
        raise Unreachable("the daemon is away")

    def events(self, _cursor: str) -> list[Any]:
        return []

    def permissions(self) -> tuple[()]:
        return ()


class FakeWorkers:
    """Makes Workers without a daemon."""

    def __init__(self) -> None:
        self.made: list[FakeWorker] = []

    def create(self, _cwd: str, _directories: tuple[str, ...], _servers: list[Any]) -> tuple[FakeWorker, None]:
        self.made.append(FakeWorker(f"worker-{len(self.made)}"))
        return self.made[-1], None

    def find(self, worker_id: str) -> FakeWorker:
        return FakeWorker(worker_id)


class Connection:
    """An editor that is connected by two queues."""

    def __init__(self, workers: Any = None) -> None:
        self._sent: queue.Queue[bytes] = queue.Queue()
        self._peer = Peer(self._sent.put)
        self._agent = Agent(self._peer, lambda: workers)
        self._number = 0

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self._peer.receive(json.dumps(message).encode(), self._agent)
        answer = json.loads(self.next())
        assert answer["id"] == self._number
        return answer

    def next(self) -> bytes:
        """The next message, as its bytes."""
        return self._sent.get(timeout=DEADLINE_S)


def test_a_message_is_written_whole_and_without_what_separates_it_from_the_next_one() -> None:
    sent: list[bytes] = []
    peer = Peer(sent.append)
    connect: Any = FakeWorkers

    peer.receive(b'{"jsonrpc": "2.0", "id": 1, "method": "initialize"}', Agent(peer, connect))

    assert [message.strip() for message in sent] == sent
    assert json.loads(sent[0])["result"]["protocolVersion"] == 1


def test_a_session_above_the_limit_is_refused_and_its_worker_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "MAX_SESSIONS", 2)
    workers = FakeWorkers()
    editor = Connection(workers)
    for _ in range(2):
        assert "result" in editor.call("session/new", cwd="/srv", mcpServers=[])

    refused = editor.call("session/new", cwd="/srv", mcpServers=[])

    assert refused["error"]["message"] == "expected at most 2 open sessions: close one"
    assert [worker.ends for worker in workers.made] == [[], [], ["stopped", "deleted"]]


def test_a_session_whose_past_cannot_be_shown_is_not_open() -> None:
    editor = Connection(FakeWorkers())

    failed = editor.call("session/load", sessionId="worker-1", cwd="/srv", mcpServers=[])
    refused = editor.call("session/prompt", sessionId="worker-1", prompt=[{"type": "text", "text": "go"}])

    assert failed["error"]["message"] == "the daemon is away"
    assert "is not open" in refused["error"]["message"]
