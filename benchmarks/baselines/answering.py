"""A bare aiohttp handler: reads the body of each request and answers the bytes that it got on stdin.

A fair yardstick for requests because it is the same HTTP server on the same event loop, and answers as many bytes; it
routes to one handler, checks nothing, decodes nothing and stores nothing.
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
