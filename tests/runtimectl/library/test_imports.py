"""The library loads little, and changes nothing of the program that uses it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimectl.conftest import ROOT, Daemon

LISTING = """
import sys
bare = set(sys.modules)
{program}
print(*set(sys.modules) - bare)
"""
CHANGES = """
import gc, json, logging, signal, sys, threading, time
gc.disable()
before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGALRM),
          list(logging.root.handlers), gc.isenabled(), sys.excepthook, sys.unraisablehook)
from runtimectl import Client
with Client(sys.argv[1], token_file=sys.argv[2]) as client:
    worker = client.create_worker()
    ack = worker.input("hello")
    with worker.events(ack.cursor) as events:
        while next(events).payload.event != "run_end":
            pass
after = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGALRM),
         list(logging.root.handlers), gc.isenabled(), sys.excepthook, sys.unraisablehook)
deadline = time.monotonic() + 10
while threading.active_count() > 1 and time.monotonic() < deadline:  # the reader of a closed socket ends by itself
    time.sleep(0.01)
print(json.dumps([before == after, threading.active_count()]))
"""


def loaded_by(program: str, *args: str, env: dict[str, str]) -> set[str]:
    """The modules that a program has loaded beyond those of a bare interpreter."""
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; bare = set(sys.modules)\n{program}\nprint(*set(sys.modules) - bare)",
            *args,
        ],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(ended.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_but_itself(env: dict[str, str]) -> None:
    assert loaded_by("import runtimectl", env=env) == {"runtimectl"}


def test_a_client_loads_at_most_what_the_command_line_loads_for_a_list(env: dict[str, str], daemon: Daemon) -> None:
    listing = "from runtimectl.cli import main\nassert main() == 0"
    by_command_line = loaded_by(listing, "workers", "list", "--url", daemon.url, env=env)
    by_client = loaded_by("from runtimectl import Client\nClient('http://127.0.0.1:1', token='x' * 16)", env=env)

    own = {name for name in by_client if name.startswith("runtimectl.library")} | {"runtimectl.library"}
    assert by_client - own <= by_command_line


def test_the_asynchronous_client_imports_aiohttp_and_the_other_one_does_not(env: dict[str, str]) -> None:
    assert "aiohttp" not in loaded_by("from runtimectl import Client\nClient('unix:x', token='x' * 16)", env=env)
    assert "aiohttp" in loaded_by(
        "from runtimectl import AsyncClient\nAsyncClient('unix:x', token='x' * 16)", env=env
    )


def test_the_package_has_no_other_names(env: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from runtimectl import Server"], env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "cannot import name 'Server'" in ended.stderr


def test_a_client_changes_no_signals_no_collector_no_logging_and_leaves_no_thread(
    env: dict[str, str], daemon: Daemon, token_file: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHANGES, daemon.url, str(token_file)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.stderr, json.loads(ended.stdout)) == ("", [True, 1])


@pytest.mark.timeout(600)
def test_a_program_that_uses_the_library_passes_strict_type_checks(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.stdout == "Success: no issues found in 1 source file\n"


TYPED = """\
from typing import assert_type

from runtimectl import AsyncClient, Client
from runtimectl.errors import ApiError, RunFailed
from runtimed.model.event import TextDelta

with Client.from_env() as client:
    worker = client.create_worker(profile="builtin:shell", capabilities=["shell"], labels={"team": "a"})
    for envelope in worker.events():
        cursor: str = envelope.cursor
        match envelope.payload:
            case TextDelta(text=text):
                print(text, cursor)
    try:
        assert_type(worker.run("true").text, str)
    except RunFailed as failed:
        print(failed.result.outcome, failed.result.permissions.denied)
    except ApiError as error:
        print(error.code, error.status, error.message)


async def main() -> None:
    async with AsyncClient.from_env() as client:
        worker = await client.create_worker(initial_input="hello")
        async for envelope in worker.events():
            print(envelope.timestamp_ms)
        ack = await worker.input("hello", when_busy="queue")
        print(ack.queued, await worker.detail())
"""
