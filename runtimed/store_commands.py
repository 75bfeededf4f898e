"""What `runtimed store` does: check, back up and restore stores that no daemon holds.

Each function writes what it found to stdout and an error to stderr, and returns the exit code.
"""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from runtimed.errors import ConfigurationError, StoreCorrupt, StoreError, StoreInUse, StoreUnsupported
from runtimed.exits import FAILURE, OK, STORE_TAKEN, USAGE, fail, store_message
from runtimed.model.runtime import StoreCheck
from runtimed.signals import cleaning_up
from runtimed.store.factories import Inspection, StoreSettings, StoreTools, find_tools

PROGRESS_S = 0.2
"""The shortest time between two updates of a progress line."""

Command = Callable[[StoreTools, StoreSettings], int]


def check_store(source: str, option: str) -> int:
    """Read all of a store, and write each problem on a line.

    Args:
        source: The URL of the store.
        option: What holds it on the command line, for errors.
    """
    return _run(source, option, lambda tools, settings: _report(tools.inspect(settings)))


def back_up(source: str, file: str) -> int:
    """Copy a store into a file, read the whole copy, and write each problem on a line."""

    def copy(tools: StoreTools, settings: StoreSettings) -> int:
        code = _report(tools.back_up(settings, Path(file), ProgressLine("copied")))
        sys.stdout.write(f"{file}: {Path(file).stat().st_size} bytes\n")
        return code

    return _run(source, "SOURCE", copy)


def restore(file: str, target: str) -> int:
    """Make a store of a backup, and write each problem of the backup on a line."""

    def make(tools: StoreTools, settings: StoreSettings) -> int:
        try:
            restored = tools.restore(Path(file), settings)
        except StoreCorrupt as error:
            return fail(f"nothing was restored: {error}", FAILURE)
        for entry in restored.skipped:
            sys.stdout.write(f"note: not in the backup: {entry}\n")
        code = _report(Inspection(restored.check, ()))
        sys.stdout.write(f"{settings.path}: restored\n")
        return fail(f"{file}: the backup is damaged, and so is the restored store", code) if code else OK

    return _run(target, "TARGET", make)


class ProgressLine:
    """A line on a terminal that says how far something is; nothing elsewhere.

    Args:
        done: What is done to the parts that are counted.
    """

    def __init__(self, done: str) -> None:
        self._done = done
        self._due = 0.0
        self._is_shown = sys.stderr.isatty()

    def __call__(self, count: int, total: int) -> None:
        """Show how many parts are done, and how many there are."""
        is_last = count >= total
        if not self._is_shown or (time.monotonic() < self._due and not is_last):
            return
        self._due = time.monotonic() + PROGRESS_S
        share = 100 * count // max(total, 1)
        sys.stderr.write(f"\r{self._done}: {share} %{chr(10) if is_last else ''}")
        sys.stderr.flush()


def _run(url: str, option: str, command: Command) -> int:
    logging.getLogger("runtimed").addHandler(logging.NullHandler())  # what would be logged is among the findings
    path: Path | None = None
    try:
        tools, settings = find_tools(url, option)
        path = settings.path
        with cleaning_up():
            return command(tools, settings)
    except ConfigurationError as error:
        return fail(error, USAGE)
    except StoreInUse as error:
        return fail(store_message(path, error), STORE_TAKEN)
    except StoreUnsupported as error:
        return fail(store_message(path, error), USAGE)
    except StoreError as error:
        return fail(store_message(path, error), FAILURE)


def _report(found: Inspection) -> int:
    check = found.check
    for finding in check.findings:
        sys.stdout.write(f"{finding.worker_id}: {finding.problem}\n" if finding.worker_id else f"{finding.problem}\n")
    for remark in found.remarks:
        sys.stdout.write(f"note: {remark}\n")
    sys.stdout.write(f"{_summary(check)}\n")
    return FAILURE if check.findings else OK


def _summary(check: StoreCheck) -> str:
    problems = len(check.findings)
    counted = "no problem" if not problems else f"{problems} problem{'s' if problems > 1 else ''}"
    read = f"{check.workers} Workers, {check.entries} entries and {check.events} events were read"
    return f"{read}: {counted} found"
