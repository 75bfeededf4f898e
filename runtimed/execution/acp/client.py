"""The client side of ACP: updates, permission requests, files and terminals."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
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

from runtimed.execution.acp.elicitation import FormRefused, check_form
from runtimed.execution.acp.files import PathRefused, Roots, read_text, write_text
from runtimed.execution.acp.inbox import Elicitation, Inbox, Request, Update, session_of
from runtimed.execution.acp.outbox import Outbox
from runtimed.execution.acp.terminals import TerminalRefused, Terminals

MAX_REQUESTS = 64
"""The most requests of one agent that are answered at once; one more is refused."""

REFUSED = -32000

Method = Callable[[Any], Awaitable[dict[str, Any]]]


@attrs.frozen
class Served:
    """The Worker that an agent works for.

    Attributes:
        inbox: Takes what the agent says.
        roots: The files that it may use.
        terminals: Runs commands for it.
        home: Where they start.
    """

    inbox: Inbox
    roots: Roots
    terminals: Terminals
    home: Path


class Client:
    """Answers the requests of one agent. Updates, permission requests and forms go to the inbox.

    Methods of capabilities that were not granted do not exist. Files are read one at a time, while `outbox` has room.
    Until `serve` is called there is no Worker: updates go to the inbox given first, permission requests and forms are
    answered with `cancelled`, and other requests are refused.
    """

    def __init__(self, granted: frozenset[str], inbox: Inbox) -> None:
        self._inbox = inbox
        self._served: Served | None = None
        self._unused: str | None = None
        self._under_way = 0
        self._reading = asyncio.Lock()
        self.outbox = Outbox()
        self._methods: dict[str, Method] = {
            "session/request_permission": self._permission,
            "elicitation/create": self._elicit,
        }
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

    def serve(self, served: Served, unused: str | None = None) -> None:
        """Answer for a Worker from now on. The updates of an `unused` session are dropped."""
        self._served, self._inbox, self._unused = served, served.inbox, unused

    async def __call__(self, method: str, params: Any, is_notification: bool) -> dict[str, Any] | None:
        """Handle a notification, or answer a request. An update is put into the inbox before the first await."""
        if is_notification:
            self._notify(method, params)
            return None
        if method not in self._methods:
            raise RequestError.method_not_found(method)
        if self._under_way >= MAX_REQUESTS:
            raise RequestError(REFUSED, f"more than {MAX_REQUESTS} requests at once")
        self._under_way += 1
        try:
            return await self._methods[method](params)
        except (PathRefused, TerminalRefused, FormRefused) as error:
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

    @property
    def _worker(self) -> Served:
        if self._served is None:
            raise RequestError(REFUSED, "there is no Worker yet")
        return self._served

    def _is_for_nobody(self, params: dict[str, Any]) -> bool:
        return self._unused is not None and session_of(params) == self._unused

    def _notify(self, method: str, params: Any) -> None:
        is_update = method == "session/update" and isinstance(params, dict) and isinstance(params.get("update"), dict)
        if is_update and not self._is_for_nobody(params):
            self._inbox.put(Update(session_of(params), params["update"]))

    async def _permission(self, params: Any) -> dict[str, Any]:
        if not isinstance(params, dict):
            raise RequestError.invalid_params()
        if self._served is None or self._is_for_nobody(params):
            return dict(Request.cancelled)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._inbox.put(Request(params, answer))
        return await answer

    async def _elicit(self, params: Any) -> dict[str, Any]:
        if not isinstance(params, dict) or params.get("mode") != "form":
            raise RequestError.invalid_params()
        check_form(params.get("requestedSchema"))
        if not self._inbox.listening or self._is_for_nobody(params):  # there is no run, so there is nobody to ask
            return dict(Elicitation.cancelled)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._inbox.put(Elicitation(params, answer))
        return await answer

    async def _read(self, params: Any) -> dict[str, Any]:
        asked = ReadTextFileRequest.model_validate(params)
        async with self._reading:
            await self.outbox.room()
            text = await asyncio.to_thread(read_text, self._worker.roots, asked.path, asked.line, asked.limit)
        return {"content": text}

    async def _write(self, params: Any) -> dict[str, Any]:
        asked = WriteTextFileRequest.model_validate(params)
        await asyncio.to_thread(write_text, self._worker.roots, asked.path, asked.content)
        return {}

    async def _create(self, params: Any) -> dict[str, Any]:
        asked = CreateTerminalRequest.model_validate(params)
        argv = [asked.command, *asked.args] if asked.args else ["sh", "-c", asked.command]
        cwd = await asyncio.to_thread(self._worker.roots.folder, asked.cwd) if asked.cwd else self._worker.home
        env = {variable.name: variable.value for variable in asked.env or ()}
        return {"terminalId": await self._worker.terminals.create(argv, cwd, env, asked.output_byte_limit)}

    async def _output(self, params: Any) -> dict[str, Any]:
        terminal = self._worker.terminals.get(TerminalOutputRequest.model_validate(params).terminal_id)
        output, truncated = terminal.output()
        status = terminal.status
        ended = {} if status is None else {"exitStatus": status}
        return {"output": output, "truncated": truncated, **ended}

    async def _wait(self, params: Any) -> dict[str, Any]:
        asked = WaitForTerminalExitRequest.model_validate(params)
        return await self._worker.terminals.get(asked.terminal_id).ended()

    async def _kill(self, params: Any) -> dict[str, Any]:
        await self._worker.terminals.get(KillTerminalRequest.model_validate(params).terminal_id).kill()
        return {}

    async def _release(self, params: Any) -> dict[str, Any]:
        await self._worker.terminals.release(ReleaseTerminalRequest.model_validate(params).terminal_id)
        return {}
