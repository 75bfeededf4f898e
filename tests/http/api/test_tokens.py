"""Tokens: what each role may do, who may make which, and what ends with a token."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
from aiohttp import WSCloseCode, WSMsgType

from runtimed.core import Runtime
from runtimed.http import Api
from runtimed.http.app import NOUNS
from runtimed.http.web import guard
from runtimed.http.web.guard import Guard
from runtimed.model.principal import Principal, Role
from runtimed.model.token import CreateTokenRequest
from tests.http.conftest import BEARER, TOKEN, Served, serving

DEADLINE_S = 20
TOKENS = "/v1/tokens"
ROLES: tuple[Role, ...] = ("observer", "operator", "admin", "node")
IN_PATH = re.compile(r"\{\w+\}")

Answer = tuple[int, Any]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def ask(served: Served, method: str, path: str, secret: str = TOKEN, body: object = None) -> Answer:
    """The status and the body of an answer, None without one."""
    async with served.client.request(method, f"{served.url}{path}", headers=bearer(secret), json=body) as answer:
        return answer.status, await answer.json() if answer.content_type == "application/json" else None


async def make(served: Served, name: str, role: Role, by: str = TOKEN, **fields: Any) -> str:
    """The secret of a new token."""
    status, body = await ask(served, "POST", TOKENS, by, {"name": name, "role": role, **fields})
    assert status == 200, body
    return str(body["secret"])


async def code_of(asking: Awaitable[Answer]) -> tuple[int, str]:
    """The status and the code of an error."""
    status, body = await asking
    return status, body["error"]["code"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer thousands of wrong tokens at once."""
    monkeypatch.setattr(guard, "FREE_GUESSES", 10_000)


@attrs.frozen
class Operation:
    """A route as the OpenAPI document has it; an empty set of roles leaves it open to everybody."""

    method: str
    path: str
    roles: frozenset[str]
    body: bool

    @property
    def url(self) -> str:
        return IN_PATH.sub("nowhere", self.path)


def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        Operation(
            method.upper(),
            path,
            frozenset(role for choice in operation["security"] for role in choice["token"]),
            "requestBody" in operation,
        )
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def expired(served: Served, runtime: Runtime) -> str:
    """The secret of a token that has expired."""
    secret = await make(served, "expired", "admin", expires_in_s=1)
    await until(lambda: runtime.authenticate(secret) is None)
    return secret


async def revoked(served: Served) -> str:
    """The secret of a token that was revoked."""
    secret = await make(served, "revoked", "admin")
    assert (await ask(served, "DELETE", f"{TOKENS}/revoked"))[0] == 204
    return secret


@pytest.mark.usefixtures("unthrottled", "quick")
async def test_each_route_admits_the_roles_that_openapi_names_and_no_invalid_token(runtime: Runtime) -> None:
    async with serving(runtime) as served:
        _, document = await ask(served, "GET", "/openapi.json")
        valid = {role: await make(served, role, role) for role in ROLES} | {"first": TOKEN}
        invalid = {"wrong": "x" * 43, "expired": await expired(served, runtime), "revoked": await revoked(served)}
        found, expected = {}, {}
        for operation in operations(document):
            body = "{" if operation.body else None  # no route is carried out with half a body
            for name, secret in (valid | invalid | {"none": ""}).items():
                headers = bearer(secret) if secret else {"Authorization": ""}
                key = (operation.method, operation.path, name)
                url = f"{served.url}{operation.url}"
                async with served.client.request(operation.method, url, headers=headers, data=body) as answer:
                    is_error = answer.status in {401, 403}
                    found[key] = (answer.status, (await answer.json())["error"]["code"]) if is_error else "admitted"
                expected[key] = expected_answer(operation, name)

    assert found == expected
    assert len({key[:2] for key in found}) >= 30


def expected_answer(operation: Operation, name: str) -> str | tuple[int, str]:
    role = "admin" if name == "first" else name
    if not operation.roles or role in operation.roles:
        return "admitted"
    return (403, "forbidden") if role in ROLES else (401, "unauthorized")


def test_operators_act_and_admins_delete_and_rule() -> None:
    routes = [route for noun in NOUNS for route in noun.routes]
    lowest = {
        (route.method, route.path): next(
            role for role in ROLES if route.verb is not None and Principal("x", role).refusal(route.verb) is None
        )
        for route in routes
    }
    admins = {path for path, role in lowest.items() if role == "admin"}
    operators = {path for path, role in lowest.items() if role == "operator"}

    assert admins >= {
        ("POST", "/v1/config-bundles"),
        ("DELETE", "/v1/workers/{worker_id}"),
        ("GET", "/v1/runtime/check"),
        ("POST", "/v1/runtime/drain"),
        ("GET", TOKENS),
        ("POST", TOKENS),
        ("DELETE", f"{TOKENS}/{{name}}"),
    }
    assert operators == {
        *((method, path) for method, path in lowest if method == "POST" and (method, path) not in admins),
        ("GET", "/v1/workers/{worker_id}/wait"),
    }
    assert {method for method, path in lowest if lowest[method, path] == "observer"} == {"GET"}


async def test_a_wrong_role_is_refused_before_the_body_is_read(served: Served) -> None:
    secret = await make(served, "watcher", "observer")
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head("POST /v1/workers", served, secret, "Content-Type: application/json", "Content-Length: 100000"))

    status, _ = await response(reader)

    assert status == 403
    writer.close()


def head(line: str, served: Served, secret: str, *headers: str) -> bytes:
    lines = [
        f"{line} HTTP/1.1",
        f"Host: 127.0.0.1:{served.port}",
        f"Authorization: Bearer {secret}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


async def response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of the next response on a connection."""
    async with asyncio.timeout(DEADLINE_S):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next((line for line in lines if line.startswith("content-length:")), "content-length: 0")
        return int(lines[0].split()[1]), await reader.readexactly(int(length.partition(":")[2]))


async def test_a_token_is_shown_without_its_secret_ever_after(served: Served) -> None:
    request = {"name": "ci", "role": "operator", "tenant": "acme", "labels": {"team": "a"}, "expires_in_s": 3600}
    status, made = await ask(served, "POST", TOKENS, body=request)
    _, listed = await ask(served, "GET", TOKENS)

    created = made["token"]["created_at_ms"]
    token = {name: request[name] for name in ("name", "role", "tenant", "labels")}
    token |= {"created_at_ms": created, "expires_at_ms": created + 3_600_000, "created_by": "token:default"}
    assert (status, made) == (200, {"token": token, "secret": made["secret"]})
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", made["secret"])
    assert listed == {"tokens": [{"name": "default", "role": "admin"}, token]}


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"name": ""}, "invalid_request", "name: expected 1 to 63 characters"),
        ({"name": "a" * 64}, "invalid_request", "name: expected 1 to 63 characters"),
        ({"name": "-a"}, "invalid_request", "name: expected 1 to 63 characters"),
        ({"name": "a/b"}, "invalid_request", "name: expected 1 to 63 characters"),
        ({"name": "default"}, "invalid_request", "name: default is the name of the first token"),
        ({"name": "anonymous"}, "invalid_request", "name: anonymous is the name of clients without a token"),
        ({"role": "root"}, "invalid_json", "role: expected one of observer, operator, admin, node"),
        ({"tenant": "a b"}, "invalid_request", "tenant: expected 1 to 63 characters"),
        ({"labels": {"": "x"}}, "invalid_request", "labels: expected keys"),
        ({"expires_in_s": 0}, "invalid_request", "expires_in_s: expected 1 to 315360000"),
        ({"expires_in_s": 10**9}, "invalid_request", "expires_in_s: expected 1 to 315360000"),
        ({"expires_in_s": "1d"}, "invalid_json", "expires_in_s: expected"),
        ({"role": "node", "tenant": "acme"}, "invalid_request", "role: a node serves all tenants"),
        ({"secret": "x" * 43}, "invalid_json", "secret: unknown field"),
    ],
)
async def test_a_token_that_breaks_a_rule_is_not_made(
    served: Served, fields: dict[str, Any], code: str, message: str
) -> None:
    status, body = await ask(served, "POST", TOKENS, body={"name": "ci", "role": "observer", **fields})

    assert (status, body["error"]["code"]) == (400, code)
    assert body["error"]["message"].startswith(message)
    assert served.runtime.tokens()[1:] == ()


async def test_the_first_token_cannot_be_revoked_and_a_name_is_given_once(served: Served) -> None:
    await make(served, "ci", "operator")

    assert await code_of(ask(served, "DELETE", f"{TOKENS}/default")) == (400, "invalid_request")
    assert await code_of(ask(served, "DELETE", f"{TOKENS}/nobody")) == (404, "token_not_found")
    again = {"name": "ci", "role": "observer"}
    assert await code_of(ask(served, "POST", TOKENS, body=again)) == (409, "token_exists")
    assert (await ask(served, "GET", "/v1/runtime"))[0] == 200


async def test_the_admin_of_a_tenant_sees_makes_and_revokes_tokens_of_that_tenant_alone(served: Served) -> None:
    ours = await make(served, "ours-admin", "admin", tenant="ours")
    theirs = await make(served, "theirs-admin", "admin", tenant="theirs")
    await make(served, "theirs", "observer", by=theirs, tenant="theirs")
    await make(served, "ours", "operator", by=ours, tenant="ours")
    await make(served, "everywhere", "observer")
    refused: list[dict[str, Any]] = [
        {"name": "x", "role": "observer", "tenant": "theirs"},
        {"name": "x", "role": "observer"},
        {"name": "x", "role": "node"},
    ]

    assert [await code_of(ask(served, "POST", TOKENS, ours, body)) for body in refused] == [(403, "forbidden")] * 3
    _, body = await ask(served, "GET", TOKENS, ours)
    assert [token["name"] for token in body["tokens"]] == ["ours", "ours-admin"]
    absent = await ask(served, "DELETE", f"{TOKENS}/absent", ours)
    for name in ("theirs", "theirs-admin", "everywhere", "default"):
        status, answer = await ask(served, "DELETE", f"{TOKENS}/{name}", ours)
        same = str(answer).replace(name, "absent")
        assert (status, same) == (absent[0], str(absent[1]))
    assert (await ask(served, "DELETE", f"{TOKENS}/ours", ours))[0] == 204
    assert [token.name for token in served.runtime.tokens()] == [
        "default",
        "everywhere",
        "ours-admin",
        "theirs",
        "theirs-admin",
    ]


async def test_an_admin_with_labels_makes_no_token_with_fewer_labels(served: Served) -> None:
    secret = await make(served, "team-a", "admin", labels={"team": "a"})
    await make(served, "all", "observer")

    for labels in ({}, {"team": "b"}, {"stage": "test"}):
        body = {"name": "x", "role": "observer", "labels": labels}
        assert await code_of(ask(served, "POST", TOKENS, secret, body)) == (403, "forbidden")
    await make(served, "narrow", "observer", by=secret, labels={"team": "a", "stage": "test"})
    assert await code_of(ask(served, "DELETE", f"{TOKENS}/all", secret)) == (404, "token_not_found")
    assert await code_of(ask(served, "GET", "/v1/runtime/check", secret)) == (403, "forbidden")


@pytest.mark.parametrize("verb", ["check", "drain", "backup", "metrics"])
def test_what_concerns_all_tenants_is_not_for_a_token_of_one(verb: Any) -> None:
    assert Principal("x", "admin").refusal(verb) is None
    assert "without a tenant" in (Principal("x", "admin", "acme").refusal(verb) or "")
    assert Principal("x", "node").refusal(verb) is not None


async def end_by_revocation(served: Served, _secret: str) -> None:
    assert (await ask(served, "DELETE", f"{TOKENS}/short"))[0] == 204


async def end_by_expiry(served: Served, _secret: str) -> None:
    await until(lambda: served.server.api.guard.generation > 0)


async def end_by_replacement(served: Served, _secret: str) -> None:
    assert isinstance(served.server.api, Api)
    served.server.api.replace_token("another-token-of-these-tests")


@pytest.mark.parametrize("end", [end_by_revocation, end_by_expiry, end_by_replacement])
async def test_what_a_token_has_open_ends_with_it_and_what_others_have_goes_on(
    served: Served, end: Callable[[Served, str], Awaitable[None]]
) -> None:
    worker_id = (await ask(served, "POST", "/v1/workers", body={}))[1]["worker"]["worker_id"]
    other = await make(served, "other", "operator")
    secret = TOKEN
    if end is not end_by_replacement:
        life: dict[str, Any] = {"expires_in_s": 2} if end is end_by_expiry else {}
        secret = await make(served, "short", "operator", **life)
    feed, events = f"{served.url}/v1/workers/{worker_id}/events/ws", f"{served.url}/v1/events"
    sockets = [await served.client.ws_connect(feed, headers=bearer(one)) for one in (secret, other)]
    sse = {**bearer(secret), "Accept": "text/event-stream"}
    stream = await served.client.get(events, headers=sse)
    wait = asyncio.ensure_future(ask(served, "GET", f"/v1/workers/{worker_id}/wait?for=busy", secret))
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    again = head("GET /v1/runtime", served, secret)
    for _ in range(2):
        writer.write(again)
        assert (await response(reader))[0] == 200
    await sockets[0].receive()

    await end(served, secret)

    writer.write(again)
    assert (await response(reader))[0] == 401
    async with asyncio.timeout(DEADLINE_S):
        assert (await sockets[0].receive()).type is WSMsgType.CLOSE
        assert sockets[0].close_code == WSCloseCode.POLICY_VIOLATION
        await stream.content.read()
        assert await code_of(wait) == (401, "unauthorized")
    with pytest.raises(Exception, match="401"):
        await served.client.ws_connect(feed, headers=bearer(secret))
    assert (await ask(served, "POST", f"/v1/workers/{worker_id}/input", other, {"kind": "user", "content": "x"}))[
        0
    ] == 200
    names = []
    async with asyncio.timeout(DEADLINE_S):
        while "run_end" not in names:
            names.append((await sockets[1].receive_json())["envelope"]["payload"]["event"])
    await sockets[1].close()
    writer.close()


async def test_a_request_whose_token_is_revoked_while_its_body_arrives_is_not_carried_out(served: Served) -> None:
    secret = await make(served, "short", "admin")
    body = b'{"name":"survivor","role":"admin"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Expect: 100-continue")
    writer.write(head(f"POST {TOKENS}", served, secret, *lines))
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    await end_by_revocation(served, secret)
    writer.write(body)

    assert (await response(reader))[0] == 401
    assert [token.name for token in served.runtime.tokens()] == ["default"]
    writer.close()


async def test_the_first_token_may_be_replaced_while_requests_are_served(served: Served) -> None:
    assert isinstance(served.server.api, Api)
    other = "another-token-of-these-tests"
    await ask(served, "GET", "/v1/runtime")

    served.server.api.replace_token(other)

    assert (await ask(served, "GET", "/v1/runtime", other))[0] == 200
    assert (await ask(served, "GET", "/v1/runtime", BEARER["Authorization"].split()[1]))[0] == 401


async def test_a_command_of_a_token_is_logged_with_its_name(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    secret = await make(served, "ci", "operator")
    with caplog.at_level("DEBUG", "runtimed.core"):
        await ask(served, "POST", "/v1/workers", secret, {})

    assert [vars(record)["principal"] for record in caplog.records if record.message == "command"] == ["ci"]


async def test_a_runtime_event_names_the_token_of_the_client_that_asked_for_it(served: Served) -> None:
    secret = await make(served, "ci", "operator")
    request = {"initial_input": {"kind": "user", "content": "first"}}
    worker_id = (await ask(served, "POST", "/v1/workers", secret, request))[1]["worker"]["worker_id"]
    message = {"kind": "user", "content": "second", "when_busy": "queue"}
    await ask(served, "POST", f"/v1/workers/{worker_id}/input", body=message)
    await ask(served, "POST", f"/v1/workers/{worker_id}/stop", secret)

    _, page = await ask(served, "GET", "/v1/runtime/events")

    assert [(event["kind"], event.get("by")) for event in page["events"]] == [
        ("runtime_started", None),
        ("worker_created", "token:ci"),
        ("worker_input_accepted", "token:ci"),
        ("worker_input_accepted", "token:default"),
        ("worker_stopped", "token:ci"),
    ]


def test_a_guard_without_other_tokens_admits_the_first_one_alone() -> None:
    assert guard.find_nobody("x" * 43) is None
    assert Guard(TOKEN).generation == 0


async def test_an_embedded_runtime_knows_the_clients_of_its_tokens(runtime: Runtime) -> None:
    made = await runtime.create_token(CreateTokenRequest("ci", "observer", "acme", {"b": "2", "a": "1"}))

    assert runtime.authenticate(made.secret) == Principal("ci", "observer", "acme", (("a", "1"), ("b", "2")))
    assert runtime.authenticate(made.secret[:-1]) is None
    assert made.secret not in repr(made)
