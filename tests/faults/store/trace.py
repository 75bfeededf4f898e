"""Faults of the daemon's syncs, injected by strace. Under --seccomp-bpf it loses signals, but no errors."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.daemon.conftest import Daemon, until

SYNCS = "fdatasync,fsync"
STRACE = ("strace", "-f", "-qq", "-e", f"trace={SYNCS}")


def under(inject: str, *options: str) -> list[str]:
    """Return the command that runs a daemon as a direct child, and injects a fault into its syncs."""
    return [*STRACE, "-D", "-o", "/dev/null", *options, "-e", f"inject={SYNCS}:{inject}"]


@contextlib.contextmanager
def attached(daemon: Daemon, inject: str, log: Path) -> Iterator[None]:
    """Inject a fault into the syncs of a running daemon while the context lasts. `log` lists each."""
    command = [*STRACE, "-o", str(log), "-e", f"inject={SYNCS}:{inject}", "-p", str(daemon.pid)]
    with subprocess.Popen(command) as tracer:
        try:
            until(lambda: _traced(daemon))
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()


def _traced(daemon: Daemon) -> bool:
    """Return whether every thread of the daemon is traced."""
    states = [path.read_text() for path in Path(f"/proc/{daemon.pid}/task").glob("*/status")]
    return all("TracerPid:\t0\n" not in state for state in states)
