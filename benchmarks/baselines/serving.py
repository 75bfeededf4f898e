"""The server of a baseline: aiohttp as in its documentation, without a log line for each request."""

import asyncio
import signal

from aiohttp import web

from benchmarks import loop

BACKLOG = 4_096
"""The connections that may wait to be accepted. Many observers connect at once."""


def serve(app: web.Application) -> None:
    """Serve on a free loopback port until SIGTERM, and print the address in one line."""
    loop.run(_serve(app))


async def _serve(app: web.Application) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG, shutdown_timeout=1)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"listening on http://{host}:{port}", flush=True)
    await stopped.wait()
    await runner.cleanup()
