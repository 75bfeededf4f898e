"""Inputs acknowledged a second: 64 clients, each with its own Worker, against a bare aiohttp handler.

The backend accepts at once. An acknowledged input is stored: on the disk for `fs:`. The baseline answers the same
requests with as many bytes.
"""

from collections.abc import Sequence

from benchmarks.clients import put_load
from benchmarks.rows import Plan, Row, at_least
from benchmarks.servers import Baseline, Daemon, Server, loaded, remove

CLIENTS = 64
INPUT = {"kind": "user", "content": "Look at the failing test in the store, find out why, and mend it. " * 3}


def measure(plan: Plan) -> Sequence[Row]:
    """The rate on each store against that of the bare handler."""
    folder = plan.folder / "durable_input"
    try:
        return _measure(plan)
    finally:
        remove(folder)


def _measure(plan: Plan) -> Sequence[Row]:
    folder = plan.folder / "durable_input"
    with (
        Daemon(loaded(), folder / "durable", store=f"fs:{folder / 'store'}") as durable,
        Daemon(loaded(), folder / "memory") as memory,
    ):
        paths = [f"/v1/workers/{durable.create_worker()}/input" for _ in range(CLIENTS)]
        for _ in range(CLIENTS):
            memory.create_worker()
        answer = durable.ask("POST", paths[0], INPUT)[1]
        with Baseline("answering", folder, answer=answer) as bare:

            def rate(server: Server) -> float:
                requests = [server.request_bytes("POST", path, INPUT) for path in paths]
                return put_load(server, requests, plan.size(4.0, 1.0), folder / "clients.log").rate

            on_disk, in_memory, baseline = plan.interleave(
                lambda: rate(durable), lambda: rate(memory), lambda: rate(bare)
            )
    return [
        Row(f"input, {CLIENTS} clients, fs:", "/s", on_disk, baseline, at_least(0.40)),
        Row(f"input, {CLIENTS} clients, memory", "/s", in_memory, baseline, at_least(0.75)),
    ]
