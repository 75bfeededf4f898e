"""Sandboxes with a network namespace of their own, held before their program begins."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest

from runtimed.execution.network.namespace_listeners import PROGRAM, PYTHON, NamespaceListeners

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SYSTEM_PYTHON = ("/usr/bin/python3", "-I", "-S", "-B")

NAMESPACES = ("--unshare-net", "--unshare-pid", "--die-with-parent")

KINDS = {
    "root": ((), ()),
    "root in a user namespace": ((), ("--unshare-user",)),
    "another user": (NOBODY, ("--unshare-user", "--disable-userns")),
    "this user": ((), ("--unshare-user", "--disable-userns")),
}
"""What is put before bubblewrap and the program that opens listeners, and the options of bubblewrap."""


@attrs.frozen
class Sandbox:
    """A bubblewrap that waits to run its program.

    Attributes:
        pid: The process inside.
        inode: Its network namespace.
        go: Lets the program run, and returns what it has written.
    """

    pid: int
    inode: int
    go: Callable[[], str]


@pytest.fixture(params=["root", "root in a user namespace", "another user", "this user"])
def user(request: pytest.FixtureRequest) -> str:
    """Who runs the sandbox and the program that opens its ports."""
    kind = str(request.param)
    if (kind == "this user") == (os.geteuid() == 0):
        pytest.skip("runs as root only" if os.geteuid() else "runs as another user only")
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    before, options = KINDS[kind]
    if subprocess.run([*before, *_bubblewrap(options), "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"bubblewrap cannot make a sandbox here for {kind}")
    readable = [*before, *SYSTEM_PYTHON, "-c", f"open({str(PROGRAM)!r})"]
    if before and subprocess.run(readable, capture_output=True, check=False).returncode:
        pytest.skip("another user cannot read the program")
    return kind


@pytest.fixture
async def listeners(user: str) -> AsyncIterator[NamespaceListeners]:
    before, _ = KINDS[user]
    opened = NamespaceListeners((*before, *SYSTEM_PYTHON) if before else PYTHON)
    yield opened
    await opened.close()


@pytest.fixture
def new_sandbox(user: str) -> Iterator[Callable[[str], Sandbox]]:
    """Return a function that makes a sandbox for a script of bash."""
    before, options = KINDS[user]
    with contextlib.ExitStack() as stack:
        yield lambda script: stack.enter_context(_sandbox([*before, *_bubblewrap(options)], script))


def _bubblewrap(options: Sequence[str]) -> list[str]:
    return [
        "bwrap",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--unshare-net",
        "--unshare-pid",
        *options,
    ]


@contextlib.contextmanager
def _sandbox(bubblewrap: Sequence[str], script: str) -> Iterator[Sandbox]:
    about, informer = os.pipe()
    blocker, release = os.pipe()
    process = subprocess.Popen(
        [
            *bubblewrap,
            "--die-with-parent",
            "--info-fd",
            str(informer),
            "--block-fd",
            str(blocker),
            "bash",
            "-c",
            script,
        ],
        pass_fds=(informer, blocker),
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(informer)
    os.close(blocker)
    with os.fdopen(about) as info, os.fdopen(release, "wb", buffering=0) as gate, process:
        made: dict[str, Any] = json.loads(info.read())

        def go() -> str:
            gate.write(b"x")
            assert process.stdout is not None
            return process.stdout.read()

        try:
            yield Sandbox(made["child-pid"], made["net-namespace"], go)
        finally:
            process.kill()


async def in_thread(work: Callable[[], str]) -> str:
    """Run a function that blocks, with a deadline."""
    return await asyncio.wait_for(asyncio.to_thread(work), 60)
