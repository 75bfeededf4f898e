"""What the kernel does to the daemon's syncs, by strace. It loses signals under --seccomp-bpf, but no errors."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.daemon.conftest import Daemon, until

SYNCS = "fdatasync,fsync"
STRACE = ("strace", "-f", "-qq", "-e", f"trace={SYNCS}")


def under(inject: str, *options: str) -> list[str]:
    """The program that runs a daemon, whose process it leaves its parent's own, and does this to its syncs."""
    return [*STRACE, "-D", "-o", "/dev/null", *options, "-e", f"inject={SYNCS}:{inject}"]


@contextlib.contextmanager
def attached(daemon: Daemon, inject: str, log: Path) -> Iterator[None]:
    """Within, this is done to the syncs of a daemon that runs; `log` tells of each."""
    command = [*STRACE, "-o", str(log), "-e", f"inject={SYNCS}:{inject}", "-p", str(daemon.pid)]
    with subprocess.Popen(command) as tracer:
        try:
            until(lambda: _traced(daemon))
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()


def _traced(daemon: Daemon) -> bool:
    """Whether every thread of the daemon has a tracer."""
    states = [path.read_text() for path in Path(f"/proc/{daemon.pid}/task").glob("*/status")]
    return all("TracerPid:\t0\n" not in state for state in states)
