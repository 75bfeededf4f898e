"""Probes: whether the daemon works, and whether it takes work."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from runtimed.audit import AuditLog, AuditPolicy, audit_log
from runtimed.core import Runtime
from runtimed.core.state.change import Change, EncodedEvent
from runtimed.errors import StoreIo
from runtimed.store.memory import MemoryStore
from tests.http.conftest import Served, serving

PROBES = ["/livez", "/readyz"]

pytestmark = pytest.mark.usefixtures("quick")


class Disk(MemoryStore):
    """A store whose disk can be full, or fail."""

    full = False
    fails = False

    @property
    def is_full(self) -> bool:
        return self.full

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        if not self.fails:
            return super().commit(change)
        failed: asyncio.Future[Sequence[EncodedEvent]] = asyncio.get_running_loop().create_future()
        failed.set_exception(StoreIo("the disk is broken"))
        return failed


async def probe(served: Served, path: str, **headers: str) -> tuple[int, object]:
    """Status and body of a request without a token."""
    async with aiohttp.ClientSession() as anyone, anyone.get(f"{served.url}{path}", headers=headers) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("path", PROBES)
async def test_a_probe_needs_no_token_and_may_name_any_host(served: Served, path: str) -> None:
    assert await probe(served, path) == (200, {"status": "ok"})
    assert await probe(served, path, Host="runtimed.cluster.example:80") == (200, {"status": "ok"})
    assert await probe(served, path, Authorization="Bearer wrong") == (200, {"status": "ok"})


@pytest.mark.parametrize("path", PROBES)
async def test_a_probe_of_a_browser_is_refused(served: Served, path: str) -> None:
    status, body = await probe(served, path, Origin="http://elsewhere.example")

    assert (status, "forbidden_origin" in str(body)) == (403, True)


@pytest.mark.parametrize("path", PROBES)
async def test_only_a_get_or_a_head_of_exactly_the_path_is_a_probe(served: Served, path: str) -> None:
    async with aiohttp.ClientSession() as anyone:
        async with anyone.head(f"{served.url}{path}") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        for method, target in (("POST", path), ("DELETE", path), ("GET", f"{path}/"), ("GET", f"{path}%2F")):
            async with anyone.request(method, f"{served.url}{target}") as answer:
                assert answer.status == 401


async def test_a_probe_gives_its_connection_none_of_the_rights_of_a_token(runtime: Runtime) -> None:
    async with serving(runtime, {"max_connections": 2}) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(2)]

        async with asyncio.timeout(60):
            await reader.read()  # cut, because it is the oldest that has shown no token
        for _, other in (*silent, (reader, writer)):
            other.close()


async def test_a_full_disk_makes_the_daemon_unready_until_it_has_space_and_never_dead() -> None:
    store = Disk()
    async with Runtime(store) as runtime, serving(runtime) as served:
        store.full = True
        status, body = await probe(served, "/readyz")
        assert (status, body) == (
            503,
            {"error": {"code": "unavailable", "message": "store_full: the disk is full; free some space"}},
        )
        assert (await probe(served, "/livez"))[0] == 200
        store.full = False
        assert (await probe(served, "/readyz"))[0] == 200


async def test_a_failed_write_makes_the_daemon_dead_and_unready() -> None:
    store = Disk()
    async with Runtime(store) as runtime, serving(runtime) as served:
        store.fails = True
        with pytest.raises(StoreIo):
            await runtime.create_worker()
        for path in PROBES:
            status, body = await probe(served, path)
            assert (status, "store_failed: " in str(body)) == (503, True)


async def test_a_runtime_that_closes_is_unready_and_alive(runtime: Runtime) -> None:
    async with serving(runtime) as served:
        await runtime.close()

        status, body = await probe(served, "/readyz")
        assert (status, "closing: " in str(body)) == (503, True)
        assert await probe(served, "/livez") == (200, {"status": "ok"})


async def test_a_runtime_that_drains_is_unready_and_alive(runtime: Runtime) -> None:
    async with serving(runtime) as served:
        runtime.drain()

        status, body = await probe(served, "/readyz")
        assert (status, "draining: " in str(body)) == (503, True)
        assert await probe(served, "/livez") == (200, {"status": "ok"})


async def test_a_required_audit_log_that_cannot_be_written_makes_the_daemon_unready(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "MAX_QUEUED", 0)
    log = await asyncio.to_thread(AuditLog, AuditPolicy(str(tmp_path / "audit"), required=True))
    async with serving(runtime, audit_log=log) as served:
        assert (await served.client.post(f"{served.url}/v1/workers", json={})).status == 200

        status, body = await probe(served, "/readyz")
        assert (status, "audit_failed: " in str(body)) == (503, True)
        assert await probe(served, "/livez") == (200, {"status": "ok"})
        async with served.client.get(f"{served.url}/metrics") as answer:
            assert "runtimed_audit_losses_total 1.0\n" in await answer.text()
    await log.close()


async def test_a_runtime_that_was_not_started_says_that_it_is_starting() -> None:
    readiness = Runtime(MemoryStore()).readiness()
    assert readiness is not None
    assert readiness.startswith("starting: ")
