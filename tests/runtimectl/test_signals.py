"""Signals end commands: followers end when stdout loses its reader, and --timeout expires once."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.programs import RUNTIMECTL
from tests.runtimectl.conftest import Ctl, Daemon, NewWorker, Until

DEADLINE_S = 30
SHELL = ("--profile", "builtin:shell", "--capability", "shell")


Follow = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def follow(env: dict[str, str]) -> Iterator[Follow]:
    """Starts a follower with this descriptor as stdout, and closes the test's copy."""
    started: list[subprocess.Popen[str]] = []

    def start(stdout: int, *args: str) -> subprocess.Popen[str]:
        command = [*RUNTIMECTL, *args]
        started.append(programs.start(command, env, stdout=stdout, stderr=subprocess.PIPE, text=True))
        os.close(stdout)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err


@pytest.mark.parametrize("args", [("events", "tail"), ("events", "tail", "-o", "jsonl"), ("transcript", "--follow")])
def test_a_follower_of_a_worker_ends_when_its_reader_leaves(
    ctl: Ctl, follow: Follow, new_worker: NewWorker, args: tuple[str, ...]
) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    reading, writing = os.pipe()
    process = follow(writing, *args, worker)
    assert os.read(reading, 1)

    os.close(reading)

    assert ended(process) == (0, "")


def test_a_follower_of_all_ends_when_its_reader_leaves(follow: Follow, daemon: Daemon) -> None:
    reading, writing = os.pipe()
    process = follow(writing, "events", "tail", "--all")
    os.close(reading)
    assert ended(process) == (0, "")


def test_a_wait_for_a_run_ends_when_its_reader_leaves_and_the_run_continues(
    ctl: Ctl, follow: Follow, new_worker: NewWorker
) -> None:
    worker = new_worker(*SHELL)
    reading, writing = os.pipe()
    process = follow(writing, "workers", "input", worker, "echo begun; sleep 600", "--wait")
    assert os.read(reading, 5) == b"begun"

    os.close(reading)

    assert ended(process) == (0, "")
    assert "\nRun            busy\n" in ctl("workers", "get", worker).stdout


def test_a_reconnecting_follower_ends_when_its_reader_leaves(
    follow: Follow, daemon: Daemon, new_worker: NewWorker
) -> None:
    reading, writing = os.pipe()
    process = follow(writing, "events", "tail", new_worker())
    assert os.read(reading, 1)
    daemon.end()
    assert process.stderr is not None
    assert "reconnecting" in process.stderr.readline()

    os.close(reading)

    assert ended(process) == (0, "")


def test_a_follower_ends_when_the_other_side_of_a_socket_closes(follow: Follow, new_worker: NewWorker) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        process = follow(theirs.detach(), "events", "tail", new_worker())
        assert ours.recv(1)
    assert ended(process) == (0, "")


def test_a_follower_that_writes_to_a_file_continues(
    ctl: Ctl, follow: Follow, new_worker: NewWorker, tmp_path: Path, until: Until
) -> None:
    worker = new_worker()
    file = tmp_path / "events"
    process = follow(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "events", "tail", worker)
    until(lambda: "snapshot" in file.read_text(), "the snapshot")
    ctl("workers", "stop", worker)
    assert ended(process) == (0, "")
    assert file.read_text().endswith("shutdown\n")


READER_LOST_IN_CALLBACK = """
import os, sys, time, weakref
from runtimectl.errors import OutputClosed
from runtimectl.signals import require_reader

class Thing: ...

def leave(_reference):
    os.close(reading)
    time.sleep(60)

reading, writing = os.pipe()
os.dup2(writing, 1)
os.close(writing)
thing = Thing()
reference = weakref.ref(thing, leave)
try:
    with require_reader():
        del thing
        print("swallowed", file=sys.stderr)
        time.sleep(60)
except OutputClosed:
    print("gone", file=sys.stderr)
"""


def test_a_reader_that_leaves_during_a_callback_ends_the_command_after_it(env: dict[str, str]) -> None:
    found = subprocess.run(
        [sys.executable, "-c", READER_LOST_IN_CALLBACK],
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "swallowed\ngone\n")


EXPIRED_IN_CALLBACK = """
import time, weakref
from runtimectl import signals
from runtimectl.errors import DeadlineExpired

def begin(_reference):
    signals.start_deadline(0.01)
    time.sleep(60)

class Thing: ...

thing = Thing()
reference = weakref.ref(thing, begin)
try:
    del thing
    print("swallowed")
    time.sleep(60)
except DeadlineExpired:
    signals.stop_deadline()
    print("expired")
"""
EXPIRED_DURING_CLEANUP = """
import time
from runtimectl import signals
from runtimectl.errors import DeadlineExpired

def take_long():
    try:
        raise OSError("of its own")
    except OSError:
        time.sleep(5 * signals.REPEAT_S)

try:
    try:
        signals.start_deadline(0.01)
        time.sleep(60)
    finally:
        take_long()
        print("ended")
except DeadlineExpired:
    take_long()
    signals.stop_deadline()
    print("expired")
time.sleep(5 * signals.REPEAT_S)
"""


def run(code: str, env: dict[str, str]) -> tuple[int, str, str]:
    """Run a program in a process of its own: the one of the tests uses the alarm for their timeout."""
    found = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return found.returncode, found.stdout, found.stderr


def test_a_timeout_that_is_lost_in_a_callback_expires_again(env: dict[str, str]) -> None:
    assert run(EXPIRED_IN_CALLBACK, env) == (0, "swallowed\nexpired\n", "")


def test_a_timeout_expires_once_however_long_cleaning_up_takes(env: dict[str, str]) -> None:
    assert run(EXPIRED_DURING_CLEANUP, env) == (0, "ended\nexpired\n", "")
