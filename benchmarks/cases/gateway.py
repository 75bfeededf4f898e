"""The rate of a streamed response and the time to its first byte through a gateway, against the upstream directly.

A client by aiohttp reads from an upstream by aiohttp, each in a process of its own. A gateway of the daemon runs in a
third one. It checks each request, sets the real key and passes the pieces on as they come.
"""

from collections.abc import Sequence

from benchmarks.downloading import download
from benchmarks.processes import python
from benchmarks.rows import Plan, Row, at_least, at_most
from benchmarks.servers import Baseline, Server, remove

SIZE = 500 * 10**6
REQUESTS = 500


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the client behind the gateway, and the same client at the upstream."""
    folder = plan.folder / "gateway"
    size, requests = plan.size(SIZE, 50 * 10**6), plan.size(REQUESTS, 50)
    try:
        with Baseline("streaming", folder) as upstream:
            argv = python("benchmarks.gateway", upstream.url)
            with Server(argv, folder / "gateway.log") as gateway:
                gateway.read_address()
                key = gateway.read_line()
                ours, baseline = plan.interleave(
                    lambda: download(gateway.url, key, size, requests, folder / "client.log"),
                    lambda: download(upstream.url, key, size, requests, folder / "client.log"),
                )
    finally:
        remove(folder)
    return [
        Row("gateway: streamed bytes", "MB/s", _figures(ours, 0), _figures(baseline, 0), at_least(0.5)),
        Row("gateway: first byte", "ms", _figures(ours, 1), _figures(baseline, 1), at_most(3.0)),
    ]


def _figures(found: Sequence[tuple[float, float]], which: int) -> Sequence[float]:
    return [one[which] for one in found]
