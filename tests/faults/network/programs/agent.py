"""A program for the `process` backend that does the deed that its input names, good or bad."""

import json
import os
import signal
import subprocess
import sys
import time

MEGABYTE = 1 << 20


def end_run() -> None:
    sys.stdout.flush()
    print(json.dumps({"event": "run_end", "data": {"result": "finished"}}), flush=True)


def behave() -> None:
    """Print something, and end the run."""
    print("well behaved")


def take_memory() -> None:
    """Allocate three times the allowed memory, and keep it."""
    taken = [os.urandom(MEGABYTE) for _ in range(300)]
    time.sleep(1000 + len(taken))


def fork() -> None:
    """Fork until that is refused or there are far too many processes, and stay."""
    print("forking", flush=True)
    for _ in range(300):
        try:
            if not os.fork():
                time.sleep(1000)
        except OSError:
            break
    time.sleep(1000)


def ignore_signals() -> None:
    """Ignore all input and all signals."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(1000)


def leave_a_grandchild() -> None:
    """Exit, and leave a process behind that holds all pipes open and ignores signals."""
    script = "trap '' TERM HUP INT; sleep 1000 & sleep 1000"
    subprocess.Popen(["sh", "-c", script], start_new_session=True)
    print("dying", flush=True)
    os._exit(3)


def write_one_long_line() -> None:
    """Print a hundred megabytes without a line feed."""
    piece = b"x" * 100_000
    for _ in range(1_000):
        os.write(1, piece)
    os.write(1, b"\n")


def write_rubbish() -> None:
    """Print bytes that are not text, and terminal escape sequences."""
    os.write(1, b"a\xffb\x00c\x1b]0;title\x07\x1b[2J\xc3\xa9\xf0\x9f\n")


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "stop":
            break
        if message["type"] == "input":
            globals()[message["content"]]()
            end_run()


if __name__ == "__main__":
    main()
