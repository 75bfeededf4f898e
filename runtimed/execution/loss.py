"""What is said of a program that is gone."""

import contextlib
import signal

from runtimed.core.ports import EventRefused
from runtimed.execution.profile import Profile
from runtimed.model.execution import LossReason

SIGNALED = 128
UNKNOWN = "it failed, and the log of the daemon says why"


def described(status: int) -> str:
    """An exit status in words."""
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(status - SIGNALED).name}"
    return f"ended with status {status}"


def cause(error: BaseException) -> str:
    """Why something could not be started, without the paths of this host."""
    return error.strerror or str(error) if isinstance(error, OSError) else UNKNOWN


def unpassed(error: BaseException, what: str) -> str:
    """Why what a program said could not be passed on."""
    if isinstance(error, EventRefused):
        return f"the Runtime refused what the {what} said: {error}"
    return f"what the {what} said could not be passed on: the daemon's log says why"


def explained(reason: LossReason, status: int, profile: Profile, last_words: str = "", what: str = "program") -> str:
    """Why a program is gone, with the limit that it met, or else its exit status and what it said last."""
    limits = {
        "oom": f"took more memory than max_memory_bytes allows ({profile.max_memory_bytes:,} bytes)",
        "processes": f"had more processes than max_processes allows ({profile.max_processes:,})",
        "cpu": f"used more CPU time in one run than max_cpu_s allows ({profile.max_cpu_s:g} s)",
        "output": f"wrote more in one run than max_output_bytes allows ({profile.max_output_bytes:,} bytes)",
        "timeout": f"did not end its run within max_run_s ({profile.max_run_s:g} s)",
        "silence": f"said nothing for max_silence_s ({profile.max_silence_s:g} s)",
        "unresponsive": "closed its output and went on running",
    }
    if reason in limits:
        return f"the {what} was ended: it {limits[reason]}"
    return f"the {what} {described(status)}" + (f"; its last words: {last_words}" if last_words else "")
