"""aiohttp WebSockets: each event is encoded once and sent to every observer by `send_str`.

It is a fair baseline for the feed: the simplest program, with the fastest encoder, on the same event loop, sends
frames of the same content. It stores nothing and has no cursors.
"""

import asyncio
import sys
from typing import Any

import orjson
from aiohttp import web

from benchmarks.baselines.serving import serve
from benchmarks.ticks import Series

WORKER = "worker-00000001"
GREETING = '{"kind":"event","envelope":{"payload":{"event":"snapshot"}}}'


class Broadcast:
    """The observers, and the series that are sent to them."""

    def __init__(self) -> None:
        self._sockets: set[web.WebSocketResponse] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def observe(self, request: web.Request) -> web.WebSocketResponse:
        """Send an observer the first frame, and keep it until it leaves."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        await socket.send_str(GREETING)
        self._sockets.add(socket)
        try:
            async for _message in socket:
                pass
        finally:
            self._sockets.discard(socket)
        return socket

    async def order(self, request: web.Request) -> web.Response:
        """Start the series that an input orders."""
        series = Series.parse((await request.json())["content"])
        if series is None:
            raise web.HTTPBadRequest
        task = asyncio.get_running_loop().create_task(self._send(series))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response({})

    async def _send(self, series: Series) -> None:
        async for item in series.ticks():
            text = orjson.dumps(_frame(item)).decode()
            for socket in tuple(self._sockets):
                await socket.send_str(text)


def _frame(item: dict[str, Any]) -> dict[str, object]:
    cursor = f"wo_{item['n']:016x}"
    payload = {"event": "system_item", "data": {"item": item}}
    envelope = {"cursor": cursor, "event_id": cursor, "worker_id": WORKER, "payload": payload}
    return {"kind": "event", "envelope": envelope}


def _app() -> web.Application:
    broadcast = Broadcast()
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", broadcast.observe), web.post("/{path:.*}", broadcast.order)])
    return app


if __name__ == "__main__":
    sys.stdin.buffer.read()
    serve(_app())
