"""A gateway in a process of its own, set up as the daemon is: `python -m benchmarks.gateway UPSTREAM`.

It prints a line with its address, and one with the throwaway key.
"""

import asyncio
import signal
import socket
import sys

from benchmarks import loop
from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import Gateway, Secret
from runtimed.gateways.gateway import GatewayService
from runtimed.gateways.upstreams import Upstreams
from runtimed.process_setup import keep_freed_memory

MAX_BYTES = 2**40


async def _serve(upstream: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    gateway = Gateway(
        upstream,
        {"Authorization": "Bearer secret:key"},
        ("GET /bytes", "POST /events"),
        max_response_bytes=MAX_BYTES,
    )
    upstreams = Upstreams()
    service = GatewayService("benchmark", gateway, Secrets({"key": Secret(env="KEY")}, {"KEY": "real"}), upstreams)
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    await service.serve(listener)
    print(f"listening on http://{host}:{port}\n{service.key}", flush=True)
    await stopped.wait()
    await service.close()
    await upstreams.close()


if __name__ == "__main__":
    keep_freed_memory()
    loop.run(_serve(sys.argv[1]))
