"""Contract sections 2 and 3: pages of a transcript."""

import json
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Answer, Daemon, Launch, one_store


@pytest.fixture
def told(daemon: Daemon) -> str:
    """A Worker with ten entries."""
    worker_id = daemon.echo()
    for number in range(5):
        daemon.run(worker_id, f"{number}")
    return worker_id


def _page(daemon: Daemon, worker_id: str, query: str = "") -> Answer:
    return daemon.curl("GET", f"/v1/workers/{worker_id}/transcript{query}")


def test_an_empty_transcript_is_a_page_without_items(daemon: Daemon) -> None:
    page = _page(daemon, daemon.echo()).ok("transcript", "TranscriptProjection")
    assert (page["total_items"], page["items"], page["next_start"]) == (0, [], None)


@pytest.mark.parametrize(
    ("query", "sequences", "next_start"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], None),
        ("?start=0", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], None),
        ("?limit=1", [1], 1),
        ("?limit=4", [1, 2, 3, 4], 4),
        ("?start=4&limit=4", [5, 6, 7, 8], 8),
        ("?limit=4&start=8", [9, 10], None),
        ("?start=6&limit=4", [7, 8, 9, 10], None),
        ("?start=9&limit=1", [10], None),
        ("?limit=10", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], None),
        ("?start=10", [], None),
        ("?start=1000000000", [], None),
    ],
)
def test_a_page_starts_and_ends_where_it_is_asked_to(
    daemon: Daemon, told: str, query: str, sequences: list[int], next_start: int | None
) -> None:
    page = _page(daemon, told, query).ok("transcript", "TranscriptProjection")
    asked = dict(part.split("=") for part in query.strip("?").split("&") if part)
    assert (page["start"], page["limit"]) == (int(asked.get("start", 0)), int(asked.get("limit", 256)))
    assert [one["sequence"] for one in page["items"]] == sequences
    assert (page["total_items"], page["next_start"]) == (10, next_start)


def test_pages_one_after_the_other_are_the_whole_transcript(daemon: Daemon, told: str) -> None:
    items: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None:
        page = _page(daemon, told, f"?start={start}&limit=3").ok("transcript")
        items += page["items"]
        start = page["next_start"]
    assert items == daemon.items(told)
    assert [one["sequence"] for one in items] == list(range(1, 11))
    assert [one["role"] for one in items] == ["user", "assistant"] * 5


@one_store
@pytest.mark.parametrize("value", ["-1", "x", "", "1.0", "1e2", "0x1", "%201", "1%20", "+1", "--1", "null", "%D9%A1"])
@pytest.mark.parametrize("name", ["start", "limit"])
def test_what_is_not_a_number_is_an_invalid_query_and_named(daemon: Daemon, name: str, value: str) -> None:
    answer = _page(daemon, daemon.echo(), f"?{name}={value}")
    assert name in answer.refused(400, "invalid_query")


@pytest.mark.parametrize("name", ["start", "limit"])
def test_a_number_of_5000_digits_is_refused_and_named(daemon: Daemon, name: str) -> None:
    answer = _page(daemon, daemon.echo(), f"?{name}={'9' * 5_000}")
    code = json.loads(answer.body)["error"]["code"]
    assert code in {"invalid_query", "limit_too_large"}
    assert name in answer.refused(400, code)


@pytest.mark.parametrize("limit", [257, 1_000_000])
def test_a_limit_above_the_largest_page_is_too_large(daemon: Daemon, told: str, limit: int) -> None:
    assert "256" in _page(daemon, told, f"?limit={limit}").refused(400, "limit_too_large")
    _page(daemon, told, "?limit=256").ok("transcript")


def test_the_operator_sets_the_largest_page(launch: Launch, store: str) -> None:
    daemon = launch("--max-transcript-projection-items", "3", "--max-event-batch-items", "7", store=store).ready()
    limits = {"max_transcript_projection_items": 3, "max_event_batch_items": 7}
    assert daemon.runtime()["limits"] == limits
    worker_id = daemon.echo()
    for number in range(2):
        daemon.run(worker_id, f"{number}")
    page = _page(daemon, worker_id).ok("transcript", "TranscriptProjection")
    assert ([one["sequence"] for one in page["items"]], page["limit"], page["next_start"]) == ([1, 2, 3], 3, 3)
    assert "3" in _page(daemon, worker_id, "?limit=4").refused(400, "limit_too_large")
