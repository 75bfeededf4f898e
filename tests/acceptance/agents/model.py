"""A server of the OpenAI API on loopback that says what it is told to say."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


class Model:
    """Answers chat completions, streamed, with what was queued; `requests` has the bodies that it was asked with."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self._queued: deque[list[dict[str, Any]]] = deque()

    def say(self, *pieces: str) -> None:
        """The next answer is this text."""
        self._queued.append([{"content": piece} for piece in pieces])

    def call(self, tool: str, **arguments: Any) -> None:
        """The next answer is a call of this tool."""
        function = {"name": tool, "arguments": json.dumps(arguments)}
        call_id = f"call_{len(self._queued)}_{len(self.requests)}"
        self._queued.append([{"tool_calls": [{"index": 0, "id": call_id, "type": "function", "function": function}]}])

    def hang(self, *pieces: str) -> None:
        """The next answer begins with this text and never ends."""
        self._queued.append([*({"content": piece} for piece in pieces), {"hang": True}])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Model"]:
        """Serve until the end of the context."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        if not self._queued:
            return web.json_response({"error": {"message": "nothing is queued"}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        reason = "stop"
        for delta in self._queued.popleft():
            if "hang" in delta:
                await asyncio.Event().wait()
            if "tool_calls" in delta:
                reason = "tool_calls"
            await self._send(response, choices=[_choice({"role": "assistant", **delta}, None)])
        await self._send(response, choices=[_choice({}, reason)])
        await self._send(response, choices=[], usage=USAGE)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, **fields: Any) -> None:
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "scripted", **fields}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _choice(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}
