"""Programs in a sandbox reach what the proxy allows, and nothing else."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Callable

import pytest

from runtimed.execution.network.namespace_listeners import NamespaceListeners
from runtimed.execution.network.proxy import Proxy, SharedLimits
from runtimed.execution.network.rules import NetworkPolicy, NetworkRule
from tests.execution.network.conftest import Sandbox, in_thread

SCRIPT = """
export http_proxy=http://127.0.0.1:3128 https_proxy=http://127.0.0.1:3128 no_proxy=
curl -sS http://127.0.0.1:{allowed}/plain
curl -sS -p http://127.0.0.1:{allowed}/tunnel
head -c 3000000 /dev/zero | curl -sS -T - -H "Expect: 100-continue" http://127.0.0.1:{allowed}/upload
curl -sS http://127.0.0.1:{other}/
curl -sS -p http://127.0.0.1:{other}/ 2>&1
curl -sS --noproxy "*" --max-time 20 http://127.0.0.1:{allowed}/ >/dev/null 2>&1 || echo "no other way"
"""


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            size = 0
            while length := int(await reader.readline(), 16):
                size += len((await reader.readexactly(length + 2))[:-2])
            writer.write(f"HTTP/1.1 200 OK\r\n\r\n{size} bytes\n".encode())
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + head.split()[1] + b"\n")
        await writer.drain()


async def test_curl_in_a_sandbox_reaches_what_a_rule_allows(
    listeners: NamespaceListeners, new_sandbox: Callable[[str], Sandbox]
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    refused: list[tuple[str, int, str]] = []
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    allowed = server.sockets[0].getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as secret:
        other = secret.getsockname()[1]
        policy = NetworkPolicy(((NetworkRule.parse(f"127.0.0.1:{allowed}"),),))
        proxy = Proxy(policy, lambda *found: refused.append(found), SharedLimits())
        sandbox = new_sandbox(SCRIPT.format(allowed=allowed, other=other))
        for listener in await listeners.open(sandbox.pid, [3128], inode=sandbox.inode):
            await proxy.serve(listener)

        said = (await in_thread(sandbox.go)).splitlines()
        await proxy.close()
    server.close()

    reason = f"no rule allows it, the rules are 127.0.0.1:{allowed}"
    assert said[:4] == [
        "/plain",
        "/tunnel",
        "3000000 bytes",
        f"runtimed: connection to 127.0.0.1:{other} refused: {reason}",
    ]
    assert "403" in said[4]
    assert said[5:] == ["no other way"]
    assert refused == [("127.0.0.1", other, reason)] * 2
