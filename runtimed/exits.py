"""How `runtimed` ends: its exit codes, and the message before one that is not 0."""

import sys
from typing import Any

OK = 0
FAILURE = 1
USAGE = 2
STORE_TAKEN = 3
STORE_FAILED = 74


def fail(error: object, code: int) -> int:
    """Write an error to stderr, and return the exit code."""
    sys.stderr.write(f"runtimed: {error}\n")
    return code


def store_message(path: Any, error: object) -> str:
    """Return the message of an error, with the path of the store unless it is in memory or named already."""
    message = str(error)
    if path is None or str(path) in message:
        return message
    return f"store {path}: {message.removeprefix('the store').removeprefix(':').removeprefix(' is').lstrip()}"
