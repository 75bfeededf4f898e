"""The wall time of `runtimectl run -- true`, against curl that creates a Worker, sends the input, waits and stops it.

Both talk to one daemon with a durable store. The daemon answers the wait of curl when the run is over.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.installation import install
from benchmarks.rows import Plan, Row, at_most
from benchmarks.servers import Daemon, installed, remove

RUNS = 20
"""The runs in a repetition. Its figure is their median."""

CREATE = {
    "profile": {"kind": "builtin", "value": "builtin:shell"},
    "requested_capabilities": [{"name": "shell"}],
}


def measure(plan: Plan) -> Sequence[Row]:
    """Measure a run by the command and by curl."""
    folder = plan.folder / "one_run"
    try:
        programs = install(folder)
        with Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon:
            environment = {**os.environ, "RUNTIMECTL_URL": daemon.url, "RUNTIMECTL_TOKEN": daemon.token}
            runs = plan.size(RUNS, 3)
            ours, curl = plan.interleave(
                lambda: median(_run_ms(programs, environment) for _ in range(runs)),
                lambda: median(_curl_ms(daemon) for _ in range(runs)),
            )
    finally:
        remove(folder)
    return [Row("runtimectl run -- true", "ms", ours, curl, at_most(2.0))]


def _run_ms(programs: Path, environment: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([str(programs / "runtimectl"), "run", "--", "true"], env=environment, check=True)
    return (time.perf_counter() - began) * 1_000


def _curl_ms(daemon: Daemon) -> float:
    began = time.perf_counter()
    worker = _curl(daemon, "/v1/workers", CREATE)["worker"]
    path = f"/v1/workers/{worker['worker_id']}"
    cursor = _curl(daemon, f"{path}/input", {"kind": "user", "content": "true"})["ack"]["cursor"]
    _curl(daemon, f"{path}/wait?for=idle&cursor={cursor}")
    _curl(daemon, f"{path}/stop", {})
    return (time.perf_counter() - began) * 1_000


def _curl(daemon: Daemon, path: str, body: Any = None) -> Any:
    sent = [] if body is None else ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    argv = ["curl", "--silent", "--fail", "--header", f"Authorization: Bearer {daemon.token}", *sent]
    return json.loads(subprocess.run([*argv, daemon.url + path], stdout=subprocess.PIPE, check=True).stdout)
