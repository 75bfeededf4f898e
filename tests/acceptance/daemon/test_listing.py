"""`GET /v1/workers` with filters and pages, and the names and labels that go with them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Shaped
from tests.acceptance.daemon.conftest import Daemon, Launch, one_store


def _page(daemon: Daemon, query: str = "") -> tuple[list[str], str | None]:
    """The ids on a page, and where the next one begins."""
    answer = daemon.curl("GET", f"/v1/workers{query}")
    assert answer.status == 200, answer.body
    body = json.loads(answer.body)
    assert {"workers"} <= set(body) <= {"workers", "next_after"}
    for worker in body["workers"]:
        daemon.shaped(worker, "WorkerSummary")
    return [worker["worker_id"] for worker in body["workers"]], body.get("next_after")


def _several(daemon: Daemon) -> Daemon:
    """Five Workers: 1 and 2 red, 2 in production, 3 stopped and red, 4 cancelled, 5 with an odd label.

    The first two have the same name.
    """
    red = {"team": "red"}
    for labels in (red, red | {"env/tier": "prod"}):
        daemon.create(labels=labels, name="twin one")
    for labels in (red, {}, {"a.b-c_d/e": "x=y & z"}):
        daemon.create(labels=labels)
    daemon.call("POST", "/v1/workers/worker-00000003/stop").ok("ack")
    daemon.call("POST", "/v1/workers/worker-00000004/cancel").ok("ack")
    return daemon


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"several in {name}")) for name in ("memory", "fs")],
)
def several(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shaped: Shaped
) -> Iterator[Daemon]:
    """A daemon with five Workers, which all tests share: change nothing."""
    home = tmp_path_factory.mktemp("several")
    daemon = Daemon(home, shaped, "memory" if request.param == "memory" else f"fs:{home / 'store'}")
    try:
        yield _several(daemon.ready())
    finally:
        daemon.finish()


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("?status=running", [1, 2, 5]),
        ("?status=stopped", [3]),
        ("?status=cancelled", [4]),
        ("?label=team=red", [1, 2, 3]),
        ("?label=team%3Dred&status=running", [1, 2]),
        ("?label=team=red&label=env/tier=prod", [2]),
        ("?label=team=red&label=team=red", [1, 2, 3]),
        ("?label=team=blue", []),
        ("?label=team=", []),
        ("?label=Team=red", []),
        ("?label=a.b-c_d/e=x%3Dy%20%26%20z", [5]),
        ("?name=twin%20one", [1, 2]),
        ("?name=twin%20one&label=env/tier=prod", [2]),
        ("?name=twin", []),
        ("?after=worker-00000003", [4, 5]),
        ("?after=worker-00000005", []),
        ("?after=worker-0000ffff", []),
        ("?limit=5", [1, 2, 3, 4, 5]),
        ("?limit=999999", [1, 2, 3, 4, 5]),
    ],
)
def test_the_list_is_what_the_query_asks_for(several: Daemon, query: str, numbers: list[int]) -> None:
    assert _page(several, query) == ([f"worker-{number:08x}" for number in numbers], None)


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("query", ["", "&label=team=red"])
def test_pages_make_up_the_whole_list(several: Daemon, limit: int, query: str) -> None:
    whole, _ = _page(several, f"?{query[1:]}" if query else "")
    found, after = _page(several, f"?limit={limit}{query}")
    while after is not None:
        assert after == found[-1]
        page, after = _page(several, f"?limit={limit}{query}&after={after}")
        assert 1 <= len(page) <= limit
        found += page
    assert found == whole


def test_a_page_that_ends_with_the_last_is_the_last(several: Daemon) -> None:
    assert _page(several, "?limit=2&after=worker-00000003") == (["worker-00000004", "worker-00000005"], None)


def test_a_deleted_worker_breaks_no_page(launch: Launch, store: str) -> None:
    several = _several(launch(store=store).ready())
    _, after = _page(several, "?limit=3")
    several.curl("DELETE", f"/v1/workers/{after}")
    assert _page(several, f"?limit=3&after={after}") == (["worker-00000004", "worker-00000005"], None)


@one_store
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=", "status"),
        ("status=RUNNING", "status"),
        ("status=running&status=running", "status"),
        ("label=", "label"),
        ("label=red", "label"),
        ("label==red", "label"),
        ("label=%20=red", "label"),
        ("label=a%20b=red", "label"),
        ("label=red=a%00b", "label"),
        ("label=a=1&label=a=2", "label"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=1", "limit"),
        ("name=", "name"),
        ("name=%20", "name"),
        ("name=a&name=a", "name"),
        ("colour=red", "colour"),
    ],
)
def test_a_query_that_is_none_is_refused_by_the_name_of_its_parameter(daemon: Daemon, query: str, named: str) -> None:
    message = daemon.curl("GET", f"/v1/workers?{query}").refused(400, "invalid_query")
    assert message.startswith(f"{named}: ")


@one_store
@pytest.mark.parametrize("after", ["1", "worker-1", "worker-0000000G", "x%20y"])
def test_a_page_behind_what_is_no_worker_id_is_refused(daemon: Daemon, after: str) -> None:
    message = daemon.curl("GET", f"/v1/workers?after={after}").refused(400, "invalid_query")
    assert message.startswith("after: ")


GOOD = [
    {"name": "a"},
    {"name": "Grüße aus 東京 🙂"},
    {"name": "x" * 128},
    {"labels": {"k": ""}},
    {"labels": {"k" * 63: "v" * 256}},
    {"labels": {"a/b": "é 🙂", "0": "-._/", "a.b-c_d": "="}},
    {"labels": {f"key-{number}": f"{number}" for number in range(64)}},
    {"name": "both", "labels": {"a": "b"}},
]


@pytest.mark.parametrize("request_", GOOD, ids=range(len(GOOD)))
def test_a_name_and_labels_are_kept_as_they_were_given(daemon: Daemon, request_: Any) -> None:
    worker = daemon.curl("POST", "/v1/workers", request_).ok("worker", "WorkerDetail")
    told = {name: worker[name] for name in ("name", "labels") if name in worker}
    assert told == request_
    assert daemon.worker(worker["worker_id"]) == worker
    summary = next(one for one in daemon.workers() if one["worker_id"] == worker["worker_id"])
    assert {name: summary[name] for name in ("name", "labels") if name in summary} == request_


@pytest.mark.parametrize("request_", [{}, {"name": None, "labels": {}}])
def test_without_name_and_labels_they_are_left_out(daemon: Daemon, request_: Any) -> None:
    worker = daemon.curl("POST", "/v1/workers", request_).ok("worker", "WorkerDetail")
    assert not {"name", "labels"} & set(worker)


@one_store
@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\u202eb"}, "name"),
        ({"labels": {"": "v"}}, "labels"),
        ({"labels": {"-a": "v"}}, "labels"),
        ({"labels": {"a.": "v"}}, "labels"),
        ({"labels": {"a b": "v"}}, "labels"),
        ({"labels": {"a=b": "v"}}, "labels"),
        ({"labels": {"é": "v"}}, "labels"),
        ({"labels": {"k" * 64: "v"}}, "labels"),
        ({"labels": {"k": "v" * 257}}, "labels.k"),
        ({"labels": {"k": "a\x00b"}}, "labels.k"),
        ({"labels": {f"k{number}": "v" for number in range(65)}}, "labels"),
        ({"session_config": {"": "v"}}, "session_config"),
        ({"session_config": {"k" * 257: "v"}}, "session_config"),
        ({"session_config": {"mode": " "}}, "session_config.mode"),
        ({"session_config": {"mode": "v" * 257}}, "session_config.mode"),
        ({"session_config": {"mode": "a\nb"}}, "session_config.mode"),
        ({"session_config": {f"k{number}": "v" for number in range(33)}}, "session_config"),
        ({"mcp_servers": [{"name": "a"}]}, "mcp_servers[0]"),
        ({"mcp_servers": [{"name": " ", "command": ["x"]}]}, "mcp_servers[0].name"),
        ({"mcp_servers": [{"name": "a", "command": ["x"]}] * 2}, "mcp_servers[1].name"),
        ({"mcp_servers": [{"name": "a", "command": [""]}]}, "mcp_servers[0]"),
        ({"mcp_servers": [{"name": "a", "command": ["x"], "url": "http://x"}]}, "mcp_servers[0]"),
        ({"mcp_servers": [{"name": "a", "command": ["x", "a\0b"]}]}, "mcp_servers[0].command[1]"),
        ({"mcp_servers": [{"name": "a", "command": ["x"], "env": {"A=s3cret": ""}}]}, "mcp_servers[0].env"),
        ({"mcp_servers": [{"name": "a", "command": ["x"], "env": {"A": "s3cret\0"}}]}, "mcp_servers[0].env.A"),
        ({"mcp_servers": [{"name": "a", "command": ["x"], "headers": {"A": "s3cret"}}]}, "mcp_servers[0].headers"),
        ({"mcp_servers": [{"name": "a", "url": "ftp://s3cret"}]}, "mcp_servers[0].url"),
        ({"mcp_servers": [{"name": "a", "url": "http://x", "env": {"A": "s3cret"}}]}, "mcp_servers[0].env"),
        ({"mcp_servers": [{"name": "a", "url": "http://x", "headers": {"": "s3cret"}}]}, "mcp_servers[0].headers"),
        (
            {"mcp_servers": [{"name": "a", "url": "http://x", "headers": {"A": "s3\n"}}]},
            "mcp_servers[0].headers.A",
        ),
        ({"mcp_servers": [{"name": f"n{number}", "command": ["x"]} for number in range(33)]}, "mcp_servers"),
        ({"mcp_servers": [{"name": "a", "command": ["x", "é" * 2**15]}]}, "mcp_servers"),
    ],
)
def test_a_field_out_of_bounds_is_an_invalid_request(daemon: Daemon, request_: Any, named: str) -> None:
    with daemon.unchanged():
        message = daemon.curl("POST", "/v1/workers", request_).refused(400, "invalid_request")
    assert message.startswith(f"{named}: ")
    assert "s3cret" not in message


@one_store
@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"name": 1}', "name"),
        ('{"name": ["a"]}', "name"),
        ('{"labels": []}', "labels"),
        ('{"session_config": {"a": true}}', "session_config.a"),
        ('{"mcp_servers": {}}', "mcp_servers"),
        ('{"mcp_servers": [{"command": ["x"]}]}', "mcp_servers[0].name"),
        ('{"mcp_servers": [{"name": "a", "command": "x"}]}', "mcp_servers[0].command"),
        ('{"mcp_servers": [{"name": "a", "url": "http://x", "type": "ws"}]}', "mcp_servers[0].type"),
        ('{"mcp_servers": [{"name": "a", "command": ["x"], "env": {"A": 1}}]}', "mcp_servers[0].env.A"),
        ('{"mcp_servers": [{"name": "a", "command": ["x"], "args": []}]}', "mcp_servers[0].args"),
        ('{"labels": "a=b"}', "labels"),
        ('{"labels": {"a": 1}}', "labels.a"),
        ('{"labels": {"a": null}}', "labels.a"),
        ('{"labels": {"a": {"b": "c"}}}', "labels.a"),
        ('{"labels": {"a": "1", "a": "2"}}', "labels.a"),
    ],
)
def test_a_field_of_another_type_is_invalid_json(daemon: Daemon, body: str, named: str) -> None:
    with daemon.unchanged():
        message = daemon.curl("POST", "/v1/workers", body).refused(400, "invalid_json")
    assert message.startswith(f"{named}: ")


def test_names_and_labels_last_over_a_restart(launch: Launch, tmp_path: Path) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    worker_id = daemon.create(name="Anna", labels={"team": "red", "env": "é"})
    before = daemon.worker(worker_id)
    daemon.kill()
    again = launch(store=store).ready()
    assert {name: again.worker(worker_id)[name] for name in ("name", "labels")} == {
        "name": before["name"],
        "labels": before["labels"],
    }
    assert _page(again, "?label=env=%C3%A9") == ([worker_id], None)
