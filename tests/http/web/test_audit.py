"""Which requests the audit log records, and what of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runtimed.audit import AuditLog, AuditPolicy
from runtimed.core import Runtime
from runtimed.core.limits import TenantLimits
from runtimed.http.web import audit
from runtimed.model.token import CreateTokenRequest
from tests.http.conftest import TOKEN, Served, serving

WRONG = {"Authorization": "Bearer a-wrong-token-of-somebody"}
SECRET = "a text that nobody else may read"
KEYS = ["time", "token", "role", "verb", "target", "outcome", "request_id", "remote"]


class Audit:
    """A server with an audit log, and the lines of it."""

    def __init__(self, served: Served, log: AuditLog, file: Path) -> None:
        self.served = served
        self._log = log
        self._file = file

    async def call(self, method: str, path: str, **given: Any) -> int:
        async with self.served.client.request(method, f"{self.served.url}{path}", **given) as answer:
            await answer.read()
            return answer.status

    async def lines(self) -> list[dict[str, Any]]:
        """All lines; nothing can be recorded any more."""
        await self.served.server.close()
        await self._log.close()
        text = self.text()
        found = [json.loads(line) for line in text.splitlines()]
        assert all(list(line) == KEYS for line in found)
        assert not [secret for secret in (TOKEN, WRONG["Authorization"][7:], SECRET) if secret in text]
        return found

    def text(self) -> str:
        return self._file.read_text()


@pytest.fixture
async def audited(runtime: Runtime, tmp_path: Path, quick: bool) -> AsyncIterator[Audit]:
    log = await asyncio.to_thread(AuditLog, AuditPolicy(str(tmp_path / "audit")))
    async with serving(runtime, {"quick_requests": quick}, audit_log=log) as served:
        yield Audit(served, log, tmp_path / "audit")
    await log.close()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def told(lines: list[dict[str, Any]]) -> list[tuple[str | None, str | None, str]]:
    return [(line["verb"], line["target"], line["outcome"]) for line in lines]


async def test_each_change_is_a_line_with_its_outcome_and_reading_is_none(audited: Audit) -> None:
    worker = "/v1/workers/worker-00000001"
    await audited.call("POST", "/v1/workers", json={"profile": {"kind": "builtin", "value": "builtin:echo"}})
    for _ in range(2):
        await audited.call("POST", f"{worker}/input?", json={"kind": "user", "content": SECRET})
    for path in ("/v1/runtime", worker, f"{worker}/transcript", "/openapi.json"):
        assert await audited.call("GET", path) == 200
    await audited.call("POST", f"{worker}/stop", json={"reason": SECRET})
    await audited.call("DELETE", worker)

    lines = await audited.lines()

    assert told(lines) == [
        ("create", worker, "200"),
        ("input", f"{worker}/input", "200"),
        ("input", f"{worker}/input", "200"),
        ("stop", f"{worker}/stop", "200"),
        ("delete", worker, "204"),
    ]
    assert {(line["token"], line["role"], line["remote"]) for line in lines} == {("default", "admin", "127.0.0.1")}


async def test_changes_that_are_refused_are_lines_with_their_error(audited: Audit) -> None:
    assert await audited.call("DELETE", "/v1/workers/worker-0000ffff") == 404
    assert await audited.call("POST", "/v1/workers/x%0Ay/input", json={"kind": "user", "content": SECRET}) == 404
    assert await audited.call("DELETE", "/v1/tokens/..%2Fworkers%2F%C3%A9") == 404
    assert await audited.call("POST", "/v1/workers", data=SECRET, headers={"Content-Type": "application/json"}) == 400
    assert await audited.call("POST", "/v1/workers", data=SECRET) == 415
    assert await audited.call("POST", "/v1/workers/w/permissions/r", json={"option_id": SECRET}) == 404
    assert await audited.call("POST", "/v1/nothing", json={}) == 404
    assert await audited.call("GET", "/v1/workers/worker-0000ffff") == 404

    assert told(await audited.lines()) == [
        ("delete", "/v1/workers/worker-0000ffff", "404 worker_not_found"),
        ("input", "/v1/workers/x%0Ay/input", "404 worker_not_found"),
        ("tokens", "/v1/tokens/..%2Fworkers%2F%C3%A9", "404 token_not_found"),
        ("create", "/v1/workers", "400 invalid_json"),
        ("create", "/v1/workers", "415 unsupported_media_type"),
        ("answer", "/v1/workers/w/permissions/r", "404 worker_not_found"),
    ]


async def test_each_line_has_the_id_of_its_request(audited: Audit) -> None:
    given = {"X-Request-Id": "mine"}
    await audited.call("POST", "/v1/workers", json={}, headers=given)
    await audited.call("POST", "/v1/workers/worker-00000001/stop", json={}, headers=given)
    await audited.call("DELETE", "/v1/workers/worker-0000ffff", headers=given)
    await audited.call("POST", "/v1/workers", data=SECRET, headers=given)
    await audited.call("GET", "/v1/runtime", headers=WRONG | given)

    assert [line["request_id"] for line in await audited.lines()] == ["mine"] * 5


async def test_what_the_guard_refuses_is_a_line_without_a_token(audited: Audit) -> None:
    assert await audited.call("GET", "/v1/runtime", headers=WRONG) == 401
    assert await audited.call("POST", "/v1/workers", json={}, headers={"Origin": "http://x.example.org"}) == 403
    assert await audited.call("GET", "/v1/workers", headers={"Origin": "http://x.example.org"}) == 403
    assert await audited.call("DELETE", "/v1/workers/worker-00000001", headers={"Host": "x.example.org"}) == 421
    async with aiohttp.ClientSession() as nobody, nobody.get(f"{audited.served.url}/v1/elsewhere") as answer:
        assert answer.status == 401

    lines = await audited.lines()

    assert told(lines) == [
        ("read", "/v1/runtime", "401 unauthorized"),
        ("create", "/v1/workers", "403 forbidden_origin"),
        ("delete", "/v1/workers/{worker_id}", "421 misdirected_request"),
        (None, None, "401 unauthorized"),
    ]
    assert {(line["token"], line["role"]) for line in lines} == {(None, None)}


async def test_many_failed_authentications_are_a_few_lines_and_a_count(
    audited: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REFUSAL_WINDOW_S", 3_600.0)
    async with aiohttp.ClientSession() as nobody:
        for _ in range(25):
            async with nobody.get(f"{audited.served.url}/v1/runtime") as answer:
                assert answer.status == 401

    outcomes = [line["outcome"] for line in await audited.lines()]

    assert outcomes == ["401 unauthorized"] * audit.MAX_REFUSALS + [f"omitted {25 - audit.MAX_REFUSALS}"]


async def test_a_new_window_of_failed_authentications_has_lines_of_its_own(
    audited: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REFUSAL_WINDOW_S", 0.0)
    async with aiohttp.ClientSession() as nobody:
        for _ in range(audit.MAX_REFUSALS + 1):
            async with nobody.get(f"{audited.served.url}/v1/runtime") as answer:
                assert answer.status == 401
            await asyncio.sleep(0)

    outcomes = [line["outcome"] for line in await audited.lines()]

    assert outcomes == ["401 unauthorized"] * (audit.MAX_REFUSALS + 1)


async def test_what_the_role_or_the_tenant_of_a_token_refuses_is_a_line_with_its_name(audited: Audit) -> None:
    runtime = audited.served.runtime
    limits = {"acme": TenantLimits(max_creates_per_s=0.001), "slow": TenantLimits(max_requests_per_s=0.001)}
    runtime.quotas.reload(limits)
    watcher = (await runtime.create_token(CreateTokenRequest("watcher", "observer"))).secret
    maker = (await runtime.create_token(CreateTokenRequest("maker", "operator", "acme"))).secret
    hasty = (await runtime.create_token(CreateTokenRequest("hasty", "operator", "slow"))).secret

    for secret, statuses in ((watcher, [403]), (maker, [200, 429])):
        for status in statuses:
            assert await audited.call("POST", "/v1/workers", json={}, headers=bearer(secret)) == status
    assert await audited.call("GET", "/v1/tokens", headers=bearer(watcher)) == 403
    assert await audited.call("GET", "/v1/nothing", headers=bearer(hasty)) == 404
    for method, path in (("GET", "/v1/runtime"), ("POST", "/v1/workers/w/stop"), ("POST", "/v1/nothing")):
        assert await audited.call(method, path, headers=bearer(hasty)) == 429
    lines = await audited.lines()

    assert [(line["token"], line["role"]) for line in lines] == [
        ("watcher", "observer"),
        ("maker", "operator"),
        ("maker", "operator"),
        ("watcher", "observer"),
        ("hasty", "operator"),
    ]
    assert told(lines) == [
        ("create", "/v1/workers", "403 forbidden"),
        ("create", "/v1/workers/worker-00000001", "200"),
        ("create", "/v1/workers", "429 rate_limited"),
        ("tokens", "/v1/tokens", "403 forbidden"),
        ("stop", "/v1/workers/w/stop", "429 rate_limited"),
    ]


async def test_many_requests_that_a_token_may_not_send_are_a_few_lines_and_a_count_of_its_own(
    audited: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REFUSAL_WINDOW_S", 3_600.0)
    runtime = audited.served.runtime
    runtime.quotas.reload({"slow": TenantLimits(max_requests_per_s=0.001)})
    watcher = (await runtime.create_token(CreateTokenRequest("watcher", "observer"))).secret
    other = (await runtime.create_token(CreateTokenRequest("other", "observer"))).secret
    hasty = (await runtime.create_token(CreateTokenRequest("hasty", "operator", "slow"))).secret

    for _ in range(15):
        assert await audited.call("POST", "/v1/workers", json={}, headers=bearer(watcher)) == 403
    assert await audited.call("GET", "/v1/tokens", headers=bearer(other)) == 403
    assert await audited.call("GET", "/v1/runtime", headers=bearer(hasty)) == 200
    for method, count in (("GET", 12), ("DELETE", 12)):
        for _ in range(count):
            assert await audited.call(method, "/v1/workers/w", headers=bearer(hasty)) == 429
    lines = [(line["token"], line["role"], line["outcome"]) for line in await audited.lines()]

    most = audit.MAX_REFUSALS
    assert lines == [
        *[("watcher", "observer", "403 forbidden")] * most,
        ("other", "observer", "403 forbidden"),
        *[("hasty", "operator", "429 rate_limited")] * most,
        ("watcher", "observer", f"omitted {15 - most}"),
        ("hasty", "operator", f"omitted {12 - most}"),
    ]


async def test_a_token_is_named_when_it_is_made_and_revoked_and_while_its_requests_are_admitted(
    audited: Audit,
) -> None:
    new = {"name": "leaver", "role": "operator"}
    async with audited.served.client.post(f"{audited.served.url}/v1/tokens", json=new) as answer:
        secret = (await answer.json())["secret"]

    async def body() -> AsyncIterator[bytes]:
        """A body that is sent once the server has admitted its request; the token has ended by then."""
        assert await audited.call("DELETE", "/v1/tokens/leaver") == 204
        yield b"{}"

    late: dict[str, Any] = {"data": body(), "expect100": True}
    headers = bearer(secret) | {"Content-Type": "application/json"}
    assert await audited.call("POST", "/v1/workers", json={}, headers=headers) == 200
    assert await audited.call("POST", "/v1/workers", headers=headers, **late) == 401
    assert await audited.call("POST", "/v1/workers", json={}, headers=headers) == 401
    lines = await audited.lines()

    assert [line["token"] for line in lines] == ["default", "leaver", "default", "leaver", None]
    assert told(lines) == [
        ("tokens", "/v1/tokens/leaver", "200"),
        ("create", "/v1/workers/worker-00000001", "200"),
        ("tokens", "/v1/tokens/leaver", "204"),
        ("create", "/v1/workers", "401 unauthorized"),
        ("create", "/v1/workers", "401 unauthorized"),
    ]
    assert secret not in audited.text()
