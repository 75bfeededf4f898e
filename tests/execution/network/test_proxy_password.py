"""A proxy that others can connect to as well: only who knows its password gets through, as usual programs do."""

import asyncio
import base64
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import attrs
import pytest

from runtimed.execution.network.addresses import Address
from runtimed.execution.network.proxy import Proxy, SharedLimits
from runtimed.execution.network.rules import NetworkPolicy, NetworkRule

PASSWORD = "a-password_of-this-proxy"
DEADLINE_S = 60.0

CAN_NODE = "process.exit(process.allowedNodeEnvironmentFlags.has('--use-env-proxy') ? 0 : 1)"
NODE = "fetch(process.argv[1]).then(found => found.text()).then(text => console.log(text))"
TRUSTED = "--trusted-host=packages.test"
PROGRAMS = {
    "curl": ("curl", "-sS", "{url}/simple/"),
    "curl through a tunnel": ("curl", "-sS", "-p", "{url}/simple/"),
    "git": ("git", "ls-remote", "{url}/repository"),
    "pip": (sys.executable, "-m", "pip", "download", "--retries=0", "--index-url={url}/simple/", TRUSTED, "no-such"),
    "node": ("node", "-e", NODE, "{url}/simple/"),
    "npm": ("npm", "view", "--registry={url}/", "--fetch-retries=0", "no-such"),
    "python": (sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1])", "{url}/simple/"),
}
"""How each asks a server for something. What it makes of the answer is not looked at."""


@attrs.define
class Reached:
    """A proxy with a password, and the server behind it.

    Attributes:
        asked: The request lines that the server got.
    """

    proxy: int
    server: int
    asked: list[str]

    @property
    def url(self) -> str:
        """The server by a name that only the proxy can look up."""
        return f"http://packages.test:{self.server}"

    async def answer(self, request: str, *headers: str) -> bytes:
        """Return the whole answer of the proxy."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy)
            writer.write("\r\n".join((f"{request} HTTP/1.1", "Host: x", *headers, "", "")).encode())
            writer.write_eof()
            found = await reader.read()
            writer.close()
        return found


def _node_uses_proxies() -> bool:
    return subprocess.run(["node", "-e", CAN_NODE], check=False).returncode == 0


async def _resolve(_name: str) -> Sequence[Address]:
    return [ip_address("127.0.0.1")]


@pytest.fixture
async def reached() -> AsyncIterator[Reached]:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().strip())
        while await reader.readline() not in {b"\r\n", b""}:
            pass
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rules = tuple(NetworkRule.parse(f"{host}:{port}") for host in ("packages.test", "127.0.0.1"))
    policy = NetworkPolicy((rules,))
    proxy = Proxy(policy, lambda *_: None, SharedLimits(), password=PASSWORD, resolve=_resolve)
    listener = socket.create_server(("127.0.0.1", 0))
    await proxy.serve(listener)
    yield Reached(listener.getsockname()[1], port, asked)
    await proxy.close()
    server.close()


def basic(text: str) -> str:
    return f"Proxy-Authorization: Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [(), (basic("worker:wrong"),), (basic(f"root:{PASSWORD}"),), ("Proxy-Authorization: Bearer x",), ("Cookie: x",)],
)
async def test_a_request_without_the_password_reaches_nobody(reached: Reached, headers: Sequence[str]) -> None:
    for request in (f"CONNECT 127.0.0.1:{reached.server}", f"GET {reached.url}/"):
        answer = await reached.answer(request, *headers)

        assert answer.startswith(b"HTTP/1.1 407 Proxy Authentication Required\r\n")
        assert b'\r\nProxy-Authenticate: Basic realm="runtimed"\r\n' in answer
    assert reached.asked == []


async def test_two_passwords_are_malformed(reached: Reached) -> None:
    right = basic(f"worker:{PASSWORD}")
    assert (await reached.answer(f"GET {reached.url}/", right, right)).startswith(b"HTTP/1.1 400 ")
    assert reached.asked == []


async def test_a_request_with_the_password_is_passed_on_without_it(reached: Reached) -> None:
    right = basic(f"worker:{PASSWORD}").replace("Basic", "bAsIc")

    assert (await reached.answer(f"GET {reached.url}/path", right)).endswith(b"ok")
    assert (await reached.answer(f"CONNECT 127.0.0.1:{reached.server}", right)).startswith(b"HTTP/1.1 200 ")
    assert reached.asked[0] == "GET /path HTTP/1.1"


@pytest.mark.parametrize("program", PROGRAMS)
async def test_programs_give_the_password_of_the_url_in_their_environment(
    reached: Reached, tmp_path: Path, program: str
) -> None:
    command = [word.replace("{url}", reached.url) for word in PROGRAMS[program]]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    url = f"http://worker:{PASSWORD}@127.0.0.1:{reached.proxy}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    env = dict.fromkeys(names, url) | {"NODE_USE_ENV_PROXY": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    if program == "node" and not await asyncio.to_thread(_node_uses_proxies):
        pytest.skip("this version of node uses no proxy")
    done = await asyncio.to_thread(run)

    said = (done.stdout + done.stderr).replace(str(tmp_path), "")  # numbers there, and ports, may have 407 in them
    assert not re.search(r"\b407\b", said)
    assert reached.asked, (done.stdout, done.stderr)
