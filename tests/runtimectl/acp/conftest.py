"""An editor of a test: it speaks JSON-RPC with `runtimectl acp` over real pipes."""

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.conftest import granting
from tests.programs import RUNTIMECTL
from tests.runtimectl.conftest import DEADLINE_S, Daemon
from tests.runtimectl.library.conftest import agent_config, token_file

__all__ = ["agent_config", "token_file"]

Message = dict[str, Any]


class Editor:
    """A `runtimectl acp` process and its messages.

    Permission requests are answered by `on_permission`, forms by `on_form`, if at all.
    """

    def __init__(self, env: dict[str, str], folder: Path, *options: str) -> None:
        self._folder = folder
        self.process = programs.start(
            [*RUNTIMECTL, "acp", *options], env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.updates: list[Message] = []
        self.asked: list[Message] = []
        self.withdrawn: list[Any] = []
        self.on_permission: Callable[[Message], str | None] = lambda _: None
        self.forms: list[Message] = []
        self.on_form: Callable[[Message], Message | None] = lambda _: None
        self._answers: dict[int, queue.Queue[Message]] = {}
        self._number = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def write(self, message: Message | bytes) -> None:
        assert self.process.stdin is not None
        line = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def begin(self, method: str, **params: Any) -> Callable[[], Message]:
        """Send a request. The function that is returned waits for its answer."""
        self._number += 1
        number = self._number
        self._answers[number] = queue.Queue()
        self.write({"id": number, "method": method, "params": params})
        return lambda: self._answers[number].get(timeout=DEADLINE_S)

    @property
    def last_request(self) -> int:
        """The id of the newest request."""
        return self._number

    def call(self, method: str, **params: Any) -> Any:
        """Send a request and return its result."""
        answer = self.begin(method, **params)()
        assert "result" in answer, answer
        return answer["result"]

    def notify(self, method: str, **params: Any) -> None:
        self.write({"method": method, "params": params})

    def new_session(self) -> str:
        session_id: str = self.call("session/new", cwd=str(self._folder), mcpServers=[])["sessionId"]
        return session_id

    def prompt(self, session_id: str, text: str) -> Callable[[], Message]:
        return self.begin("session/prompt", sessionId=session_id, prompt=[{"type": "text", "text": text}])

    def texts(self, kind: str = "agent_message_chunk") -> list[str]:
        """The texts of all updates of a kind, piece by piece."""
        return [update["content"]["text"] for update in self.updates if update["sessionUpdate"] == kind]

    def end(self, with_signal: int | None = None) -> int:
        """Let it end, by the end of its stdin or by a signal, and return its exit code."""
        assert self.process.stdin is not None
        if with_signal is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(with_signal)
        return self.process.wait(DEADLINE_S)

    def close(self) -> str:
        """End it if it has not ended, and return what it wrote to stderr."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        assert self.process.stdin is not None
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
        self._reader.join(DEADLINE_S)
        written: str = self.process.stderr.read().decode()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()
        return written

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            assert message.pop("jsonrpc") == "2.0"
            if "method" not in message:
                self._answers.setdefault(message["id"], queue.Queue()).put(message)
            elif message["method"] == "session/update":
                self.updates.append(message["params"]["update"])
            elif message["method"] == "session/request_permission":
                self._decide(message)
            elif message["method"] == "elicitation/create":
                self._fill(message)
            else:
                self.withdrawn.append(message)

    def _decide(self, message: Message) -> None:
        self.asked.append(message["params"])
        option = self.on_permission(message["params"])
        if option is not None:
            outcome = {"outcome": "selected", "optionId": option}
            self.write({"id": message["id"], "result": {"outcome": outcome}})

    def _fill(self, message: Message) -> None:
        self.forms.append(message["params"])
        answer = self.on_form(message["params"])
        if answer is not None:
            self.write({"id": message["id"], **answer})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder that the editor has open."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def roots(tmp_path: Path, shared: Path) -> tuple[str, ...]:
    """The options of a daemon that allows the editor's folder."""
    config = tmp_path / "roots.toml"
    config.write_text(f"workspace_roots = [{json.dumps(str(tmp_path))}]\n{granting(shared)}")
    return ("--config", str(config))


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon], roots: tuple[str, ...]) -> Daemon:
    """A daemon with an empty memory store."""
    return start_daemon("--store", "memory", *roots)


@pytest.fixture
def start_editor(env: dict[str, str], project: Path) -> Iterator[Callable[..., Editor]]:
    """Starts `runtimectl acp` with these options. It writes nothing to stderr, whatever the test does."""
    started: list[Editor] = []

    def start(*options: str) -> Editor:
        started.append(Editor(env, project, *options))
        return started[-1]

    yield start
    written = [editor.close() for editor in started]
    assert written == [""] * len(written)


@pytest.fixture
def serve_agent(start_daemon: Callable[..., Daemon], agent_config: Callable[..., Path]) -> Callable[..., Daemon]:
    """Starts a daemon whose profile `builtin:agent` does what a script says; it has these further lines."""

    def serve(script: dict[str, Any], *options: str, profile: str = "") -> Daemon:
        return start_daemon("--config", str(agent_config(script, profile)), *options)

    return serve
