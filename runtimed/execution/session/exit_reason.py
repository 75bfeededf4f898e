"""Messages about programs that ended or could not be started."""

import contextlib
import signal

from runtimed.core.ports import EventRefused
from runtimed.execution.profile import Profile
from runtimed.execution.session.driver import DriverError
from runtimed.model.execution import LossReason

SIGNALED = 128
UNKNOWN = "it failed; the daemon's log has the details"


def describe_status(status: int) -> str:
    """Describe an exit status.

    Args:
        status: An exit status; 128 + n for the signal n.
    """
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(status - SIGNALED).name}"
    return f"ended with status {status}"


def failure_text(error: BaseException) -> str:
    """Return why something failed, without paths of this host."""
    if isinstance(error, DriverError):
        return str(error)
    return error.strerror or str(error) if isinstance(error, OSError) else UNKNOWN


def delivery_failure(error: BaseException, what: str) -> str:
    """Return why the output of a program could not be passed on.

    Args:
        error: What was raised.
        what: What the program is called, such as `shell`.
    """
    if isinstance(error, EventRefused):
        return f"the Runtime refused output of the {what}: {error}"
    return f"the output of the {what} could not be passed on; the daemon's log has the details"


def explain_exit(
    reason: LossReason,
    status: int,
    profile: Profile,
    stderr_tail: str = "",
    what: str = "program",
    *,
    folder_bytes: int = 0,
) -> str:
    """Return why a program ended, for people.

    Args:
        reason: The limit for which it was ended, or `exit`.
        status: Its exit status; 128 + n for the signal n.
        profile: The profile with the limits.
        stderr_tail: The end of its standard error.
        what: What the program is called, such as `shell`.
        folder_bytes: The size of the Worker's folder, if that is the reason.

    Returns:
        The limit with its setting and value; for `exit`, the status and the end of its standard error.
    """
    limits = {
        "oom": f"used more memory than max_memory_bytes allows ({profile.max_memory_bytes:,} bytes)",
        "processes": f"had more processes than max_processes allows ({profile.max_processes:,})",
        "cpu": f"used more CPU time in one run than max_cpu_s allows ({profile.max_cpu_s:g} s)",
        "disk": f"used more disk space than max_folder_bytes allows ({profile.max_folder_bytes:,} bytes): the "
        f"Worker's folder has {folder_bytes:,} bytes; the next run may remove files",
        "output": f"wrote more in one run than max_output_bytes allows ({profile.max_output_bytes:,} bytes)",
        "timeout": f"did not end its run within max_run_s ({profile.max_run_s:g} s)",
        "silence": f"wrote nothing for max_silence_s ({profile.max_silence_s:g} s)",
        "unresponsive": "closed its output and kept running",
    }
    if reason in limits:
        return f"the {what} was ended: it {limits[reason]}"
    return f"the {what} {describe_status(status)}" + (f"; stderr: {stderr_tail}" if stderr_tail else "")
