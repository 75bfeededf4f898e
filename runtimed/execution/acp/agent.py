"""A running agent and the requests that it gets."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import orjson
from acp.connection import Connection
from acp.exceptions import RequestError
from acp.schema import InitializeResponse, NewSessionResponse
from pydantic import ValidationError

from runtimed.execution.acp.abilities import PROTOCOL_VERSION, Abilities, abilities_of, greeting
from runtimed.execution.acp.client import Client, Served
from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.mcp_servers import hide_values
from runtimed.execution.acp.transport import MAX_MESSAGE_BYTES, Transport, encoded
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.executable import located
from runtimed.execution.processes.limits import FolderLimit
from runtimed.execution.processes.line_process import Command, LineProcess
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.session.driver import DriverError
from runtimed.execution.session.exit_reason import explain_exit
from runtimed.model.execution import LossReason
from runtimed.model.identity import WorkerId

EXIT_DEADLINE_S = 1.0
"""How long an agent that no longer takes input may take to exit before it is killed."""

CLOSE_SHARE = 0.25
"""The part of the time that an agent has to end in which it may close its session."""

DISCARD_DEADLINE_S = 2.0
"""How long an agent may take to close and delete a session that nobody uses."""

MAX_TOLD = 500
"""The most characters of an agent's error that are passed on."""

AUTH_REQUIRED = -32000
METHOD_NOT_FOUND = -32601
log = logging.getLogger(__name__)


class AgentFailed(DriverError):
    """The agent cannot be used any more; the text says what happened."""

    def __init__(self, reason: LossReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AgentRefused(Exception):
    """The agent answered with an error."""

    def __init__(self, code: object, message: str) -> None:
        super().__init__(message)
        self.code = code


@attrs.frozen
class Place:
    """Where a session works.

    Attributes:
        folders: Its working directory, then further ones.
        mcp_servers: The MCP servers that it may use, as the protocol has them.
    """

    folders: tuple[Path, ...]
    mcp_servers: tuple[Mapping[str, Any], ...] = ()


class Agent:
    """Owns the process tree of one agent, and the connection to it. The owner calls `stop`.

    Attributes:
        abilities: What the agent can do; known after `greet`.
        session: The agent's answer to the request that opened its session.
    """

    def __init__(self, profile: Profile, program: LineProcess, granted: frozenset[str]) -> None:
        self._profile = profile
        self._program = program
        self._granted = granted
        self._idle = Inbox()
        self._client = Client(granted, self._idle)
        self._transport = Transport(program, self._idle, self._client.outbox)
        self._transport.hide = self._without_secrets
        self._connection = Connection(self._client, self._transport)
        self._start_deadline = asyncio.get_running_loop().time() + profile.start_timeout_s
        self.abilities = Abilities()
        self.session: Mapping[str, Any] = {}
        self._mcp_servers: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    async def start(
        cls,
        profile: Profile,
        supervisor: Supervisor,
        worker_id: WorkerId,
        home: Path,
        granted: frozenset[str] | None = None,
    ) -> "Agent":
        """Start the program, without sending it anything.

        Args:
            profile: How it is run.
            supervisor: Starts its process tree.
            worker_id: The Worker whose confinement holds for it.
            home: The directory to start in.
            granted: The capabilities that it is offered; None for those of the profile.

        Raises:
            OSError: It can't be started.
        """
        env = environment(profile.env, profile.env_pass)
        argv = await asyncio.to_thread(located, profile.command, env, home)
        command = Command(argv, home, env, profile.tree_limits, worker_id)
        program = await LineProcess.start(supervisor, command, max_line_bytes=MAX_MESSAGE_BYTES)
        return cls(profile, program, profile.offered if granted is None else granted)

    @property
    def ended(self) -> bool:
        """Whether no more output can come."""
        return self._transport.ended

    @property
    def is_alive(self) -> bool:
        """Whether its program runs, and its connection works."""
        return not self.ended and self._program.status is None

    def serve(self, served: Served, unused: str | None = None) -> None:
        """Answer its requests for a Worker from now on, and pass on what it says and has said.

        Args:
            served: The Worker.
            unused: A session that the Worker does not use: what it says and has said is dropped.
        """
        said = self._idle.take()
        for item in said if unused is None else ():
            served.inbox.put(item)
        self._client.serve(served, unused)
        self._transport.inbox = served.inbox

    def limit_folder(self, limit: FolderLimit | None) -> None:
        """End the agent if this folder becomes too large. None sets no limit."""
        self._program.limit_folder(limit)

    def renew_deadline(self, within_s: float) -> None:
        """Give the rest of its start so many seconds from now."""
        self._start_deadline = asyncio.get_running_loop().time() + within_s

    async def ended_idle(self) -> None:
        """Wait until it ends, while it serves no Worker."""
        while not self.ended:
            await self._idle.changed()

    async def greet(self) -> None:
        """Initialize the connection.

        Raises:
            AgentFailed: It speaks another version, or gave no valid answer in time.
        """
        result = await self._call("initialize", greeting(self._granted))
        try:
            answer = InitializeResponse.model_validate(result)
        except ValidationError:
            raise AgentFailed("protocol", "the agent's answer to initialize is not one of ACP") from None
        if answer.protocol_version != PROTOCOL_VERSION:
            version = f"version {answer.protocol_version} of ACP: expected {PROTOCOL_VERSION}"
            raise AgentFailed("protocol", f"the agent speaks {version}")
        self.abilities = abilities_of(answer)

    async def authenticate(self, method: str) -> None:
        """Authenticate by one of the methods that it offers."""
        await self._call("authenticate", {"methodId": method})

    async def new_session(self, place: Place) -> str:
        """Open a new session, and return its id."""
        result = await self._call("session/new", self._params(place))
        try:
            session_id = NewSessionResponse.model_validate(result).session_id
        except ValidationError:
            raise AgentFailed("protocol", "the agent's answer to session/new is not one of ACP") from None
        self.session = result
        return session_id

    async def reopen(self, method: str, session_id: str, place: Place) -> None:
        """Open a session again, with the method `session/resume` or `session/load`."""
        self.session = await self._call(method, {"sessionId": session_id, **self._params(place)})

    async def configure(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Set an option of the session, and return the agent's answer."""
        return await self._call(method, params)

    async def prompt(self, session_id: str, blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Send a prompt, and return the answer once the run is over. There is no deadline."""
        return await self._call("session/prompt", {"sessionId": session_id, "prompt": blocks}, patient=True)

    async def cancel(self, session_id: str) -> None:
        """Send `session/cancel`."""
        with contextlib.suppress(ConnectionError):
            await self._connection.send_notification("session/cancel", {"sessionId": session_id})

    @property
    def received(self) -> int:
        """How many bytes the agent has written."""
        return self._transport.received

    async def begin_run(self) -> None:
        """Begin to limit the CPU time of a run, until `end_run`."""
        await self._program.begin_run()

    def end_run(self) -> None:
        """Stop limiting the CPU time."""
        self._program.end_run()

    async def exit_error(self) -> AgentFailed:
        """Kill what is left of an agent whose connection ended, and return why it ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_DEADLINE_S):
                await self._program.ended()
        status, excess = self._program.status, self._program.excess
        try:
            await self.stop(0)
        except TimeoutError as error:
            return AgentFailed("unresponsive", str(error))
        if status is None:
            return AgentFailed("unresponsive", "the agent no longer reads its input")
        reason = excess or "exit"
        return AgentFailed(reason, self._explained(reason, self._program.stderr_tail()))

    async def end_for(self, reason: LossReason) -> AgentFailed:
        """Kill the agent for a limit that it exceeded, and return that as an error."""
        try:
            await self.stop(0)
        except TimeoutError as error:
            return AgentFailed("unresponsive", str(error))
        return AgentFailed(reason, self._explained(reason))

    async def kill(self) -> None:
        """Kill the agent; what it has written can still be read. Raises TimeoutError if processes resist."""
        await self._program.kill()

    async def stop(self, grace_s: float, session_id: str | None = None, *, is_running: bool = False) -> None:
        """End the agent and all that it started.

        Args:
            grace_s: How long it may take to end, in seconds; with 0 it is killed.
            session_id: Its session, which is closed first if the agent can do that.
            is_running: A run is going on in the session, and is cancelled.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        farewell = b""
        if session_id is not None and grace_s > 0 and self.abilities.close and not self.ended:
            began = asyncio.get_running_loop().time()
            await self._close_session(session_id, grace_s * CLOSE_SHARE, is_running=is_running)
            grace_s -= asyncio.get_running_loop().time() - began
        elif session_id is not None and is_running:
            cancel = {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session_id}}
            farewell = encoded(cancel)
        await self._connection.close()
        await self._program.stop(max(grace_s, 0), farewell)

    async def delete_session(self, session_id: str) -> None:
        """Have the agent forget a session for good."""
        await self._call("session/delete", {"sessionId": session_id})

    async def discard_session(self, session_id: str) -> None:
        """Close a session that nobody uses and have the agent forget it, as far as it can. A failure is logged."""
        able = self.abilities
        try:
            async with asyncio.timeout(DISCARD_DEADLINE_S):
                for method in ["session/close"] * able.close + ["session/delete"] * able.delete:
                    await self._connection.send_request(method, {"sessionId": session_id})
        except (TimeoutError, RequestError, ConnectionError) as error:
            reason = self._without_secrets(str(error)) or "it did not answer in time"
            log.warning("an agent may keep a session that nobody uses", extra={"reason": reason})

    async def _close_session(self, session_id: str, within_s: float, *, is_running: bool) -> None:
        with contextlib.suppress(TimeoutError, RequestError, ConnectionError):
            async with asyncio.timeout(within_s):
                if is_running:
                    await self._connection.send_notification("session/cancel", {"sessionId": session_id})
                await self._connection.send_request("session/close", {"sessionId": session_id})

    def _explained(self, reason: LossReason, stderr_tail: str = "") -> str:
        shown = self._without_secrets(stderr_tail)
        program = self._program
        return explain_exit(
            reason, program.status or 0, self._profile, shown, "agent", folder_bytes=program.folder_bytes
        )

    def _without_secrets(self, text: str) -> str:
        return hide_values(text, self._mcp_servers)

    def _params(self, place: Place) -> dict[str, Any]:
        cwd, *others = map(str, place.folders)
        self._mcp_servers = place.mcp_servers
        result: dict[str, Any] = {"cwd": cwd, "mcpServers": list(place.mcp_servers)}
        if others and self.abilities.directories:
            result["additionalDirectories"] = others
        return result

    async def _call(self, method: str, params: Mapping[str, Any], *, patient: bool = False) -> dict[str, Any]:
        """Send a request. Unless `patient`, the deadline of the start applies."""
        try:
            async with asyncio.timeout_at(None if patient else self._start_deadline):
                answer = await self._connection.send_request(method, params)
        except RequestError as error:
            raise AgentRefused(error.code, self._without_secrets(_error_text(error))[:MAX_TOLD]) from None
        except TimeoutError:
            limit_s = self._profile.start_timeout_s
            late = f"the agent did not answer {method} in time: its start took {limit_s:g} seconds (start_timeout_s)"
            raise AgentFailed("unresponsive", late) from None
        except ConnectionError:
            raise await self.exit_error() from None
        return answer if isinstance(answer, dict) else {}


def _error_text(error: RequestError) -> str:
    """Return the message of an error, with its details."""
    data = error.data
    if isinstance(data, dict):
        data = data.get("details") or data.get("message") or data
    if data is not None and not isinstance(data, str):
        try:
            data = orjson.dumps(data).decode()
        except orjson.JSONEncodeError:  # nested too deeply
            data = None
    words = f"{error}: {data}" if data and data not in str(error) else str(error)
    return words or "no reason was given"
