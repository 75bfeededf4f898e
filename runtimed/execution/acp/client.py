"""The client side of ACP: updates, permission requests, files and terminals."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from acp.exceptions import RequestError
from acp.schema import (
    CreateTerminalRequest,
    KillTerminalRequest,
    ReadTextFileRequest,
    ReleaseTerminalRequest,
    TerminalOutputRequest,
    WaitForTerminalExitRequest,
    WriteTextFileRequest,
)
from pydantic import ValidationError

from runtimed.execution.acp.files import PathRefused, Roots, read_text, write_text
from runtimed.execution.acp.inbox import Inbox, Request, Update, session_of
from runtimed.execution.acp.outbox import Outbox
from runtimed.execution.acp.terminals import TerminalRefused, Terminals

MAX_REQUESTS = 64
"""The most requests of one agent that are answered at once; one more is refused."""

REFUSED = -32000

Method = Callable[[Any], Awaitable[dict[str, Any]]]


class Client:
    """Answers the requests of one agent. Updates and permission requests go to the inbox.

    Methods of capabilities that were not granted do not exist. Files are read one at a time, while `outbox` has room.
    """

    def __init__(self, inbox: Inbox, roots: Roots, terminals: Terminals, home: Path, granted: frozenset[str]) -> None:
        self._inbox = inbox
        self._roots = roots
        self._terminals = terminals
        self._home = home
        self._under_way = 0
        self._reading = asyncio.Lock()
        self.outbox = Outbox()
        self._methods: dict[str, Method] = {"session/request_permission": self._permission}
        if "read" in granted:
            self._methods["fs/read_text_file"] = self._read
        if "write" in granted:
            self._methods["fs/write_text_file"] = self._write
        if "shell" in granted:
            self._methods |= {
                "terminal/create": self._create,
                "terminal/output": self._output,
                "terminal/wait_for_exit": self._wait,
                "terminal/kill": self._kill,
                "terminal/release": self._release,
            }

    async def __call__(self, method: str, params: Any, is_notification: bool) -> dict[str, Any] | None:
        """Handle a notification, or answer a request. An update is put into the inbox before the first await."""
        if is_notification:
            if method == "session/update" and isinstance(params, dict) and isinstance(params.get("update"), dict):
                self._inbox.put(Update(session_of(params), params["update"]))
            return None
        if method not in self._methods:
            raise RequestError.method_not_found(method)
        if self._under_way >= MAX_REQUESTS:
            raise RequestError(REFUSED, f"more than {MAX_REQUESTS} requests at once")
        self._under_way += 1
        try:
            return await self._methods[method](params)
        except (PathRefused, TerminalRefused) as error:
            raise RequestError(REFUSED, str(error)) from None
        except FileNotFoundError:
            raise RequestError.resource_not_found() from None
        except OSError as error:
            raise RequestError(REFUSED, error.strerror or "it failed") from None
        except ValidationError:  # is answered as one of the parameters
            raise
        except ValueError as error:
            raise RequestError(REFUSED, str(error)) from None
        finally:
            self._under_way -= 1

    async def _permission(self, params: Any) -> dict[str, Any]:
        if not isinstance(params, dict):
            raise RequestError.invalid_params()
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._inbox.put(Request(params, answer))
        return await answer

    async def _read(self, params: Any) -> dict[str, Any]:
        asked = ReadTextFileRequest.model_validate(params)
        async with self._reading:
            await self.outbox.room()
            text = await asyncio.to_thread(read_text, self._roots, asked.path, asked.line, asked.limit)
        return {"content": text}

    async def _write(self, params: Any) -> dict[str, Any]:
        asked = WriteTextFileRequest.model_validate(params)
        await asyncio.to_thread(write_text, self._roots, asked.path, asked.content)
        return {}

    async def _create(self, params: Any) -> dict[str, Any]:
        asked = CreateTerminalRequest.model_validate(params)
        argv = [asked.command, *asked.args] if asked.args else ["sh", "-c", asked.command]
        cwd = await asyncio.to_thread(self._roots.folder, asked.cwd) if asked.cwd else self._home
        env = {variable.name: variable.value for variable in asked.env or ()}
        return {"terminalId": await self._terminals.create(argv, cwd, env, asked.output_byte_limit)}

    async def _output(self, params: Any) -> dict[str, Any]:
        terminal = self._terminals.get(TerminalOutputRequest.model_validate(params).terminal_id)
        output, truncated = terminal.output()
        status = terminal.status
        ended = {} if status is None else {"exitStatus": status}
        return {"output": output, "truncated": truncated, **ended}

    async def _wait(self, params: Any) -> dict[str, Any]:
        asked = WaitForTerminalExitRequest.model_validate(params)
        return await self._terminals.get(asked.terminal_id).ended()

    async def _kill(self, params: Any) -> dict[str, Any]:
        await self._terminals.get(KillTerminalRequest.model_validate(params).terminal_id).kill()
        return {}

    async def _release(self, params: Any) -> dict[str, Any]:
        await self._terminals.release(ReleaseTerminalRequest.model_validate(params).terminal_id)
        return {}
