"""The service behind the gateways of tests."""

import asyncio
import hashlib

from aiohttp import web
from multidict import CIMultiDict

PORT = 9000
PIECE = b"0123456789abcdef" * 4096
LARGE = 100 * 2**20
DEADLINE_S = 60.0


class Upstream:
    """Answers requests by their path, and keeps what it saw of them.

    Attributes:
        seen: The first line and the headers of each request.
        digest: That of the last large body which was sent.
    """

    def __init__(self) -> None:
        self.digest = ""
        self.seen: list[tuple[str, CIMultiDict[str]]] = []
        self._received = asyncio.Queue[str]()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((f"{request.method} {request.raw_path}", CIMultiDict(request.headers)))
        kind = request.path.split("/")[2]
        match kind:
            case "stream":
                return await self._stream(request)
            case "received":
                await self._received.put(await request.text())
            case "files" if request.method == "PUT":
                return await _take(request)
            case "files":
                return await self._give(request)
            case "errors":
                status = int(request.path.split("/")[3])
                return web.Response(status=status, text="the reason", headers={"Retry-After": "7"})
            case "echo":
                shown = request.headers["Authorization"]
                return web.Response(reason=f"for {shown}", headers={"X-Shown": shown, "Set-Cookie": "a=b"})
            case "silent":
                await asyncio.sleep(DEADLINE_S)
        return web.json_response({"body": await request.text()})

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send events, each once the one before has been received."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for name in ("one", "two", "three"):
            await response.write(f"data: {name}\n\n".encode())
            async with asyncio.timeout(DEADLINE_S):
                assert await self._received.get() == name
        return response

    async def _give(self, request: web.BaseRequest) -> web.StreamResponse:
        response, digest = web.StreamResponse(headers={"Content-Length": str(LARGE)}), hashlib.sha256()
        await response.prepare(request)
        for _ in range(LARGE // len(PIECE)):
            digest.update(PIECE)
            await response.write(PIECE)
        self.digest = digest.hexdigest()
        return response


async def _take(request: web.BaseRequest) -> web.StreamResponse:
    digest, size = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        digest.update(piece)
        size += len(piece)
    return web.json_response({"size": size, "digest": digest.hexdigest()})
