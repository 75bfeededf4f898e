"""Throughput and delay by the number of clients and of observers: curves for a plot, without targets.

It measures inputs from 1 to 256 clients, and 1,000 events a second to 1 to 1,000 observers, with the baselines of
`durable_input` and `fan_out`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import attrs

from benchmarks.clients import Load
from benchmarks.inputs import Inputs, send
from benchmarks.rows import Curve, Finding, Plan
from benchmarks.series import Delivery, deliver
from benchmarks.servers import Baseline, Daemon, Server, loaded, remove
from benchmarks.ticks import Series

T = TypeVar("T")

CLIENTS = (1, 4, 16, 64, 256)
OBSERVERS = (1, 10, 100, 1_000)
NAMES = ("fs: store", "memory store", "aiohttp")
RATE = 1_000
FRAMES = 300_000
"""The most frames of a series, so that a thousand observers do not take a thousand times as long as one."""

REPETITIONS = 3


def measure(plan: Plan) -> Sequence[Finding]:
    """Measure the curves of inputs, then those of events."""
    short = attrs.evolve(plan, repetitions=min(plan.repetitions, REPETITIONS))
    folder = plan.folder / "scaling"
    try:
        with (
            Daemon(loaded(), folder / "durable", store=f"fs:{folder / 'store'}") as durable,
            Daemon(loaded(), folder / "memory") as memory,
        ):
            return [*_of_inputs(short, durable, memory, folder), *_of_events(short, durable, memory, folder)]
    finally:
        remove(folder)


def _of_inputs(plan: Plan, durable: Daemon, memory: Daemon, folder: Path) -> Sequence[Curve]:
    log, seconds, counts = folder / "clients.log", plan.size(2.0, 0.3), plan.size(CLIENTS, CLIENTS[:2])
    stored, kept = (Inputs(daemon, counts[-1]) for daemon in (durable, memory))
    with Baseline("answering", folder, answer=stored.acknowledgement()) as bare:

        def loads(clients: int) -> list[list[Load]]:
            return plan.interleave(
                lambda: stored.send(clients, seconds, log),
                lambda: kept.send(clients, seconds, log),
                lambda: send(bare, stored.paths[:clients], seconds, log),
            )

        measured = [loads(clients) for clients in counts]
    return [
        *_curves("inputs a second", "clients", counts, measured, lambda load: load.rate),
        *_curves("delay of an input, p99, ms", "clients", counts, measured, lambda load: load.p99_ms),
    ]


def _of_events(plan: Plan, durable: Daemon, memory: Daemon, folder: Path) -> Sequence[Curve]:
    log, counts = folder / "observers.log", plan.size(OBSERVERS, OBSERVERS[:2])
    with Baseline("broadcasting", folder) as plain:
        workers: dict[Server, str] = {durable: durable.create_worker(), memory: memory.create_worker(), plain: "any"}

        def delivery(server: Server, observers: int) -> Delivery:
            events = min(plan.size(2_000, 200), FRAMES // observers)
            return deliver(server, workers[server], Series(events, RATE), observers, log)

        def deliveries(observers: int) -> list[list[Delivery]]:
            return plan.interleave(*(partial(delivery, server, observers) for server in workers))

        measured = [deliveries(observers) for observers in counts]
    return [
        *_curves("frames a second", "observers", counts, measured, lambda seen: seen.frames_per_s),
        *_curves("delay of a frame, p99, ms", "observers", counts, measured, lambda seen: seen.seen.p99_ms),
    ]


def _curves(
    plot: str,
    among: str,
    counts: Sequence[int],
    measured: Sequence[Sequence[Sequence[T]]],
    figure: Callable[[T], float],
) -> Sequence[Curve]:
    """Return a curve for each of NAMES. `measured` has the repetitions by count, then by name."""
    return [
        Curve(
            plot,
            among,
            name,
            [(count, median(map(figure, runs[place]))) for count, runs in zip(counts, measured, strict=True)],
        )
        for place, name in enumerate(NAMES)
    ]
