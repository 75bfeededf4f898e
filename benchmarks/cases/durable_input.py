"""Acknowledged inputs a second: 64 clients, each with its own Worker, against a bare aiohttp handler.

The backend accepts at once. An acknowledged input is stored, with `fs:` on the disk. The baseline answers the same
requests with as many bytes. After each repetition the transcripts must hold every acknowledged input.
"""

from collections.abc import Sequence

from benchmarks.clients import load_row
from benchmarks.inputs import Inputs, send
from benchmarks.rows import Plan, Row, at_least
from benchmarks.servers import Baseline, Daemon, loaded, remove

CLIENTS = 64


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the rate with each store and with the bare handler."""
    folder = plan.folder / "durable_input"
    try:
        return _measure(plan)
    finally:
        remove(folder)


def _measure(plan: Plan) -> Sequence[Row]:
    folder, seconds = plan.folder / "durable_input", plan.size(4.0, 1.0)
    log = folder / "clients.log"
    with (
        Daemon(loaded(), folder / "durable", store=f"fs:{folder / 'store'}") as durable,
        Daemon(loaded(), folder / "memory") as memory,
    ):
        stored, kept = Inputs(durable, CLIENTS), Inputs(memory, CLIENTS)
        with Baseline("answering", folder, answer=stored.acknowledgement()) as bare:
            on_disk, in_memory, baseline = plan.interleave(
                lambda: stored.send(CLIENTS, seconds, log),
                lambda: kept.send(CLIENTS, seconds, log),
                lambda: send(bare, stored.paths, seconds, log),
            )
    return [
        load_row(f"input, {CLIENTS} clients, fs store", on_disk, baseline, at_least(0.40)),
        load_row(f"input, {CLIENTS} clients, memory store", in_memory, baseline, at_least(0.75)),
    ]
