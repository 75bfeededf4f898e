"""A bare aiohttp upstream: it streams as many bytes as the query says, in chunks, or one event and then the rest.

`GET /bytes?size=N` answers N bytes. `POST /events` reads a question and answers two events, as a model's API does.
"""

from aiohttp import web

from benchmarks.baselines.serving import serve

CHUNK = bytes(2**16)
EVENT = b'data: {"type":"response.output_text.delta","delta":"a token"}\n\n'


async def _bytes(request: web.Request) -> web.StreamResponse:
    left = int(request.query["size"])
    response = web.StreamResponse()
    await response.prepare(request)
    while left:
        chunk = CHUNK[:left]
        await response.write(chunk)
        left -= len(chunk)
    return response


async def _events(request: web.Request) -> web.StreamResponse:
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(2):
        await response.write(EVENT)
    return response


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.get("/bytes", _bytes), web.post("/events", _events)])
    serve(app)
