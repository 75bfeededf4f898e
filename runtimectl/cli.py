"""Where `runtimectl` starts: the version at once, everything else through click."""

import gc
import sys

import runtimed

INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process and return its exit code."""
    if sys.argv[1:] == ["--version"] and sys.stdout:
        sys.stdout.write(f"runtimectl {runtimed.__version__}\n")
        return 0
    gc.disable()  # A tenth of a short command is spent on garbage that there is none of; the feed turns it on again.
    try:
        from runtimectl.invocation import invoke

        return invoke(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
