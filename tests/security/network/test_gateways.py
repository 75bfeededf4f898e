"""What a Worker does through its gateways, and that it never has the real key."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.remotes import Remotes, git
from tests.security.conftest import PYTHON, USERS, Mechanism, User, each_mechanism, each_mechanism_once, each_user
from tests.security.network.conftest import GIT_PASSWORD, REAL_KEY, FindOnline, OnlineSite, share_sites
from tests.security.network.upstream import LARGE, Upstream

pytestmark = share_sites

MAX_GROWTH_KIB = 48 * 1024
"""How much memory the daemon may take while 100 MB pass in each direction."""


Ask = tuple[str, str, Mapping[str, str], str]
Answer = tuple[int, str, dict[str, str], str]


def use(site: OnlineSite, *arguments: str, worker_id: str | None = None) -> Any:
    """Return the outcome of `programs/gateway.py`, run by a Worker."""
    command = (PYTHON, str(site.place.shared / "gateway.py"), *arguments)
    output = site.run("shell", *command, worker_id=worker_id or site.of("keyed"))
    found = re.search(r"^PROBED (.*)$", output, re.MULTILINE)
    assert found, output
    return json.loads(found[1])


def ask(
    site: OnlineSite,
    *targets: str,
    name: str = "MODELS",
    headers: Mapping[str, str] | None = None,
    body: str = "",
    worker_id: str | None = None,
) -> Sequence[Answer]:
    """Return the answers of a gateway to requests, each given as `METHOD TARGET`."""
    requests: list[Ask] = [(*_parted(target), headers or {}, body) for target in targets]
    return [(*answer,) for answer in use(site, "ask", name, json.dumps(requests), worker_id=worker_id)]


def _parted(target: str) -> tuple[str, str]:
    method, _, path = target.partition(" ")
    return method, path


def code(answer: Answer) -> tuple[int, str]:
    """Return the status and the code of a refusal by the gateway itself."""
    return answer[0], json.loads(answer[3])["error"]["code"]


@each_mechanism_once
def test_the_service_sees_the_real_key_and_the_worker_a_throwaway_one(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    upstream.seen.clear()

    [answer] = ask(site, "POST /answers?a=b&a=%2F", body='{"text": 1}', headers={"X-Other": "kept"})

    assert (answer[0], json.loads(answer[3])) == (200, {"body": '{"text": 1}'})
    [(line, headers)] = upstream.seen
    assert line == "POST /v1/answers?a=b&a=%2F"
    assert headers.getall("Authorization") == [f"Bearer {REAL_KEY}"]
    assert headers["X-Other"] == "kept"


@each_user
@each_mechanism
def test_the_real_key_is_nowhere_that_a_worker_can_look(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    worker_id = site.new("keyed")
    failures = ("GET /errors/401", "GET /errors/500", "GET /echo", "DELETE /answers", "GET /errors/%2e%2e")

    answers = ask(site, *failures, worker_id=worker_id)
    answers = [*answers, *ask(site, "GET /any", name="LOST", worker_id=worker_id)]
    found = use(site, "hunt", REAL_KEY[::-1], *places(site), worker_id=worker_id)

    assert found == []
    assert [answer[0] for answer in answers] == [401, 500, 200, 403, 400, 502]
    assert REAL_KEY not in json.dumps(answers)
    assert REAL_KEY not in json.dumps([site.daemon.log(worker_id), site.daemon.worker(worker_id)])
    assert REAL_KEY not in site.daemon.errors
    stored = [path for path in site.place.store.rglob("*") if path.is_file()]
    assert stored
    assert [path for path in stored if REAL_KEY.encode() in path.read_bytes()] == []


@each_user
def test_the_same_search_finds_the_key_without_a_sandbox(find_online: FindOnline, user: User) -> None:
    site = find_online(user, "none")

    found = use(site, "hunt", REAL_KEY[::-1], *places(site), worker_id=site.of("closed"))

    assert str(site.place.home / "models.key") in found


def places(site: OnlineSite) -> Sequence[str]:
    """Return the folders in which a key could be found."""
    return (*map(str, site.place.own), "/run/secrets", "/etc", ".", "/dev/shm")


@each_mechanism
def test_a_service_that_sends_the_key_back_in_a_header_does_not_give_it_away(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)

    [(status, reason, headers, _)] = ask(site, "GET /echo")
    key = site.run("shell", "printenv", "MODELS_KEY", worker_id=site.of("keyed")).strip()

    assert (status, reason, headers["X-Shown"]) == (200, f"for Bearer {key}", f"Bearer {key}")
    assert "Set-Cookie" not in headers


@each_mechanism
def test_the_events_of_a_stream_arrive_one_by_one(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism
) -> None:
    assert use(find_online(USERS[0], mechanism), "stream", "MODELS") == ["one", "two", "three"]


@each_mechanism
def test_100_mb_pass_both_ways_and_are_not_held_in_memory(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)
    process = Path(f"/proc/{site.daemon.pid}")
    (process / "clear_refs").write_text("5")  # the peak begins anew
    before = resident_kib(process, "VmRSS")

    taken, sent, got = use(site, "transfer", "MODELS", str(LARGE))

    assert taken == sent
    assert (sent["size"], got["size"]) == (LARGE, LARGE)
    assert got["digest"] == upstream.digest
    assert resident_kib(process, "VmHWM") - before < MAX_GROWTH_KIB


def resident_kib(process: Path, name: str) -> int:
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@each_mechanism
def test_only_the_listed_requests_pass_however_they_are_written(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism
) -> None:
    site = find_online(USERS[0], mechanism)
    upstream.seen.clear()
    unlisted = ("DELETE /answers", "GET /answers", "POST /answers/", "POST /Answers", "POST /", "GET /files")
    two_readings = (
        "GET /errors/../answers",
        "GET /errors/%2e%2e/answers",
        "GET /errors/.%2E/answers",
        "GET /errors/./500",
        "GET //errors/500",
        "GET /errors//500",
        "GET /errors/..%2fanswers",
        "GET /errors%2f500",
        "GET /errors/%5c500",
        "GET /errors/%252e%252e/answers",
        "GET /errors/..;/answers",
        "GET /errors/%00",
        "GET /errors/%ff",
        "GET http://45.0.0.2:9000/v1/errors/500",
        "POST answers",
        "post /answers",
        "POST /answers#/errors",
    )

    refused = ask(site, *unlisted, *two_readings)
    passed = ask(site, "GET /errors/500?path=/../answers&x=%2e%2e//", "POST /%61nswers")

    assert {answer[0] for answer in refused} <= {400, 403}, refused
    assert [code(answer) for answer in refused[: len(unlisted)]] == [(403, "forbidden")] * len(unlisted)
    assert [answer[0] for answer in passed] == [500, 200]
    assert [line for line, _ in upstream.seen] == [
        "GET /v1/errors/500?path=/../answers&x=%2e%2e//",
        "POST /v1/answers",
    ]


@each_mechanism
def test_errors_of_the_service_are_passed_on(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism
) -> None:
    answers = ask(find_online(USERS[0], mechanism), "GET /errors/400", "GET /errors/429", "GET /errors/503")

    assert [(status, headers["Retry-After"], body) for status, _, headers, body in answers] == [
        (400, "7", "the reason"),
        (429, "7", "the reason"),
        (503, "7", "the reason"),
    ]


@each_mechanism
def test_time_and_sizes_have_limits(find_online: FindOnline, upstream: Upstream, mechanism: Mechanism) -> None:
    site = find_online(USERS[0], mechanism)

    [silent, large] = ask(site, "GET /silent", "GET /files/large", name="NARROW")
    [too_large] = ask(site, "POST /answers", name="NARROW", body="a" * 1001)
    [fits] = ask(site, "POST /answers", name="NARROW", body="a" * 900)
    [lost] = ask(site, "GET /any", name="LOST")

    assert code(silent) == (504, "upstream_timeout")
    assert code(large) == (502, "response_too_large")
    assert code(too_large) == (413, "request_too_large")
    assert fits[0] == 200
    assert code(lost) == (502, "upstream_failed")


@each_mechanism_once
def test_no_other_key_opens_a_gateway(
    find_online: FindOnline, upstream: Upstream, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    other, worker_id = site.new("keyed"), site.new("keyed")
    other_key, narrow_key = site.run("shell", "printenv", "MODELS_KEY", "NARROW_KEY", worker_id=other).split()
    own_key = site.run("shell", "printenv", "MODELS_KEY", worker_id=worker_id).strip()
    upstream.seen.clear()

    wrong = (other_key, narrow_key, "", own_key[:-1], f"{own_key}x")
    refused = [
        ask(site, "POST /answers", headers={"Authorization": f"Bearer {key}"}, worker_id=worker_id)[0]
        for key in wrong
    ]
    [passed] = ask(site, "POST /answers", worker_id=worker_id)

    assert [code(answer) for answer in refused] == [(401, "unauthorized")] * len(wrong)
    assert passed[0] == 200
    assert len(upstream.seen) == 1


@each_user
def test_behind_the_end_of_a_worker_its_key_opens_nothing(
    find_online: FindOnline, upstream: Upstream, user: User
) -> None:
    site = find_online(user, "landlock")
    worker_id = site.new("keyed")
    url, key = site.run("shell", "printenv", "MODELS_URL", "MODELS_KEY", worker_id=worker_id).split()
    port = int(url.rpartition(":")[2])
    request = f"POST /answers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 0\r\n\r\n"

    before = site.internet.exchange(port, request.encode(), b"}")
    site.daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")

    assert before.startswith(b"HTTP/1.1 200 ")
    with pytest.raises(ConnectionRefusedError):
        site.internet.exchange(port, request.encode(), b"}")


@each_mechanism_once
def test_git_fetches_and_pushes_as_its_policies_say(
    find_online: FindOnline, remotes: Remotes, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    worker_id = site.new("closed", git_policy="git:fetched git:pushed")
    branch = f"made-{os.urandom(4).hex()}"
    script = f"""
        export GIT_TERMINAL_PROMPT=0
        git config --global user.name worker && git config --global user.email worker@example.org
        for name in fetched pushed; do
            git clone -q {remotes.url}/$name/app.git $name && cd $name && git checkout -q -b {branch}
            head -c 3000000 /dev/urandom >large && git add large && git commit -q -m 'of the worker'
            git push -q origin {branch} 2>&1 && echo "pushed to $name"
            cd ..
        done
        git clone -q {remotes.url}/other/app.git 2>&1 || echo "no clone of other"
    """

    said = site.run("shell", "sh", "-c", script, worker_id=worker_id)

    assert "may fetch from this remote, but not push to it" in said
    assert "pushed to fetched" not in said
    assert "pushed to pushed" in said
    assert "this Worker may not use this remote" in said
    assert said.rstrip().endswith("no clone of other")
    branches = {name: branches_of(site, remotes, name) for name in ("fetched", "pushed")}
    assert [name for name, found in branches.items() if branch in found] == ["pushed"]
    assert {headers.get("Authorization") for line, headers in remotes.seen if "/pushed/" in line} == {
        f"Basic {GIT_PASSWORD}"
    }


def branches_of(site: OnlineSite, remotes: Remotes, name: str) -> str:
    status, said = site.internet.run(git(remotes.folder / name / "app.git", "branch", "--list"))
    assert status == 0, said
    return str(said)
