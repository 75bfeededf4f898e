"""The gateways of a host, for all its Workers."""

from aiohttp import ClientSession

from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import Gateway, Secret
from runtimed.gateways.host import HostGateways
from tests.gateways.conftest import HEADERS, REAL_KEY, Upstream, address, listen


async def test_the_host_counts_the_requests_of_all_workers_by_gateway_and_status(upstream: Upstream) -> None:
    secrets = Secrets({"openai": Secret(env="KEY")}, {"KEY": REAL_KEY})
    host = HostGateways({"openai": Gateway(upstream.url, HEADERS, ("GET /models",))}, secrets)
    workers = [host.new(["openai"])["openai"] for _ in range(2)]

    async with ClientSession() as session:
        for gateway in workers:
            listener = listen()
            await gateway.serve(listener)
            for path in ("/models", "/files"):
                headers = {"Authorization": f"Bearer {gateway.key}"}
                async with session.get(f"{address(listener)}{path}", headers=headers) as response:
                    await response.read()
            await gateway.close()
    await host.close()

    assert host.requests == {("openai", 200): 2, ("openai", 403): 2}
