"""A real agent in an environment of its own, and a model that says what it is told to say."""

import fcntl
import json
import subprocess
import threading
import venv
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch

REPOSITORY = Path(__file__).parents[4]
AGENTS = REPOSITORY / "contrib" / "agents"
ENVIRONMENT = REPOSITORY / ".venv" / "agents"
"""Where the agent is installed, once: `make clean` removes it."""

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
CONFIGURATION = """
[sandbox]
network = "host"

[profiles."builtin:coder"]
backend = "acp"
command = ["{python}", "{agent}"]
env = {{ OPENAI_BASE_URL = "{url}", OPENAI_API_KEY = "none", AGENT_MODEL = "scripted" }}
capabilities = ["read", "write", "shell"]
permission_timeout_s = {timeout_s}
stop_grace_s = 3
"""


class Model:
    """Answers chat completions of the OpenAI API, streamed, with what was queued."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.over = threading.Event()
        self._queued: deque[list[dict[str, Any]]] = deque()

    def say(self, *pieces: str) -> None:
        """The next answer is this text."""
        self._queued.append([{"content": piece} for piece in pieces])

    def call(self, tool: str, **arguments: Any) -> None:
        """The next answer is a call of this tool."""
        function = {"name": tool, "arguments": json.dumps(arguments)}
        call_id = f"call_{len(self.requests)}_{len(self._queued)}"
        self._queued.append([{"tool_calls": [{"index": 0, "id": call_id, "type": "function", "function": function}]}])

    def hang(self, *pieces: str) -> None:
        """The next answer begins with this text and has no end."""
        self._queued.append([*({"content": piece} for piece in pieces), {"hang": True}])

    def messages(self) -> list[tuple[str, Any]]:
        """What the agent has told with its last request, without the instructions."""
        told = self.requests[-1]["messages"]
        return [(one["role"], one.get("content")) for one in told if one["role"] != "system"]

    def chunks(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.requests.append(request)
        reason = "stop"
        for delta in self._queued.popleft():
            if "hang" in delta:
                self.over.wait()
                return
            reason = "tool_calls" if "tool_calls" in delta else reason
            yield {"choices": [_choice({"role": "assistant", **delta}, None)]}
        yield {"choices": [_choice({}, reason)]}
        yield {"choices": [], "usage": USAGE}


def _choice(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: Model) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for fields in self.server.model.chunks(request):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted", **fields}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def agent_python() -> Path:
    """The interpreter of an environment in which the agent is installed."""
    wanted = (AGENTS / "requirements.txt").read_text()
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "installed.txt"
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(ENVIRONMENT, with_pip=True, clear=True)
            install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"]
            subprocess.run([*install, str(AGENTS / "requirements.txt")], check=True)
            stamp.write_text(wanted)
    return python


@pytest.fixture
def model() -> Iterator[tuple[Model, str]]:
    """A model, and the URL that it is served at."""
    made = Model()
    server = _Server(made)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made, f"http://127.0.0.1:{server.server_address[1]}/v1"
    made.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def start_agents(launch: Launch, agent_python: Path, model: tuple[Model, str], tmp_path: Path) -> Launch:
    """Starts a daemon whose profile `builtin:coder` is the agent, with that model; again on the same store."""

    def start(timeout_s: float = 60) -> Daemon:
        path = tmp_path / "config.toml"
        agent = AGENTS / "pydantic_ai_agent.py"
        path.write_text(CONFIGURATION.format(python=agent_python, agent=agent, url=model[1], timeout_s=timeout_s))
        return launch("--config", str(path), store=f"fs:{tmp_path / 'store'}").ready()

    return start
