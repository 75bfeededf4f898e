"""`workers input --wait` prints the text of the run, and its exit code shows how the run ended."""

import json
import signal
from pathlib import Path

import pytest

from tests.runtimectl.conftest import Ctl, NewWorker, StartCtl, Until

SHELL = ("--profile", "builtin:shell", "--capability", "shell")


@pytest.fixture
def shell(new_worker: NewWorker) -> str:
    return new_worker(*SHELL)


def test_the_text_of_a_run_is_printed_while_it_arrives(start_ctl: StartCtl, shell: str, shared: Path) -> None:
    gate = shared / "gate"
    script = f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; printf second"
    waiting = start_ctl("workers", "input", shell, script, "--wait")
    waiting.wait_for("first")
    gate.touch()
    assert waiting.finished() == 0
    assert (waiting.out, waiting.err) == (["first\n", "second\n"], [])


def test_a_text_without_deltas_is_printed_once(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("workers", "input", new_worker(), "zwei\nZeilen", "--wait")
    assert (found.returncode, found.stdout, found.stderr) == (0, "zwei\nZeilen\n", "")


def test_control_characters_in_the_text_are_escaped(ctl: Ctl, shell: str) -> None:
    found = ctl("workers", "input", shell, r"printf 'a\033[31m\r\tb\n'", "--wait")
    assert found.stdout == "a\\x1b[31m\\r\tb\n"


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("false", 1), ("echo x; (exit 70)", 70)])
def test_a_script_that_fails_is_exit_1_and_its_status_is_shown(
    ctl: Ctl, shell: str, script: str, status: int
) -> None:
    found = ctl("workers", "input", shell, script, "--wait")
    assert found.returncode == 1
    assert found.stderr == f"runtimectl: the script ended with exit status {status}\n"


@pytest.mark.parametrize(("script", "status"), [("true", 0), ("echo out; false", 1)])
@pytest.mark.parametrize("output", ["json", "jsonl"])
def test_the_exit_status_is_printed_with_the_acknowledgement(
    ctl: Ctl, shell: str, script: str, status: int, output: str
) -> None:
    found = ctl("workers", "input", shell, script, "--wait", "-o", output)
    body = json.loads(found.stdout)
    assert (found.returncode, body["exit_status"]) == (min(status, 1), status)
    assert body.get("ack", body)["worker_ref"]["worker_id"] == shell


def test_a_run_without_a_script_has_no_exit_status(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("workers", "input", new_worker(), "hello", "--wait", "-o", "json")
    assert found.returncode == 0
    assert json.loads(found.stdout).keys() == {"ack"}


def test_the_acknowledgement_is_printed_even_if_the_wait_ends_early(
    start_ctl: StartCtl, shell: str, until: Until
) -> None:
    waiting = start_ctl("workers", "input", shell, "sleep 600", "--wait", "-o", "json", "--timeout", "600")
    threads = Path(f"/proc/{waiting.process.pid}/task")
    until(lambda: len(list(threads.iterdir())) > 2, "those that watch the reader and read the feed")

    waiting.process.send_signal(signal.SIGALRM)

    assert waiting.finished() == 8
    assert json.loads("".join(waiting.out))["ack"]["worker_ref"]["worker_id"] == shell


def test_a_queued_script_has_its_own_exit_status(ctl: Ctl, start_ctl: StartCtl, shell: str, shared: Path) -> None:
    gate = shared / "gate"
    ctl("workers", "input", shell, f"while [ ! -e {gate} ]; do sleep 0.05; done; echo before; exit 4")
    waiting = start_ctl(
        "workers", "input", shell, "echo mine; exit 5", "--when-busy", "queue", "--wait", "-o", "jsonl"
    )
    waiting_too = start_ctl("workers", "input", shell, "echo last", "--when-busy", "queue", "--wait")
    gate.touch()
    assert waiting.finished() == 1
    assert json.loads("".join(waiting.out))["exit_status"] == 5
    assert waiting_too.finished() == 0
    assert waiting_too.out == ["last\n"]
