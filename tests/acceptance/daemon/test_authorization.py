"""Contract section 4: no token, no answer; and a token shows up nowhere."""

import contextlib
import http.client
import re
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.acceptance.daemon.conftest import EACH_TRANSPORT, Answer, Daemon, Launch, Until, shared_daemon
from tests.certificates import Authority

ROUTES = [
    ("GET", "/v1/runtime"),
    ("POST", "/v1/runtime/drain"),
    ("GET", "/v1/config-bundles"),
    ("POST", "/v1/config-bundles"),
    ("GET", f"/v1/config-bundles/b/availability?digest={'0' * 64}"),
    ("GET", "/v1/workers"),
    ("POST", "/v1/workers"),
    ("GET", "/v1/workers/worker-00000001"),
    ("POST", "/v1/workers/worker-00000001/input"),
    ("POST", "/v1/workers/worker-00000001/stop"),
    ("POST", "/v1/workers/worker-00000001/cancel"),
    ("GET", "/v1/workers/worker-00000001/transcript"),
    ("GET", "/v1/workers/worker-00000001/events/ws"),
    ("GET", "/v1/workers/not-an-id"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/nowhere"),
    ("DELETE", "/v1/runtime"),
    ("OPTIONS", "/v1/workers"),
]
UPGRADE = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + "A" * 22 + "==",
]
WRONG = {
    "none": [],
    "another token": ["Authorization: Bearer {}x"],
    "half of it": ["Authorization: Bearer {:.10}"],
    "an empty one": ["Authorization: Bearer "],
    "no scheme": ["Authorization: {}"],
    "another scheme": ["Authorization: Basic {}"],
    "a scheme alone": ["Authorization: Bearer"],
    "something behind it": ["Authorization: Bearer {} x"],
    "bytes that are no text": ["Authorization: Bearer \xff\xfe"],
    "a long one": ["Authorization: Bearer " + "x" * 4_000],
    "another header": ["X-Token: {}"],
}


GUESSES, FREE_GUESSES = 60, 10
THROTTLED_S = 1 + (GUESSES - FREE_GUESSES - 1) / 40
"""The least time until the last of these guesses is answered."""


@pytest.fixture(params=EACH_TRANSPORT)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    yield from shared_daemon(request)


@pytest.fixture(params=["fs", "tls", "unix"])
def guarded(request: pytest.FixtureRequest, launch: Launch, tmp_path: Path, authority: Authority) -> Daemon:
    """A daemon with a Worker; wrong tokens are slowed down, so tests of them share none."""
    store = f"fs:{tmp_path / 'store'}" if request.param == "fs" else "memory"
    listen = ("--listen", f"unix:{tmp_path / 's'}") if request.param == "unix" else ()
    given = {"authority": authority} if request.param == "tls" else {}
    daemon = launch("--log-level", "debug", *listen, store=store, **given).ready()
    daemon.create()
    return daemon


def _all(daemon: Daemon, requests: list[Any]) -> list[Answer]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda one: daemon.call(*one, token=None), requests))


def test_every_route_and_every_other_path_wants_a_token(guarded: Daemon) -> None:
    with guarded.unchanged():
        for answer in _all(
            guarded, [(method, path, None, UPGRADE if "/ws" in path else []) for method, path in ROUTES]
        ):
            assert "Bearer" in answer.refused(401, "unauthorized")


def test_anything_but_the_token_is_unauthorized(guarded: Daemon) -> None:
    headers = [[line.format(guarded.token) for line in lines] for lines in WRONG.values()]
    with guarded.unchanged():
        for answer in _all(guarded, [("POST", "/v1/workers", None, lines) for lines in headers]):
            assert guarded.token not in answer.refused(401, "unauthorized")
    assert guarded.token not in guarded.errors
    assert "x" * 100 not in guarded.errors


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEARER"])
def test_the_scheme_is_taken_in_any_case(daemon: Daemon, scheme: str) -> None:
    answer = daemon.curl("GET", "/v1/runtime", None, [f"Authorization: {scheme} {daemon.token}"], token=None)
    answer.ok("runtime")


def test_a_request_without_the_token_is_refused_before_its_body_is_read(daemon: Daemon) -> None:
    lines = ["POST /v1/workers HTTP/1.1", f"Host: {daemon.host}", "Content-Type: application/json"]
    lines += ["Content-Length: 1000000", "", ""]
    daemon.raw_answer("\r\n".join(lines).encode()).refused(401, "unauthorized")


def test_a_wrong_body_without_the_token_is_unauthorized_all_the_same(daemon: Daemon) -> None:
    for body, content_type in ((b"{", "application/json"), (b"{}", "text/plain")):
        answer = daemon.curl("POST", "/v1/workers", body, token=None, content_type=content_type)
        answer.refused(401, "unauthorized")


def test_a_token_in_a_query_opens_nothing_and_is_never_logged(guarded: Daemon) -> None:
    for name in ("token", "access_token", "authorization"):
        path = f"/v1/runtime?{name}={guarded.token}"
        guarded.curl("GET", path, token=None).refused(401, "unauthorized")
        assert guarded.token not in guarded.curl("GET", path).refused(400, "invalid_query")
        feed = f"/v1/workers/worker-00000001/events/ws?{name}={guarded.token}"
        guarded.curl("GET", feed, None, UPGRADE, token=None).refused(401, "unauthorized")
        guarded.curl("GET", feed, None, UPGRADE).refused(400, "invalid_query")
    guarded.stop()
    assert guarded.token not in guarded.errors
    assert guarded.token not in guarded.output


def test_the_socket_wants_the_token_too(guarded: Daemon) -> None:
    for header in ("", "Bearer wrong", f"Basic {guarded.token}"):
        with (
            pytest.raises(InvalidStatus) as refused,
            guarded.observe("worker-00000001", headers={"Authorization": header}),
        ):
            pass
        assert refused.value.response.status_code == 401
        assert b"unauthorized" in refused.value.response.body


def test_wrong_tokens_are_throttled_and_the_right_one_is_not(guarded: Daemon, until: Until) -> None:
    if guarded.authority:
        pytest.skip("session tickets make a TLS socket readable; tests/http/server looks at TLS")
    until(lambda: _right_one_comes_first(guarded))  # again if this process was held up in between


def _right_one_comes_first(daemon: Daemon) -> bool:
    """Guess, and ask with the right token: whether its answer was there before those to all guesses."""
    wrong = f"GET /v1/runtime HTTP/1.1\r\nHost: {daemon.host}\r\nAuthorization: Bearer wrong\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        guesses = [stack.enter_context(daemon.dial()) for _ in range(GUESSES)]
        began = time.monotonic()
        for guess in guesses:
            guess.sendall(wrong)
        daemon.runtime()
        answered, _, _ = select.select(guesses, [], [], 0)
        for guess in guesses:
            response = http.client.HTTPResponse(guess)
            response.begin()
            assert response.status == 401
            response.close()
        assert time.monotonic() - began >= THROTTLED_S
        return len(answered) < GUESSES


def test_the_token_of_the_environment_is_the_token(launch: Launch) -> None:
    token = "of-the-environment-0123456789abcdef"
    daemon = launch(env={"RUNTIMED_TOKEN": token}).ready()
    daemon.curl("GET", "/v1/runtime", None, [f"Authorization: Bearer {token}"], token=None).ok("runtime")
    daemon.curl("GET", "/v1/runtime", None, ["Authorization: Bearer other"], token=None).refused(401, "unauthorized")


def test_the_token_of_a_file_is_the_token(launch: Launch, tmp_path: Path) -> None:
    token = "of-a-file-0123456789abcdef"
    path = tmp_path / "secret"
    path.write_text(f"{token}\n")
    path.chmod(0o600)
    daemon = launch("--token-file", str(path)).ready()
    daemon.curl("GET", "/v1/runtime", None, [f"Authorization: Bearer {token}"], token=None).ok("runtime")


def test_a_made_up_token_is_another_one_for_each_daemon_and_256_bits_long(
    memory_daemon: Daemon, fs_daemon: Daemon
) -> None:
    first, other = memory_daemon, fs_daemon
    assert first.token != other.token
    for token in (first.token, other.token):
        assert len(token) >= (64 if re.fullmatch("[0-9a-f]+", token) else 43)


def test_a_token_file_that_others_may_touch_is_refused(launch: Launch, tmp_path: Path) -> None:
    made = []
    for mode in (0o644, 0o640, 0o602):
        path = tmp_path / f"secret-{mode}"
        path.write_text("of-a-file-0123456789abcdef\n")
        path.chmod(mode)
        made.append(launch("--token-file", str(path)))
    for daemon in made:
        assert daemon.ended() == 2
        assert re.fullmatch(r"runtimed: token_file: .*600.*\n", daemon.errors)


def test_a_token_file_without_a_token_is_refused(launch: Launch, tmp_path: Path) -> None:
    made = [launch("--token-file", str(tmp_path / "nowhere"))]
    for name, content in (("blank", "\n"), ("two", "one two\n")):
        path = tmp_path / name
        path.write_text(content)
        path.chmod(0o600)
        made.append(launch("--token-file", str(path)))
    for daemon in made:
        assert daemon.ended() == 2
        assert re.fullmatch(r"runtimed: token_file: .*\n", daemon.errors)


def test_a_folder_in_place_of_a_token_file_is_refused(launch: Launch, tmp_path: Path) -> None:
    daemon = launch("--token-file", str(tmp_path))
    assert daemon.ended() == 2
    assert re.fullmatch(r"runtimed: token_file: .*\n", daemon.errors)
