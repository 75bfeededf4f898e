"""A bare aiohttp handler: it reads the body of each request and answers with the bytes from its stdin.

It is a fair baseline for requests: the same HTTP server on the same event loop answers as many bytes. It has one
handler, and checks, decodes and stores nothing.
"""

import sys

from aiohttp import web

from benchmarks.baselines.serving import serve


def _app(answer: bytes) -> web.Application:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, content_type="application/json")

    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", handle)])
    return app


if __name__ == "__main__":
    serve(_app(sys.stdin.buffer.read()))
