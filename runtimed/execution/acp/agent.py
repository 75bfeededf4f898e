"""A running agent, from its greeting to its end."""

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
from runtimed.execution.executable import located
from runtimed.execution.loss import explained
from runtimed.execution.profile import Profile
from runtimed.execution.program import Command, LineProgram
from runtimed.execution.supervise import Supervisor, environment
from runtimed.model.execution import LossReason

PROTOCOL_VERSION = 1

EXIT_DEADLINE_S = 1.0
"""How long an agent that takes no input any more may take to end, before it is ended."""

MAX_TOLD = 500
"""Characters that are told on of an agent's error."""

AUTH_REQUIRED = -32000
METHOD_NOT_FOUND = -32601


class AgentFailed(Exception):
    """Nothing more can come of this agent; the text says what happened."""

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
    """What an agent said that it can do, and the ids of the ways to authenticate that it offers.

    `directories`: it can be told of others beside its working directory.
    """

    resume: bool = False
    load: bool = False
    directories: bool = False
    authentication: tuple[str, ...] = ()


class Agent:
    """Owns the process tree of one agent, and the connection to it. Whoever starts one calls `stop`.

    `session` is what the agent said of its session when that was opened.
    """

    def __init__(self, profile: Profile, program: LineProgram, client: Client, inbox: Inbox) -> None:
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
        """Start the program; nothing is said to it yet. Raises OSError."""
        env = environment(profile.env, profile.env_pass)
        argv = await asyncio.to_thread(located, profile.command, env, home)
        command = Command(argv, home, env, profile.tree_limits)
        program = await LineProgram.start(supervisor, command, max_line_bytes=MAX_MESSAGE_BYTES)
        return cls(profile, program, client, inbox)

    @property
    def ended(self) -> bool:
        """Whether nothing can come from it any more."""
        return self._transport.ended

    async def greet(self, granted: frozenset[str]) -> None:
        """Tell what we can do, the capabilities that were granted, and hear what it can do."""
        told = await self._call("initialize", _greeting(granted))
        try:
            answer = InitializeResponse.model_validate(told)
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
        """Authenticate in one of the ways that it offers."""
        await self._call("authenticate", {"methodId": method})

    async def new_session(self, folders: Sequence[Path]) -> str:
        """Begin a session in the first of these folders; its id."""
        told = await self._call("session/new", self._place(folders))
        try:
            session_id = NewSessionResponse.model_validate(told).session_id
        except ValidationError:
            raise AgentFailed("protocol", "the agent's answer to session/new is not one of ACP") from None
        self.session = told
        return session_id

    async def reopen(self, method: str, session_id: str, folders: Sequence[Path]) -> None:
        """Go on with a session, by `session/resume` or `session/load`."""
        self.session = await self._call(method, {"sessionId": session_id, **self._place(folders)})

    async def configure(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Set something in the session; what the agent says of the session then."""
        return await self._call(method, params)

    async def prompt(self, session_id: str, blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Have it run; the answer, when the run is over. It takes as long as it takes."""
        return await self._call("session/prompt", {"sessionId": session_id, "prompt": blocks}, patient=True)

    async def cancel(self, session_id: str) -> None:
        """Ask it to end its run."""
        with contextlib.suppress(ConnectionError):
            await self._connection.send_notification("session/cancel", {"sessionId": session_id})

    @property
    def received(self) -> int:
        """How many bytes it has written."""
        return self._transport.received

    async def begin_run(self) -> None:
        """A run begins, to which the limit of the CPU time applies until `end_run`."""
        await self._program.begin_run()

    def end_run(self) -> None:
        """The run is over."""
        self._program.end_run()

    async def epitaph(self) -> AgentFailed:
        """End what is left of an agent that has come to its end; why that was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_DEADLINE_S):
                await self._program.ended()
        status, excess = self._program.status, self._program.excess
        try:
            await self.stop(0)
        except TimeoutError as error:
            return AgentFailed("unresponsive", str(error))
        if status is None:
            return AgentFailed("unresponsive", "the agent takes no input any more")
        reason = excess or "exit"
        return AgentFailed(reason, self._explained(reason, self._program.last_words()))

    async def end_for(self, reason: LossReason) -> AgentFailed:
        """End one that went beyond a limit of its profile; what is to be said of that."""
        try:
            await self.stop(0)
        except TimeoutError as error:
            return AgentFailed("unresponsive", str(error))
        return AgentFailed(reason, self._explained(reason))

    async def stop(self, grace_s: float, session_id: str | None = None) -> None:
        """End it and all that it started; a session that has a run going on is cancelled. As LineProgram.stop."""
        farewell = b""
        if session_id is not None:
            cancel = {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session_id}}
            farewell = encoded(cancel)
        await self._connection.close()
        await self._program.stop(grace_s, farewell)

    def _explained(self, reason: LossReason, last_words: str = "") -> str:
        return explained(reason, self._program.status or 0, self._profile, last_words, "agent")

    def _place(self, folders: Sequence[Path]) -> dict[str, Any]:
        cwd, *others = map(str, folders)
        told: dict[str, Any] = {"cwd": cwd, "mcpServers": []}
        if others and self.abilities.directories:
            told["additionalDirectories"] = others
        return told

    async def _call(self, method: str, params: Mapping[str, Any], *, patient: bool = False) -> dict[str, Any]:
        """Send a request; unless `patient`, it is one of those until the session is open, which have a deadline."""
        try:
            async with asyncio.timeout_at(None if patient else self._start_deadline):
                answer = await self._connection.send_request(method, params)
        except RequestError as error:
            raise AgentRefused(error.code, _told(error)) from None
        except TimeoutError:
            limit_s = self._profile.start_timeout_s
            late = f"the agent did not answer {method} in time: its start took {limit_s:g} seconds (start_timeout_s)"
            raise AgentFailed("unresponsive", late) from None
        except ConnectionError:
            raise await self.epitaph() from None
        return answer if isinstance(answer, dict) else {}


def _greeting(granted: frozenset[str]) -> dict[str, Any]:
    files = {"readTextFile": "read" in granted, "writeTextFile": "write" in granted}
    return {
        "protocolVersion": PROTOCOL_VERSION,
        "clientCapabilities": {"fs": files, "terminal": "shell" in granted},
        "clientInfo": {"name": "runtimed", "title": "runtimed", "version": runtimed.__version__},
    }


def _told(error: RequestError) -> str:
    """The agent's words, and what it added to them."""
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
