"""What is piped in."""

import sys

from runtimectl.errors import UsageProblem

MAX_BYTES = 64 << 20


def read_bytes() -> bytes:
    """All of stdin. Raises UsageProblem at a terminal, where nobody is asked, and for more than MAX_BYTES."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageProblem("stdin: expected a pipe or a file, got a terminal")
    found = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        raise UsageProblem(f"stdin: expected at most {MAX_BYTES} bytes")
    return found
