"""A running agent and the requests that it gets."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import orjson
from acp.connection import Connection
from acp.exceptions import RequestError
from acp.schema import InitializeResponse, NewSessionResponse
from pydantic import ValidationError

import runtimed
from runtimed.execution.acp.client import Client
from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.transport import MAX_MESSAGE_BYTES, Transport, encoded
from runtimed.execution.processes.executable import located
from runtimed.execution.processes.line_process import Command, LineProcess
from runtimed.execution.processes.supervisor import Supervisor, environment
from runtimed.execution.profile import Profile
from runtimed.execution.session.driver import DriverError
from runtimed.execution.session.exit_reason import explain_exit
from runtimed.model.execution import LossReason

PROTOCOL_VERSION = 1

EXIT_DEADLINE_S = 1.0
"""How long an agent that no longer takes input may take to exit before it is killed."""

MAX_TOLD = 500
"""The most characters of an agent's error that are passed on."""

AUTH_REQUIRED = -32000
METHOD_NOT_FOUND = -32601


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
class Abilities:
    """The abilities of an agent, from its answer to `initialize`.

    Attributes:
        resume: It can resume a session.
        load: It can load a session.
        directories: It accepts directories besides its working directory.
        authentication: The ids of the ways to authenticate that it offers.
    """

    resume: bool = False
    load: bool = False
    directories: bool = False
    authentication: tuple[str, ...] = ()


class Agent:
    """Owns the process tree of one agent, and the connection to it. The owner calls `stop`.

    Attributes:
        abilities: What the agent can do; known after `greet`.
        session: The agent's answer to the request that opened its session.
    """

    def __init__(self, profile: Profile, program: LineProcess, client: Client, inbox: Inbox) -> None:
        self._profile = profile
        self._program = program
        self._transport = Transport(program, inbox, client.outbox)
        self._connection = Connection(client, self._transport)
        self._start_deadline = asyncio.get_running_loop().time() + profile.start_timeout_s
        self.abilities = Abilities()
        self.session: Mapping[str, Any] = {}

    @classmethod
    async def start(
        cls, profile: Profile, supervisor: Supervisor, home: Path, client: Client, inbox: Inbox
    ) -> "Agent":
        """Start the program, without sending it anything. Raises OSError."""
        env = environment(profile.env, profile.env_pass)
        argv = await asyncio.to_thread(located, profile.command, env, home)
        command = Command(argv, home, env, profile.tree_limits)
        program = await LineProcess.start(supervisor, command, max_line_bytes=MAX_MESSAGE_BYTES)
        return cls(profile, program, client, inbox)

    @property
    def ended(self) -> bool:
        """Whether no more output can come."""
        return self._transport.ended

    async def greet(self, granted: frozenset[str]) -> None:
        """Initialize the connection.

        Args:
            granted: The capabilities that the agent is offered.

        Raises:
            AgentFailed: It speaks another version, or gave no valid answer in time.
        """
        result = await self._call("initialize", _greeting(granted))
        try:
            answer = InitializeResponse.model_validate(result)
        except ValidationError:
            raise AgentFailed("protocol", "the agent's answer to initialize is not one of ACP") from None
        if answer.protocol_version != PROTOCOL_VERSION:
            version = f"version {answer.protocol_version} of ACP: expected {PROTOCOL_VERSION}"
            raise AgentFailed("protocol", f"the agent speaks {version}")
        able = answer.agent_capabilities
        sessions = able.session_capabilities if able else None
        self.abilities = Abilities(
            resume=bool(sessions and sessions.resume is not None),
            load=bool(able and able.load_session),
            directories=bool(sessions and sessions.additional_directories is not None),
            authentication=tuple(method.id for method in answer.auth_methods or ()),
        )

    async def authenticate(self, method: str) -> None:
        """Authenticate by one of the methods that it offers."""
        await self._call("authenticate", {"methodId": method})

    async def new_session(self, folders: Sequence[Path]) -> str:
        """Open a new session in the first of these folders, and return its id."""
        result = await self._call("session/new", self._place(folders))
        try:
            session_id = NewSessionResponse.model_validate(result).session_id
        except ValidationError:
            raise AgentFailed("protocol", "the agent's answer to session/new is not one of ACP") from None
        self.session = result
        return session_id

    async def reopen(self, method: str, session_id: str, folders: Sequence[Path]) -> None:
        """Open a session again, with the method `session/resume` or `session/load`."""
        self.session = await self._call(method, {"sessionId": session_id, **self._place(folders)})

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

    async def stop(self, grace_s: float, session_id: str | None = None) -> None:
        """End the agent and all that it started.

        Args:
            grace_s: How long it may take to end, in seconds; with 0 it is killed.
            session_id: The session to cancel first, if a run is going on in it.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        farewell = b""
        if session_id is not None:
            cancel = {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session_id}}
            farewell = encoded(cancel)
        await self._connection.close()
        await self._program.stop(grace_s, farewell)

    def _explained(self, reason: LossReason, stderr_tail: str = "") -> str:
        return explain_exit(reason, self._program.status or 0, self._profile, stderr_tail, "agent")

    def _place(self, folders: Sequence[Path]) -> dict[str, Any]:
        cwd, *others = map(str, folders)
        result: dict[str, Any] = {"cwd": cwd, "mcpServers": []}
        if others and self.abilities.directories:
            result["additionalDirectories"] = others
        return result

    async def _call(self, method: str, params: Mapping[str, Any], *, patient: bool = False) -> dict[str, Any]:
        """Send a request. Unless `patient`, the deadline of the start applies."""
        try:
            async with asyncio.timeout_at(None if patient else self._start_deadline):
                answer = await self._connection.send_request(method, params)
        except RequestError as error:
            raise AgentRefused(error.code, _error_text(error)) from None
        except TimeoutError:
            limit_s = self._profile.start_timeout_s
            late = f"the agent did not answer {method} in time: its start took {limit_s:g} seconds (start_timeout_s)"
            raise AgentFailed("unresponsive", late) from None
        except ConnectionError:
            raise await self.exit_error() from None
        return answer if isinstance(answer, dict) else {}


def _greeting(granted: frozenset[str]) -> dict[str, Any]:
    files = {"readTextFile": "read" in granted, "writeTextFile": "write" in granted}
    return {
        "protocolVersion": PROTOCOL_VERSION,
        "clientCapabilities": {"fs": files, "terminal": "shell" in granted},
        "clientInfo": {"name": "runtimed", "title": "runtimed", "version": runtimed.__version__},
    }


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
    return words[:MAX_TOLD] or "no reason was given"
