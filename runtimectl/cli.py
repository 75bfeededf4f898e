"""The entry point of `runtimectl`. `--version` is answered at once; everything else imports click."""

import gc
import sys

import runtimed

INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process and return its exit code."""
    if sys.argv[1:] == ["--version"] and sys.stdout:
        sys.stdout.write(f"runtimectl {runtimed.__version__}\n")
        return 0
    gc.disable()  # Collections take a tenth of a short command and free nothing. A follower enables them again.
    try:
        from runtimectl.runner import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
