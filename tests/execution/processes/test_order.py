"""Programs that a waiting shell becomes."""

import os
import subprocess
import sys

import pytest

from runtimed.execution.processes.order import MAX_ORDER_BYTES, order, waiting

INPUT = b"input\n"
SHOW = "import os, sys; print([os.fsencode(word) for word in sys.argv[1:]], os.read(0, 100))"
WORDS = (
    bytes(range(1, 256)).decode(errors="surrogateescape"),
    "",
    "\n",
    "\n\n'\n",
    "it's $HOME `id` $(id) \\n \\\\ ~ * ",
    "-n",
    "A=b",
    "Á À",
)


def test_the_program_gets_each_word_as_it_was_and_what_follows_the_order_as_input() -> None:
    line = order((sys.executable, "-c", SHOW, *WORDS))
    assert line is not None

    done = subprocess.run(waiting(None), input=line + INPUT, capture_output=True, check=True)

    assert done.stdout.decode().strip() == f"{[os.fsencode(word) for word in WORDS]} {INPUT!r}"


def test_the_program_has_the_limit_of_descriptors() -> None:
    done = subprocess.run(waiting(123), input=order(("sh", "-c", "ulimit -Sn")), capture_output=True, check=True)
    assert done.stdout == b"123\n"


def test_a_shell_without_an_order_ends_and_runs_nothing() -> None:
    done = subprocess.run(waiting(None), input=b"echo text", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize(
    ("words", "is_told"), [(("x" * (MAX_ORDER_BYTES - 6),), True), (("x" * MAX_ORDER_BYTES,), False)]
)
def test_an_order_fits_into_one_page_of_a_pipe(words: tuple[str, ...], is_told: bool) -> None:
    line = order(words)
    assert (line is not None) == is_told
    assert line is None or len(line) == MAX_ORDER_BYTES


def test_a_word_with_a_zero_byte_cannot_be_told() -> None:
    assert order(("echo", "a\0b")) is None
