"""The clock of `--timeout`, in a process of its own: the one that runs the tests has another use for the alarm."""

import subprocess
import sys

SWALLOWED = """
import time, weakref
from runtimectl import deadline
from runtimectl.errors import Expired

def begin(_reference):
    deadline.start(0.01)
    time.sleep(60)

class Thing: ...

thing = Thing()
reference = weakref.ref(thing, begin)
try:
    del thing
    print("swallowed")
    time.sleep(60)
except Expired:
    deadline.stop()
    print("expired")
"""
HANDLED = """
import time
from runtimectl import deadline
from runtimectl.errors import Expired

def take_long():
    try:
        raise OSError("of its own")
    except OSError:
        time.sleep(5 * deadline.AGAIN_S)

try:
    try:
        deadline.start(0.01)
        time.sleep(60)
    finally:
        take_long()
        print("ended")
except Expired:
    take_long()
    deadline.stop()
    print("expired")
time.sleep(5 * deadline.AGAIN_S)
"""


def run(code, env):
    found = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return found.returncode, found.stdout, found.stderr


def test_a_timeout_that_a_callback_has_swallowed_expires_again(env):
    assert run(SWALLOWED, env) == (0, "swallowed\nexpired\n", "")


def test_a_timeout_expires_once_however_long_the_end_of_a_command_takes(env):
    assert run(HANDLED, env) == (0, "ended\nexpired\n", "")
