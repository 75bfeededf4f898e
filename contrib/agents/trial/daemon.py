"""A daemon with one agent, and its Worker."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

TOKEN = "trial-of-the-agents"
DEADLINE_S = 120.0
POLL_S = 0.1

Event = dict[str, Any]


class Daemon:
    """A `runtimed` on a store in a folder, in a home of its own, with a configuration.

    Attributes:
        config: The file of its configuration.
        key: The file that has the real key.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any], key: Path) -> None:
        self._folder = folder
        self.config, self.key = folder / "config.toml", key
        (folder / "home").mkdir(parents=True, exist_ok=True)
        self.config.write_text("\n".join(_toml(configuration)))
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        """Start it, again on the same store."""
        env = {
            **os.environ,
            "HOME": str(self._folder / "home"),
            "XDG_RUNTIME_DIR": str(self._folder),
            "RUNTIMED_TOKEN": TOKEN,
        }
        command = [sys.executable, "-m", "runtimed", "--config", str(self.config)]
        command += ["--store", f"fs:{self._folder / 'store'}", "--listen", "127.0.0.1:0"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        self._port = int(line.split("http://127.0.0.1:")[1].split()[0])

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
            self._process = None

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send a request and return the answer. Raises RuntimeError for an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(text.decode(errors="replace"))
        found: dict[str, Any] = json.loads(text)
        return found


class Worker:
    """A Worker that runs the agent. A run that asks for permissions gets the kind of option that is wanted.

    Attributes:
        mechanism: What confines it.
        events: Those of the last run, up to where it came.
    """

    def __init__(self, daemon: Daemon, capabilities: list[str], profile: str) -> None:
        self._daemon = daemon
        self.events: list[Event] = []
        request = {
            "profile": {"kind": "builtin", "value": profile},
            "requested_capabilities": [{"name": name} for name in capabilities],
        }
        worker = daemon.ask("POST", "/v1/workers", request)["worker"]
        self.id = worker["worker_id"]
        self.refusal = worker["execution"]["last_result"].get("message", "")
        self.mechanism = str(worker["execution"].get("sandbox", {}).get("mechanism", "none"))
        self.is_ready = worker["execution"]["backend"] == "connected"

    def run(self, content: str, kind: str = "allow_once", until: Callable[[], bool] | None = None) -> list[Event]:
        """Give an input, answer its permission requests, and return the events of the run up to its end.

        Args:
            content: The input.
            kind: The kind of the option that is chosen.
            until: Interrupts the run once it holds.

        Raises:
            TimeoutError: The run did not end.
        """
        path = f"/v1/workers/{self.id}"
        cursor = self._daemon.ask("POST", f"{path}/input", {"kind": "user", "content": content})["ack"]["cursor"]
        events = self.events = []
        deadline, is_interrupted = time.monotonic() + DEADLINE_S, False
        while not any(event["event"] == "run_end" for event in events):
            if time.monotonic() > deadline:
                self._daemon.ask("POST", f"{path}/interrupt")
                raise TimeoutError("the run did not end")
            self._answer(path, kind)
            page = self._daemon.ask("GET", f"{path}/events?cursor={cursor}")
            cursor = page["next_cursor"]
            events += [envelope["payload"] for envelope in page["events"]]
            if until is not None and not is_interrupted and until():
                is_interrupted = True
                self._daemon.ask("POST", f"{path}/interrupt")
            time.sleep(POLL_S)
        return events

    def stop(self) -> None:
        """End it."""
        self._daemon.ask("POST", f"/v1/workers/{self.id}/stop", {})

    def _answer(self, path: str, kind: str) -> None:
        for request in self._daemon.ask("GET", f"{path}/permissions")["permissions"]:
            option = next((one["option_id"] for one in request["options"] if one["kind"] == kind), None)
            answer = {"outcome": "cancelled"} if option is None else {"option_id": option}
            with contextlib.suppress(RuntimeError):  # it was cancelled meanwhile
                self._daemon.ask("POST", f"{path}/permissions/{request['request_id']}", answer)


def _toml(table: Mapping[str, Any], *path: str) -> Iterator[str]:
    """Yield the lines of a configuration. JSON texts and arrays of texts are TOML too."""
    if path:
        yield f"[{'.'.join(map(json.dumps, path))}]"
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    yield from (f"{json.dumps(name)} = {json.dumps(value)}" for name, value in table.items() if name not in tables)
    for name, value in tables.items():
        yield from _toml(value, *path, name)
