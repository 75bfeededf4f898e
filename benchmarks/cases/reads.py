"""Reads a second of a Worker, and of a page of 20 transcript entries, against a bare aiohttp handler.

64 clients read from the installed daemon with an `fs:` store. The baseline answers with the same bytes.
"""

from collections.abc import Sequence

from benchmarks.clients import Load, load_row, put_load
from benchmarks.filling import fill
from benchmarks.rows import Plan, Row, Target, at_least
from benchmarks.servers import Baseline, Daemon, Server, installed, remove

CLIENTS = 64
ENTRIES = 1_000
PAGE = 20
WORKER = "/v1/workers/worker-00000001"


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the rate of each read and of the bare handler."""
    folder = plan.folder / "reads"
    try:
        fill(folder / "store", workers=1, events=ENTRIES, kind="texts")
        with Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon:
            return [
                _row(plan, daemon, "GET worker", WORKER, at_least(0.70)),
                _row(
                    plan,
                    daemon,
                    f"GET transcript, page of {PAGE}",
                    f"{WORKER}/transcript?start=100&limit={PAGE}",
                    at_least(0.50),
                ),
            ]
    finally:
        remove(folder)


def _row(plan: Plan, daemon: Daemon, case: str, path: str, target: Target) -> Row:
    folder = plan.folder / "reads"
    status, answer = daemon.ask("GET", path)
    if status != 200:
        raise AssertionError(answer)
    with Baseline("answering", folder, answer=answer) as bare:

        def load(server: Server) -> Load:
            requests = [server.request_bytes("GET", path)] * CLIENTS
            return put_load(server, requests, plan.size(4.0, 1.0), folder / "clients.log")

        ours, baseline = plan.interleave(lambda: load(daemon), lambda: load(bare))
    return load_row(case, ours, baseline, target)
