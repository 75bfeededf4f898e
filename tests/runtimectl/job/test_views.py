"""On a terminal a run shows escapes instead of control characters, and that it goes on."""

import os
import pty

import pytest

from tests import programs
from tests.programs import RUNTIMECTL
from tests.runtimectl.conftest import DEADLINE_S
from tests.runtimectl.job.conftest import Jobs


def on_a_terminal(jobs: Jobs, *args: str) -> tuple[int, str]:
    """Run a job whose stdin, stdout and stderr are one terminal, and return its exit code and what it showed."""
    leader, follower = pty.openpty()
    command = [*RUNTIMECTL, "run", *args]
    with programs.start(command, jobs.env, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        shown = bytearray()
        try:
            while piece := os.read(leader, 65536):
                shown += piece
        except OSError:  # The last writer has closed the terminal.
            pass
        os.close(leader)
        return process.wait(DEADLINE_S), shown.decode()


def test_control_characters_become_escapes_and_the_last_line_is_ended(jobs: Jobs) -> None:
    code, shown = on_a_terminal(jobs, "-q", "--", "printf", r"red \033[31m\r\tend")
    assert (code, shown) == (0, "red \\x1b[31m\\r\tend\r\n")


def test_a_spinner_turns_while_nothing_comes_and_is_erased(jobs: Jobs) -> None:
    code, shown = on_a_terminal(jobs, "--", "sh", "-c", "sleep 1.5; echo done")
    assert code == 0
    assert "⠙" in shown
    assert shown.endswith("\x1b[Kdone\r\n")


@pytest.mark.parametrize("output", ["json", "jsonl"])
def test_no_spinner_turns_beside_json(jobs: Jobs, output: str) -> None:
    code, shown = on_a_terminal(jobs, "-o", output, "--", "sh", "-c", "sleep 1.5")
    assert code == 0
    assert "\x1b" not in shown
