"""The daemon listens inside sandboxes, and nowhere else."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from runtimed.execution.network.namespace_listeners import MAX_PORTS, NamespaceListeners
from tests.execution.network.conftest import Sandbox, in_thread

NewSandbox = Callable[[str], Sandbox]
UNUSED = 3199
"""A port that the kernel gives to nobody who asks for any."""

READ = "exec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3"


async def _greet(listener: socket.socket, text: bytes) -> None:
    loop = asyncio.get_running_loop()
    connection, _ = await asyncio.wait_for(loop.sock_accept(listener), 60)
    with connection:
        await loop.sock_sendall(connection, text)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except FileNotFoundError:  # the thread has ended
        return []


def _programs() -> set[int]:
    """The children of this process that open listeners."""
    found = set()
    for pid in (child for task in Path("/proc/self/task").iterdir() for child in _children(task)):
        with contextlib.suppress(OSError):
            if b"listener_program" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(int(pid))
    return found


async def test_a_program_reaches_each_port_the_daemon_opened_in_its_sandbox(
    listeners: NamespaceListeners, new_sandbox: NewSandbox
) -> None:
    sandbox = new_sandbox(f"({READ.format(port=3128)}); ({READ.format(port=3129)})")

    sockets = await listeners.open(sandbox.pid, [3128, 3129], inode=sandbox.inode)
    said, _, _ = await asyncio.gather(
        in_thread(sandbox.go), _greet(sockets[0], b"proxy "), _greet(sockets[1], b"gateway")
    )

    assert said == "proxy gateway"
    assert [sock.getsockname() for sock in sockets] == [("127.0.0.1", 3128), ("127.0.0.1", 3129)]
    for sock in sockets:
        assert not sock.getblocking()
        assert not os.get_inheritable(sock.fileno())
        sock.close()


async def test_sandboxes_have_the_same_ports_apart_from_each_other_and_from_the_host(
    listeners: NamespaceListeners, new_sandbox: NewSandbox
) -> None:
    one, two = new_sandbox(READ.format(port=3128)), new_sandbox(READ.format(port=3128))

    [first], [second] = await asyncio.gather(listeners.open(one.pid, [3128]), listeners.open(two.pid, [3128]))
    said = await asyncio.gather(
        in_thread(one.go), in_thread(two.go), _greet(first, b"for one"), _greet(second, b"for two")
    )

    assert said[0] == "for one"
    assert said[1] == "for two"
    with first, second, socket.socket() as host:
        host.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = first.getsockname()[1]
        host.bind(("127.0.0.1", port))


async def test_no_port_is_opened_in_the_network_of_the_host(
    listeners: NamespaceListeners, new_sandbox: NewSandbox
) -> None:
    [sock] = await listeners.open(new_sandbox("true").pid, [3128])
    sock.close()
    [program] = _programs()  # a process of the same user that is in no sandbox

    with pytest.raises(PermissionError, match="has no network namespace of its own"):
        await listeners.open(program, [UNUSED])

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", UNUSED)) != 0


async def test_a_process_in_another_namespace_than_expected_is_refused(
    listeners: NamespaceListeners, new_sandbox: NewSandbox
) -> None:
    meant, found = new_sandbox("true"), new_sandbox("true")

    with pytest.raises(ProcessLookupError, match=f"{found.inode}, not in {meant.inode}"):
        await listeners.open(found.pid, [3128], inode=meant.inode)


async def test_a_process_that_is_gone_is_refused(listeners: NamespaceListeners, new_sandbox: NewSandbox) -> None:
    sandbox = new_sandbox("true")
    await in_thread(sandbox.go)

    with pytest.raises(OSError, match="No such"):
        await listeners.open(sandbox.pid, [3128])


async def test_a_taken_port_is_named_and_nothing_stays_open(
    listeners: NamespaceListeners, new_sandbox: NewSandbox
) -> None:
    sandbox = new_sandbox("true")
    [first] = await listeners.open(sandbox.pid, [3129])
    before = _descriptors()

    with first, pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:3129: Address already in use"):
        await listeners.open(sandbox.pid, [3128, 3129, 3130])

    assert _descriptors() <= before
    [again] = await listeners.open(sandbox.pid, [3129])
    again.close()


async def test_a_port_out_of_range_is_an_error_and_the_next_request_is_served(
    listeners: NamespaceListeners, new_sandbox: NewSandbox
) -> None:
    sandbox = new_sandbox("true")

    with pytest.raises(OSError, match="70000"):
        await listeners.open(sandbox.pid, [70_000])
    with pytest.raises(OSError, match=f"at most {MAX_PORTS} ports"):
        await listeners.open(sandbox.pid, range(1, MAX_PORTS + 2))

    [sock] = await listeners.open(sandbox.pid, [3128])
    sock.close()


async def test_the_most_ports_open_at_once(listeners: NamespaceListeners, new_sandbox: NewSandbox) -> None:
    sandbox = new_sandbox("true")

    sockets = await listeners.open(sandbox.pid, range(3128, 3128 + MAX_PORTS))

    assert [sock.getsockname()[1] for sock in sockets] == list(range(3128, 3128 + MAX_PORTS))
    for sock in sockets:
        sock.close()


async def test_a_killed_program_is_started_again(listeners: NamespaceListeners, new_sandbox: NewSandbox) -> None:
    sandbox = new_sandbox("true")
    [sock] = await listeners.open(sandbox.pid, [3128])
    sock.close()
    [program] = _programs()
    os.kill(program, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, program, os.WEXITED | os.WNOWAIT)

    [sock] = await listeners.open(sandbox.pid, [3128])

    sock.close()
    assert _programs().isdisjoint({program})


async def test_a_cancelled_request_leaves_no_socket_and_the_next_one_is_served(
    listeners: NamespaceListeners, new_sandbox: NewSandbox
) -> None:
    sandbox = new_sandbox("true")
    request = asyncio.create_task(listeners.open(sandbox.pid, [3128]))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request

    async with asyncio.timeout(60):
        while True:
            try:
                [sock] = await listeners.open(sandbox.pid, [3128])
                break
            except OSError:
                await asyncio.sleep(0.01)
    sock.close()


async def test_closing_ends_the_program(new_sandbox: NewSandbox, listeners: NamespaceListeners) -> None:
    sandbox = new_sandbox("true")
    other = NamespaceListeners(listeners._python)
    [sock] = await other.open(sandbox.pid, [3128])
    sock.close()
    assert len(_programs()) == 1

    await other.close()

    assert _programs() == set()


async def test_the_program_ends_when_the_daemon_is_gone(listeners: NamespaceListeners) -> None:
    with pytest.raises(PermissionError):
        await listeners.open(os.getpid(), [3128])
    [program] = _programs()
    ended, gone = os.pidfd_open(program), asyncio.Event()
    asyncio.get_running_loop().add_reader(ended, gone.set)

    assert listeners._program is not None
    listeners._program._channel.close()
    await asyncio.wait_for(gone.wait(), 60)

    asyncio.get_running_loop().remove_reader(ended)
    os.close(ended)
