"""Followers end at once when nobody reads their stdout any more, also while nothing happens."""

import os
import socket
import subprocess
import sys

import pytest

DEADLINE_S = 30
SHELL = ("--profile", "builtin:shell", "--capability", "shell")


@pytest.fixture
def follow(env):
    """Starts a follower whose stdout is this descriptor, which is closed here."""
    started = []

    def start(stdout, *args):
        command = [sys.executable, "-m", "runtimectl", *args]
        started.append(subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True))
        os.close(stdout)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err


@pytest.mark.parametrize("args", [("events", "tail"), ("events", "tail", "-o", "jsonl"), ("transcript", "--follow")])
def test_a_follower_of_a_worker_ends_with_its_reader(ctl, follow, new_worker, args):
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    reading, writing = os.pipe()
    process = follow(writing, *args, worker)
    assert os.read(reading, 1)

    os.close(reading)

    assert ended(process) == (0, "")


def test_a_follower_of_all_ends_with_its_reader(follow, daemon):
    reading, writing = os.pipe()
    process = follow(writing, "events", "tail", "--all")
    os.close(reading)
    assert ended(process) == (0, "")


def test_a_wait_for_a_run_ends_with_its_reader_and_leaves_the_run_alone(ctl, follow, new_worker):
    worker = new_worker(*SHELL)
    reading, writing = os.pipe()
    process = follow(writing, "workers", "input", worker, "echo begun; sleep 600", "--wait")
    assert os.read(reading, 5) == b"begun"

    os.close(reading)

    assert ended(process) == (0, "")
    assert "\nRun            busy\n" in ctl("workers", "get", worker).stdout


def test_a_follower_of_a_daemon_that_is_away_ends_with_its_reader(follow, daemon, new_worker):
    reading, writing = os.pipe()
    process = follow(writing, "events", "tail", new_worker())
    assert os.read(reading, 1)
    daemon.end()
    assert "reconnecting" in process.stderr.readline()

    os.close(reading)

    assert ended(process) == (0, "")


def test_a_follower_ends_with_the_other_side_of_a_socket(follow, new_worker):
    ours, theirs = socket.socketpair()
    with ours:
        process = follow(theirs.detach(), "events", "tail", new_worker())
        assert ours.recv(1)
    assert ended(process) == (0, "")


def test_a_follower_that_writes_into_a_file_goes_on(ctl, follow, new_worker, tmp_path, until):
    worker = new_worker()
    file = tmp_path / "events"
    process = follow(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "events", "tail", worker)
    until(lambda: "snapshot" in file.read_text(), "the snapshot")
    ctl("workers", "stop", worker)
    assert ended(process) == (0, "")
    assert file.read_text().endswith("shutdown\n")


SWALLOWED = """
import os, sys, time, weakref
from runtimectl.errors import ReaderGone
from runtimectl.reader import needing_reader

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
    with needing_reader():
        del thing
        print("swallowed", file=sys.stderr)
        time.sleep(60)
except ReaderGone:
    print("gone", file=sys.stderr)
"""


def test_a_reader_that_leaves_while_a_callback_runs_ends_the_command_after_it(env):
    found = subprocess.run(
        [sys.executable, "-c", SWALLOWED], env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (found.returncode, found.stderr) == (0, "swallowed\ngone\n")
