"""What a scrape shows of a Runtime and of the requests to it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from runtimed.core import Runtime
from runtimed.core.ports import EventSink
from runtimed.core.services import statistics
from runtimed.execution.function import FunctionBackend
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.profile import Profile
from runtimed.execution.registry import ProfileRegistry
from runtimed.http import Api
from runtimed.http.app import MetricsApi
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import PermissionOption, Question
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore
from tests.http.conftest import TOKEN, OwnServer, Served

DEADLINE_S = 60
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
SHELL = {
    "profile": {"kind": "builtin", "value": "builtin:shell"},
    "requested_capabilities": [{"name": "shell"}],
}

pytestmark = pytest.mark.usefixtures("quick")

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


async def scrape(served: Served, **headers: str) -> Samples:
    async with served.client.get(f"{served.url}/metrics", headers=headers) as answer:
        assert answer.status == 200
        return samples(await answer.text())


async def post(served: Served, path: str, body: object, status: int = 200) -> dict[str, object]:
    async with served.client.post(f"{served.url}{path}", json=body) as answer:
        assert answer.status == status
        found: dict[str, object] = await answer.json()
        return found


async def create(served: Served, request: object) -> str:
    worker = (await post(served, "/v1/workers", request))["worker"]
    assert isinstance(worker, dict)
    return str(worker["worker_id"])


@pytest.fixture
def backend(tmp_path: Path) -> ProfileRegistry:
    """Profiles, one of which is a program that ends with its first input."""
    ending = Profile("process", ("sh", "-c", "read input; exit 3"))
    return ProfileRegistry({"builtin:ending": ending}, workspaces=DataDir(tmp_path))


@pytest.fixture
async def runtime(backend: ProfileRegistry) -> AsyncIterator[Runtime]:
    """A Runtime that knows the profiles of its backend."""
    async with Runtime(MemoryStore(), backend, profiles=backend) as running:
        yield running


@asynccontextmanager
async def metrics_listener(served: Served) -> AsyncIterator[str]:
    """The address that `--listen-metrics` would serve on."""
    api = served.server.api
    assert isinstance(api, Api)
    own = OwnServer(api)
    own.server.api = MetricsApi(api)
    async with own as listener:
        yield str(listener.make_url("/")).rstrip("/")


async def test_requests_are_counted_by_route_method_and_status(served: Served) -> None:
    requests = [
        *[("GET", "/v1/runtime", {}, 200)] * 3,
        ("HEAD", "/v1/runtime", {}, 200),
        ("GET", "/v1/workers/worker-99", {}, 404),
        ("GET", "/v1/workers/worker-98", {}, 404),
        ("GET", "/v1/runtime", {"Authorization": "Bearer wrong"}, 401),
        ("GET", "/secret/path", {"Authorization": "Bearer wrong"}, 401),
        ("GET", "/other/path", {}, 404),
        ("PURGE", "/v1/runtime", {}, 405),
        ("POST", "/v1/runtime", {}, 405),
        ("GET", "/livez", {"Origin": "http://x"}, 403),
        ("GET", "/v1/runtime", {"X": "x" * 9_000}, 431),
    ]
    for method, path, headers, status in requests:
        async with served.client.request(method, f"{served.url}{path}", headers=headers) as answer:
            assert answer.status == status

    found = await scrape(served)

    counted = {
        tuple(dict(labels)[name] for name in ("route", "method", "status")): count
        for (name, labels), count in found.items()
        if name == "runtimed_http_requests_total"
    }
    assert counted == {
        ("/v1/runtime", "GET", "200"): 3,
        ("/v1/runtime", "HEAD", "200"): 1,
        ("/v1/workers/{worker_id}", "GET", "404"): 2,
        ("/v1/runtime", "GET", "401"): 1,
        ("unknown", "GET", "401"): 1,
        ("unknown", "GET", "404"): 1,
        ("unknown", "other", "405"): 1,
        ("unknown", "POST", "405"): 1,
        ("/livez", "GET", "403"): 1,
        ("unknown", "other", "431"): 1,
    }
    assert of(found, "runtimed_auth_failures_total") == 2
    name = "runtimed_http_request_seconds"
    assert of(found, f"{name}_count", route="/v1/runtime", method="GET") == 4
    assert of(found, f"{name}_bucket", route="/v1/runtime", method="GET", le="+Inf") == 4
    assert (of(found, f"{name}_sum", route="/v1/runtime", method="GET") or 0) > 0


async def test_paths_and_methods_that_clients_make_up_make_no_series(served: Served) -> None:
    before = len(await scrape(served))
    for number in range(40):
        async with served.client.request(f"X{number}", f"{served.url}/made/up/{number}") as answer:
            assert answer.status in {400, 404, 405}
        async with served.client.get(f"{served.url}/v1/workers/worker-{number}?x={number}") as answer:
            assert answer.status in {400, 404}

    after = len(await scrape(served))

    assert after - before <= 3 * 17 + 6  # three routes with a histogram each, and their statuses


async def test_workers_are_counted_by_state_profile_and_sandbox(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "SLICE_WORKERS", 2)
    for _ in range(3):
        await create(served, {})
    shell = await create(served, SHELL)
    refused = await create(served, {"profile": {"kind": "builtin", "value": "builtin:made-up"}})
    stopped = await create(served, {})
    await post(served, f"/v1/workers/{stopped}/stop", {})

    found = await scrape(served)

    assert of(found, "runtimed_workers", status="running", run_state="idle") == 4
    assert of(found, "runtimed_workers", status="running", run_state="rejected") == 1
    assert of(found, "runtimed_workers", status="stopped", run_state="stopped") == 1
    assert of(found, "runtimed_workers", status="cancelled", run_state="stopped") == 0
    assert of(found, "runtimed_spawns_total", outcome="accepted") == 5
    assert of(found, "runtimed_spawns_total", outcome="rejected") == 1
    assert of(found, "runtimed_workers_by_profile", profile="builtin:echo", sandbox="no_program") == 3
    by_shell = {
        dict(labels)["sandbox"]
        for (name, labels), count in found.items()
        if name == "runtimed_workers_by_profile" and ("profile", "builtin:shell") in labels and count == 1
    }
    assert len(by_shell) == 1
    assert by_shell <= {"bubblewrap", "landlock", "none"}
    assert "made-up" not in str(found)
    assert not {shell, refused} & {value for _, labels in found for _, value in labels}


async def test_workers_count_to_the_profile_that_they_were_spawned_with_also_after_a_reload(
    served: Served, backend: ProfileRegistry
) -> None:
    await create(served, {})
    await create(served, {"profile": {"kind": "builtin", "value": "builtin:ending"}})
    other = {"builtin:next": Profile("process", ("cat",))}
    apply = await backend.prepare_replacement(
        other, "builtin:next", SandboxPolicy(), warm_idle_s=1, host_changed=False
    )
    apply()
    await create(served, {})

    found = await scrape(served)

    counted = [
        dict(labels)["profile"] for (name, labels), _ in found.items() if name == "runtimed_workers_by_profile"
    ]
    assert sorted(counted) == ["builtin:echo", "builtin:ending", "builtin:next"]


async def test_a_lost_program_is_counted_once_by_its_reason(served: Served) -> None:
    worker_id = await create(served, {"profile": {"kind": "builtin", "value": "builtin:ending"}})
    await post(served, f"/v1/workers/{worker_id}/input", {"kind": "user", "content": "end"})
    async with asyncio.timeout(DEADLINE_S):
        while not of(found := await scrape(served), "runtimed_agent_losses_total", reason="exit"):
            await asyncio.sleep(0.02)

    assert of(found, "runtimed_agent_losses_total", reason="exit") == 1
    assert of(found, "runtimed_agent_losses_total", reason="oom") == 0


async def test_observers_and_their_lag_are_those_of_now(served: Served) -> None:
    worker_id = await create(served, {})
    async with served.client.ws_connect(f"{served.url}/v1/workers/{worker_id}/events/ws") as socket:
        await socket.receive()
        found = await scrape(served)
        assert of(found, "runtimed_observers") == 1
        assert of(found, "runtimed_feed_lag_events") == 0
    async with asyncio.timeout(DEADLINE_S):
        while of(await scrape(served), "runtimed_observers"):
            await asyncio.sleep(0.01)


async def test_an_observer_that_does_not_read_shows_as_lag(runtime: Runtime) -> None:
    async with OwnServer(Api(runtime, token=None), send_bytes=4_096) as server, aiohttp.ClientSession() as client:
        assert isinstance(server, OwnServer)
        own = server.serves(runtime, client)
        worker_id = await create(own, {})
        _, writer = await asyncio.open_connection("127.0.0.1", own.port, limit=1)
        writer.write(f"GET /v1/workers/{worker_id}/events HTTP/1.1\r\nHost: localhost:{own.port}\r\n".encode())
        writer.write(b"Accept: text/event-stream\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            while not of(await scrape(own), "runtimed_feed_lag_events"):
                content = {"kind": "user", "content": "x" * 100_000, "when_busy": "queue"}
                async with client.post(f"{own.url}/v1/workers/{worker_id}/input", json=content) as answer:
                    assert answer.status in {200, 409}
        writer.transport.abort()


async def test_pending_permissions_are_counted_over_all_workers() -> None:
    async def run(_message: WorkerInput, sink: EventSink) -> None:
        options = (PermissionOption("yes", "Yes", "allow_once"),)
        await sink.ask(Question("May I?", "call-1", options, 600.0))

    backend = FunctionBackend(run)
    async with (
        Runtime(MemoryStore(), backend) as runtime,
        OwnServer(Api(runtime, token=None)) as server,
        aiohttp.ClientSession() as client,
    ):
        assert isinstance(server, OwnServer)
        own = server.serves(runtime, client)
        for _ in range(2):
            worker_id = await create(own, {})
            await post(own, f"/v1/workers/{worker_id}/input", {"kind": "user", "content": "go"})
        async with asyncio.timeout(DEADLINE_S):
            while of(found := await scrape(own), "runtimed_permissions_pending") != 2:
                await asyncio.sleep(0.01)

        assert of(found, "runtimed_workers", status="running", run_state="busy") == 2
        assert of(found, "runtimed_workers_by_profile", profile="other", sandbox="no_program") == 2


async def test_the_store_shows_its_commits_and_its_events(served: Served) -> None:
    worker_id = await create(served, {})
    before = await scrape(served)
    await post(served, f"/v1/workers/{worker_id}/input", {"kind": "user", "content": "hello"})

    after = await scrape(served)

    for name in ("runtimed_commit_seconds_count", "runtimed_commit_changes_sum", "runtimed_event_bytes"):
        assert (of(after, name) or 0) > (of(before, name) or 0)
    assert of(after, "runtimed_store_bytes") == 0
    assert of(after, "runtimed_store_free_bytes") is None


async def test_a_runtime_that_is_not_ready_can_be_scraped(runtime: Runtime, served: Served) -> None:
    assert of(await scrape(served), "runtimed_ready") == 1

    await runtime.close()

    assert of(await scrape(served), "runtimed_ready") == 0


@pytest.mark.parametrize("version", ["", ";version=1.0.0", ";version=0.0.1"])
async def test_a_scraper_that_asks_for_openmetrics_gets_it(served: Served, version: str) -> None:
    headers = {"Accept": PROMETHEUS.replace(";version=1.0.0", version)}
    async with served.client.get(f"{served.url}/metrics", headers=headers) as answer:
        kind, text = answer.headers["Content-Type"], await answer.text()

    if version == ";version=0.0.1":
        assert kind.startswith("text/plain; version=0.0.4")
    else:
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")
        families = parse_openmetrics(text)  # type: ignore[no-untyped-call]  # this module has no types
        assert {"runtimed_http_requests", "runtimed_build"} <= {family.name for family in families}


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", "application/openmetrics-text;version=x", "text/plain;version=1.x"]
)
async def test_any_other_scraper_gets_the_text_format(served: Served, accept: str) -> None:
    async with served.client.get(f"{served.url}/metrics", headers={"Accept": accept}) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "runtimed_ready 1.0\n" in await answer.text()


async def test_on_the_api_a_scrape_needs_a_token_without_a_tenant(served: Served) -> None:
    async def status(name: str, **fields: object) -> int:
        made = await post(served, "/v1/tokens", {"name": name, **fields})
        headers = {"Authorization": f"Bearer {made['secret']}"}
        async with served.client.get(f"{served.url}/metrics", headers=headers) as answer:
            return answer.status

    assert await status("scraper", role="observer", labels={"team": "a"}) == 200
    assert await status("ours", role="admin", tenant="ours") == 403
    assert await status("host", role="node") == 403
    async with aiohttp.ClientSession() as anyone, anyone.get(f"{served.url}/metrics") as answer:
        assert answer.status == 401


async def test_the_metrics_listener_serves_metrics_and_probes_alone_and_asks_for_no_token(served: Served) -> None:
    async with metrics_listener(served) as url, aiohttp.ClientSession() as anyone:
        for method, path, headers, status in (
            ("GET", "/metrics", {}, 200),
            ("HEAD", "/metrics", {}, 200),
            ("GET", "/livez", {"Host": "anything.example"}, 200),
            ("GET", "/readyz", {}, 200),
            ("GET", "/metrics", {"Host": "anything.example"}, 421),
            ("GET", "/metrics", {"Origin": "http://x"}, 403),
            ("POST", "/metrics", {}, 405),
            ("GET", "/v1/runtime", {}, 404),
            ("GET", "/openapi.json", {}, 404),
            ("POST", "/v1/workers", {}, 404),
        ):
            async with anyone.request(method, f"{url}{path}", headers=headers) as answer:
                assert (path, answer.status) == (path, status)
                assert answer.headers["X-Request-Id"]
        found = await scrape(served)

    assert of(found, "runtimed_http_requests_total", route="/metrics", method="GET", status="200") == 1


async def test_a_scrape_shows_no_token_no_path_and_no_worker(served: Served, tmp_path: Path) -> None:
    worker_id = await create(served, SHELL)
    async with served.client.get(f"{served.url}/metrics") as answer:
        text = await answer.text()

    assert not [secret for secret in (TOKEN, worker_id, str(tmp_path), served.runtime.runtime_id) if secret in text]


async def test_many_scrapes_at_the_same_time_are_all_answered(served: Served) -> None:
    found = await asyncio.gather(*(scrape(served) for _ in range(20)))

    assert all(of(one, "runtimed_ready") == 1 for one in found)
