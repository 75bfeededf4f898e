"""Which addresses are the host's own, in a network namespace that has a public one."""

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from runtimed.execution.network.routes import is_own

SETUP = "ip link set lo up && ip address add 8.8.8.8/32 dev lo && ip address add 2600::8/128 dev lo"
NEW_NETWORK = ("unshare", "--user", "--map-root-user", "--net", "sh", "-ec")

PROXY = """
import asyncio, sys
from ipaddress import ip_address
from runtimed.execution.network.dialer import Dialer
from runtimed.execution.network.rejection import Rejection
from runtimed.execution.network.request import ProxyRequest
from runtimed.execution.network.rules import PUBLIC, NetworkPolicy, NetworkRule

async def resolve(name):
    return [ip_address(name.removesuffix(".example.com").replace("-", "."))]

async def dial(host, *lists):
    dialer = Dialer(NetworkPolicy(lists), resolve, 60, 60)
    try:
        (await dialer.dial(ProxyRequest(host, 9, None, 0))).close()
    except Rejection as rejection:
        print(rejection.status.value, getattr(rejection, "reason", ""))

asyncio.run(dial(ip_address("8.8.8.8"), PUBLIC))
asyncio.run(dial(ip_address("2600::8"), PUBLIC))
asyncio.run(dial("8-8-8-8.example.com", PUBLIC))
asyncio.run(dial(ip_address("8.8.8.8"), [NetworkRule.parse("8.8.8.8:9")]))
asyncio.run(dial(ip_address("8.8.4.4"), PUBLIC))
asyncio.run(dial("8-8-4-4.example.com", PUBLIC))
"""


def test_loopback_addresses_are_our_own() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert is_own(ip_address("127.1.2.3"))


def test_a_public_address_of_this_host_is_refused_and_any_other_is_tried() -> None:
    if subprocess.run([*NEW_NETWORK, SETUP], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace with addresses can be made here")

    done = subprocess.run(
        [*NEW_NETWORK, f'{SETUP} && exec "$0" -c "$1"', sys.executable, PROXY],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )

    # nothing listens at our own address, where a rule allows it, and no route leads to the others
    lines = done.stdout.splitlines()
    assert [line[:4] for line in lines] == ["403 ", "403 ", "403 ", "502 ", "502 ", "502 "]
    assert all(line[4:].startswith("its address is one of this host, and no rule") for line in lines[:3])
