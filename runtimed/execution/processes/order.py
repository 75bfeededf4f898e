"""How a shell that waits in a prepared sandbox is told which program to run."""

import os
import select
import shlex
from collections.abc import Sequence

from runtimed.execution.processes.descriptor_limit import SHELL

MAX_ORDER_BYTES = select.PIPE_BUF
"""The longest order. An empty pipe takes it at once and whole, even if the kernel gives pipes a single page."""

_WAIT = 'IFS= read -r __runtimed && eval "$__runtimed"'
"""A shell reads no further than the end of the line: what follows is the input of the program."""


def waiting(max_descriptors: int | None) -> Sequence[str]:
    """Return the command that waits for an order on its standard input, and becomes the program of it.

    It ends without one if its input does.

    Args:
        max_descriptors: How many descriptors the program may open before it raises its limit; None leaves the limit.
    """
    limit = "" if max_descriptors is None else f"ulimit -Sn {max_descriptors} && "
    return (SHELL, "-c", f"{limit}{_WAIT}", SHELL, "\n")


def order(argv: Sequence[str]) -> bytes | None:
    """Return the order to run a program, or None if it cannot be told."""
    line = os.fsencode(f"exec {' '.join(map(_quoted, argv))}\n")
    return None if len(line) > MAX_ORDER_BYTES or b"\0" in line else line


def _quoted(word: str) -> str:
    """Return a word as a shell reads it, within one line: the first argument of the shell is a line feed."""
    return shlex.quote(word).replace("\n", "'\"$1\"'")
