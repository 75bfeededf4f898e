"""A text stands for a Worker by its id, its name, its number, `@last` or a unique prefix, in this order."""

from collections.abc import Sequence
from typing import Any

import pytest

from runtimectl.client.address import Address
from runtimectl.client.api import Client
from runtimectl.client.worker_names import matching_ids, resolve_worker_id
from runtimectl.errors import NotFound, UsageProblem


def worker(number: int, name: str | None = None) -> dict[str, Any]:
    return {"worker_id": f"worker-{number:08x}", **({"name": name} if name else {})}


WORKERS = [worker(0x1), worker(0x2A, "builder"), worker(0x2B, "1"), worker(0x100, "twin"), worker(0x101, "twin")]


class FakeClient(Client):
    def __init__(self) -> None:
        super().__init__(Address("http://127.0.0.1:1", "127.0.0.1", 1, None))
        self.lists = 0

    def workers(self, status: str | None = None, labels: Sequence[str] = ()) -> dict[str, Any]:
        self.lists += 1
        return {"workers": WORKERS}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("worker-0000002a", ["worker-0000002a"]),
        ("builder", ["worker-0000002a"]),
        ("1", ["worker-0000002b"]),
        ("2a", ["worker-0000002a"]),
        ("02a", []),
        ("2A", []),
        ("@last", ["worker-00000101"]),
        ("worker-0000002", ["worker-0000002a", "worker-0000002b"]),
        ("worker-00000100", ["worker-00000100"]),
        ("twin", ["worker-00000100", "worker-00000101"]),
        ("ffffffff", []),
        ("", [each["worker_id"] for each in WORKERS]),
    ],
)
def test_the_first_reading_that_fits_counts(given: str, found: list[str]) -> None:
    assert matching_ids(WORKERS, given) == found


def test_the_newest_of_no_workers_is_none() -> None:
    assert matching_ids([], "@last") == []


def test_a_whole_id_takes_no_request_and_anything_else_one() -> None:
    client = FakeClient()
    assert resolve_worker_id(client, "worker-0000ffff") == "worker-0000ffff"
    assert client.lists == 0
    assert resolve_worker_id(client, "@last") == "worker-00000101"
    assert client.lists == 1


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ("twin", UsageProblem, "'twin' is ambiguous: worker-00000100, worker-00000101"),
        ("", UsageProblem, "got an empty text"),
        ("none", NotFound, "'none' is no id, name, number or prefix"),
    ],
)
def test_a_text_for_several_workers_or_none_is_an_error(given: str, kind: type[Exception], message: str) -> None:
    client = FakeClient()
    with pytest.raises(kind, match=message):
        resolve_worker_id(client, given)
