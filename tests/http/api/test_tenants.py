"""What tokens with a tenant or labels get over HTTP: each route, asked for what they see and for what they do not."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from aiohttp import WSMsgType

from runtimed.core import Runtime
from runtimed.core.limits import TenantLimits
from runtimed.model.bundle import BundleMetadata, BundleProfile, ConfigBundle, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.event import TextDone
from runtimed.model.identity import WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import PermissionOption, Question
from runtimed.model.principal import Principal, Role
from runtimed.model.token import CreateTokenRequest
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest
from runtimed.store.memory import MemoryStore
from runtimed.wire.converter import encode
from tests.core.conftest import FakeBackend
from tests.http.conftest import TOKEN, Served, serving

DEADLINE_S = 20
ROLES: tuple[Role, ...] = ("observer", "operator", "admin")
ACME, OTHER = Principal("x", "admin", "acme"), Principal("x", "admin", "other")
QUESTION = Question("run it?", None, (PermissionOption("yes", "Yes", "allow_once"),), timeout_s=600)
SECRET_TEXT = "said-by-the-foreign-worker"
MISSING = "worker-0000ffff"
VARYING = re.compile(rb"^(date|x-request-id): [^\r]*\r\n", re.MULTILINE | re.IGNORECASE)
"""The headers that differ between two answers to the same request."""

BODIES: Mapping[str, Any] = {
    "/input": {"kind": "user", "content": "hello"},
    "/permissions/{request_id}": {"option_id": "yes"},
}
"""Bodies that the routes accept, by the end of their path."""

QUERIES = {"/wait": "?for=permission&timeout_s=1", "/availability": "?digest=DIGEST", "/host-check": "?digest=DIGEST"}
"""Queries that the routes need, by the end of their path."""

HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@attrs.frozen
class Operation:
    """A route as the OpenAPI document has it."""

    method: str
    path: str

    @property
    def extra_headers(self) -> Iterator[tuple[str, ...]]:
        """The headers of each kind of request that the route takes."""
        yield ()
        if self.path.endswith("/events/ws"):
            yield HANDSHAKE
        elif self.path.endswith("/events") and "/runtime/" not in self.path:
            yield ("Accept: text/event-stream",)

    @property
    def body(self) -> bytes:
        found = next((body for end, body in BODIES.items() if self.path.endswith(end)), None)
        return b"" if found is None else encode(found)

    def url(self, worker: str, fixed: Mapping[str, str], digest: str) -> str:
        path = self.path
        for name, value in {"worker_id": worker, **fixed}.items():
            path = path.replace(f"{{{name}}}", value)
        query = next((query for end, query in QUERIES.items() if self.path.endswith(end)), "")
        return path + query.replace("DIGEST", digest)


@attrs.frozen
class Answer:
    """The bytes of an answer: its head without what varies, and its body, which is empty for a stream."""

    status: int
    head: bytes
    body: bytes

    def without(self, *names: str) -> "Answer":
        """The same answer with these names replaced."""
        body = self.body
        for name in names:
            body = body.replace(name.encode(), b"NAME")
        head = re.sub(rb"content-length: \d+", b"", self.head, flags=re.IGNORECASE)
        return Answer(self.status, head, body)


async def ask(served: Served, secret: str, method: str, path: str, *headers: str, body: bytes = b"") -> Answer:
    """Send a request on a connection of its own, and return what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{served.port}",
        f"Authorization: Bearer {secret}",
        *headers,
    ]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    try:
        async with asyncio.timeout(DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            found = await reader.readexactly(int(length[1])) if length else b""
    finally:
        writer.close()
    return Answer(int(head.split()[1]), VARYING.sub(b"", head), found)


async def token(runtime: Runtime, name: str, role: Role = "admin", tenant: str | None = None, **labels: str) -> str:
    return (await runtime.create_token(CreateTokenRequest(name, role, tenant, labels))).secret


def bundle_of(revision: str) -> ConfigBundle:
    metadata = BundleMetadata("bundle-1", "0" * 64, revision, "w", "2026-06-26T00:00:00Z", Provenance("test"))
    made = ConfigBundle(metadata, (BundleProfile(BuiltinProfile("builtin:echo")),))
    return attrs.evolve(made, metadata=attrs.evolve(metadata, digest=bundle_digest(made)))


@attrs.frozen
class Scene:
    """Two tenants with a Worker each, both with everything that a Worker can have.

    Attributes:
        request_ids: The pending permission request of each Worker.
        asking: What waits for their answers.
    """

    served: Served
    own: WorkerRef
    foreign: WorkerRef
    request_ids: Mapping[WorkerRef, str]
    asking: list[asyncio.Task[Any]]

    @property
    def runtime(self) -> Runtime:
        return self.served.runtime

    async def operations(self) -> list[Operation]:
        answer = await self.served.client.get(f"{self.served.url}/openapi.json")
        paths = (await answer.json())["paths"]
        return [Operation(method.upper(), path) for path, methods in paths.items() for method in methods]


@pytest.fixture
async def backend() -> FakeBackend:
    return FakeBackend()


@asynccontextmanager
async def scene_on(backend: FakeBackend, tenants: Mapping[str, TenantLimits] | None = None) -> AsyncIterator[Scene]:
    async with Runtime(MemoryStore(), backend, tenants=tenants) as runtime, serving(runtime) as served:
        refs, asking = [], []
        for principal, text in ((ACME, "own"), (OTHER, SECRET_TEXT)):
            request = CreateWorkerRequest(name=f"of-{principal.tenant}", labels={"team": str(principal.tenant)})
            ref = (await runtime.create_worker(request, principal=principal)).worker_ref
            await runtime.send_input(ref, WorkerInput("user", text))
            await backend.say(ref.worker_id, TextDone(text))
            asking.append(asyncio.create_task(backend.sinks[ref.worker_id].ask(QUESTION)))
            await runtime.put_bundle(bundle_of(str(principal.tenant)), principal=principal)
            refs.append(ref)
        async with asyncio.timeout(DEADLINE_S):
            while len(runtime.all_permissions()) < 2:
                await asyncio.sleep(0.001)
        pending = {ref: runtime.permissions(ref)[0].request_id for ref in refs}
        own, foreign = refs
        yield Scene(served, own, foreign, pending, asking)
        for ref in refs:
            await runtime.cancel_worker(ref)
        await asyncio.gather(*asking, return_exceptions=True)


@pytest.fixture
async def scene(backend: FakeBackend, quick: bool) -> AsyncIterator[Scene]:
    async with scene_on(backend) as made:
        yield made


async def test_each_route_answers_for_a_foreign_worker_as_for_one_that_is_not_there(scene: Scene) -> None:
    runtime, foreign = scene.runtime, scene.foreign
    tokens: dict[str, str] = {role: await token(runtime, role, role, "acme") for role in ROLES}
    tokens["labels"] = await token(runtime, "labels", "admin", None, team="red")
    tokens["both"] = await token(runtime, "both", "admin", "other", team="red")
    fixed = {"request_id": scene.request_ids[foreign], "name": "cwd"}
    operations = [one for one in await scene.operations() if "{worker_id}" in one.path]
    before = runtime.worker(foreign)

    compared = 0
    for operation in operations:
        for name, secret in tokens.items():
            for headers in operation.extra_headers:
                answers = []
                for worker in (foreign.worker_id, MISSING):
                    url = operation.url(worker, fixed, "")
                    answer = await ask(scene.served, secret, operation.method, url, *headers, body=operation.body)
                    answers.append(answer.without(worker))
                assert answers[0] == answers[1], (operation, name, headers)
                assert answers[0].status == 404 or (name in {"observer", "operator"} and answers[0].status == 403)
                compared += 1

    assert compared >= 5 * 17
    assert runtime.worker(foreign) == before
    assert [one.request_id for one in runtime.permissions(foreign)] == [scene.request_ids[foreign]]


async def test_each_route_serves_the_own_worker(scene: Scene) -> None:
    secret = await token(scene.runtime, "own", "admin", "acme", team="acme")
    fixed = {"request_id": scene.request_ids[scene.own], "name": "cwd"}

    found = {}
    for operation in [one for one in await scene.operations() if "{worker_id}" in one.path]:
        if operation.method == "GET":
            for headers in operation.extra_headers:
                url = operation.url(scene.own.worker_id, fixed, "")
                answer = await ask(scene.served, secret, operation.method, url, *headers)
                found[operation.path.rpartition("}")[2], headers[:1]] = answer.status

    handshake, stream = HANDSHAKE[:1], ("Accept: text/event-stream",)
    assert found.pop(("/diff", ())) == 404
    assert found.pop(("/events/ws", ())) == 400
    assert found.pop(("/events/ws", handshake)) == 101
    assert (("/events", stream)) in found
    assert set(found.values()) == {200}


async def test_no_list_has_anything_of_another_tenant(scene: Scene) -> None:
    secrets = {
        "tenant": await token(scene.runtime, "tenant", "admin", "acme"),
        "labels": await token(scene.runtime, "labels", "admin", None, team="acme"),
    }
    operations = [one for one in await scene.operations() if one.method == "GET" and "{" not in one.path]
    marks = (scene.foreign.worker_id.encode(), SECRET_TEXT.encode(), b"of-other", b'"other"')

    leaks, shown = [], set()
    for operation in operations:
        if operation.path in {"/v1/events/ws", "/openapi.json"}:
            continue
        for name, secret in secrets.items():
            answer = await ask(scene.served, secret, "GET", operation.path)
            whole = await ask(scene.served, TOKEN, "GET", operation.path)
            body = answer.body.replace(b'profile="other"', b"")  # in metrics: all profiles that are not configured
            found = [mark for mark in marks if mark in body]
            if found and not (name == "labels" and operation.path == "/v1/config-bundles"):
                leaks.append((operation.path, name, found))
            if any(mark in whole.body for mark in marks):
                shown.add(operation.path)

    assert leaks == []
    assert shown >= {
        "/v1/workers",
        "/v1/events",
        "/v1/permissions",
        "/v1/diagnostics",
        "/v1/runtime/events",
        "/v1/config-bundles",
    }


async def test_the_runtime_counts_what_a_token_sees(scene: Scene) -> None:
    counts = {}
    for name, fields in (
        ("tenant", {"tenant": "acme"}),
        ("none", {"tenant": "nobody"}),
        ("label", {"team": "other"}),
    ):
        secret = await token(scene.runtime, name, "observer", **fields)
        url = f"{scene.served.url}/v1/runtime"
        async with scene.served.client.get(url, headers={"Authorization": f"Bearer {secret}"}) as answer:
            summary = (await answer.json())["runtime"]
        counts[name] = (summary["worker_count"], summary["active_worker_count"], summary["diagnostic_count"])

    assert counts == {"tenant": (1, 1, 2), "none": (0, 0, 0), "label": (1, 1, 2)}


async def test_a_bundle_of_another_tenant_is_answered_as_one_that_is_not_there(scene: Scene) -> None:
    secret = await token(scene.runtime, "lone", "admin", "third")
    theirs = bundle_of("other").metadata.digest

    for end in ("availability", "host-check"):
        answers = [
            (await ask(scene.served, secret, "GET", f"/v1/config-bundles/{name}/{end}?digest={theirs}")).without(name)
            for name in ("bundle-1", "bundle-0")
        ]
        assert answers[0] == answers[1]
        assert answers[0].status == 404


async def test_a_tenant_replaces_and_uses_only_its_own_bundle(scene: Scene) -> None:
    secret = await token(scene.runtime, "acme", "admin", "acme")
    ours, theirs = bundle_of("new"), bundle_of("other").metadata.digest

    put = await ask(scene.served, secret, "POST", "/v1/config-bundles", body=encode({"bundle": ours}))

    assert (put.status, b'"tenant":"acme"' in put.body) == (200, True)
    assert [(one.tenant, one.revision) for one in scene.runtime.bundles()] == [("acme", "new"), ("other", "other")]
    profile = {"kind": "builtin", "value": "builtin:echo"}
    created = []
    for digest in (ours.metadata.digest, theirs):
        body = encode({"profile": profile, "config_bundle": {"id": "bundle-1", "digest": digest}})
        created.append((await ask(scene.served, secret, "POST", "/v1/workers", body=body)).status)
    assert created == [200, 400]


async def test_the_feed_of_a_tenant_has_its_own_events_and_no_other(scene: Scene, backend: FakeBackend) -> None:
    runtime, headers = (
        scene.runtime,
        {"Authorization": f"Bearer {await token(scene.runtime, 'a', 'observer', 'acme')}"},
    )
    url = f"{scene.served.url}/v1/events/ws?cursor=wo_{0:016x}&heartbeat=1"

    seen: list[dict[str, Any]] = []
    async with scene.served.client.ws_connect(url, headers=headers) as socket, asyncio.timeout(DEADLINE_S):
        await backend.say(scene.foreign.worker_id, TextDone("more"))
        await backend.say(scene.own.worker_id, TextDone("the end"))
        while not (seen and '"the end"' in str(seen[-1]).replace("'", '"')):
            message = await socket.receive()
            assert message.type is WSMsgType.TEXT
            seen.append(message.json())

    events = [one["envelope"] for one in seen if one["kind"] == "event"]
    own = [f"wo_{event.sequence:016x}" for event in await runtime.events(scene.own, 0)]
    assert [one["cursor"] for one in events] == own
    assert {one["worker_id"] for one in events} == {scene.own.worker_id}


async def test_the_event_stream_of_a_tenant_has_its_own_events_and_no_other(
    scene: Scene, backend: FakeBackend
) -> None:
    runtime, secret = scene.runtime, await token(scene.runtime, "a", "observer", "acme")
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
    url = f"{scene.served.url}/v1/events?cursor=wo_{0:016x}"

    cursors: list[str] = []
    async with scene.served.client.get(url, headers=headers) as answer, asyncio.timeout(DEADLINE_S):
        await backend.say(scene.foreign.worker_id, TextDone("more"))
        await backend.say(scene.own.worker_id, TextDone("the end"))
        async for line in answer.content:
            assert scene.foreign.worker_id.encode() not in line
            if line.startswith(b"data: "):
                cursors.append(json.loads(line[6:])["cursor"])
            if b'"the end"' in line:
                break

    assert cursors == [f"wo_{event.sequence:016x}" for event in await runtime.events(scene.own, 0)]


async def test_two_tenants_may_use_the_same_idempotency_key(scene: Scene) -> None:
    secrets = [
        await token(scene.runtime, name, "operator", tenant)
        for name, tenant in (("a", "acme"), ("b", "other"), ("c", None), ("d", "acme"))
    ]
    key, body = "Idempotency-Key: same", b'{"name":"fresh"}'

    first = [await ask(scene.served, secret, "POST", "/v1/workers", key, body=body) for secret in secrets]
    again = [await ask(scene.served, secret, "POST", "/v1/workers", key, body=body) for secret in secrets]

    assert [answer.status for answer in (*first, *again)] == [200] * 8
    assert [answer.body for answer in first] == [answer.body for answer in again]
    created = [worker for worker in scene.runtime.workers() if worker.name == "fresh"]
    assert [worker.tenant for worker in created] == ["acme", "other", None, "acme"]


async def test_a_create_that_contradicts_the_labels_of_the_token_is_forbidden(scene: Scene) -> None:
    secret = await token(scene.runtime, "red", "operator", "acme", team="red")

    refused = await ask(scene.served, secret, "POST", "/v1/workers", body=b'{"labels":{"team":"blue"}}')
    created = await ask(scene.served, secret, "POST", "/v1/workers", body=b'{"labels":{"more":"x"}}')

    assert (refused.status, b'"forbidden"' in refused.body, b"labels.team: expected red" in refused.body) == (
        403,
        True,
        True,
    )
    assert created.status == 200
    assert b'"labels":{"more":"x","team":"red"}' in created.body
    assert b'"tenant":"acme"' in created.body


async def test_what_concerns_the_whole_store_is_not_for_tenants(scene: Scene) -> None:
    tenant = await token(scene.runtime, "t", "admin", "acme")
    labels = await token(scene.runtime, "l", "admin", team="acme")

    statuses = [
        (await ask(scene.served, secret, "GET", "/v1/runtime/check")).status for secret in (tenant, labels, TOKEN)
    ]

    assert statuses == [403, 403, 200]


@pytest.mark.usefixtures("quick")
async def test_a_tenant_that_asks_too_fast_is_told_when_to_come_back_and_others_are_served(
    backend: FakeBackend,
) -> None:
    async with scene_on(backend, {"acme": TenantLimits(max_requests_per_s=0.01)}) as scene:
        first, second = [await token(scene.runtime, name, "admin", "acme") for name in ("a", "b")]
        theirs = await token(scene.runtime, "c", "admin", "other")
        path = f"/v1/workers/{scene.own.worker_id}"
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.served.port)
        request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{scene.served.port}\r\nAuthorization: Bearer {first}\r\n\r\n"
        )

        kept_alive = []
        for _ in range(3):
            writer.write(request.encode())
            async with asyncio.timeout(DEADLINE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                assert length is not None
                await reader.readexactly(int(length[1]))
            kept_alive.append((int(head.split()[1]), re.search(rb"retry-after: (\d+)", head, re.IGNORECASE)))
        writer.close()
        others = [
            await ask(scene.served, second, "GET", path),
            await ask(scene.served, second, "GET", f"{path}/events/ws", *HANDSHAKE),
            await ask(scene.served, second, "POST", "/v1/workers", "Content-Length: 100000"),
            await ask(scene.served, second, "GET", "/v1/nowhere"),
        ]
        unlimited = await ask(scene.served, theirs, "GET", f"/v1/workers/{scene.foreign.worker_id}")

        assert [status for status, _ in kept_alive] == [200, 429, 429]
        waits = [int(match[1]) for _, match in kept_alive[1:] if match is not None]
        assert [90 < wait <= 100 for wait in waits] == [True, True]
        assert [answer.status for answer in others] == [429] * 4
        assert b'"code":"rate_limited"' in others[0].body
        assert unlimited.status == 200


async def test_a_name_and_a_label_select_among_what_a_token_sees(scene: Scene) -> None:
    secret = await token(scene.runtime, "a", "observer", "acme")

    answers = [
        (await ask(scene.served, secret, "GET", f"/v1/workers?{query}")).body
        for query in ("name=of-other", "label=team%3Dother", "name=of-acme", "status=running&limit=1")
    ]

    found = [scene.own.worker_id.encode() in body for body in answers]
    assert found == [False, False, True, True]
    assert not any(scene.foreign.worker_id.encode() in body for body in answers)
    assert b"next_after" not in answers[-1]
